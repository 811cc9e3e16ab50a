"""Speak the world's words once, so that nobody else needs espeak-ng.

Run `python avchat/assets/speech/make.py` with espeak-ng 1.51 installed; it writes words.npz beside
itself: one int16 array a word and voice, named "word voice", mono at 16 kHz, at most 0.42 s each.
"""

import io
import subprocess
import wave
from pathlib import Path

import av
import numpy as np

from avchat.world.scenes import VOICES, WORDS

SAMPLE_RATE = 16_000
LONGEST_S = 0.42
ESPEAK_VOICES = {"man": ("en-us", 38), "woman": ("en-us+f3", 55)}  # voice, espeak-ng's pitch 0..99
SPEEDS = range(150, 320, 5)  # words a minute; the slowest that is short enough is kept


def speak(word: str, voice: str, speed: int) -> np.ndarray:
    """Return a word as espeak-ng says it, without the silence around it: float32 [n] at 16 kHz."""
    name, pitch = ESPEAK_VOICES[voice]
    command = ["espeak-ng", "-v", name, "-p", str(pitch), "-s", str(speed), "--stdout", word]
    spoken = subprocess.run(command, check=True, capture_output=True).stdout
    with wave.open(io.BytesIO(spoken)) as file:
        rate = file.getframerate()
        samples = np.frombuffer(file.readframes(file.getnframes()), dtype="<i2")
    return trim(resample(samples, rate))


def resample(samples: np.ndarray, rate: int) -> np.ndarray:
    """Return int16 samples [n] as float32 [m] at 16 kHz."""
    frame = av.AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
    frame.sample_rate = rate
    resampler = av.AudioResampler(format="flt", layout="mono", rate=SAMPLE_RATE)
    parts = [*resampler.resample(frame), *resampler.resample(None)]
    return np.concatenate([part.to_ndarray()[0] for part in parts])


def trim(samples: np.ndarray) -> np.ndarray:
    """Cut what is 40 dB under the loudest 10 ms away from both ends: float32 [n] -> [m]."""
    step = SAMPLE_RATE // 100
    level = [np.sqrt(np.mean(samples[i : i + step] ** 2)) for i in range(0, len(samples), step)]
    (loud,) = np.nonzero(np.array(level) > max(level) / 100)
    return samples[loud[0] * step : (loud[-1] + 1) * step]


def main() -> None:
    """Write words.npz."""
    words = {}
    for word in WORDS:
        for voice in VOICES:
            takes = (speak(word, voice, speed) for speed in SPEEDS)
            take = next(t for t in takes if len(t) <= LONGEST_S * SAMPLE_RATE)
            words[f"{word} {voice}"] = np.round(take / np.abs(take).max() * 32000).astype("<i2")
    np.savez_compressed(Path(__file__).with_name("words.npz"), **words)


if __name__ == "__main__":
    main()
