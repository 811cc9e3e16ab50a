"""A file embedded once -> scores over time and spans for any number of queries.

    film = EmbeddedFile(load_head("tiny"), "film.mp4")
    for _ in film.embed():  # first windows that do not overlap, then those between
        show(film.curve(query))
    found = film.find(film.curve(query), top=5, least=0.2)

`moments()` decodes the file for each query; here a query costs a product. The windows are those of
its close look at the whole file, so that both say the same.

Legend: N windows looked at so far, D width of a head's vectors.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING

import numpy as np

from avchat.looking import complaint, look
from avchat.media import MediaError, MediaInfo, probe
from avchat.moments import (
    SENSES,
    Curve,
    MomentsError,
    Sense,
    Span,
    check_senses,
    filled,
    fine_step,
    span,
)
from avchat.peaks import find_peaks, merge
from avchat.windows import Window, cut_windows

if TYPE_CHECKING:
    from avchat.heads import Head, Vectors

NEAR_MISSES = 3  # spans below the least score that are told all the same
MANY = 1000  # spans, before the least score is applied to them


@dataclass(frozen=True)
class Found:
    """Spans that score at least what was asked for, and the best of those that do not."""

    spans: list[Span]
    misses: list[Span]


class EmbeddedFile:
    """The vectors of a file's windows, as far as it has been looked at.

    One thread at a time may embed; any number may ask meanwhile, of what is there.
    """

    def __init__(
        self,
        head: "Head",
        path: str | Path,
        *,
        start: float | None = None,
        end: float | None = None,
        isolate: bool = True,
    ) -> None:
        """Lay windows over a file, or over a part of it in seconds; nothing is decoded yet.

        A file that does not say how long it is has its sound decoded, to find out. Raises
        MediaError for a file that cannot be used, MomentsError where the head has no sense for it.
        """
        self.head, self.path, self.isolate = head, Path(path), isolate
        self.info: MediaInfo = probe(path, isolate=isolate)
        check_senses(head, self.info, "both")
        self.step_s = fine_step(head.window_s, head.shortest_s)
        overlap_s = head.shortest_s - self.step_s
        wanted = {"length_s": head.shortest_s, "overlap_s": overlap_s, "isolate": isolate}
        windows = cut_windows(self.path, self.info, **wanted)
        if start is not None or end is not None:
            windows = inside(windows, start or 0.0, np.inf if end is None else end)
        self.windows: list[Window] = windows
        absent = np.full((len(windows), head.width), np.nan, np.float32)
        self.vectors = {sense: absent.copy() for sense in SENSES}
        self._looked = np.zeros(len(windows), bool)  # set after the vectors are
        self._faults: dict[int, MediaError] = {}

    @property
    def done(self) -> int:
        """Count the windows that were looked at, those that did not decode among them."""
        return int(self._looked.sum()) + len(self._faults)

    @property
    def complete(self) -> bool:
        """Tell whether every window was looked at."""
        return self.done == len(self.windows)

    @property
    def warnings(self) -> tuple[str, ...]:
        """Say in one line what did not decode, where something did."""
        return complaint(list(self._faults.values()), self.done) if self._looked.any() else ()

    def embed(self, stop: Event | None = None) -> Iterator[int]:
        """Look at what was not looked at yet, batch by batch; yield how many windows are done.

        First windows that do not overlap, then all between: scores over time are there early, and
        become finer. `stop` ends early; the next call goes on from there. Raises MediaError where
        nothing decodes.
        """
        numbers = {window: number for number, window in enumerate(self.windows)}
        for some in self._passes():
            left = [self.windows[k] for k in some if not (self._looked[k] or k in self._faults)]
            for batch in look(self.head, self.path, left, isolate=self.isolate, stop=stop):
                for window, one in batch:
                    self._keep(numbers[window], one)
                yield self.done
        complaint(list(self._faults.values()), self.done)

    def _passes(self) -> list[range]:
        apart = max(1, round(self.head.shortest_s / self.step_s))
        every = range(len(self.windows))
        return [every[::apart], every]

    def _keep(self, number: int, found: "Vectors | MediaError") -> None:
        if isinstance(found, MediaError):
            self._faults[number] = found
            return
        for sense, rows in self.vectors.items():
            if vars(found)[sense] is not None:
                rows[number] = vars(found)[sense]
        self._looked[number] = True

    def curve(
        self, query: np.ndarray, sense: Sense = "both", sound_weight: float | None = None
    ) -> Curve:
        """Score the windows against a unit vector [D], in order of time.

        With `sound_weight` from 0 to 1, `both` is that mean of the cosines of sound and picture
        rather than the head's own vector of both; a window with one sense counts by that one.
        """
        looked = np.flatnonzero(self._looked)
        cosines = {
            name: (rows[looked] @ query).astype(np.float64) for name, rows in self.vectors.items()
        }
        picture, sound = cosines["picture"], cosines["sound"]
        if sound_weight is not None:
            cosines["both"] = mixed(picture, sound, sound_weight)
        windows = [self.windows[k] for k in looked]
        starts = np.array([window.start_s for window in windows], np.float64)
        ends = np.array([window.end_s for window in windows], np.float64)
        score = filled(cosines[sense]) if len(looked) else cosines[sense]
        return Curve(starts, ends, picture, sound, score)

    def find(
        self, curve: Curve, *, top: int = 5, least: float | None = None, gap_s: float = 0.0
    ) -> Found:
        """Find the `top` spans of a curve that score at least `least`, the best first.

        Spans less than `gap_s` apart are one. Where no `least` is given, the head's threshold is
        it; where that is not known either, every span that stands out is found.
        """
        if top < 1:
            raise MomentsError(f"top must be at least 1, not {top}")
        if not len(curve.score):
            return Found([], [])
        least = self.head.threshold if least is None else least
        least = -np.inf if least is None else least
        begin, end = self.windows[0].start_s, self.windows[-1].end_s
        close = 2 * self.step_s
        peaks = find_peaks(curve.times_s, curve.score, begin, end, top=MANY, gap_s=close)
        good = [peak for peak in peaks if peak.score >= least]
        poor = [peak for peak in peaks if peak.score < least][:NEAR_MISSES]
        wide = merge(good, max(close, gap_s))[:top]
        return Found([span(curve, p) for p in wide], [span(curve, p) for p in poor])

    def near(self, time_s: float) -> int | None:
        """Name the window, of those looked at, whose middle is nearest to a time in seconds."""
        looked = np.flatnonzero(self._looked).tolist()
        return min(looked, key=lambda k: abs(middle(self.windows[k]) - time_s), default=None)

    def vector_of(self, start: float, end: float, sense: Sense) -> np.ndarray:
        """Return the mean direction of a range in seconds, a unit vector float32 [D].

        It is made of the windows that lie in the range by more than half of the shorter of the two,
        or of the nearest one. Raises MomentsError where nothing was looked at yet, or the sense is
        absent there.
        """
        looked = np.flatnonzero(self._looked).tolist()
        numbers = [k for k in looked if shares(self.windows[k], start, end)]
        nearest = self.near((start + end) / 2)
        if nearest is None:
            raise MomentsError("nothing of this file was looked at yet")
        rows = self.vectors[sense][numbers or [nearest]]
        known = rows[~np.isnan(rows).any(axis=1)]
        if not len(known):
            raise MomentsError(f"there is no {sense if sense != 'both' else 'clip'} in this part")
        mean = known.mean(axis=0, dtype=np.float64)
        return (mean / np.linalg.norm(mean)).astype(np.float32)


def middle(window: Window) -> float:
    """Return the middle of a window, in seconds."""
    return (window.start_s + window.end_s) / 2


def inside(windows: list[Window], start: float, end: float) -> list[Window]:
    """Keep the windows whose middles lie in a part; MomentsError where there are none."""
    kept = [window for window in windows if start <= middle(window) <= end]
    if not kept:
        raise MomentsError(f"no part of the file from {start:g} s to {end:g} s can be searched")
    return kept


def shares(window: Window, start: float, end: float) -> bool:
    """Tell whether a window and a range share more than half of the shorter of the two."""
    shared = min(window.end_s, end) - max(window.start_s, start)
    return shared > min(window.end_s - window.start_s, end - start) / 2


def mixed(picture: np.ndarray, sound: np.ndarray, sound_weight: float) -> np.ndarray:
    """Mix cosines [N] of both senses; where one is absent, NaN, the other alone counts."""
    if not 0 <= sound_weight <= 1:
        raise MomentsError(f"the weight of the sound is from 0 to 1, not {sound_weight:g}")
    both = sound_weight * sound + (1 - sound_weight) * picture
    return np.where(np.isnan(both), np.where(np.isnan(sound), picture, sound), both)
