"""Folders of media -> a library: files are cut in windows, decoded, encoded and written.

Three stages run side by side, joined by short queues, so that memory stays flat: threads decode
(each in processes of its own), the caller's thread encodes, one thread writes. A file is written
when all its windows are encoded; so a run that is stopped anywhere goes on where it was.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from queue import Empty, Full, Queue
from threading import Event
from time import perf_counter
from typing import Literal, Protocol

from avchat.container import check_ordinary
from avchat.gathering import IndexingError, media_files
from avchat.heads import Head, sha256_of
from avchat.library import Entry, File, Library
from avchat.media import Media, MediaError, MediaInfo, probe
from avchat.parts import load_parts
from avchat.thumbnails import thumbnail
from avchat.transcripts import Transcriber, in_window
from avchat.windows import Window, cut_windows

TOGETHER = 8  # windows that are decoded by one process and encoded at once
HASH_DIGITS = 32  # 128 bits: no two of all the films in the world are taken for one
POLL_S = 0.2  # how often a waiting thread looks whether all is over


@dataclass(frozen=True)
class Failure:
    """A file that could not be indexed."""

    path: str
    reason: str


@dataclass(frozen=True)
class Step:
    """What is becoming of one file. An end state comes once for each file that is not stopped."""

    path: str
    state: Literal["working", "added", "unchanged", "moved", "failed"]
    share: float = 0.0  # of its windows that are encoded
    reason: str = ""  # why it failed


@dataclass(frozen=True)
class Report:
    """What a run did. A copy of a file that the library has counts as unchanged."""

    added: int
    unchanged: int
    moved: int
    failed: tuple[Failure, ...]
    windows: int
    seconds: float


@dataclass(frozen=True)
class Cutting:
    """How files are cut: in windows of one length that overlap, or shot by shot.

    A shot longer than `length_s` is cut further. `quick` looks at keyframes alone.
    """

    length_s: float = 8.0
    overlap_s: float = 4.0
    quick: bool = False
    shots: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.overlap_s < self.length_s:
            raise IndexingError(
                f"windows of {self.length_s:g} s cannot overlap by {self.overlap_s:g} s"
            )


class Shelf(Protocol):
    """Where files go when they are indexed: a Library, or what stands in for it far from it."""

    def files(self) -> Mapping[str, File]:
        """Tell by hash what is there already."""
        ...

    def add(self, file: File, entries: Sequence[Entry]) -> bool:
        """Take the windows of a file; False when it is there already."""
        ...

    def moved(self, hash: str, path: str, mtime_s: float) -> None:
        """Note that a file is elsewhere now, or has another date."""
        ...

    def tend(self) -> None:
        """Put in order what was taken."""
        ...


@dataclass(frozen=True)
class _Batch:
    """Some windows of a file, decoded; the file's last batch says so."""

    file: File
    info: MediaInfo
    windows: Sequence[Window]
    media: Sequence[Media | MediaError]
    share: float  # of the file's windows that are in this batch or in those before; 1: the last


@dataclass
class _Tally:
    """The report as it grows; each field is changed by one thread alone."""

    unchanged: int = 0
    moved: int = 0
    failed: list[Failure] = field(default_factory=list)
    added: int = 0
    copies: int = 0
    windows: int = 0

    def files(self) -> int:
        return self.unchanged + self.moved + len(self.failed) + self.added + self.copies


def index(
    paths: Sequence[str | Path],
    library: Library,
    head: Head,
    cutting: Cutting = Cutting(),
    *,
    transcriber: Transcriber | None = None,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    on_step: Callable[[Step], None] | None = None,
    stop: Event | None = None,
) -> Report:
    """Add files, and all media files in folders, to a library; say what became of each.

    With a transcriber, what is said in them is added, too. `progress` is told how many of how many
    files are done; `on_step` of each file, by whichever thread is at it. `stop` ends it, with what
    is finished until then in the library. A file that fails is in the report and stops nothing.
    Raises IndexingError where a path does not exist, LibraryError where the library cannot be
    written; what was indexed before stays.
    """
    return index_files(
        media_files(paths),
        library,
        head,
        cutting,
        transcriber=transcriber,
        workers=workers,
        progress=progress,
        on_step=on_step,
        stop=stop,
    )


def index_files(
    files: list[Path],
    library: Shelf,
    head: Head,
    cutting: Cutting,
    *,
    transcriber: Transcriber | None = None,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    on_step: Callable[[Step], None] | None = None,
    stop: Event | None = None,
) -> Report:
    """Do what `index` does with files that are listed already; one that is not there has failed."""
    begin = perf_counter()
    workers = workers or os.cpu_count() or 1
    run = _Run(library, head, cutting, transcriber, files, workers, on_step, stop)
    tally = run.carry_out(progress or (lambda done, total: None))
    if tally.added or tally.moved:
        library.tend()
    return Report(
        tally.added,
        tally.unchanged + tally.copies,
        tally.moved,
        tuple(tally.failed),
        tally.windows,
        perf_counter() - begin,
    )


def is_as_indexed(stat: os.stat_result, file: File | None) -> bool:
    """Tell by size and date whether a path has what the library has of it."""
    return file is not None and (stat.st_size, stat.st_mtime) == (file.size, file.mtime_s)


def is_still_there(file: File) -> bool:
    """Tell whether the bytes that were indexed are still at their path."""
    path = Path(file.path)
    if not path.is_file():
        return False
    return is_as_indexed(path.stat(), file) or sha256_of([path])[:HASH_DIGITS] == file.hash


class _Run:
    """One run over a list of files."""

    def __init__(
        self,
        library: Shelf,
        head: Head,
        cutting: Cutting,
        transcriber: Transcriber | None,
        paths: list[Path],
        workers: int,
        on_step: Callable[[Step], None] | None,
        stop: Event | None,
    ) -> None:
        self.tell = on_step or (lambda step: None)
        self.asked = stop or Event()  # set by the caller, to end early
        self.library, self.head, self.cutting, self.paths = library, head, cutting, paths
        self.transcriber = transcriber
        self.known = library.files()
        self.at_path = {file.path: file for file in self.known.values()}
        self.workers = workers
        self.todo = iter(paths)  # next() of a list's iterator is atomic: threads share it
        self.ready: Queue[_Batch | Step] = Queue(2 * workers)
        self.done: Queue[tuple[File, list[Entry]] | None] = Queue(4)
        self.stop = Event()  # set when this run is over, for whatever reason
        self.tally = _Tally()

    def carry_out(self, progress: Callable[[int, int], None]) -> _Tally:
        """Run the three stages; on Ctrl-C or a fault, write what is finished and stop."""
        with ThreadPoolExecutor(self.workers + 1) as pool:
            writer = pool.submit(self.write)
            decoders = [pool.submit(self.decode) for _ in range(self.workers)]
            try:
                self.encode(decoders, writer, progress)
            finally:
                self.stop.set()
                self.put(self.done, None, until=writer)
            for future in (*decoders, writer):
                future.result()
        progress(self.tally.files(), len(self.paths))
        return self.tally

    def decode(self) -> None:
        """Take files until there are none: look up, hash, cut, decode (a thread)."""
        for path in self.todo:
            if self.stop.is_set():
                return
            try:
                for item in self.look_at(path):
                    if not self.put(self.ready, item):
                        return
            except (MediaError, OSError) as error:
                reason = " ".join(str(error).split())
                self.put(self.ready, Step(str(path), "failed", reason=reason))

    def look_at(self, path: Path) -> Iterator[_Batch | Step]:
        """Yield what a file needs: nothing, if it is unchanged or moved, or its windows."""
        check_ordinary(path)  # to hash a pipe is to wait for ever
        stat = path.stat()
        if is_as_indexed(stat, self.at_path.get(str(path))):
            yield Step(str(path), "unchanged")
            return
        hash = sha256_of([path])[:HASH_DIGITS]
        old = self.known.get(hash)
        if old is not None:
            elsewhere = old.path != str(path)
            copy = elsewhere and is_still_there(old)
            if not copy:
                self.library.moved(hash, str(path), stat.st_mtime)
            yield Step(str(path), "moved" if elsewhere and not copy else "unchanged")
            return
        info = probe(path, isolate=True)
        file = File(hash, str(path), stat.st_size, stat.st_mtime, info.duration_s, info.has_audio)
        windows = cut_windows(
            path,
            info,
            length_s=self.cutting.length_s,
            overlap_s=self.cutting.overlap_s,
            shots=self.cutting.shots,
            keyframes=self.cutting.quick,
            isolate=True,
        )
        for first in range(0, len(windows), TOGETHER):
            some = windows[first : first + TOGETHER]
            media = load_parts(
                path,
                some,
                frames=self.head.frames,
                size=self.head.size,
                sound=self.head.hears,
                keyframes=self.cutting.quick,
                isolate=True,
            )
            share = min(1.0, (first + TOGETHER) / len(windows))
            yield _Batch(file, info, some, media, share)

    def encode(
        self, decoders: list[Future], writer: Future, progress: Callable[[int, int], None]
    ) -> None:
        """Turn windows into entries, and pass on each file that is complete."""
        begun: dict[str, list[Entry | str]] = {}  # by path: a file's entries and faults so far
        while not all(decoder.done() for decoder in decoders) or not self.ready.empty():
            if writer.done() or self.asked.is_set():
                return  # where the disk is full, its error is raised by the caller
            try:
                item = self.ready.get(timeout=POLL_S)
            except Empty:
                continue
            if isinstance(item, _Batch):
                begun.setdefault(item.file.path, []).extend(entries_of(item, self.head))
                if item.share == 1:
                    self.finish(item.file, begun.pop(item.file.path), writer)
                else:
                    self.tell(Step(item.file.path, "working", item.share))
            else:
                begun.pop(item.path, None)
                self.end(item)
            progress(self.tally.files(), len(self.paths))

    def end(self, step: Step) -> None:
        """Count a file of which nothing is written."""
        if step.state == "failed":
            self.tally.failed.append(Failure(step.path, step.reason))
        elif step.state == "moved":
            self.tally.moved += 1
        else:
            self.tally.unchanged += 1
        self.tell(step)

    def finish(self, file: File, parts: list[Entry | str], writer: Future) -> None:
        """Pass a file to the writer; one of which nothing could be used has failed."""
        entries = [part for part in parts if isinstance(part, Entry)]
        if entries:
            entries = with_speech(file, entries, self.transcriber)
            self.put(self.done, (file, entries), until=writer)
        else:
            reasons = [part for part in parts if isinstance(part, str)]
            self.end(Step(file.path, "failed", reason=reasons[0]))

    def write(self) -> None:
        """Write files as they are finished, until None comes (a thread)."""
        while (item := self.done.get()) is not None:
            file, entries = item
            new = self.library.add(file, entries)
            self.tally.added += new
            self.tally.copies += not new
            self.tally.windows += new * len(entries)
            self.tell(Step(file.path, "added" if new else "unchanged", 1.0))

    def put(self, queue: Queue, item: object, until: Future | None = None) -> bool:
        """Put into a bounded queue; False where nobody will take it any more.

        Args: until: the reader, which reads on after `stop` until it is done.
        """
        while not (until.done() if until else self.stop.is_set()):
            try:
                queue.put(item, timeout=POLL_S)
                return True
            except Full:
                continue
        return False


def entries_of(batch: _Batch, head: Head) -> list[Entry | str]:
    """Encode a batch; a window of which nothing can be used is the reason why."""
    media = [clip for clip in batch.media if isinstance(clip, Media)]
    vectors = iter(head.clips(media) if media else [])
    found: list[Entry | str] = []
    for window, clip in zip(batch.windows, batch.media, strict=True):
        if isinstance(clip, MediaError):
            found.append(str(clip))
            continue
        made = next(vectors)
        if made.both is None:
            lacks = "" if head.hears else f", and {head.name} hears nothing"
            found.append(f"{Path(batch.file.path).name}: no picture{lacks}")
            continue
        end_s = window.end_s or clip.duration_s
        small = thumbnail(clip.frames, batch.info)
        found.append(Entry(window.start_s, end_s, made.picture, made.sound, made.both, small))
    return found


def with_speech(file: File, entries: list[Entry], transcriber: Transcriber | None) -> list[Entry]:
    """Add what is said in each window; the file is written down once, as windows overlap."""
    if transcriber is None or not file.has_sound:
        return entries
    lines = transcriber.file_lines(file.path, max(e.end_s for e in entries), isolate=True)
    return [replace(e, transcript=in_window(lines, e.start_s, e.end_s)) for e in entries]
