"""How fast is indexing, and does its memory stay flat? `python eval/speed.py index`.

Real files, repeated with a few bytes appended so that each is another file, are indexed in two
ways, each into a library of its own:
- avchat: `avchat.indexing.index`, which decodes (in processes of its own), encodes and writes side
  by side;
- plain loop: one file after the other in this process, `load_media` of each window, the head,
  `Library.add`.
The kinds of files come in turn, so that the early and the late part of the run meet the same ones:
the peak of the memory of this process and its children in both shows whether it grows. On a busy
machine the ratio of the two times says little; the processor's seconds say more.
"""

import json
import os
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil
from tqdm import tqdm

from avchat.gathering import in_folder
from avchat.heads import Head, load_head, sha256_of
from avchat.indexing import HASH_DIGITS, Cutting, index
from avchat.library import Entry, File, Library
from avchat.media import MediaError, load_media, probe
from avchat.thumbnails import thumbnail
from avchat.windows import cut_windows
from avchat.world.casting import draw_scene
from avchat.world.clip_file import write_clip

SHARED = Path(__file__).resolve().parents[2] / "shared" / "media"
MADE = 12  # clips of the world, where there are no real files
SAMPLE_S = 0.05  # between two looks at the memory
EARLY, LATE = (0.2, 0.5), (0.7, 1.0)  # shares of the files; before, all is still being loaded


@dataclass(frozen=True)
class IndexSpeed:
    """Time and memory of indexing, against a plain sequential loop."""

    media: Path = SHARED
    """Folder of the files that are repeated; clips of the world where it is absent."""
    files: int = 60
    model: str = "tiny"
    """The lookup head: a name or a folder."""
    json: bool = False
    """Print one JSON object instead of words."""


@dataclass
class Memory:
    """Watches the memory of this process and its children, in a thread, while files are done."""

    total: int
    done: int = 0
    samples: list[tuple[float, int]] = field(default_factory=list)  # share of files, bytes
    over: threading.Event = field(default_factory=threading.Event)

    def watch(self) -> None:
        """Take samples until it is over."""
        while not self.over.wait(SAMPLE_S):
            self.samples.append((self.done / self.total, resident()))

    def peak(self, part: tuple[float, float]) -> int:
        """Return the peak in bytes while a part of the files was done; 0 where it was too short."""
        return max((size for at, size in self.samples if part[0] <= at < part[1]), default=0)


def resident() -> int:
    """Add up the resident bytes of this process and of its children, what they share included."""
    here = psutil.Process()
    total = 0
    for process in (here, *here.children(recursive=True)):
        try:
            total += process.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total


def processor_s() -> float:
    """Add up the processor's seconds of this process, its children, and those they waited for."""
    here = psutil.Process()
    return sum(sum(p.cpu_times()[:4]) for p in (here, *here.children(recursive=True)))


def main(args: IndexSpeed) -> None:
    """Index both ways and print times, their ratio, and memory."""
    head = load_head(args.model)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = gather(args, folder)
        began = processor_s()
        plain_s, plain = timed_plain(files, head, open_new(folder / "plain", head))
        between = processor_s()
        memory = Memory(len(files))
        ours_s, ours = timed_index(files, head, open_new(folder / "ours", head), memory)
        ended = processor_s()
    assert (ours.added, ours.windows) == (plain["files"], plain["windows"]), "the same work"
    result = {
        **plain,
        "failed": len(ours.failed),
        "cores": len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count(),
        "plain_s": plain_s,
        "plain_processor_s": between - began,
        "avchat_s": ours_s,
        "avchat_processor_s": ended - between,
        "ratio": plain_s / ours_s,
        "early_bytes": memory.peak(EARLY),
        "late_bytes": memory.peak(LATE),
    }
    print(json.dumps(result) if args.json else in_words(result))


def gather(args: IndexSpeed, folder: Path) -> list[Path]:
    """Copy files in turn, each with other bytes at its end, until there are enough."""
    sources = list(in_folder(args.media)) if args.media.is_dir() else []
    if not sources:
        (folder / "made").mkdir()
        for seed in range(MADE):
            scene = draw_scene(np.random.default_rng(seed), "two sources")
            write_clip(scene, folder / "made" / f"{seed}.mp4")
        sources = list(in_folder(folder / "made"))
    copies = []
    for number in range(args.files):
        source = sources[number % len(sources)]
        copies.append(folder / f"{number:04d}_{source.name}")
        copies[-1].write_bytes(source.read_bytes() + number.to_bytes(8, "big"))
    return copies


def open_new(folder: Path, head: Head) -> Library:
    """Make a library."""
    return Library.open(
        folder, head_name=head.name, fingerprint=head.fingerprint, width=head.width, create=True
    )


def timed_index(files: list[Path], head: Head, library: Library, memory: Memory) -> tuple:
    """Index as avchat does, under watch: (seconds, report)."""

    def tell(done: int, total: int) -> None:
        memory.done = done

    watcher = threading.Thread(target=memory.watch)
    watcher.start()
    try:
        report = index(files, library, head, Cutting(), progress=tell)
    finally:
        memory.over.set()
        watcher.join()
    return report.seconds, report


def timed_plain(files: list[Path], head: Head, library: Library) -> tuple[float, dict]:
    """Index in a plain loop: (seconds, what was added)."""
    began = time.perf_counter()
    done = {"files": 0, "windows": 0}
    for path in tqdm(files, desc="plain loop", disable=not sys.stderr.isatty()):
        try:
            count = add_plainly(path, head, library)
        except MediaError:
            continue
        done["files"] += count > 0
        done["windows"] += count
    library.tend()
    return time.perf_counter() - began, done


def add_plainly(path: Path, head: Head, library: Library) -> int:
    """Cut, decode, encode and add one file; return how many windows it has."""
    info, stat = probe(path), path.stat()
    hash = sha256_of([path])[:HASH_DIGITS]
    file = File(hash, str(path), stat.st_size, stat.st_mtime, info.duration_s, info.has_audio)
    entries = []
    for window in cut_windows(path, info):
        part = {"start": window.start_s, "end": window.end_s}
        try:
            clip = load_media(path, frames=head.frames, size=head.size, **part)
        except MediaError:
            continue
        [made] = head.clips([clip])
        if made.both is not None:
            small = thumbnail(clip.frames, info)
            vectors = made.picture, made.sound, made.both
            entries.append(Entry(window.start_s, window.end_s, *vectors, small))
    return len(entries) if entries and library.add(file, entries) else 0


def in_words(result: dict) -> str:
    """Lay the result out for reading."""
    early, late = result["early_bytes"] / 1e6, result["late_bytes"] / 1e6
    return (
        f"{result['files']} files, {result['windows']} windows, {result['failed']} files failed, "
        f"{result['cores']} cores\n"
        f"  plain loop {result['plain_s']:8.1f} s, of the processor "
        f"{result['plain_processor_s']:.1f}\n"
        f"  avchat     {result['avchat_s']:8.1f} s, of the processor "
        f"{result['avchat_processor_s']:.1f}\n"
        f"  {result['ratio']:.2f} times as fast\n"
        f"  peak of its memory {early:.0f} MB early, {late:.0f} MB late in the run"
    )
