"""How fast are the parts? `python eval/speed.py media | chat | find | index | train | step`.

`chat` is in eval/chat_speed.py, `find` in eval/finding.py, `index` in eval/indexing_speed.py,
`train` in eval/training_speed.py, `step` in eval/step_speed.py.

`media`: media prepared, against the ways of peers.

Each way prepares the same: 16 frames of 384x384 at the same times, and all the sound at 16 kHz.
- avchat: `load_media`;
- decord + sound pass: decord's frames, scaled while they are decoded, then the sound in a pass of
  its own, by ffmpeg where it is installed, else by PyAV (VideoLLaMA2, Video-LLaMA, video-SALMONN);
- PyAV everything: one pass that decodes both tracks whole (LLaVA-NeXT, LLaMA-Factory);
- avchat keyframes: the nearest keyframes and no sound: not the same, for a first look.
Rounds are interleaved, so that what else the machine does meets all ways alike. On a busy machine
believe the processor's seconds, which count all threads, more than the clock's.
"""

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as `avchat index` has it, before any OpenMP

import av
import chat_speed
import decord
import finding
import indexing_speed
import numpy as np
import step_speed
import training_speed
import tyro
from chat_speed import ChatSpeed
from finding import FindSpeed
from indexing_speed import IndexSpeed
from step_speed import StepSpeed
from training_speed import TrainSpeed

from avchat.listing import Wish, choose, list_pictures
from avchat.media import SAMPLE_RATE, load_media

SHARED = Path(__file__).resolve().parents[2] / "shared" / "media"
CLIPS = (SHARED / "dog_barking.mp4", SHARED / "long_1080p.mp4")
FRAMES, SIZE = 16, 384
SAME = "avchat", "decord + sound pass", "PyAV everything"  # the same work


@dataclass(frozen=True)
class MediaSpeed:
    """Seconds of media prepared per second."""

    clips: tuple[Path, ...] = ()
    """Files to measure; by default a 480p and a 1080p clip, real ones if at hand, else made."""
    repeats: int = 5
    """Rounds; the median counts."""
    json: bool = False
    """Print one JSON object instead of a table."""


def main(args: MediaSpeed) -> None:
    """Measure each clip by each way and print a table, or JSON."""
    with tempfile.TemporaryDirectory() as folder:
        clips = args.clips or (CLIPS if all(map(Path.exists, CLIPS)) else make_clips(Path(folder)))
        results = [measure(Path(clip), args.repeats) for clip in clips]
    if args.json:
        print(json.dumps({"clips": results}))
        return
    for result in results:
        print(
            f"\n{result['clip']}: {result['seconds']:.1f} s, {result['width']}x{result['height']}"
        )
        for name, way in result["ways"].items():
            print(
                f"  {name:22} {way['median_s']:8.3f} s {way['media_s_per_s']:8.1f} s of media/s"
                f" {way['processor_s']:8.3f} s of processor"
            )
        print(f"  {result['ratio']:.2f} times as fast as the faster of the peers' two ways,")
        print(f"  {result['processor_ratio']:.2f} times by the processor's seconds")


def measure(clip: Path, repeats: int) -> dict:
    """Time all ways on one clip, interleaved; `ratio` is avchat against the faster peer."""
    wanted = wanted_places(clip)
    ways: dict[str, Callable[[], np.ndarray]] = {
        "avchat": lambda: load_media(clip, frames=FRAMES, size=SIZE).frames,
        "decord + sound pass": partial(by_decord, clip, wanted),
        "PyAV everything": partial(by_pyav, clip, wanted),
        "avchat keyframes": lambda: (
            load_media(clip, frames=FRAMES, size=SIZE, keyframes=True, sound=False).frames
        ),
    }
    frames = {name: ways[name]() for name in SAME}  # also brings the file into memory
    for name in SAME:  # the same pictures: the kinds of scaling differ by less than 2 of 255
        assert np.abs(frames[name].astype(int) - frames["avchat"]).mean() < 2, name
    clock: dict[str, list[float]] = {name: [] for name in ways}
    processor: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, way in ways.items():
            begin, busy = time.perf_counter(), processor_s()
            way()
            clock[name].append(time.perf_counter() - begin)
            processor[name].append(processor_s() - busy)
    median = {name: statistics.median(values) for name, values in clock.items()}
    worked = {name: statistics.median(values) for name, values in processor.items()}
    whole = load_media(clip, frames=1)
    seconds = whole.duration_s
    return {
        "clip": clip.name,
        "seconds": seconds,
        "width": whole.frames.shape[2],
        "height": whole.frames.shape[1],
        "ways": {
            name: {
                "median_s": median[name],
                "media_s_per_s": seconds / median[name],
                "processor_s": worked[name],
            }
            for name in ways
        },
        "ratio": min(median[name] for name in SAME[1:]) / median["avchat"],
        "processor_ratio": min(worked[name] for name in SAME[1:]) / worked["avchat"],
    }


def processor_s() -> float:
    """Count the processor's seconds of this process and of those it has waited for."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def wanted_places(clip: Path) -> list[int]:
    """Return the ordinals of the frames that avchat takes, for the others to take the same."""
    listed = list_pictures(clip, Wish(FRAMES), float("inf"))
    if listed is None:
        sys.exit(f"error: {clip.name}: its packets bear no times, so peers cannot take the same")
    return np.searchsorted(listed.stamps, choose(listed, Wish(FRAMES))).tolist()


def by_decord(clip: Path, wanted: list[int]) -> np.ndarray:
    """Take frames with decord, then the sound in a second pass."""
    reader = decord.VideoReader(str(clip), width=SIZE, height=SIZE)
    frames = reader.get_batch(wanted).asnumpy()
    if shutil.which("ffmpeg"):
        command = f"ffmpeg -v error -i {clip} -vn -ac 1 -ar {SAMPLE_RATE} -f s16le -".split()
        subprocess.run(command, check=True, capture_output=True)
    else:
        with av.open(str(clip)) as container:
            resample(container.decode(audio=0))
    return frames


def by_pyav(clip: Path, wanted: list[int]) -> np.ndarray:
    """Decode both tracks whole in one pass and keep what is wanted."""
    places, frames, sound = set(wanted), [], []
    with av.open(str(clip)) as container:
        container.streams.video[0].thread_type = "AUTO"
        count = 0
        for frame in container.decode(video=0, audio=0):
            if isinstance(frame, av.AudioFrame):
                sound.append(frame)
                continue
            if count in places:
                frames.append(frame.to_ndarray(format="rgb24", width=SIZE, height=SIZE))
            count += 1
        resample(sound)
    return np.stack(frames)


def resample(frames: Iterable[av.AudioFrame]) -> np.ndarray:
    """Turn decoded sound into int16 [S], mono at 16 kHz."""
    resampler = av.AudioResampler("s16", "mono", SAMPLE_RATE)
    pieces = [piece for frame in frames for piece in resampler.resample(frame)]
    return np.concatenate([piece.to_ndarray()[0] for piece in pieces + resampler.resample(None)])


def make_clips(
    folder: Path, seconds: int = 20, sizes: Sequence[tuple[int, int]] = ((854, 480), (1920, 1080))
) -> tuple[Path, ...]:
    """Write a 480p and a 1080p clip, drifting noise and a tone, where no real ones are."""
    clips = tuple(folder / f"made_{height}p.mp4" for _, height in sizes)
    for clip, (width, height) in zip(clips, sizes, strict=True):
        noise = np.random.default_rng(0).integers(0, 255, (height // 8, width // 8, 3), np.uint8)
        big = noise.repeat(8, 0).repeat(8, 1)[: height & ~1, : width & ~1]
        with av.open(str(clip), "w") as out:
            video = out.add_stream("libx264", rate=30, options={"preset": "veryfast"})
            video.height, video.width = big.shape[:2]
            audio = out.add_stream("aac", rate=44_100, layout="mono")
            for number in range(30 * seconds):
                picture = av.VideoFrame.from_ndarray(np.roll(big, 3 * number, axis=1), "rgb24")
                out.mux(video.encode(picture))
                at = np.arange(number * 1470, (number + 1) * 1470) / 44_100
                wave = np.sin(2 * np.pi * 440 * at).astype(np.float32)[None]
                sound = av.AudioFrame.from_ndarray(wave, "fltp", "mono")
                sound.sample_rate, sound.pts = 44_100, number * 1470
                out.mux(audio.encode(sound))
            out.mux(video.encode(None))
            out.mux(audio.encode(None))
    return clips


if __name__ == "__main__":
    kinds = {
        "media": MediaSpeed,
        "find": FindSpeed,
        "index": IndexSpeed,
        "train": TrainSpeed,
        "step": StepSpeed,
        "chat": ChatSpeed,
    }
    run = tyro.extras.subcommand_cli_from_dict(kinds, description=__doc__)
    if isinstance(run, FindSpeed):
        finding.main(run)
    elif isinstance(run, IndexSpeed):
        indexing_speed.main(run)
    elif isinstance(run, TrainSpeed):
        training_speed.main(run)
    elif isinstance(run, StepSpeed):
        step_speed.main(run)
    elif isinstance(run, ChatSpeed):
        chat_speed.main(run, lambda folder: make_clips(folder, 30, [(854, 480)])[0])
    else:
        main(run)
