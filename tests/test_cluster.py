"""Indexing over a real Ray cluster of two nodes: as on one machine, whoever dies in the middle."""

import json
import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ray.cluster_utils import Cluster
from small import SMALL_HEAD, build_model, small_head

from avchat import cli, cluster
from avchat.gathering import IndexingError
from avchat.heads import Head, load_head
from avchat.indexing import Cutting, Report
from avchat.indexing import index as index_here
from avchat.library import Library
from avchat.world.casting import draw_scene
from avchat.world.clip_file import write_clip

CUT = Cutting(length_s=2.0, overlap_s=1.0)
CLIPS = 8

pytestmark = pytest.mark.timeout(600)  # Ray's own processes take their time on a busy machine


def free_port() -> int:
    """Find a port that nobody listens at."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.fixture(scope="module")
def client_port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def nodes(client_port: int) -> Iterator[Cluster]:
    """Two nodes with a CPU each; the first also answers at ray://."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        own = {"num_cpus": 1, "object_store_memory": 100 * 2**20}
        head = own | {"include_dashboard": False, "ray_client_server_port": client_port}
        nodes = Cluster(initialize_head=True, head_node_args=head)
        nodes.add_node(**own)
        yield nodes
        nodes.shutdown()


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Head:
    """VLSA with random weights, on disk, where workers find it."""
    folder = tmp_path_factory.mktemp("head")
    build_model().save_pretrained(folder / "chat")
    small_head(replace(SMALL_HEAD, base=str(folder / "chat"))).save_pretrained(folder / "head")
    return load_head(str(folder / "head"))


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clips of the world, and a file that is none."""
    folder = tmp_path_factory.mktemp("clips")
    for seed in range(CLIPS):
        write_clip(draw_scene(np.random.default_rng(seed), "two sources"), folder / f"{seed}.mp4")
    (folder / "broken.mp4").write_bytes((folder / "0.mp4").read_bytes()[:900])
    return folder


@pytest.fixture(scope="module")
def here(clips: Path, head: Head, tmp_path_factory: pytest.TempPathFactory) -> Library:
    """What this machine alone makes of the clips."""
    library = open_new(tmp_path_factory.mktemp("here") / "lib", head)
    index_here([clips], library, head, CUT)
    return library


def open_new(folder: Path, head: Head) -> Library:
    return Library.open(
        folder, head_name=head.name, fingerprint=head.fingerprint, width=head.width, create=True
    )


def run(
    nodes: Cluster,
    folder: Path,
    library: Library,
    head: Head,
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    return cluster.index([folder], library, head, CUT, nodes.address, progress)


def assert_same_content(library: Library, other: Library) -> None:
    """Compare two libraries row by row: no window is lost, doubled or different."""
    tables = [one.table.to_arrow().sort_by("start_s").sort_by("path") for one in (library, other)]
    for name in tables[0].schema.names:
        one, two = (table[name].to_pylist() for table in tables)
        if name in ("picture", "sound", "both"):
            np.testing.assert_allclose(one, two, atol=1e-5)
        else:
            assert one == two, name


def pids(nodes: Cluster) -> list[int]:
    """List the processes of the cluster that do jobs."""
    raylets = {
        info.process.pid for node in nodes.list_all_nodes() for info in node.all_processes["raylet"]
    }
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            works = (folder / "cmdline").read_bytes().startswith(b"ray::MapWorker")
        except OSError:  # it has just ended
            continue
        found += [int(folder.name)] if works and parent in raylets else []
    return found


@pytest.mark.alone
def test_two_nodes_make_what_one_machine_makes(
    nodes: Cluster, clips: Path, here: Library, head: Head, tmp_path: Path
) -> None:
    library = open_new(tmp_path / "lib", head)
    told: list[tuple[int, int]] = []
    report = run(nodes, clips, library, head, lambda *done: told.append(done))
    assert (report.added, report.unchanged, report.moved) == (CLIPS, 0, 0)
    assert [Path(failure.path).name for failure in report.failed] == ["broken.mp4"]
    assert report.windows == library.table.count_rows()
    assert told[-1] == (CLIPS + 1, CLIPS + 1) and len(told) > 3
    assert_same_content(library, here)


@pytest.mark.alone
def test_what_is_there_is_skipped_and_what_moved_is_followed(
    nodes: Cluster, clips: Path, head: Head, tmp_path: Path
) -> None:
    folder = tmp_path / "films"
    folder.mkdir()
    for name in ("0.mp4", "1.mp4", "2.mp4"):
        shutil.copy(clips / name, folder)
    shutil.copy(clips / "0.mp4", folder / "copy.mp4")
    library = open_new(tmp_path / "lib", head)
    first = run(nodes, folder, library, head)
    assert (first.added, first.unchanged) == (3, 1)
    paths = {file.path for file in library.files().values()}
    for name in ("0.mp4", "copy.mp4"):  # whichever came second is known by the other's path
        if str(folder / name) not in paths:
            (folder / name).unlink()
    (folder / "1.mp4").rename(folder / "one.mp4")
    shutil.copy(clips / "5.mp4", folder / "2.mp4")  # changed
    again = run(nodes, folder, library, head)
    assert (again.added, again.unchanged, again.moved, again.failed) == (1, 1, 1, ())
    paths = {file.path for file in library.files().values()}
    assert paths == {str(path) for path in folder.iterdir()}


@pytest.mark.alone
def test_a_worker_killed_in_the_middle_loses_and_doubles_nothing(
    nodes: Cluster, clips: Path, here: Library, head: Head, tmp_path: Path
) -> None:
    library = open_new(tmp_path / "lib", head)
    killed: list[int] = []

    def kill(done: int, total: int) -> None:
        if done in (2, 6) and done < total:
            [*_, victim] = pids(nodes)
            os.kill(victim, signal.SIGKILL)
            killed.append(victim)

    report = run(nodes, clips, library, head, kill)
    assert killed and not set(killed) & set(pids(nodes))
    assert (report.added, report.unchanged, len(report.failed)) == (CLIPS, 0, 1)
    assert_same_content(library, here)


@pytest.mark.alone
def test_a_node_that_goes_down_loses_and_doubles_nothing(
    nodes: Cluster, clips: Path, here: Library, head: Head, tmp_path: Path
) -> None:
    library = open_new(tmp_path / "lib", head)
    third = nodes.add_node(num_cpus=1, object_store_memory=100 * 2**20)
    gone: list[int] = []

    def pull_the_plug(done: int, total: int) -> None:
        if done >= 4 and not gone:
            gone.append(done)
            nodes.remove_node(third, allow_graceful=False)

    report = run(nodes, clips, library, head, pull_the_plug)
    assert gone and (report.added, report.unchanged, len(report.failed)) == (CLIPS, 0, 1)
    assert_same_content(library, here)
    nodes.wait_for_nodes(60)  # until the cluster knows it, too: the next test needs all that it has


def opened_by(path: Path, process: int) -> bool:
    """Tell whether a process has a file open."""
    try:
        return any(os.readlink(link) == str(path) for link in Path(f"/proc/{process}/fd").iterdir())
    except OSError:
        return False


@pytest.mark.alone
def test_a_file_that_kills_every_worker_fails_alone(
    nodes: Cluster, clips: Path, head: Head, tmp_path: Path
) -> None:
    """Whoever opens the poison is killed, as it would be where a file takes all memory."""
    folder = tmp_path / "films"
    folder.mkdir()
    shutil.copy(clips / "0.mp4", folder)
    poison = Path(shutil.copy(clips / "1.mp4", folder / "poison.mp4"))
    os.truncate(poison, 2 * 2**30)  # long to hash, so that it is seen open
    library, killed, over = open_new(tmp_path / "lib", head), [], threading.Event()

    def watch() -> None:
        while not over.wait(0.02):
            for victim in pids(nodes):
                if opened_by(poison, victim):
                    os.kill(victim, signal.SIGKILL)
                    killed.append(victim)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        report = run(nodes, folder, library, head)
    finally:
        over.set()
        watcher.join()
    assert (report.added, len(set(killed))) == (1, 3)
    [failure] = report.failed
    assert failure.path == str(poison) and "each of 3 workers that took it died" in failure.reason


@pytest.mark.alone
def test_a_file_that_a_machine_does_not_see_has_failed_there(
    nodes: Cluster, clips: Path, head: Head, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """/proc/self/cwd is another folder for each process, as an unshared disk is for machines."""
    monkeypatch.chdir(clips)
    library = open_new(tmp_path / "lib", head)
    report = run(nodes, Path("/proc/self/cwd/0.mp4"), library, head)
    [failure] = report.failed
    assert failure.reason == f"not seen by {platform.node()}: all machines must see the files"
    assert report.added == 0 and library.files() == {}


@pytest.mark.alone
def test_a_machine_without_the_head_is_one_line_and_stops_the_run(
    nodes: Cluster, clips: Path, head: Head, tmp_path: Path
) -> None:
    folder = tmp_path / "head"
    shutil.copytree(head.name, folder)
    moved = load_head(str(folder))
    library = open_new(tmp_path / "lib", moved)
    shutil.rmtree(folder)
    with pytest.raises(IndexingError, match=rf"on {platform.node()}: .*head"):
        run(nodes, clips, library, moved)
    shutil.copytree(small_other(tmp_path / "other"), folder)
    with pytest.raises(IndexingError, match="is another model there"):
        run(nodes, clips, library, moved)


def small_other(folder: Path) -> Path:
    """Save a head of other weights."""
    build_model().save_pretrained(folder / "chat")
    other = small_head(replace(SMALL_HEAD, base=str(folder / "chat"), depth=1))
    other.save_pretrained(folder / "head")
    return folder / "head"


@pytest.mark.alone
def test_the_command_from_outside_prints_json_and_nothing_else(
    nodes: Cluster, client_port: int, clips: Path, here: Library, head: Head, tmp_path: Path
) -> None:
    words = ["index", clips, "--library", tmp_path / "lib", "--model", head.name, "--json"]
    words += ["--window", "2", "--overlap", "1", "--ray", f"ray://127.0.0.1:{client_port}"]
    done = subprocess.run(
        [sys.executable, "-m", "avchat.cli", *map(str, words)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert list(report) == (
        ["library", "head", "added", "unchanged", "moved", "failed", "windows", "seconds"]
    )
    assert report["added"] == CLIPS and len(report["failed"]) == 1
    assert "broken.mp4" in done.stderr and "Traceback" not in done.stderr
    assert_same_content(Library.open(tmp_path / "lib"), here)


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("somewhere", "write auto, local, HOST:PORT or ray://HOST:PORT"),
        ("127.0.0.1:1", "nothing answers there"),
        ("ray://127.0.0.1:1", "nothing answers there"),
        ("host.invalid:6379", "nothing answers there"),
        ("127.0.0.1:99999", "nothing answers there"),
    ],
)
def test_where_no_cluster_is_one_line_says_so(
    address: str, said: str, clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["index", clips, "--library", tmp_path / "lib", "--ray", address]
    assert cli.main(list(map(str, words))) == 2
    stdout, stderr = capsys.readouterr()
    assert not stdout and stderr.startswith(f"error: --ray {address}: ") and said in stderr
    assert stderr.count("\n") == 1 and not (tmp_path / "lib").exists()


def test_what_answers_but_is_no_cluster_is_said_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "CONNECT_S", 2.0)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        begin = time.perf_counter()
        with pytest.raises(IndexingError, match="no Ray cluster within 2 s"):
            cluster.reach(address)
    assert time.perf_counter() - begin < 20


def test_without_ray_one_line_says_how_to_get_it(
    clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("avchat.cluster", "avchat.jobs"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.delattr("avchat.cluster")
    monkeypatch.setitem(sys.modules, "ray", None)  # how Python itself says: not to be imported
    words = ["index", clips, "--library", tmp_path / "lib", "--ray", "local"]
    assert cli.main(list(map(str, words))) == 2
    assert capsys.readouterr().err == 'error: --ray needs Ray: pip install "avchat[cluster]"\n'


def test_jobs_hold_every_file_once_and_every_worker_gets_some() -> None:
    for count, workers, cpus, size in [
        (1, 4, 8, 1),
        (14, 2, 1, 1),
        (14, 2, 4, 4),
        (16, 4, 8, 4),
        (100_000, 100, 8, 25),
        (200_000, 100, 8, 32),
    ]:
        files = [str(n) for n in range(count)]
        jobs = cluster.jobs_of(files, workers, cpus)
        assert [path for job in jobs for path in job] == files
        assert max(map(len, jobs)) == size


def test_workers_fill_the_machines_that_are_up() -> None:
    def node(alive: bool = True, **resources: float) -> dict:
        return {"Alive": alive, "Resources": resources}

    assert cluster.workers([node(CPU=1), node(CPU=1), node(False, CPU=9)]) == (2, 1, 0)
    assert cluster.workers([node(), node(CPU=64), node(CPU=20)]) == (10, 8, 0)
    assert cluster.workers([node(CPU=8), node(CPU=96, GPU=8), node(CPU=16, GPU=1)]) == (9, 12, 1)
    assert cluster.workers([node()]) == (1, 8, 0)  # machines that are still to join
