"""Long real files for the tests, joined of scenes of one colour and one tone, and a head for them.

A scene is (seconds, colour, tone in Hz or None for silence). The pictures are 64x64 at 10 frames a
second, the sound 16 kHz mono.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from avchat.media import Media

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


@dataclass(frozen=True)
class Vectors:
    """Unit vectors, float32 [D], of one clip; None where it lacks the sense."""

    picture: np.ndarray | None
    sound: np.ndarray | None
    both: np.ndarray | None


class ColourHead:
    """A head that knows colours and tones: it measures frames' mean colour and sound's spectrum.

    Its vectors hold red, green, blue, grey, then the power in eight octaves from 62.5 Hz on,
    then silence. Its words are names of colours, `low` (250 Hz), `tone` (1000 Hz), `high` (4000).
    """

    name, fingerprint, width = "colour", "colour-1", 13
    frames, size, hears, window_s, shortest_s = 4, 16, True, 8.0, 2.0
    words = {"red": 0, "green": 1, "blue": 2, "grey": 3, "low": 6, "tone": 8, "high": 10}

    def __init__(self, threshold: float | None = None) -> None:
        self.threshold = threshold
        self.looked: list[int] = []  # clips of each call
        self.longest_s = 0.0

    def clips(self, media: Sequence[Media]) -> list[Vectors]:
        """Measure clips."""
        self.looked.append(len(media))
        self.longest_s = max([self.longest_s, *(len(one.waveform) / RATE for one in media)])
        return [self.measure(one) for one in media]

    def measure(self, clip: Media) -> Vectors:
        """Measure one clip."""
        picture = self.colour(clip.frames) if len(clip.frames) else None
        sound = self.spectrum(clip.waveform) if len(clip.waveform) else None
        known = [vector for vector in (picture, sound) if vector is not None]
        return Vectors(picture, sound, unit(np.sum(known, axis=0)))

    def colour(self, frames: np.ndarray) -> np.ndarray:
        """Turn the mean colour of frames into a vector."""
        mean = frames.reshape(-1, 3).mean(axis=0) / 255
        vector = np.zeros(self.width, np.float32)
        vector[:3], vector[3] = mean - mean.min(), mean.min()
        return unit(vector)

    def spectrum(self, wave: np.ndarray) -> np.ndarray:
        """Turn the power in octaves into a vector."""
        power = np.abs(np.fft.rfft(wave)) ** 2 / len(wave) ** 2
        hertz = np.fft.rfftfreq(len(wave), 1 / RATE)
        vector = np.zeros(self.width, np.float32)
        for octave in range(8):
            centre = 62.5 * 2**octave
            band = (hertz >= centre / 2**0.5) & (hertz < centre * 2**0.5)
            vector[4 + octave] = power[band].sum()
        vector[12] = 0.03  # a full tone is 0.06: what sounds for a part of a clip counts less
        return unit(vector)

    def texts(self, texts: Sequence[str]) -> np.ndarray:
        """Turn words into vectors [N, D]; words it does not know count as silence and grey."""
        rows = np.zeros((len(texts), self.width), np.float32)
        for row, text in zip(rows, texts, strict=True):
            for word in text.split():
                row[self.words.get(word, 12)] = 1
        return np.stack([unit(row) for row in rows])


def unit(vector: np.ndarray) -> np.ndarray:
    """Scale a vector to length 1."""
    return (vector / np.linalg.norm(vector)).astype(np.float32)
