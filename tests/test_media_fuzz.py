"""Whatever bytes a file holds, `load_media` gives a result or a MediaError, within 10 seconds.

All mutated files go through one process beside the tests, where `isolate` takes a process each:
should a native decoder crash on one, the same file must be a MediaError with `isolate`.
"""

import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from clips import click, write_clip
from PIL import Image

from avchat.media import Limits, Media, MediaError, load_media

LIMIT_S = 10  # what a file may take of the processor: a busy machine is not the file's fault
FILES = 330
SEED = 0
LIMITS = Limits(max_duration_s=3600, max_pixels=4_000_000, max_decoded_bytes=300_000_000)
HERE = Path(__file__).resolve().parent


def write_sources(folder: Path) -> list[Path]:
    """Write small sound files, videos and pictures of many kinds."""
    times, sound = np.arange(20) / 10, click(2, 1)
    small = {"size": (64, 48), "sound": sound}
    for name, codecs in {
        "a.mp4": {"codec": "libx264", "sound_codec": "aac"},
        "a.mkv": {"codec": "libx264", "sound_codec": "libopus"},
        "a.webm": {"codec": "libvpx-vp9", "sound_codec": "libopus"},
        "a.ts": {"codec": "libx264", "sound_codec": "aac"},
        "a.avi": {"codec": "mpeg4", "sound_codec": "mp3"},
        "b.mkv": {"codec": "mpeg2video", "sound_codec": "flac"},
        "b.mov": {"codec": "mjpeg", "sound_codec": "pcm_s16le"},
        "a.flv": {"codec": "libx264", "sound_codec": "aac"},
    }.items():
        write_clip(folder / name, times, **small, **codecs)
    sounds = {"a.wav": "pcm_s16le", "a.flac": "flac", "a.mp3": "mp3", "a.m4a": "aac"}
    for name, codec in sounds.items():
        write_clip(folder / name, [], sound=sound, sound_codec=codec)
    picture = Image.fromarray(np.arange(64 * 48 * 3, dtype=np.uint8).reshape(48, 64, 3))
    for name in ("a.png", "a.jpg", "a.gif", "a.webp"):
        picture.save(folder / name)
    return sorted(folder.iterdir())


def flip_bits(data: bytearray, rng: np.random.Generator, others: list[bytes]) -> bytearray:
    for place in rng.integers(0, len(data), int(2 ** rng.integers(0, 9))):
        data[place] ^= 1 << int(rng.integers(8))
    return data


def flip_head(data: bytearray, rng: np.random.Generator, others: list[bytes]) -> bytearray:
    for place in rng.integers(0, min(len(data), 512), int(rng.integers(1, 12))):
        data[place] = int(rng.integers(256))
    return data


def flip_tail(data: bytearray, rng: np.random.Generator, others: list[bytes]) -> bytearray:
    """Damage the end, where an MP4 file keeps its index."""
    for place in rng.integers(max(0, len(data) - 2000), len(data), int(rng.integers(1, 12))):
        data[place] = int(rng.integers(256))
    return data


def cut(data: bytearray, rng: np.random.Generator, others: list[bytes]) -> bytearray:
    return data[: int(rng.integers(0, len(data)))]


def swap_head(data: bytearray, rng: np.random.Generator, others: list[bytes]) -> bytearray:
    size = int(rng.integers(4, 1000))
    return bytearray(others[rng.integers(len(others))][:size]) + data[size:]


def drop_middle(data: bytearray, rng: np.random.Generator, others: list[bytes]) -> bytearray:
    first, last = sorted(rng.integers(0, len(data), 2))
    return data[:first] + data[last:]


def repeat_middle(data: bytearray, rng: np.random.Generator, others: list[bytes]) -> bytearray:
    first, last = sorted(rng.integers(0, len(data), 2))
    return data[:last] + data[first:]


def blank(data: bytearray, rng: np.random.Generator, others: list[bytes]) -> bytearray:
    first, last = sorted(rng.integers(0, len(data), 2))
    data[first:last] = bytes([int(rng.choice([0, 255]))]) * int(last - first)
    return data


MUTATIONS: list[Callable[..., bytearray]] = [
    flip_bits,
    flip_head,
    flip_tail,
    cut,
    swap_head,
    drop_middle,
    repeat_middle,
    blank,
]


def write_mutants(folder: Path, sources: list[Path], count: int, seed: int) -> list[Path]:
    """Write `count` damaged files: every kind of damage to every source in turn, and plain lies."""
    rng = np.random.default_rng(seed)
    contents = [path.read_bytes() for path in sources]
    lies = {
        "empty.mp4": b"",
        "text.mp4": b"This is not a video.\n" * 50,
        "one_byte.mkv": b"\x1a",
        "noise.mp4": rng.bytes(20_000),
        "zeros.avi": bytes(20_000),
        "playlist.mp4": b"#EXTM3U\n#EXTINF:1,\n/etc/passwd\n",
        "concat.mp4": b"ffconcat version 1.0\nfile /etc/passwd\n",
        "box.mp4": b"\x00\x00\x00\x18ftypisom" + bytes(12) + b"\x00\x00\x00\x00mdat" + bytes(99),
        "song.mp4": contents[[p.name for p in sources].index("a.mp3")],
        "film.wav": contents[[p.name for p in sources].index("a.mkv")],
    }
    for name, data in lies.items():
        (folder / name).write_bytes(data)
    for number in range(count - len(lies)):
        which = number % len(sources)
        mutate = MUTATIONS[number // len(sources) % len(MUTATIONS)]
        data = mutate(bytearray(contents[which]), rng, contents)
        name = f"{number:03d}_{mutate.__name__}{sources[which].suffix}"
        (folder / name).write_bytes(bytes(data))
    return sorted(folder.iterdir())


def check(media: Media) -> None:
    """Check what any result promises."""
    frames, times, wave = media.frames, media.frame_times_s, media.waveform
    assert frames.dtype == np.uint8 and frames.ndim == 4 and frames.shape[3] == 3
    assert len(frames) == len(times) and np.isfinite(times).all() and (np.diff(times) > 0).all()
    assert wave.dtype == np.float32 and wave.ndim == 1 and np.isfinite(wave).all()
    assert media.has_video == (len(frames) > 0) and media.has_audio == (len(wave) > 0)
    assert media.has_video or media.has_audio
    assert np.abs(wave).max(initial=0) <= 1 and media.duration_s >= 0


def read_all() -> None:
    """Load each file named on stdin and print what came of it: the process beside the tests."""
    pipe = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # decoders print too
    for line in sys.stdin:
        begin = time.process_time()
        try:
            check(load_media(line.strip(), frames=8, size=64, limits=LIMITS))
            what = "result"
        except MediaError as error:
            name = Path(line.strip()).name
            what = "error" if str(error).startswith(f"{name}: ") else f"misnamed: {error}"
            what = what if "\n" not in str(error) else "more than a line"
        print(json.dumps([what, time.process_time() - begin]), file=pipe, flush=True)


class Reader:
    """The process beside the tests, started anew after a crash or a hang."""

    def __init__(self) -> None:
        self.start()

    def start(self) -> None:
        """Start the process and a thread that collects its lines."""
        path = os.pathsep.join([str(HERE), str(HERE.parent)])
        self.process = subprocess.Popen(
            [sys.executable, "-c", "from test_media_fuzz import read_all; read_all()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": path},
        )
        self.lines: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self.collect, args=(self.process, self.lines), daemon=True).start()

    @staticmethod
    def collect(process: subprocess.Popen, lines: queue.Queue) -> None:
        """Pass lines on; an empty one says that the process ended."""
        for line in process.stdout:
            lines.put(line)
        lines.put("")

    def read(self, path: Path) -> tuple[str, float]:
        """Say what came of one file, and after how many seconds."""
        self.process.stdin.write(f"{path}\n")
        self.process.stdin.flush()
        try:
            line = self.lines.get(timeout=6 * LIMIT_S)
        except queue.Empty:
            line = ""
        if line:
            return tuple(json.loads(line))
        self.stop()
        self.start()
        return "crash or hang", 0.0

    def stop(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def reader() -> Iterator[Reader]:
    """A running Reader."""
    reader = Reader()
    yield reader
    reader.stop()


def test_mutated_files_give_results_or_media_errors(tmp_path: Path, reader: Reader) -> None:
    (tmp_path / "sources").mkdir()
    (tmp_path / "mutants").mkdir()
    sources = write_sources(tmp_path / "sources")
    for source in sources:
        assert reader.read(source)[0] == "result", source.name
    mutants = write_mutants(tmp_path / "mutants", sources, FILES, SEED)
    assert len(mutants) >= 300
    outcomes = {path.name: reader.read(path) for path in mutants}
    crashed = [name for name, (what, _) in outcomes.items() if what == "crash or hang"]
    for name in crashed:
        with pytest.raises(MediaError, match=name):
            load_media(tmp_path / "mutants" / name, frames=8, isolate=True, timeout_s=LIMIT_S)
    kinds = [what for what, _ in outcomes.values()]
    odd = {n: o for n, o in outcomes.items() if o[0] not in ("result", "error", "crash or hang")}
    assert not odd
    assert max(seconds for _, seconds in outcomes.values()) < LIMIT_S
    # The damage is neither so slight nor so heavy that the test would prove nothing.
    assert kinds.count("result") > 50 and kinds.count("error") > 20
