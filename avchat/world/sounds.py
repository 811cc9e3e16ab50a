"""Make a scene's sound track: eight kinds of sound and pre-rendered words over a faint noise floor.

Legend: n samples of one sound at 16 kHz.
"""

from functools import cache
from pathlib import Path

import numpy as np

from avchat.world.scenes import DURATION_S, SLOT_S, Scene, Sound, slot_times_s

SAMPLE_RATE = 16_000
SAMPLES = int(DURATION_S * SAMPLE_RATE)
CLIP_RMS = 0.02  # of every clip that has a sound; low enough that no click clips
SILENT_RMS = 0.0008  # of a clip that has none: only the noise floor

# Streams of np.random.default_rng([scene.seed, stream]); sounds add their index.
_FLOOR_STREAM = 2
_SOUND_STREAM = 200

_SPEECH = Path(__file__).parents[1] / "assets" / "speech" / "words.npz"
_LENGTH_S = 0.30
_TONE_HZ = {"low": 330.0, "middle": 660.0, "high": 1320.0}
_PITCH_JITTER = 0.08  # either way, far from the octave between two pitches
_LEVEL_DB = {"quiet": -6.5, "normal": 0.0, "loud": 6.5}
_LEVEL_JITTER_DB = 0.7
_FLOOR = 0.008  # RMS of the noise floor beside a normal sound's 1.0, before the clip is levelled
_WORD_STRETCH = 0.05  # a word's speed and pitch vary this much either way


def render_waveform(scene: Scene) -> np.ndarray:
    """Return the scene's sound, levelled to one RMS: float32 [64000], 16 kHz mono, within -1..1."""
    floor = np.random.default_rng([scene.seed, _FLOOR_STREAM]).random(SAMPLES, dtype=np.float32)
    floor = (floor - np.float32(0.5)) * np.float32(12**0.5)
    if not scene.sounds:
        return floor * np.float32(SILENT_RMS)
    track = floor * np.float32(_FLOOR)
    slots_s = slot_times_s(scene)
    for index, sound in enumerate(scene.sounds):
        wave = _sound(sound, np.random.default_rng([scene.seed, _SOUND_STREAM + index]))
        length_s = len(wave) / SAMPLE_RATE
        middle_s = (sound.slot + 0.5) * SLOT_S
        room_s = max(SLOT_S - length_s, 0.0) / 2  # a long word keeps inside its slot
        middle_s += np.clip(slots_s[sound.slot] - middle_s, -room_s, room_s)
        start = round((middle_s - length_s / 2) * SAMPLE_RATE)
        track[start : start + len(wave)] += wave
    return track * np.float32(CLIP_RMS / np.sqrt(np.mean(np.square(track, dtype=np.float64))))


def _sound(sound: Sound, rng: np.random.Generator) -> np.ndarray:
    """Make one sound with its own nuisance, its RMS set by its loudness: float32 [n]."""
    level_db = _LEVEL_DB[sound.loudness] + rng.uniform(-_LEVEL_JITTER_DB, _LEVEL_JITTER_DB)
    bend = rng.uniform(-1, 1)
    if sound.kind == "word":
        wave = _word(sound.word, sound.voice, 1 + _WORD_STRETCH * bend)
    else:
        tone_hz = _TONE_HZ[sound.pitch] * (1 + _PITCH_JITTER * bend)
        wave = _MAKERS[sound.kind](tone_hz, rng) * _fade()
    return wave * np.float32(10 ** (level_db / 20) / np.sqrt(np.mean(wave * wave)))


@cache
def _words() -> dict[str, np.ndarray]:
    """Load the spoken words, by "word voice": float32 [n] each. assets/speech/make.py made them."""
    with np.load(_SPEECH) as stored:
        return {name: stored[name].astype(np.float32) for name in stored.files}


def _word(word: str, voice: str, speed: float) -> np.ndarray:
    """Return a spoken word, faster and higher by `speed`: float32 [n]."""
    spoken = _words()[f"{word} {voice}"]
    at = np.arange(int((len(spoken) - 1) / speed)) * speed
    return np.interp(at, np.arange(len(spoken)), spoken).astype(np.float32)


@cache
def _times_s() -> np.ndarray:
    return np.arange(int(_LENGTH_S * SAMPLE_RATE), dtype=np.float32) / SAMPLE_RATE


@cache
def _fade() -> np.ndarray:
    """Rise within 8 ms, fall within 8 ms: float32 [n]."""
    times = _times_s()
    return np.minimum(np.minimum(times, times[::-1]) / np.float32(0.008), 1)


def _tones(cycles: np.ndarray, *parts: tuple[float, float]) -> np.ndarray:
    """Add sines of `multiple` times a phase in cycles [n], each with its strength."""
    phase = cycles * np.float32(2 * np.pi)
    return sum(
        np.float32(strength) * np.sin(np.float32(times) * phase) for times, strength in parts
    )


def _beep(tone_hz: float, rng: np.random.Generator) -> np.ndarray:
    """Hold one tone with two overtones."""
    return _tones(_times_s() * np.float32(tone_hz), (1, 1), (2, 0.35), (3, 0.12))


def _sweep(tone_hz: float, octaves: float) -> np.ndarray:
    """Glide over `octaves` around a tone, evenly in pitch."""
    rate = octaves * np.log(2) / _LENGTH_S
    first_hz = tone_hz * 2 ** (-octaves / 2)
    cycles = first_hz * np.expm1(rate * _times_s().astype(np.float64)) / rate
    return _tones((cycles % 1).astype(np.float32), (1, 1), (2, 0.3))


def _rising(tone_hz: float, rng: np.random.Generator) -> np.ndarray:
    return _sweep(tone_hz * 1.3, 2.0)


def _falling(tone_hz: float, rng: np.random.Generator) -> np.ndarray:
    return _sweep(tone_hz * 1.3, -2.0)


def _noise(tone_hz: float, rng: np.random.Generator) -> np.ndarray:
    """Hiss: white noise, tilted down for a low pitch and up for a high one."""
    white = rng.random(len(_times_s()) + 1, dtype=np.float32) - np.float32(0.5)
    tilt = np.float32(np.clip(0.5 * np.log2(tone_hz / _TONE_HZ["middle"]), -0.6, 0.6))
    return white[1:] - tilt * white[:-1]


def _click(tone_hz: float, rng: np.random.Generator) -> np.ndarray:
    """Give three dry clicks 100 ms apart: bursts that ring for a few milliseconds."""
    times = _times_s()
    since = (times - np.float32(0.035)) % np.float32(0.1)
    ring = np.exp(since * np.float32(-1 / 0.008)) * (times >= np.float32(0.035))
    burst = rng.random(len(times), dtype=np.float32) - np.float32(0.5)
    return ring * (burst + np.float32(0.4) * np.sin(since * np.float32(2 * np.pi * 2.5 * tone_hz)))


def _drum(tone_hz: float, rng: np.random.Generator) -> np.ndarray:
    """Thump: a low tone that drops and dies away, and a moment of skin."""
    times = _times_s()
    low_hz = 95 * (tone_hz / _TONE_HZ["middle"]) ** 0.4
    drop = np.float32(0.03) * (1 - np.exp(times / np.float32(-0.03)))
    cycles = np.float32(low_hz) * (times + drop)
    skin = rng.random(len(times), dtype=np.float32) - np.float32(0.5)
    body = _tones(cycles, (1, 1)) * np.exp(times / np.float32(-0.09))
    return body + np.float32(0.5) * skin * np.exp(times / np.float32(-0.015))


def _siren(tone_hz: float, rng: np.random.Generator) -> np.ndarray:
    """Wail: a tone that swings a fifth up and down ten times a second."""
    times, swing_hz = _times_s(), 10.0
    depth = 0.33 * tone_hz / (2 * np.pi * swing_hz)
    bend = np.float32(depth) * (1 - np.cos(times * np.float32(2 * np.pi * swing_hz)))
    return _tones(times * np.float32(1.2 * tone_hz) + bend, (1, 1), (2, 0.5), (3, 0.25))


def _chord(tone_hz: float, rng: np.random.Generator) -> np.ndarray:
    """Strike a root, a major third and a fifth together, dying away slowly."""
    cycles = _times_s() * np.float32(tone_hz)
    notes = [(note, 1.0) for note in (1, 1.26, 1.5)]
    overtones = [(2 * note, 0.4) for note, _ in notes]
    return _tones(cycles, *notes, *overtones) * np.exp(_times_s() / np.float32(-0.25))


_MAKERS = {
    "beep": _beep,
    "rising chirp": _rising,
    "falling chirp": _falling,
    "noise": _noise,
    "click": _click,
    "drum": _drum,
    "siren": _siren,
    "chord": _chord,
}
