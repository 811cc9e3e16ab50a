"""Parts of files -> what decoding them shows: times, faults, and what copies are told by."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from avchat.captions import CaptionedFile
from avchat.data import Sample
from avchat.data_layout import Layout
from avchat.data_likeness import FRAMES, Traits, traits_of
from avchat.encoders import STATE_SAMPLES, Inputs
from avchat.media import SAMPLE_RATE, Media, MediaError, load_media

LOOK_SIZE = 32  # pixels: frames are decoded for their times, not for what they show
LIKE_SIZE = 128  # where copies are looked for; the encoders get them scaled to their own size
LIKE_S = 30.0  # seconds of sound that are compared: an hour is not encoded to tell a copy
Key = tuple[Path, float | None, float | None]  # a part of a file


@dataclass(frozen=True)
class Look:
    """What decoding a part of a file showed."""

    clip: Inputs | None  # without pixels and mels: times alone
    fault: str = ""
    warnings: tuple[str, ...] = ()
    traits: Traits | None = None  # where copies are looked for


def key_of(sample: Sample | CaptionedFile) -> Key | None:
    """Name the part of a file that a sample is about; None where it is of text alone."""
    return None if sample.media is None else (sample.media, sample.start_s, sample.end_s)


def look_at_all(
    keys: Sequence[Key], frames: int, model: Layout | None, progress: Callable[[int, int], None]
) -> dict[Key, Look]:
    """Decode parts of files side by side; describe them by a model's encoders where one is given.

    The encoders take clips one by one, as they are decoded: only what describes them is kept.
    """
    if model is not None:
        _ = model.sight  # loaded here, where what is wrong with it ends the check
    looks, pool = {}, ThreadPoolExecutor(os.cpu_count())
    try:
        seen = pool.map(lambda key: look(key, frames, model), keys)
        for done, (key, found) in enumerate(zip(keys, seen, strict=True), 1):
            looks[key] = found
            progress(done, len(keys))
    finally:
        pool.shutdown(cancel_futures=True)  # stopped, what is not yet begun is left
    return looks


def look(key: Key, frames: int, model: Layout | None) -> Look:
    """Decode a part of a file, in a process of its own, and keep its times and traits."""
    path, start, end = key
    size = LOOK_SIZE if model is None else LIKE_SIZE
    try:
        media = load_media(path, frames=frames, size=size, start=start, end=end, isolate=True)
    except MediaError as error:
        return Look(None, str(error))
    times = tuple(float(time) for time in media.frame_times_s) if len(media.frames) else ()
    states = -(-len(media.waveform) // STATE_SAMPLES)
    clip = Inputs(None, None, states, times, float(media.start_s), float(media.duration_s))
    traits = None if model is None else traits_of(model.encode(little(media)), model.sight)
    return Look(clip, warnings=media.warnings, traits=traits)


def little(media: Media) -> Media:
    """Keep of a clip what copies are told by: a few frames, the first seconds of its sound."""
    count = len(media.frames)
    kept = [round(k * (count - 1) / (FRAMES - 1)) for k in range(FRAMES)] if count else []
    return replace(
        media,
        frames=media.frames[kept],
        frame_times_s=media.frame_times_s[kept],
        waveform=media.waveform[: round(LIKE_S * SAMPLE_RATE)],
    )
