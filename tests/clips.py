"""Small real files for the tests of media: frames bear their number, sound bears its time."""

from fractions import Fraction
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import av
import numpy as np

BITS = 8  # a frame's number is written in so many black or white columns
RATE = 48_000  # samples a second of the sound that is written
TIMES = np.arange(50) / 25  # 2 s at 25 frames a second
GROUPS = {"g": "10", "bf": "3", "b_strategy": "0"}  # a keyframe in 10, B frames between


def numbered(number: int, width: int = 128, height: int = 96) -> np.ndarray:
    """Draw a frame, uint8 [height, width, 3], that bears its number; its upper half is redder."""
    columns = [255 * (number >> bit & 1) for bit in range(BITS)]
    row = np.repeat(np.asarray(columns, np.uint8), width // BITS)
    picture = np.repeat(np.tile(row, (height, 1))[..., None], 3, axis=2)
    picture[: height // 4] = (200, 30, 30)
    return picture


def number_of(frame: np.ndarray) -> int:
    """Read the number off a frame, uint8 [H, W, 3], of any size."""
    row = frame[int(frame.shape[0] * 0.6)].mean(axis=1)
    middles = (np.arange(BITS) + 0.5) * len(row) / BITS
    return sum(int(row[int(middle)] > 127) << bit for bit, middle in enumerate(middles))


def write_clip(
    path: Path,
    times_s: list[float] | np.ndarray,
    *,
    codec: str = "libx264",
    options: dict[str, str] | None = None,
    size: tuple[int, int] = (128, 96),
    pixels: str = "yuv420p",
    aspect: Fraction | None = None,
    rotation: int = 0,
    sound: np.ndarray | None = None,
    sound_codec: str = "aac",
    sound_start_s: float = 0.0,
) -> Path:
    """Write numbered frames at the given times, and mono float32 sound at 48 kHz from its start."""
    base = Fraction(1, 1000)
    with av.open(str(path), "w") as out:
        video = None
        if len(times_s):
            video = out.add_stream(codec, rate=25, options=options or {})
            video.width, video.height = size
            video.pix_fmt = "yuvj420p" if codec == "mjpeg" else pixels
            if codec != "mpeg2video" and codec != "mpeg4":
                video.codec_context.time_base = base
            video.time_base = base
            if aspect:
                video.codec_context.sample_aspect_ratio = aspect
            if rotation:
                video.set_display_rotation(rotation)
        audio = None if sound is None else out.add_stream(sound_codec, rate=RATE, layout="mono")
        for number, time in enumerate(times_s):
            frame = av.VideoFrame.from_ndarray(numbered(number, *size), "rgb24")
            frame.pts, frame.time_base = round(time / base), base
            out.mux(video.encode(frame))
        if video:
            out.mux(video.encode(None))
        if audio:
            for at in range(0, len(sound), 1024):
                piece = sound[None, at : at + 1024].astype(np.float32)
                frame = av.AudioFrame.from_ndarray(piece, "fltp", "mono")
                frame.sample_rate, frame.time_base = RATE, Fraction(1, RATE)
                frame.pts = at + round(sound_start_s * RATE)
                out.mux(audio.encode(frame))
            out.mux(audio.encode(None))
    return path


def write_av1(path: Path, times_s: np.ndarray, **more: Any) -> Path:
    """Write a clip as `write_clip` does, by SVT-AV1, in a process of its own.

    As root it gives its process real-time priority and leaves it so: what the tests do next, the
    browser with it, would let nothing else run on two cores, for minutes.
    """
    writer = get_context("spawn").Process(
        target=write_clip, args=(path, times_s), kwargs={"codec": "libsvtav1", **more}
    )
    writer.start()
    writer.join()
    assert writer.exitcode == 0
    return path


def click(seconds: float, at_s: float) -> np.ndarray:
    """Make silence, float32 at 48 kHz, with 20 ms of a loud tone at one moment."""
    wave = np.zeros(round(seconds * RATE), np.float32)
    first = round(at_s * RATE)
    length = RATE // 50
    wave[first : first + length] = 0.8 * np.sin(np.arange(length) * 2 * np.pi * 1000 / RATE)
    return wave


def click_s(waveform: np.ndarray, rate: int = 16_000) -> float:
    """Find when a click begins in float32 sound: seconds from its first sample."""
    return float(np.argmax(np.abs(waveform) > 0.2)) / rate
