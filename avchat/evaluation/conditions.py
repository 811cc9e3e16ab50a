"""What is taken from a clip before a question is asked: the controls that tell whether a model
hears.

Enters: a decoded clip, and another one. Leaves: features under each condition, from one decoding.
"Absent" and "silent" are not the same: absent, the model is told that there is no sound; silent, it
hears nothing.

Legend: T frames, S audio states, N samples.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from avchat.encoders import Features, Sense
from avchat.media import Media
from avchat.model import AVChat

# condition -> what the model may use of the clip that it is given, and what the condition asks
CONDITIONS: dict[str, tuple[Sense, str]] = {
    "full": ("both", "everything"),
    "deaf": ("picture", "the sound track is absent"),
    "silent": ("both", "the sound track is there, and silent"),
    "other_sound": ("both", "the sound is another clip's"),
    "shifted": ("both", "the sound is moved against the picture"),
    "blind": ("sound", "the picture is absent"),
    "one_frame": ("both", "one frame, from the middle"),
    "shuffled_frames": ("both", "the frames in another order"),
    "question_only": ("none", "neither picture nor sound"),
    "other_sound_only": ("sound", "nothing but another clip's sound"),
    "transcript_only": ("none", "what is said, as text, and nothing else"),
}
NEEDS_SOUND = ("silent", "other_sound", "shifted", "other_sound_only")
BORROWS = ("other_sound", "other_sound_only")  # another clip's sound


@dataclass(frozen=True)
class Taken:
    """A clip as one condition gives it: features, and what of them may be used."""

    features: Features
    sense: Sense
    altered: bool  # False: there was nothing to take away, so it is the clip as it is


def under(
    model: AVChat,
    clip: Media,
    full: Features,
    conditions: Sequence[str],
    *,
    other: np.ndarray | None,
    shift_s: float,
    seed: int,
) -> dict[str, Taken]:
    """Give a clip under each condition.

    Args: full: the clip's own features; other: another clip's sound, float32 [N], None where no
    clip has one; shift_s: by how many seconds `shifted` moves the sound, round and round.
    """
    waves = {name: altered(clip, name, other, shift_s) for name in NEEDS_SOUND}
    waves = {name: wave for name, wave in waves.items() if name in conditions and wave is not None}
    heard = [model.prepare(replace(clip, waveform=w)).only("sound") for w in waves.values()]
    sounds = dict(zip(waves, model.encode(heard), strict=True)) if heard else {}
    return {name: _taken(name, full, sounds, seed) for name in conditions}


def _taken(name: str, full: Features, sounds: dict[str, Features], seed: int) -> Taken:
    """Alter a clip's features [T, P, D] and [S, D] as a condition says, where they can be."""
    sense = CONDITIONS[name][0]
    if name in sounds:
        return Taken(replace(full, audio=sounds[name].audio), sense, True)
    if name in BORROWS:  # there is no other sound
        return Taken(full, sense, False)
    frames = 0 if full.visual is None else len(full.visual)
    if name == "one_frame" and frames > 1:
        return Taken(keep_frames(full, [frames // 2]), sense, True)
    if name == "shuffled_frames" and frames > 1:
        return Taken(replace(full, visual=full.visual[order(frames, seed)]), sense, True)
    kept = full.only(sense)
    gone = (kept.visual is None) != (full.visual is None)
    return Taken(full, sense, gone or (kept.audio is None) != (full.audio is None))


def altered(clip: Media, name: str, other: np.ndarray | None, shift_s: float) -> np.ndarray | None:
    """Make the sound of a condition, float32 [N] as long as the clip's; None where there is none.

    Another clip's sound is repeated, or cut, to that length.
    """
    wave = clip.waveform
    if not len(wave):
        return None
    if name == "silent":
        return np.zeros_like(wave)
    if name == "shifted":
        return np.roll(wave, round(shift_s * 16_000) % len(wave))
    return None if other is None or not len(other) else np.resize(other, len(wave))


def keep_frames(features: Features, kept: Sequence[int]) -> Features:
    """Keep some frames of a clip; the sound stays whole."""
    times = tuple(features.frame_times_s[k] for k in kept)
    return replace(features, visual=features.visual[list(kept)], frame_times_s=times)


def order(frames: int, seed: int) -> torch.Tensor:
    """Draw an order of T >= 2 frames in which they do not stand as they did."""
    rng = np.random.default_rng(seed)
    while True:
        drawn = rng.permutation(frames)
        if (drawn != np.arange(frames)).any():
            return torch.from_numpy(drawn)


def seed_of(text: str) -> int:
    """Return a number that a text alone decides: the same in every process."""
    return zlib.crc32(text.encode())
