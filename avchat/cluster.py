"""Folders of media -> a library, over the machines of a Ray cluster, by Ray Data.

Workers take files in jobs and do with them what `indexing` does on one machine; what comes out
goes back to the one who asked, who alone writes. So a worker may die at any moment: its job is
given out again, and an answer that comes twice counts once.

    this process: list, skip, write  <->  Lead, on the cluster: Ray Data  <->  Workers, of `jobs`
"""

import logging
import math
import os
import socket
import subprocess
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter

import ray
from ray.exceptions import RayActorError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from avchat.gathering import IndexingError, media_files
from avchat.heads import Head
from avchat.indexing import Cutting, Failure, Report, is_as_indexed
from avchat.jobs import Harvest, Job, Order, Worker
from avchat.library import Entry, File, Library
from avchat.transcripts import Transcriber

JOIN = "import sys, ray; ray.init(sys.argv[1], log_to_driver=False)"  # what `reach` tries
KNOCK_S = 5.0  # until a machine counts as out of reach
# Until what answers counts as no cluster. A busy head needs half a minute for a client's process.
CONNECT_S = 90.0
JOBS = 4096  # that a run is divided in while they stay small: enough for hundreds of workers
JOB_FILES = 32  # in a job at most: what a worker holds until it is sent
BLOCKS = 10_000  # of jobs that Ray Data gives out: it keeps a record of each
WORKER_CPUS = 8  # of a worker without a GPU: each holds the whole head in memory
WRITE_FILES = 1000  # that are written in one commit
WRITE_S = 10.0  # after which fewer are


class Lead:
    """Runs Ray Data from inside the cluster: over ray:// it does not run from outside."""

    def __init__(self, files: list[str], order: Order, known: dict[str, File]) -> None:
        """Begin to give out jobs."""
        import ray.data  # a second's work, and needed here alone

        self.known, self.begun = known, Counter[tuple[str, ...]]()
        count, cpus, gpus = workers(ray.nodes())
        jobs = jobs_of(files, count, cpus)
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        data = ray.data.from_items(jobs, override_num_blocks=min(len(jobs), BLOCKS))
        data = data.map_batches(
            Worker,
            fn_constructor_args=(ray.get_runtime_context().current_actor, order, cpus),
            batch_size=None,
            num_cpus=cpus,
            num_gpus=gpus,
            # open above, for machines that join while it runs
            compute=ray.data.ActorPoolStrategy(min_size=1, initial_size=count),
        )
        self.rows = iter(data.iter_rows())

    def next(self) -> Harvest | None:
        """Wait for the next harvest; None where there are no more."""
        row = next(self.rows, None)
        return None if row is None else row["harvest"]

    def begin(self, job: Job) -> int:
        """Count how many times a job was begun."""
        self.begun[tuple(job)] += 1
        return self.begun[tuple(job)]

    def find(self, hash: str) -> File | None:
        """Look up what the library had when the run began."""
        return self.known.get(hash)


@dataclass
class Account:
    """What became of the files so far. It alone writes to the library."""

    library: Library
    known: dict[str, File]
    todo: set[str]
    unchanged: int = 0
    moved: int = 0
    added: int = 0
    windows: int = 0
    failed: list[Failure] = field(default_factory=list)
    unwritten: list[tuple[File, Sequence[Entry]]] = field(default_factory=list)
    written_s: float = field(default_factory=perf_counter)  # when it last was

    def take(self, harvest: Harvest) -> None:
        """Enter a harvest; what was answered before does not count again."""
        if harvest.fault:
            raise IndexingError(harvest.fault)
        new = self.todo.intersection(harvest.job)
        self.todo -= new
        added = [one for one in harvest.added if one[0].path in new]
        failed = [failure for failure in harvest.failed if failure.path in new]
        places = [place for place in harvest.places if place[1] in new]
        moved = sum(self.known[hash].path != path for hash, path, _ in places)
        for hash, path, mtime_s in places:
            self.library.moved(hash, path, mtime_s)
        self.unwritten += added
        self.failed += failed
        self.moved += moved
        self.unchanged += len(new) - len(added) - len(failed) - moved
        if len(self.unwritten) >= WRITE_FILES or perf_counter() - self.written_s > WRITE_S:
            self.write()

    def write(self) -> None:
        """Write what was gathered; a copy of a file that the library has counts as unchanged."""
        files, self.unwritten = self.unwritten, []
        new = self.library.add_all(files)
        windows = {file.hash: len(entries) for file, entries in reversed(files)}
        self.added += len(new)
        self.windows += sum(windows[hash] for hash in new)
        self.unchanged += len(files) - len(new)
        self.written_s = perf_counter()

    def give_up(self) -> None:
        """Enter as failed what no worker came back with."""
        self.failed += [Failure(path, "no worker came back with it") for path in sorted(self.todo)]
        self.todo.clear()


def index(
    paths: Sequence[str | Path],
    library: Library,
    head: Head,
    cutting: Cutting,
    address: str,
    progress: Callable[[int, int], None] | None = None,
    transcriber: Transcriber | None = None,
) -> Report:
    """Do what `indexing.index` does, over the cluster at an address.

    Args: address: `auto`, `HOST:PORT`, `ray://HOST:PORT`, or `local`: a cluster of this machine;
        `reach` tells whether there is one.
    Raises: IndexingError also where a machine cannot load the head.
    """
    begin = perf_counter()
    found = media_files(paths)
    known = library.files()
    todo = fresh(found, known)
    account = Account(library, known, set(todo), unchanged=len(found) - len(todo))
    tell = progress or (lambda done, total: None)
    tell(account.unchanged, len(found))
    whisper = None if transcriber is None else absolute(transcriber.name)
    order = Order(library.maker.kind, absolute(head.name), head.fingerprint, cutting, whisper)
    with joined(address):
        while account.todo:
            before = len(account.todo)
            go_round(account, order, lambda: tell(len(found) - len(account.todo), len(found)))
            if len(account.todo) == before:
                account.give_up()
    tell(len(found), len(found))
    if account.added or account.moved:
        library.tend()
    return Report(
        account.added,
        account.unchanged,
        account.moved,
        tuple(account.failed),
        account.windows,
        perf_counter() - begin,
    )


def fresh(found: list[Path], known: dict[str, File]) -> list[str]:
    """List the files that are not as the library has them, without reading any."""
    at_path = {file.path: file for file in known.values()}
    return [
        str(path)
        for path in found
        if not (path.is_file() and is_as_indexed(path.stat(), at_path.get(str(path))))
    ]


def absolute(model: str) -> str:
    """Name a model so that workers, who run in other folders, find it."""
    return os.path.abspath(model) if os.path.exists(model) else model


def go_round(account: Account, order: Order, tell: Callable[[], None]) -> None:
    """Give out all that is to do, once, and write what comes back, also when stopped."""
    # Beside this process, or beside what stands for it at the other end of ray://. Not `soft`: that
    # put every other lead on another machine, whose end was then the end of the run.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    # One thread waits for Ray Data, the others answer the workers.
    leads = ray.remote(num_cpus=0, max_concurrency=8, scheduling_strategy=here)(Lead)
    lead = leads.remote(sorted(account.todo), order, account.known)
    try:
        while (harvest := ray.get(lead.next.remote())) is not None:
            account.take(harvest)
            tell()
    except RayActorError as error:
        raise IndexingError(
            "the machine that led the workers is gone; what was indexed stays, start again"
        ) from error
    finally:
        account.write()
        ray.kill(lead)


def jobs_of(files: list[str], workers: int, cpus: int) -> list[Job]:
    """Divide files into jobs: a file for each CPU of a worker, as far as all workers get some."""
    size = max(math.ceil(len(files) / JOBS), min(cpus, math.ceil(len(files) / workers)))
    size = min(size, JOB_FILES)
    return [files[first : first + size] for first in range(0, len(files), size)]


def workers(nodes: list[dict]) -> tuple[int, int, float]:
    """Choose how many workers a cluster has room for, and the CPUs and GPUs of each."""
    alive = [node["Resources"] for node in nodes if node["Alive"]]
    cards = [node for node in alive if node.get("GPU", 0) >= 1]
    if cards:
        cpus = min(node.get("CPU", 0) // node["GPU"] for node in cards)
        return int(sum(node["GPU"] for node in cards)), max(1, int(cpus)), 1
    sizes = [int(node["CPU"]) for node in alive if node.get("CPU", 0) >= 1]
    cpus = min([WORKER_CPUS, *sizes])
    return max(1, sum(size // cpus for size in sizes)), cpus, 0


@contextmanager
def joined(address: str) -> Iterator[None]:
    """Be part of a cluster that can be reached, or of one that is started here for `local`."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # what is indexed is nobody's business
    own = {"include_dashboard": False} if address == "local" else {}
    with warnings.catch_warnings():
        # Of LanceDB: Ray forks to start its daemons, which have no use for it.
        warnings.filterwarnings("ignore", "lancedb fork", RuntimeWarning)
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR, **own)
    try:
        yield
    finally:
        ray.shutdown()


def reach(address: str) -> None:
    """Raise IndexingError in seconds where no cluster can be joined; Ray itself tries for minutes.

    A process of its own tries, since Ray's trying cannot be stopped.
    """
    if address == "local":
        return
    if address != "auto":
        knock(address)
    words = [sys.executable, "-c", JOIN, address]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=CONNECT_S)
    except subprocess.TimeoutExpired as error:
        raise IndexingError(
            f"--ray {address}: something answers there, but no Ray cluster within {CONNECT_S:g} s"
        ) from error
    if done.returncode:
        said = done.stderr.strip().splitlines() or ["the process that asked crashed"]
        raise IndexingError(f"--ray {address}: {said[-1][:300]}")


def knock(address: str) -> None:
    """Raise IndexingError where an address is none, or nothing listens there."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        raise IndexingError(f"--ray {address}: write auto, local, HOST:PORT or ray://HOST:PORT")
    try:
        socket.create_connection((host, int(port)), KNOCK_S).close()
    except (OSError, OverflowError) as error:
        raise IndexingError(f"--ray {address}: nothing answers there ({error})") from error
