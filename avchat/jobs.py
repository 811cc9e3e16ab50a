"""Jobs of some files -> harvests: what a worker of a cluster does, with the code of `indexing`.

A worker writes nothing: what it would write goes back to the one process that does (`cluster`).
"""

import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import ray
from ray.actor import ActorHandle

from avchat.config import ModelError
from avchat.heads import Head, Kind, load_head
from avchat.indexing import Cutting, Failure, index_files
from avchat.library import Entry, File
from avchat.transcripts import Transcriber

TRIES = 3  # of a file that kills its worker

Job = list[str]  # paths


@dataclass(frozen=True)
class Order:
    """What a worker must know: whose vectors are wanted, and how files are cut."""

    kind: Kind
    model: str  # a folder that all machines see, or a name on the Hub
    fingerprint: str
    cutting: Cutting
    whisper: str | None = None  # writes down what is said; its name or its .pt file


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
        self.transcriber = None if order.whisper is None else Transcriber(order.whisper)

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
        report = index_files(
            paths,
            harvest,
            self.head,
            self.order.cutting,
            transcriber=self.transcriber,
            workers=self.cpus,
        )
        harvest.failed = [with_place(failure) for failure in report.failed]
        harvest.known = {}  # of no use to who gets it
        return harvest


def with_place(failure: Failure) -> Failure:
    """Say of a file that is not there on which machine it is not."""
    if os.path.exists(failure.path):
        return failure
    return Failure(failure.path, f"not seen by {platform.node()}: all machines must see the files")
