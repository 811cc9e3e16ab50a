"""Scores over time -> the spans that stand out: smoothing, peaks, how far each reaches, merging.

Pure functions. A curve is the centres of windows, rising, and what each scored.

Shapes: N windows.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

FLAT = 0.01  # a curve that varies less than this, in cosine, says nothing about where (our choice)


@dataclass(frozen=True)
class Peak:
    """A part of the clock that stands out; `place` is the window in it that scored best."""

    start_s: float
    end_s: float
    score: float
    place: int


def smooth(values: np.ndarray) -> np.ndarray:
    """Average each of [N] with its neighbours, 1-2-1; the first and the last stay as they are."""
    calm = values.astype(np.float64)
    if len(values) > 2:
        calm[1:-1] = (values[:-2] + 2 * values[1:-1] + values[2:]) / 4
    return calm


def ground(values: np.ndarray) -> float:
    """Return the level that peaks stand on: the median of [N].

    Where what is sought fills more than half of the file, the median is that level itself: nearer
    the top than the bottom. Then it is the bottom.
    """
    low, middle, high = float(values.min()), float(np.median(values)), float(values.max())
    return low if middle - low > high - middle else middle


def summits(values: np.ndarray) -> list[int]:
    """Name the local maxima of [N], the highest first; of a plateau its first point."""
    padded = np.concatenate([[-np.inf], values, [-np.inf]])
    found = []
    for i in range(1, len(values) + 1):
        rest = padded[i + 1 :]
        after = rest[np.argmax(rest != padded[i])]  # the first that differs
        if padded[i] > padded[i - 1] and padded[i] > after:
            found.append(i - 1)
    return sorted(found, key=lambda place: (-values[place], place))


def crossing(
    times: np.ndarray, values: np.ndarray, inside: int, outside: int, level: float
) -> float:
    """Return when a curve passes `level` on the straight line between two neighbouring windows."""
    share = (values[inside] - level) / (values[inside] - values[outside])
    return float(times[inside] + share * (times[outside] - times[inside]))


def reach(
    times: np.ndarray, values: np.ndarray, place: int, level: float, begin_s: float, end_s: float
) -> tuple[float, float, int, int]:
    """Walk down from a peak to `level` on both sides: (start, end, first window, last window).

    A curve that stays above to one of its ends reaches to the beginning or the end of the file.
    """
    first = last = place
    while first > 0 and values[first - 1] >= level:
        first -= 1
    while last < len(values) - 1 and values[last + 1] >= level:
        last += 1
    start = begin_s if first == 0 else crossing(times, values, first, first - 1, level)
    end = end_s if last == len(values) - 1 else crossing(times, values, last, last + 1, level)
    return start, end, first, last


def find_peaks(
    times: np.ndarray,
    values: np.ndarray,
    begin_s: float,
    end_s: float,
    *,
    top: int,
    gap_s: float,
) -> list[Peak]:
    """Find the `top` spans of a curve [N] from `begin_s` to `end_s`, the best first.

    A span reaches as far as the curve stays above half of its peak's height over the ground; spans
    with less than `gap_s` between them are one.
    """
    if not len(values):
        return []
    if float(np.ptp(values)) < FLAT:
        best = int(values.argmax())
        return [Peak(begin_s, end_s, float(values[best]), best)]
    calm = smooth(values)
    base = ground(calm)
    taken = np.zeros(len(values), bool)
    found: list[Peak] = []
    for place in summits(calm):
        if taken[place] or (found and calm[place] <= base):
            continue
        level = (calm[place] + base) / 2
        start, end, first, last = reach(times, calm, place, level, begin_s, end_s)
        shoulder = taken[first : last + 1].any()  # of a higher one: no valley lies between
        taken[first : last + 1] = True
        if shoulder:
            continue
        best = first + int(values[first : last + 1].argmax())
        found.append(Peak(start, end, float(values[best]), best))
    return merge(found, gap_s)[:top]


def merge(peaks: Sequence[Peak], gap_s: float) -> list[Peak]:
    """Join spans that overlap or lie less than `gap_s` apart; the best first."""
    joined: list[Peak] = []
    for peak in sorted(peaks, key=lambda peak: peak.start_s):
        if joined and peak.start_s - joined[-1].end_s < gap_s:
            last = joined.pop()
            best = max(last, peak, key=lambda one: one.score)
            peak = Peak(last.start_s, max(last.end_s, peak.end_s), best.score, best.place)
        joined.append(peak)
    return sorted(joined, key=lambda peak: -peak.score)
