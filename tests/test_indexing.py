"""Indexing real files: windows and times, what is skipped, what fails, stopping and going on."""

import io
import os
import re
import shutil
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from clips import click, write_clip
from joined import write_joined
from PIL import Image
from siglip import write_siglip

from avchat.gathering import IndexingError
from avchat.heads import SiglipHead
from avchat.indexing import Cutting, Step, index
from avchat.library import Library, LibraryError
from avchat.library_find import Query, find
from avchat.media import load_media, probe
from avchat.transcripts import Transcriber, in_window

CUT = Cutting(length_s=2.0, overlap_s=1.0)


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> SiglipHead:
    return SiglipHead(str(write_siglip(tmp_path_factory.mktemp("siglip") / "small")))


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three films of 1, 2 and 5 s, the last with sound, in folders, and things that are none."""
    folder = tmp_path_factory.mktemp("films")
    (folder / "sub").mkdir()
    write_clip(folder / "one.mp4", np.arange(25) / 25)
    write_clip(folder / "two.mp4", np.arange(50) / 25, size=(160, 96))
    write_clip(folder / "sub" / "five.mkv", np.arange(125) / 25, sound=click(5, 1))
    (folder / "broken.mp4").write_bytes((folder / "one.mp4").read_bytes()[:900])
    (folder / "text.mp4").write_text("not a film\n" * 20)
    (folder / "notes.txt").write_text("notes")
    (folder / ".hidden.mp4").write_bytes(b"x")
    return folder


def open_new(folder: Path, head: SiglipHead) -> Library:
    return Library.open(
        folder, head_name=head.name, fingerprint=head.fingerprint, width=head.width, create=True
    )


@pytest.mark.skipif(sys.platform == "win32", reason="pipes and links")
@pytest.mark.timeout(60)
def test_a_pipe_and_a_link_to_nothing_are_failures_that_stop_nothing(
    films: Path, head: SiglipHead, tmp_path: Path
) -> None:
    (tmp_path / "films").mkdir()
    shutil.copy(films / "one.mp4", tmp_path / "films")
    os.mkfifo(tmp_path / "films" / "pipe.mp4")  # nobody writes: opening it would wait for ever
    (tmp_path / "films" / "link.mp4").symlink_to("nowhere.mp4")
    (tmp_path / "films" / "loop").symlink_to(".")
    report = index([tmp_path / "films"], open_new(tmp_path / "lib", head), head, CUT)
    assert report.added == 1
    reasons = {Path(failure.path).name: failure.reason for failure in report.failed}
    assert reasons == {
        "pipe.mp4": "pipe.mp4: not an ordinary file",
        "link.mp4": "link.mp4: no such file",
    }


def test_a_folder_is_indexed_then_skipped_then_followed(
    films: Path, head: SiglipHead, tmp_path: Path
) -> None:
    folder = tmp_path / "films"
    shutil.copytree(films, folder)
    library = open_new(tmp_path / "lib", head)
    told: list[tuple[int, int]] = []
    report = index([folder], library, head, CUT, progress=lambda *done: told.append(done))
    assert (report.added, report.unchanged, report.moved) == (3, 0, 0)
    assert {Path(failure.path).name for failure in report.failed} == {"broken.mp4", "text.mp4"}
    assert all(Path(f.path).name in f.reason and "\n" not in f.reason for f in report.failed)
    assert told[-1] == (5, 5) and report.windows == 1 + 1 + 4
    files = {Path(file.path).name: file for file in library.files().values()}
    assert {name: file.windows for name, file in files.items()} == {
        "one.mp4": 1,
        "two.mp4": 1,
        "five.mkv": 4,
    }
    assert [files[name].has_sound for name in ("one.mp4", "five.mkv")] == [False, True]
    assert files["five.mkv"].duration_s == pytest.approx(5, abs=0.1)
    small = Image.open(io.BytesIO(library.thumbnail(files["two.mp4"].hash, 0.0)))
    assert small.size == (160, 96)

    again = index([folder, folder / "one.mp4"], library, head, CUT)
    assert (again.added, again.unchanged, again.moved, len(again.failed)) == (0, 3, 0, 2)
    (folder / "one.mp4").rename(folder / "sub" / "uno.mp4")  # moved
    shutil.copy(folder / "two.mp4", folder / "copy.mp4")
    shutil.copy(folder / "sub" / "five.mkv", folder / "two.mp4")  # changed, to a copy of another
    (folder / "sub" / "five.mkv").touch()  # only its date is new
    third = index([folder], library, head, CUT)
    assert (third.added, third.unchanged, third.moved) == (0, 2, 2)
    paths = {Path(file.path).name for file in library.files().values()}
    assert paths == {"uno.mp4", "five.mkv", "copy.mp4"}


def test_vectors_and_times_are_those_of_the_windows(
    films: Path, head: SiglipHead, tmp_path: Path
) -> None:
    library = open_new(tmp_path / "lib", head)
    path = films / "sub" / "five.mkv"
    index([path], library, head, CUT)
    rows = sorted(library.table.to_arrow().to_pylist(), key=lambda row: row["start_s"])
    end_s = probe(path).duration_s
    assert [(row["start_s"], row["end_s"]) for row in rows] == [(0, 2), (1, 3), (2, 4), (3, end_s)]
    for row in rows:
        part = {"start": row["start_s"], "end": row["end_s"]}
        media = load_media(path, frames=head.frames, size=head.size, **part)
        [vectors] = head.clips([media])
        np.testing.assert_allclose(row["picture"], vectors.picture, atol=1e-5)
        assert row["sound"] is None and row["both"] == row["picture"]


def test_quick_looks_at_keyframes(films: Path, head: SiglipHead, tmp_path: Path) -> None:
    library = open_new(tmp_path / "lib", head)
    report = index([films], library, head, Cutting(2.0, 1.0, quick=True))
    assert report.added == 3 and report.windows == 6


SCENES = [(3.0, "red", None), (2.3, "green", None), (6.1, "blue", None), (1.5, "grey", None)]
EVEN = [(20.0, "red", None), (20.0, "green", None)]  # the second begins on a keyframe


@pytest.mark.parametrize(
    ("scenes", "cutting", "starts"),
    [
        (SCENES, Cutting(shots=True), [0, 3.0, 5.3, 11.4]),
        (SCENES, Cutting(4.0, 2.0, shots=True), [0, 3.0, 5.3, 7.3, 11.4]),  # one is cut further
        (EVEN, Cutting(30.0, 0.0, quick=True, shots=True), [0, 20.0]),
    ],
)
def test_shot_by_shot(
    scenes: list, cutting: Cutting, starts: list[float], head: SiglipHead, tmp_path: Path
) -> None:
    path = write_joined(tmp_path / "a.mp4", scenes)
    library = open_new(tmp_path / "lib", head)
    index([path], library, head, cutting)
    rows = sorted(library.table.to_arrow().to_pylist(), key=lambda row: row["start_s"])
    assert [row["start_s"] for row in rows] == pytest.approx(starts, abs=1e-3)
    assert rows[-1]["end_s"] == probe(path).duration_s
    if len(starts) == len(scenes):
        assert [row["end_s"] for row in rows[:-1]] == [row["start_s"] for row in rows[1:]]


def test_what_is_said_is_in_each_window_and_is_found(
    films: Path, head: SiglipHead, whisper_file: Path, tmp_path: Path
) -> None:
    """A random Whisper: its words mean nothing, but they are looked up as any."""
    library, transcriber = open_new(tmp_path / "lib", head), Transcriber(whisper_file, "cpu")
    film = write_joined(tmp_path / "a.mkv", [(3.0, "red", 1000.0), (3.0, "blue", None)])
    report = index([film, films / "one.mp4"], library, head, CUT, transcriber=transcriber)
    assert report.added == 2 and library.stats()["transcribed"] >= 1
    lines = transcriber.file_lines(film, probe(film).duration_s)
    for row in library.table.to_arrow().to_pylist():
        said = in_window(lines, row["start_s"], row["end_s"]) if row["clip"] == "a.mkv" else ""
        assert row["transcript"] == (said or None)
    word = re.search(r"\b[a-z]{3,}\b", " ".join(line.text for line in lines))[0]
    found = find(library, Query(text=word))
    assert found and all(word in in_window(lines, one.start, one.end) for one in found)
    assert found[0].why == {"picture": 0.0, "sound": 0.0, "speech": 1.0}


def test_a_sound_is_nothing_to_a_head_that_hears_nothing(
    sound_clip: Path, head: SiglipHead, tmp_path: Path
) -> None:
    report = index([sound_clip], open_new(tmp_path / "lib", head), head)
    assert report.added == 0 and "hears nothing" in report.failed[0].reason


def test_what_cannot_be_indexed_at_all_is_one_clear_line(
    films: Path, head: SiglipHead, tmp_path: Path
) -> None:
    library = open_new(tmp_path / "lib", head)
    with pytest.raises(IndexingError, match="no such file or folder"):
        index([films, tmp_path / "nowhere"], library, head)
    with pytest.raises(IndexingError, match="overlap"):
        Cutting(2.0, 2.0)
    assert library.files() == {}


class Stopping(SiglipHead):
    """A head at which the user presses Ctrl-C when it has seen so many files."""

    left = 1

    def clips(self, media: list) -> list:
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt
        return super().clips(media)


def test_ctrl_c_keeps_what_is_done_and_the_next_run_goes_on(
    films: Path, head: SiglipHead, tmp_path: Path
) -> None:
    library = open_new(tmp_path / "lib", head)
    threads = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        index([films], library, Stopping(head.name), CUT, workers=1)
    assert len(library.files()) == 1, "the first file was complete"
    assert threading.active_count() == threads
    report = index([films], library, head, CUT)
    assert (report.added, report.unchanged) == (2, 1)


def test_every_file_is_told_of_as_it_goes(films: Path, head: SiglipHead, tmp_path: Path) -> None:
    long = tmp_path / "long.mp4"
    write_clip(long, np.arange(300) / 25)
    told: list[Step] = []
    index([films, long], open_new(tmp_path / "lib", head), head, CUT, on_step=told.append)
    ends = {Path(step.path).name: step.state for step in told if step.state != "working"}
    good = {"one.mp4": "added", "two.mp4": "added", "five.mkv": "added", "long.mp4": "added"}
    assert ends == good | {"broken.mp4": "failed", "text.mp4": "failed"}
    assert all(step.reason for step in told if step.state == "failed")
    shares = [step.share for step in told if Path(step.path) == long]
    assert shares == sorted(shares) and 0 < shares[0] < 1 and shares[-1] == 1


def test_stop_keeps_what_is_done(films: Path, head: SiglipHead, tmp_path: Path) -> None:
    library, stop = open_new(tmp_path / "lib", head), threading.Event()
    files = [films / "one.mp4", *(tmp_path / f"{number}.mp4" for number in range(12))]
    for number, file in enumerate(files[1:]):
        write_clip(file, (np.arange(25) + number) / 60)

    def tell(step: Step) -> None:
        if step.state == "added":
            stop.set()

    first = index(files, library, head, CUT, workers=1, on_step=tell, stop=stop)
    assert 1 <= first.added < 13 and len(library.files()) == first.added
    second = index(files, library, head, CUT)
    assert (second.added, second.unchanged) == (13 - first.added, first.added)


def test_a_library_that_cannot_be_written_stops_the_run(
    films: Path, head: SiglipHead, tmp_path: Path
) -> None:
    library = open_new(tmp_path / "lib", head)
    shutil.rmtree(tmp_path / "lib")
    (tmp_path / "lib").write_text("in the way")
    with pytest.raises(LibraryError, match="lib"):
        index([films], library, head, CUT)
