"""Folders of media -> a library, over the machines of a Ray cluster, by Ray Data.

Workers take files in jobs and do with them what `indexing` does on one machine; what comes out
goes back to the one who asked, who alone writes. So a worker may die at any moment: its job is
given out again, and an answer that comes twice counts once.

    this process: list, skip, write  <->  Lead, on the cluster: Ray Data  <->  Workers: index_files
"""

import logging
import math
import os
import platform
import socket
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter

import numpy as np
import ray
from ray.actor import ActorHandle
from ray.exceptions import RayActorError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from avchat.config import ModelError
from avchat.heads import Head, Kind, load_head
from avchat.indexing import Cutting, Failure, IndexingError, Report, index_files, media_files
from avchat.library import Entry, File, Library

CONNECT_S = 5.0  # until an address counts as out of reach
JOBS = 4096  # that a run is divided in while they stay small: enough for hundreds of workers
JOB_FILES = 32  # in a job at most: what a worker holds until it is sent
BLOCKS = 10_000  # of jobs that Ray Data gives out: it keeps a record of each
WORKER_CPUS = 8  # of a worker without a GPU: each holds the whole head in memory
TRIES = 3  # of a file that kills its worker
WRITE_FILES = 1000  # that are written in one commit
WRITE_S = 10.0  # after which fewer are

Job = list[str]  # paths


@dataclass(frozen=True)
class Order:
    """What a worker must know: whose vectors are wanted, and how files are cut."""

    kind: Kind
    model: str  # a folder that all machines see, or a name on the Hub
    fingerprint: str
    cutting: Cutting


@dataclass
class Harvest:
    """What became of a job. Stands in for the library on a worker: it keeps what would be written.

    A path that is in none of the lists is unchanged.
    """

    job: Job
    known: Mapping[str, File]
    added: list[tuple[File, Sequence[Entry]]] = field(default_factory=list)
    places: list[tuple[str, str, float]] = field(default_factory=list)  # hash, path, mtime_s
    failed: list[Failure] = field(default_factory=list)
    fault: str = ""  # why this worker can do no job at all

    def files(self) -> Mapping[str, File]:
        """Tell by hash what the library has."""
        return self.known

    def add(self, file: File, entries: Sequence[Entry]) -> bool:
        """Keep the windows of a file; False for a copy in the same job."""
        if any(file.hash == other.hash for other, _ in self.added):
            return False
        self.added.append((file, entries))
        return True

    def moved(self, hash: str, path: str, mtime_s: float) -> None:
        """Keep that a file is elsewhere now."""
        self.places.append((hash, path, mtime_s))

    def tend(self) -> None:
        """Leave order to the library."""


@dataclass(frozen=True)
class Known(Mapping[str, File]):
    """What the library has, asked one by one: ten million files are too much for each worker."""

    lead: ActorHandle

    def __getitem__(self, hash: str) -> File:
        file = ray.get(self.lead.find.remote(hash))
        if file is None:
            raise KeyError(hash)
        return file

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0


class Worker:
    """Does jobs, on CPUs or a GPU of some machine, with a head of its own."""

    def __init__(self, lead: ActorHandle, order: Order, cpus: int) -> None:
        """Load nothing yet: what is wrong with the head is an answer, not a crash."""
        self.lead, self.order, self.cpus = lead, order, cpus
        self.head: Head | None = None

    def __call__(self, batch: dict[str, np.ndarray]) -> Iterator[dict[str, list[Harvest]]]:
        """Do the jobs of a block."""
        for job in batch["item"]:
            for harvest in self.work(list(job)):
                yield {"harvest": [harvest]}

    def work(self, job: Job) -> Iterator[Harvest]:
        """Index a job's files together; where a worker died over them, one by one."""
        tries = ray.get(self.lead.begin.remote(job))
        if tries == 1 or (len(job) == 1 and tries <= TRIES):
            yield self.index(job)
        elif len(job) > 1:
            for path in job:
                yield from self.work([path])
        else:
            reason = f"each of {TRIES} workers that took it died; it may need more memory"
            yield Harvest(job, {}, failed=[Failure(job[0], reason)])

    def index(self, job: Job) -> Harvest:
        """Do what is done on one machine, and keep what comes out."""
        try:
            self.head = self.head or load_head(self.order.model, self.order.kind)
        except ModelError as error:
            return Harvest(job, {}, fault=f"on {platform.node()}: {error}")
        if self.head.fingerprint != self.order.fingerprint:
            other = f"on {platform.node()}: {self.order.model} is another model there"
            return Harvest(job, {}, fault=other)
        harvest = Harvest(job, Known(self.lead))
        paths = [Path(path) for path in job]
        report = index_files(paths, harvest, self.head, self.order.cutting, workers=self.cpus)
        harvest.failed = [with_place(failure) for failure in report.failed]
        harvest.known = {}  # of no use to who gets it
        return harvest


def with_place(failure: Failure) -> Failure:
    """Say of a file that is not there on which machine it is not."""
    if os.path.exists(failure.path):
        return failure
    return Failure(failure.path, f"not seen by {platform.node()}: all machines must see the files")


class Lead:
    """Runs Ray Data from inside the cluster: over ray:// it does not run from outside."""

    def __init__(self, jobs: list[Job], order: Order, known: dict[str, File]) -> None:
        """Begin to give out jobs."""
        import ray.data  # a second's work, and needed here alone

        self.known, self.begun = known, Counter[tuple[str, ...]]()
        count, cpus, gpus = workers(ray.nodes())
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
        self.rows = data.iter_rows()

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
) -> Report:
    """Do what `indexing.index` does, over the cluster at an address.

    Args: address: `auto`, `HOST:PORT`, `ray://HOST:PORT`, or `local`: a cluster of this machine.
    Raises: IndexingError where there is no cluster, or a machine of it cannot load the head.
    """
    begin = perf_counter()
    found = media_files(paths)
    known = library.files()
    todo = fresh(found, known)
    account = Account(library, known, set(todo), unchanged=len(found) - len(todo))
    tell = progress or (lambda done, total: None)
    order = Order(library.maker.kind, absolute(head.name), head.fingerprint, cutting)
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
    return [str(path) for path in found if not is_same(path, at_path.get(str(path)))]


def is_same(path: Path, file: File | None) -> bool:
    """Tell by size and date whether a path has what the library has of it."""
    if file is None or not path.is_file():
        return False
    stat = path.stat()
    return (stat.st_size, stat.st_mtime) == (file.size, file.mtime_s)


def absolute(model: str) -> str:
    """Name a model so that workers, who run in other folders, find it."""
    return os.path.abspath(model) if os.path.isdir(model) else model


def go_round(account: Account, order: Order, tell: Callable[[], None]) -> None:
    """Give out all that is to do, once, and write what comes back, also when stopped."""
    # Beside this process, or beside what stands for it at the other end of ray://.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    # One thread waits for Ray Data, the others answer the workers.
    leads = ray.remote(num_cpus=0, max_concurrency=8, scheduling_strategy=here)(Lead)
    lead = leads.remote(jobs_of(sorted(account.todo)), order, account.known)
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


def jobs_of(files: list[str]) -> list[Job]:
    """Divide files into jobs."""
    size = min(JOB_FILES, math.ceil(len(files) / JOBS))
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
    """Join a cluster, or start one for `local`; IndexingError where there is none."""
    reach(address)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # what is indexed is nobody's business
    own = {"include_dashboard": False} if address == "local" else {}
    try:
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR, **own)
    except (OSError, RuntimeError, ValueError) as error:
        said = str(error).strip().splitlines() or [type(error).__name__]
        raise IndexingError(f"--ray {address}: no Ray cluster there ({said[0][:200]})") from error
    try:
        yield
    finally:
        ray.shutdown()


def reach(address: str) -> None:
    """Knock at an address: Ray itself tries for minutes."""
    if address in ("auto", "local"):
        return
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        raise IndexingError(f"--ray {address}: write auto, local, HOST:PORT or ray://HOST:PORT")
    try:
        socket.create_connection((host, int(port)), CONNECT_S).close()
    except (OSError, OverflowError) as error:
        raise IndexingError(f"--ray {address}: nothing answers there ({error})") from error
