"""Long real files for the tests, joined of scenes of one colour and one tone, and a head for them.

A scene is (seconds, colour, tone in Hz or None for silence). The pictures are 64x64 at 10 frames a
second, the sound 16 kHz mono.
"""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

FPS = 10
RATE = 16_000
COLOURS = {"red": (220, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 220), "grey": (90,) * 3}
Scene = tuple[float, str, float | None]


def write_joined(path: Path, scenes: Sequence[Scene], *, sound: bool = True) -> Path:
    """Write scenes one after the other as one file, H.264 and AAC, a keyframe every 2 s."""
    with av.open(str(path), "w") as out:
        video = out.add_stream("libx264", rate=FPS, options={"g": "20", "preset": "ultrafast"})
        video.width = video.height = 64
        video.pix_fmt = "yuv420p"
        audio = out.add_stream("aac", rate=RATE, layout="mono") if sound else None
        rng, number, sample = np.random.default_rng(0), 0, 0
        for seconds, colour, tone in scenes:
            noise = rng.integers(-12, 12, (64, 64, 3))
            picture = np.clip(np.asarray(COLOURS[colour]) + noise, 0, 255).astype(np.uint8)
            for _ in range(round(seconds * FPS)):
                frame = av.VideoFrame.from_ndarray(picture, "rgb24")
                frame.pts, frame.time_base = number, Fraction(1, FPS)
                out.mux(video.encode(frame))
                number += 1
            if audio:
                t = np.arange(round(seconds * RATE)) / RATE
                wave = 0.5 * np.sin(2 * np.pi * (tone or 0) * t).astype(np.float32)
                frame = av.AudioFrame.from_ndarray(wave[None], "fltp", "mono")
                frame.sample_rate, frame.time_base = RATE, Fraction(1, RATE)
                frame.pts, sample = sample, sample + len(wave)
                out.mux(audio.encode(frame))
        out.mux(video.encode(None))
        if audio:
            out.mux(audio.encode(None))
    return path
