"""A file's length -> the windows that are searched: of one length with overlap, or shot by shot.

A window is a part of the file's clock, as `load_media` takes it. Memory stays flat on hours of
video: shots are found in small frames, decoded stretch by stretch.

Shapes: T frames, H, W pixels.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from avchat.media import MediaError, MediaInfo, load_media

TAIL_S = 1.0  # what is left at the end and shorter than this belongs to the window before
STRETCH_S = 60.0  # decoded at a time while shots are looked for: 240 frames of 768 bytes
EXACT_STRETCH_S = 10.0  # where every frame is decoded: it takes long, and how far it is is told
SHOT_FPS = 4.0  # looked at first; the exact frame is then found among the few between two of these
SHOT_SIZE = 16  # pixels: a cell is an average, which motion inside it does not change
MIN_SHOT_S = 1.0
# A cut, in mean difference of two frames of 0..1: our choice, tried on the clips of the tests.
CUT_LEAST = 0.06
CUT_TIMES = 3.0  # and so many times what is usual in the seconds around it
AROUND = 8  # frames on each side that say what is usual: 2 s


class WindowError(ValueError):
    """Windows that cannot be had; the message is one line in the user's words."""


@dataclass(frozen=True)
class Window:
    """A part of a file, in seconds on its clock; a still picture is one from 0 to 0."""

    start_s: float
    end_s: float


def cut_windows(
    path: str | Path,
    info: MediaInfo,
    *,
    length_s: float = 8.0,
    overlap_s: float = 4.0,
    shots: bool = False,
    keyframes: bool = False,
    isolate: bool = False,
) -> list[Window]:
    """Cut a file into windows of `length_s` seconds that overlap, or into its shots.

    Args: info: what `probe` said of the file; shots: one window a shot, those longer than
    `length_s` cut further; keyframes: look for shots among keyframes alone, which is quick and puts
    boundaries on keyframes; isolate: decode in a process of its own. Raises WindowError for lengths
    that make no sense, MediaError for a file that cannot be decoded.
    """
    if not 0 <= overlap_s < length_s:
        raise WindowError(f"windows of {length_s:g} s cannot overlap by {overlap_s:g} s")
    if info.is_still:
        return [Window(0.0, 0.0)]
    end_s = info.duration_s if info.is_exact else 0.0
    end_s = end_s or measure_length(path, isolate=isolate)
    cuts = find_cuts(path, end_s, keyframes, isolate) if shots and info.has_video else []
    edges = [0.0, *cuts, end_s]
    parts = (spread(a, b, length_s, overlap_s) for a, b in zip(edges, edges[1:], strict=False))
    return [window for part in parts for window in part]


def spread(start_s: float, end_s: float, length_s: float, overlap_s: float) -> list[Window]:
    """Lay windows of one length over a part; the last one ends where the part ends.

    It is moved back to be as long as the others, unless only a short tail is left, which the
    window before takes in: two windows of nearly the same seconds would be found as two clips.
    """
    step = length_s - overlap_s
    tail = min(TAIL_S, length_s / 4, step / 2)  # of close windows none is left out
    windows = [Window(start_s, min(start_s + length_s, end_s))]
    while windows[-1].end_s < end_s - tail:
        first = start_s + len(windows) * step
        if first + length_s > end_s:
            first = end_s - length_s
        windows.append(Window(first, first + length_s))
    windows[-1] = Window(windows[-1].start_s, end_s)
    return windows


def measure_length(path: str | Path, *, isolate: bool = False) -> float:
    """Find the length in seconds of a file that does not say it, by decoding its sound."""
    at = 0.0
    while True:
        part = {"start": at, "end": at + STRETCH_S * 10}
        try:
            media = load_media(path, frames=1, size=SHOT_SIZE, isolate=isolate, **part)
        except MediaError:
            if at == 0:
                raise
            return at  # the file ended with the stretch before
        at += media.duration_s
        if at < part["end"] - 1e-3:
            return at


def find_cuts(
    path: str | Path,
    end_s: float,
    keyframes: bool,
    isolate: bool,
    tell: Callable[[float], None] = lambda done_s: None,
) -> list[float]:
    """Find when new shots begin, in seconds: the times of their first frames.

    `tell` hears up to where the file has been looked through.
    """
    cuts: list[tuple[float, float]] = []
    frames, times = np.zeros((0, SHOT_SIZE, SHOT_SIZE, 3), np.uint8), np.zeros(0)
    at, judged = 0.0, 0
    stretch_s = STRETCH_S if keyframes else min(STRETCH_S, EXACT_STRETCH_S)
    while at < end_s:
        until = min(at + stretch_s, end_s)
        look = {"fps": SHOT_FPS, "start": at, "end": until, "keyframes": keyframes}
        seen, shown = small_frames(path, look, isolate)
        frames, times = np.concatenate([frames, seen]), np.concatenate([times, shown])
        # What lies at the end of a stretch is judged with the next one, when both sides are known.
        settled = len(frames) - (0 if until >= end_s else AROUND)
        found = jumps(differences(frames))
        cuts += [(times[i - 1], times[i]) for i in found if judged <= i < settled]
        tell(until)
        at, kept = until, min(len(frames), 2 * AROUND)
        judged = max(0, max(judged, settled) - (len(frames) - kept))
        frames, times = frames[len(frames) - kept :], times[len(times) - kept :]
    exact = [float(b) if keyframes else first_frame(path, a, b, isolate) for a, b in cuts]
    return merge_short(exact, end_s)


def small_frames(path: str | Path, look: dict, isolate: bool) -> tuple[np.ndarray, np.ndarray]:
    """Decode small frames uint8 [T, 16, 16, 3] and their times [T]; none where nothing decodes."""
    try:
        media = load_media(path, size=SHOT_SIZE, sound=False, isolate=isolate, **look)
    except MediaError:  # no picture in this stretch: no shot begins there
        return np.zeros((0, SHOT_SIZE, SHOT_SIZE, 3), np.uint8), np.zeros(0)
    begun = media.frame_times_s >= look["start"] - 1e-6  # the one before has been seen already
    return media.frames[begun], media.frame_times_s[begun]


def first_frame(path: str | Path, before_s: float, after_s: float, isolate: bool) -> float:
    """Return when the shot begins that is on at `after_s` and was not at `before_s`."""
    look = {"fps": 120.0, "start": before_s, "end": after_s + 1e-3}
    frames, times = small_frames(path, look, isolate)
    if len(frames) < 2:
        return float(after_s)
    return float(times[1 + differences(frames).argmax()])


def differences(frames: np.ndarray) -> np.ndarray:
    """Compare each frame uint8 [T, H, W, 3] with the one before: float [T - 1] in 0..1.

    In colour: to grey, a cut from red to a green as bright would not show.
    """
    values = frames.astype(np.float32) / 255
    return np.abs(np.diff(values, axis=0)).mean(axis=(1, 2, 3))


def jumps(change: np.ndarray) -> list[int]:
    """Name the frames that begin a shot, from the differences [T - 1] of a track's frames.

    A cut changes much, and far more than is usual around it: a pan or a flicker does not.
    """
    usual = [np.median(change[max(0, i - AROUND) : i + AROUND + 1]) for i in range(len(change))]
    sudden = (change >= CUT_LEAST) & (change >= CUT_TIMES * np.asarray(usual))
    return [int(place) + 1 for place in np.flatnonzero(sudden)]


def merge_short(cuts: list[float], end_s: float) -> list[float]:
    """Drop the cuts that would leave a shot shorter than MIN_SHOT_S: it joins the one before it."""
    kept: list[float] = []
    for cut in sorted(cuts):
        if cut - (kept[-1] if kept else 0.0) >= MIN_SHOT_S and end_s - cut >= MIN_SHOT_S:
            kept.append(cut)
    return kept
