"""Pictures and sounds that are not of the world.

A model that has met nothing but the world is at a loss before anything else, and does not even say
that a sense is missing. These are no likeness of real video: all they teach is that such an
admission does not hang on what the other sense looks or sounds like.

Legend: T frames, H and W pixels.
"""

import numpy as np

from avchat.world.scenes import DURATION_S
from avchat.world.sounds import SAMPLE_RATE

# Streams of np.random.default_rng([seed, stream])
_PICTURE_STREAM, _SOUND_STREAM = 300, 301


def strange_frames(seed: int, count: int, size: int) -> np.ndarray:
    """Draw drifting coloured noise with boxes and blobs over it: uint8 [count, size, size, 3]."""
    rng = np.random.default_rng([seed, _PICTURE_STREAM])
    noise = np.stack([_cloud(rng, size) for _ in range(3)], axis=-1)  # H W 3
    noise = noise @ rng.normal(size=(3, 3)) * rng.uniform(0, 60) + rng.uniform(0, 255, 3)
    shift = rng.integers(-4, 5, 2)
    frames = np.stack([np.roll(noise, shift * k, axis=(0, 1)) for k in range(count)])  # T H W 3
    rows, columns = np.mgrid[:size, :size] / size
    for _ in range(rng.integers(0, 7)):
        y, x, high, wide, drift = rng.uniform((0, 0, 0.05, 0.05, -0.05), (1, 1, 0.6, 0.6, 0.05))
        colour, power = rng.uniform(0, 255, 3), rng.choice((2, 8))  # a blob, or nearly a box
        for k in range(count):
            away = np.abs((rows - y) / high) ** power
            away += np.abs((columns - x - drift * k) / wide) ** power
            frames[k][away < 1] = colour
    grey = frames.mean(axis=-1, keepdims=True)
    frames = grey + rng.uniform(0, 1) * (frames - grey)  # real pictures are seldom this colourful
    frames += rng.normal(size=frames.shape) * rng.uniform(0, 12)
    return np.clip(frames, 0, 255).astype(np.uint8)


def _cloud(rng: np.random.Generator, size: int) -> np.ndarray:
    """Draw noise whose spectrum falls with a random power of the frequency: [size, size]."""
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None])
    spectrum = np.fft.rfft2(rng.normal(size=(size, size)))
    cloud = np.fft.irfft2(spectrum / (frequency + 1 / size) ** rng.uniform(0, 2.5), s=(size, size))
    return cloud / cloud.std()


def strange_waveform(seed: int) -> np.ndarray:
    """Make noise and wavering tones that come and go, or silence: float32 [samples] at 16 kHz."""
    rng = np.random.default_rng([seed, _SOUND_STREAM])
    samples = round(DURATION_S * SAMPLE_RATE)
    if rng.random() < 0.1:
        return np.zeros(samples, np.float32)
    times_s = np.arange(samples) / SAMPLE_RATE
    frequency = np.fft.rfftfreq(samples)
    spectrum = np.fft.rfft(rng.normal(size=samples))
    noise = np.fft.irfft(spectrum / (frequency + 1e-3) ** rng.uniform(0, 1.5), n=samples)
    track = noise / noise.std() * rng.uniform(0.02, 1) * _swell(rng, times_s)
    for _ in range(rng.integers(0, 5)):
        base_hz, waver_hz = np.exp(rng.uniform(np.log(80), np.log(3000))), rng.uniform(1, 8)
        waver = rng.uniform(0, 0.1) * np.sin(2 * np.pi * waver_hz * times_s)
        phase = 2 * np.pi * np.cumsum(base_hz * (1 + waver)) / SAMPLE_RATE
        tone = sum(np.sin(k * phase) / k for k in range(1, 6))
        track += rng.uniform(0.1, 1) * tone * _swell(rng, times_s)
    level = np.exp(rng.uniform(np.log(0.003), np.log(0.2)))
    return np.clip(track / track.std() * level, -1, 1).astype(np.float32)


def _swell(rng: np.random.Generator, times_s: np.ndarray) -> np.ndarray:
    """Make a loudness that changes a few times a second: 0..1 over the times."""
    steps = np.arange(0, DURATION_S + 0.2, 0.2)
    return np.interp(times_s, steps, rng.random(len(steps)) ** rng.uniform(0.5, 3))
