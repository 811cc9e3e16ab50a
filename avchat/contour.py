"""A file -> how loud it is over time, and where its shots change: what a timeline shows.

Memory stays flat on hours of sound. Shapes: B bins of equal length, S samples, N channels.
"""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Event

import numpy as np

from avchat import isolation
from avchat.container import MediaError, open_file
from avchat.encoding import horizon_s, laid_out
from avchat.media import SAMPLE_RATE, MediaInfo
from avchat.windows import find_cuts, measure_length

SERVE = "avchat.contour:serve"  # what a process of its own runs
MAX_BYTES = 1 << 29
GRAIN_S = 0.05  # the loudest moment of a bin is so long, or as long as the bin: a bark shows
SILENT = 1e-3  # of full scale, -60 dB: not heard, and not made large
LONG_S = 600.0  # shots of longer files are looked for among keyframes alone: many times as fast
SOUND_SHARE = 0.2  # of the work, where there is a picture track too


@dataclass(frozen=True)
class Contour:
    """What a timeline shows of a file."""

    loudness: np.ndarray | None  # float32 [B] in 0..1; None where there is no sound track
    cuts_s: list[float]  # when each new shot begins; the first shot is not in it
    duration_s: float  # measured where the file does not say it; 0 for a still picture
    warnings: tuple[str, ...] = ()


def contour(
    path: str | Path,
    info: MediaInfo,
    *,
    bins: int = 400,
    isolate: bool = True,
    progress: isolation.Progress | None = None,
    stop: Event | None = None,
    timeout_s: float = 600,
) -> Contour | None:
    """Listen and look through a file: how loud each part is, and when shots change.

    A bin is as loud as its loudest moment: 1 is the loudest of the file, 0 cannot be heard (or does
    not decode, which is in the warnings), and a quarter as loud is half as high. `progress` hears
    what share of 1 is done. None when `stop` was set. Raises MediaError for a file of which nothing
    can be used.
    """
    if info.is_still:
        return Contour(None, [], 0.0)
    steps = [step for step, is_there in zip(STEPS, (info.has_audio, info.has_video)) if is_there]
    duration_s, found, faults = 0.0, {}, []
    ...
