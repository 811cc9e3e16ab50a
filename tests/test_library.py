"""The store of the library: what is written is found again, whatever fails."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import lancedb
import numpy as np
import pytest

from avchat.library import INDEX_ROWS, Entry, File, Library, LibraryError

WIDTH = 32


def units(rng: np.random.Generator, count: int, width: int = WIDTH) -> np.ndarray:
    """Draw vectors of unit length, float32 [count, width]."""
    vectors = rng.standard_normal((count, width)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def file_of(name: str, **more) -> File:
    """Describe a file of 8 s whose hash is its name."""
    fields = {"size": 100, "mtime_s": 1000.0, "duration_s": 8.0, "has_sound": True}
    return File(hash=name, path=f"/films/{name}.mp4", **fields | more)


def entries_of(vectors: np.ndarray, transcript: str | None = None) -> list[Entry]:
    """Make windows of 4 s one after the other, alike in all senses."""
    return [
        Entry(4.0 * n, 4.0 * n + 4, vector, vector, vector, b"jpeg", transcript)
        for n, vector in enumerate(vectors)
    ]


def new(folder: Path | str, fingerprint: str = "abc", **more) -> Library:
    return Library.open(
        folder, head_name="h", fingerprint=fingerprint, width=WIDTH, create=True, **more
    )


CHILD = f"""
import sys
import numpy as np
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_library import *
folder, name, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
"""


def child(code: str, *arguments: object) -> subprocess.Popen[str]:
    """Start a process of its own that writes to a library."""
    words = [sys.executable, "-c", CHILD + code, *map(str, arguments)]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


WRITE = """
library = new(folder)
for n in range(count):
    library.add(file_of(f"{name}{n}"), entries_of(units(np.random.default_rng(n), 3)))
    print(n, flush=True)
"""


def test_what_is_added_is_listed_moved_and_removed(tmp_path: Path) -> None:
    library = new(tmp_path / "lib")
    rng = np.random.default_rng(0)
    assert library.add(file_of("a", has_sound=False), entries_of(units(rng, 2)))
    assert library.add(file_of("b's"), entries_of(units(rng, 3)))
    assert not library.add(file_of("a"), entries_of(units(rng, 2)))
    again = Library.open(tmp_path / "lib")
    files = again.files()
    assert {name: file.windows for name, file in files.items()} == {"a": 2, "b's": 3}
    assert not files["a"].has_sound and files["b's"].has_sound
    again.moved("a", "/elsewhere/x.mp4", 5.0)
    assert library.files()["a"].path == "/elsewhere/x.mp4"
    assert library.thumbnail("a", 4.0) == b"jpeg"
    stats = library.stats()
    assert (stats["files"], stats["windows"], stats["with_sound"]) == (2, 5, 1)
    assert stats["head"] == {"kind": "vlsa", "name": "h", "fingerprint": "abc", "width": WIDTH}
    assert library.remove(["/films/b's.mp4"]) == 1
    assert library.remove(["/films"]) == 0 and library.remove(["/elsewhere/"]) == 1
    assert library.files() == {}


def test_many_files_are_one_commit_and_what_is_there_is_skipped(tmp_path: Path) -> None:
    library = new(tmp_path / "lib")
    rng = np.random.default_rng(0)
    library.add(file_of("a"), entries_of(units(rng, 1)))
    library.add(File("old", "/films/c.mp4", 100, 1.0, 8.0, True), entries_of(units(rng, 1)))
    before = library.table.version
    copy = File("b", "/films/copy of b.mp4", 100, 1000.0, 8.0, True)
    files = [file_of("a"), file_of("b"), copy]
    assert library.add_all([(file, entries_of(units(rng, 2))) for file in files]) == {"b"}
    assert library.table.version == before + 1
    assert library.files()["b"].path == "/films/b.mp4"  # the first of two that are alike
    assert library.add_all([(file_of("c"), entries_of(units(rng, 3)))]) == {"c"}
    assert {name: file.windows for name, file in library.files().items()} == {
        "a": 1,
        "b": 2,
        "c": 3,
    }
    assert library.add_all([]) == set()


def test_a_changed_file_takes_the_place_of_what_it_was(tmp_path: Path) -> None:
    library = new(tmp_path / "lib")
    rng = np.random.default_rng(0)
    library.add(file_of("a"), entries_of(units(rng, 2)))
    changed = File("new", "/films/a.mp4", 100, 2000.0, 8.0, True)
    library.add(changed, entries_of(units(rng, 3)))
    assert {name: file.windows for name, file in library.files().items()} == {"new": 3}


def test_an_absent_sense_is_null_never_zeros(tmp_path: Path) -> None:
    library = new(tmp_path / "lib")
    [vector] = units(np.random.default_rng(0), 1)
    library.add(
        file_of("a"), [Entry(0, 4, vector, None, vector), Entry(4, 8, vector, None, vector)]
    )
    rows = lancedb.connect(tmp_path / "lib").open_table("windows").to_arrow().to_pylist()
    assert [row["sound"] for row in rows] == [None, None]
    np.testing.assert_array_equal(rows[0]["picture"], vector)


def test_two_that_were_written_twice_are_dropped_by_rebuild(tmp_path: Path) -> None:
    library = new(tmp_path / "lib")
    library.add(file_of("a"), entries_of(units(np.random.default_rng(0), 3)))
    library.table.add(library.table.to_arrow())  # as a second writer would between look and add
    assert library.files()["a"].windows == 6
    library.rebuild()
    assert library.files()["a"].windows == 3


def test_the_index_comes_by_itself_where_it_pays_and_not_before(tmp_path: Path) -> None:
    assert 10_000 <= INDEX_ROWS <= 50_000
    library = new(tmp_path / "lib", index_rows=300)
    rng = np.random.default_rng(0)
    library.add(file_of("a"), entries_of(units(rng, 299)))
    library.tend()
    assert library.stats()["indexed"] == []
    library.add(file_of("b"), [Entry(0, 4, *units(rng, 1), None, *units(rng, 1))])
    library.tend()
    assert library.stats()["indexed"] == ["picture", "both"]  # 299 windows with sound: too few
    first = library.index_of("both")
    library.add(file_of("c"), entries_of(units(rng, 300)))
    library.tend()
    assert library.index_of("both") == first  # extended, as it has only doubled
    assert library.table.index_stats(first).num_unindexed_rows == 0
    assert library.stats()["indexed"] == ["picture", "sound", "both"]
    library.rebuild()
    assert library.index_of("both") == "both_600"


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("nowhere", "no library here"),
        ("file", "this is a file"),
        ("photos", "something else"),
        ("strange", "another version"),
    ],
)
def test_what_is_no_library_is_one_clear_line(place: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_text("x")
    lancedb.connect(tmp_path / "strange").create_table("windows", [{"a": 1}])
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(LibraryError, match=said) as caught:
        Library.open(tmp_path / place)
    assert place in str(caught.value) and "\n" not in str(caught.value)
    if place != "nowhere":
        with pytest.raises(LibraryError, match=said):
            new(tmp_path / place)
    assert sorted(tmp_path.rglob("*")) == before


def test_another_models_vectors_are_refused(tmp_path: Path) -> None:
    new(tmp_path / "lib", "abc")
    with pytest.raises(LibraryError, match=r"made by vlsa h \(abc\), not by vlsa h \(def\)"):
        new(tmp_path / "lib", "def")
    assert Library.open(tmp_path / "lib").maker.fingerprint == "abc"


def test_a_folder_whose_making_was_cut_short_becomes_a_library(tmp_path: Path) -> None:
    (tmp_path / "lib" / "windows.lance" / "_versions").mkdir(parents=True)
    with pytest.raises(LibraryError, match="no library here"):
        Library.open(tmp_path / "lib")
    assert new(tmp_path / "lib").files() == {}


def test_two_writers_at_once_lose_nothing(tmp_path: Path) -> None:
    """From the making of the library on: none of it is there when they start."""
    writers = [child(WRITE, tmp_path / "lib", name, 12) for name in "ab"]
    for writer in writers:
        _, err = writer.communicate(timeout=120)
        assert writer.returncode == 0, err
    files = Library.open(tmp_path / "lib").files()
    assert set(files) == {f"{name}{n}" for name in "ab" for n in range(12)}
    assert {file.windows for file in files.values()} == {3}


def test_changes_beside_a_writer_lose_nothing(tmp_path: Path) -> None:
    library = new(tmp_path / "lib")
    library.add(file_of("first"), entries_of(units(np.random.default_rng(0), 3)))
    with child(WRITE, tmp_path / "lib", "a", 15) as writer:
        for n in range(8):
            library.moved("first", f"/films/{n}.mp4", float(n))
            library.tend()
        _, err = writer.communicate(timeout=120)
    assert writer.returncode == 0, err
    files = library.files()
    assert len(files) == 16 and files["first"].path == "/films/7.mp4"
    assert {file.windows for file in files.values()} == {3}


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_a_kill_loses_at_most_the_file_in_hand(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    said = 0
    for _ in range(3):
        with child(WRITE, tmp_path / "lib", f"{said}-", 1000) as writer:
            assert writer.stdout is not None
            for _ in range(3):
                writer.stdout.readline()
            time.sleep(rng.uniform(0, 0.1))  # in the middle of something
            os.kill(writer.pid, signal.SIGKILL)
            written = 3 + len(writer.stdout.read().split())
        files = Library.open(tmp_path / "lib").files()
        assert {file.windows for file in files.values()} == {3}, "a file is whole or not there"
        assert written <= len(files) - said <= written + 1
        said = len(files)
    library = new(tmp_path / "lib")
    assert library.add(file_of("after"), entries_of(units(rng, 2)))
    library.rebuild()
    assert len(library.files()) == said + 1


FULL = """
import resource
library = new(folder)
library.add(file_of("small"), entries_of(units(np.random.default_rng(0), 2)))
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))  # no file may grow past it
try:
    library.add(file_of("big"), entries_of(units(np.random.default_rng(0), 2000)))
except LibraryError as error:
    print(error)
print(sorted(library.files()))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="resource limits")
def test_a_full_disk_is_said_and_loses_nothing(tmp_path: Path) -> None:
    with child(FULL, tmp_path / "lib", "-", 0) as writer:
        out, err = writer.communicate(timeout=60)
    assert writer.returncode == 0, err
    error, files = out.splitlines()
    assert "the disk is full" in error and files == "['small']"
    library = new(tmp_path / "lib")
    assert library.add(file_of("big"), entries_of(units(np.random.default_rng(0), 2000)))
    assert len(library.files()) == 2


READ = """
library = Library.open(folder)
[vector] = units(np.random.default_rng(count), 1)
from avchat.library_find import Query, find
print([found.clip for found in find(library, Query(((vector, 1.0),)), top=1)])
"""


@pytest.mark.slow
def test_on_an_s3_store_one_writes_and_two_read(monkeypatch: pytest.MonkeyPatch) -> None:
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    try:
        boto3.client("s3", region_name="us-east-1").create_bucket(Bucket="films")
        with pytest.raises(LibraryError, match="no library here"):
            Library.open("s3://films/lib")
        with child(WRITE, "s3://films/lib", "a", 2) as writer:
            _, err = writer.communicate(timeout=120)
            assert writer.returncode == 0, err
        readers = [child(READ, "s3://films/lib", "-", n) for n in (0, 1)]
        for n, reader in zip((0, 1), readers, strict=True):
            out, err = reader.communicate(timeout=120)
            assert out == f"['a{n}.mp4']\n", err
        assert json.dumps(Library.open("s3://films/lib").stats()["files"]) == "2"
    finally:
        server.stop()


def test_two_who_add_one_file_at_the_same_instant_leave_it_once(tmp_path: Path) -> None:
    first = new(tmp_path / "lib")
    two = [first, Library.open(tmp_path / "lib")]
    entries = entries_of(units(np.random.default_rng(0), 3))
    for name in "abcd":
        start = threading.Barrier(2)

        def add(library: Library, name: str = name, start: threading.Barrier = start) -> None:
            start.wait()
            library.add(file_of(name), entries)

        with ThreadPoolExecutor(2) as pool:
            list(pool.map(add, two))
    assert first.table.count_rows() == 4 * 3
