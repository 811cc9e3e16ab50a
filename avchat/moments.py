"""A long file and a query -> the spans where it is seen or heard, and scores over time.

    found = moments(load_head("vlsa"), "film.mp4", "a dog barks", top=3)

Coarse first: the whole file in long windows. Then fine: short windows around the best of these and
around where they begin and end. Windows are decoded one by one at the head's own size while the
head looks at those before, so memory is that of a few windows, however long the file is.

Legend: N windows, D width of a head's vectors.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Literal

import numpy as np

from avchat.library_find import rank_term
from avchat.looking import complaint, look
from avchat.media import MediaError, MediaInfo, probe
from avchat.peaks import Peak, find_peaks, merge
from avchat.speech import said_spans
from avchat.windows import Window, cut_windows, spread

if TYPE_CHECKING:
    from avchat.heads import Head
    from avchat.transcripts import Transcriber

LOOKS = 2  # places looked at closely for each that is wanted: a coarse score may be beaten
SHORT = 4  # a file of so many coarse windows is looked at closely as a whole

Sense = Literal["both", "sound", "picture"]
SENSES: tuple[Sense, ...] = ("both", "sound", "picture")


class MomentsError(ValueError):
    """A search that cannot be done; the message is one line in the user's words."""


@dataclass(frozen=True)
class Span:
    """A part of a file that fits a query; `why`: what picture, sound and speech scored at best."""

    start: float  # seconds on the file's clock
    end: float
    score: float  # cosine, as the head's threshold; fused with speech as in a library, see `fused`
    why: dict[str, float]


@dataclass(frozen=True)
class Curve:
    """Scores of windows in order of time, float64 [N] each; NaN where a sense is absent."""

    starts_s: np.ndarray
    ends_s: np.ndarray
    picture: np.ndarray
    sound: np.ndarray
    score: np.ndarray  # of the sense that was asked for

    @property
    def times_s(self) -> np.ndarray:
        """Return the centres of the windows, [N]."""
        return (self.starts_s + self.ends_s) / 2


@dataclass(frozen=True)
class Moments:
    """What was found in a file: spans, the best first, and scores over time, [N] each."""

    spans: list[Span]
    times_s: np.ndarray  # centres of windows: fine ones where it was looked closely
    picture: np.ndarray
    sound: np.ndarray
    score: np.ndarray
    complete: bool = True  # False: it was stopped, and spans are of the part that was looked at
    warnings: tuple[str, ...] = ()


def moments(
    head: "Head",
    path: str | Path,
    text: str | np.ndarray,
    *,
    top: int = 5,
    sense: Sense = "both",
    coarse_s: float | None = None,
    fine_s: float | None = None,
    transcriber: "Transcriber | None" = None,
    isolate: bool = False,
    progress: Callable[[int, int], None] | None = None,
    stop: Event | None = None,
) -> Moments:
    """Find the `top` spans of a file that fit a text, or a vector of the head, float [D].

    Spans that score below the head's threshold are left out: no span is an answer. Args: coarse_s,
    fine_s: length of the windows of the first and of the closer look, what the head knows best and
    the shortest that it can judge where left out; transcriber: look for the text in what is said,
    too; isolate: decode in processes of their own; progress: called with windows done and in all,
    the latter a guess until the coarse look is over; stop: set it to end early, with what was found
    until then.
    Raises MomentsError for a search that makes no sense, MediaError for a file that cannot be used.
    """
    path = Path(path)
    coarse_s = head.window_s if coarse_s is None else coarse_s
    fine_s = head.shortest_s if fine_s is None else fine_s
    check_wish(text, top, sense, coarse_s, fine_s)
    info = probe(path, isolate=isolate)
    check_senses(head, info, sense)
    query = query_vector(head, text)
    windows = cut_windows(path, info, length_s=coarse_s, overlap_s=coarse_s / 2, isolate=isolate)
    search = Search(head, path, query, sense, isolate, progress, stop)
    end_s = windows[-1].end_s
    short = info.is_still or end_s <= SHORT * coarse_s
    step_s = fine_step(coarse_s, fine_s)
    fine_most = len(spread(0.0, end_s, fine_s, fine_s - step_s))
    a_look = len(spread(0.0, 2 * coarse_s, fine_s, fine_s - step_s))
    search.total = fine_most if short else len(windows) + min(fine_most, LOOKS * top * a_look)
    coarse = search.score([] if short else windows)
    regions = [(0.0, end_s)] if short else closer(coarse, end_s, LOOKS * top, coarse_s, step_s)
    near = [w for region in regions for w in spread(*region, fine_s, fine_s - step_s)]
    search.total = search.done + len(near)
    curve = blend(coarse, search.score(near), regions)
    warnings = complaint(search.faults, search.done)
    peaks = find_peaks(curve.times_s, curve.score, 0.0, end_s, top=top, gap_s=2 * step_s)
    least = -np.inf if head.threshold is None else head.threshold
    spans = [span(curve, peak) for peak in peaks if peak.score >= least]
    if transcriber and isinstance(text, str) and info.has_audio and not search.stopped:
        lines = transcriber.file_lines(path, end_s, isolate=isolate)
        spans = fused(spans, said_spans(lines, text, fine_s))[:top]
    return Moments(
        spans,
        curve.times_s,
        curve.picture,
        curve.sound,
        curve.score,
        not search.stopped,
        warnings,
    )


def fine_step(coarse_s: float, fine_s: float) -> float:
    """Return how far apart close windows begin: closer than first ones, also at their length."""
    return min(fine_s / 2, coarse_s / 4)


def check_wish(
    text: str | np.ndarray, top: int, sense: str, coarse_s: float, fine_s: float
) -> None:
    """Raise MomentsError for a search that makes no sense, before anything is opened."""
    if isinstance(text, str) and not text.strip():
        raise MomentsError("the text to look for is empty")
    if top < 1:
        raise MomentsError(f"top must be at least 1, not {top}")
    if sense not in SENSES:
        raise MomentsError(f"no sense called {sense}: it is one of {', '.join(SENSES)}")
    if not 0 < fine_s <= coarse_s:
        raise MomentsError(f"cannot look at {coarse_s:g} s first and at {fine_s:g} s then")


def check_senses(head: "Head", info: MediaInfo, sense: Sense) -> None:
    """Raise MomentsError where the file or the head lacks the sense that is asked for."""
    name = Path(info.path).name
    if sense == "sound" and not head.hears:
        raise MomentsError(f"the head {head.name} cannot hear: search in the picture")
    if sense == "sound" and not info.has_audio:
        raise MomentsError(f"{name}: this file has no sound track to search in")
    if sense == "picture" and not info.has_video:
        raise MomentsError(f"{name}: this file has no picture to search in")
    if not info.has_video and not head.hears:
        raise MomentsError(f"{name}: this file has no picture, and the head {head.name} is deaf")


def query_vector(head: "Head", text: str | np.ndarray) -> np.ndarray:
    """Turn a query into a unit vector, float32 [D]."""
    vector = head.texts([text])[0] if isinstance(text, str) else np.asarray(text, np.float32)
    length = float(np.linalg.norm(vector))
    if vector.shape != (head.width,) or not np.isfinite(length) or length == 0:
        raise MomentsError(f"a query of the head {head.name} is a vector of {head.width} numbers")
    return vector / np.float32(length)


@dataclass
class Search:
    """One query in one file: decodes windows, has the head look at them, counts."""

    head: "Head"
    path: Path
    query: np.ndarray
    sense: Sense
    isolate: bool = False
    progress: Callable[[int, int], None] | None = None
    stop: Event | None = None
    total: int = 0
    done: int = 0
    faults: list[MediaError] = field(default_factory=list)

    @property
    def stopped(self) -> bool:
        """Tell whether the user wants no more."""
        return self.stop is not None and self.stop.is_set()

    def score(self, windows: Sequence[Window]) -> Curve:
        """Score windows against the query, in order; those that do not decode are left out."""
        rows: list[tuple[float, ...]] = []
        senses = {"picture": self.sense != "sound", "sound": self.sense != "picture"}
        batches = look(
            self.head, self.path, windows, isolate=self.isolate, stop=self.stop, **senses
        )
        for batch in batches:
            for window, one in batch:
                if isinstance(one, MediaError):
                    self.faults.append(one)
                    continue
                picture, sound = self.cosine(one.picture), self.cosine(one.sound)
                both = {"picture": picture, "sound": sound, "both": self.cosine(one.both)}
                rows.append((window.start_s, window.end_s, picture, sound, both[self.sense]))
            self.done += len(batch)
            if self.progress is not None:
                self.progress(self.done, max(self.total, self.done))
        return Curve(*np.asarray(rows, np.float64).reshape(-1, 5).T)

    def cosine(self, vector: np.ndarray | None) -> float:
        """Compare a unit vector [D] with the query; NaN where a sense is absent."""
        return float("nan") if vector is None else float(vector @ self.query)


def closer(
    coarse: Curve, end_s: float, top: int, coarse_s: float, step_s: float
) -> list[tuple[float, float]]:
    """Choose what to look at closely: around the best coarse windows, and where spans turn.

    Regions begin and end on multiples of `step_s`: their windows are those that a close look at the
    whole file would take, with the same scores.
    """
    values = filled(coarse.score)
    peaks = find_peaks(coarse.times_s, values, 0.0, end_s, top=top, gap_s=0.0)
    middles = [m for p in peaks for m in (p.start_s, coarse.times_s[p.place], p.end_s)]
    half = coarse_s  # to each side: as far as the neighbouring windows reach
    around = [Peak(max(0.0, m - half), min(end_s, m + half), 0.0, 0) for m in middles]
    joined = sorted(merge(around, 0.0), key=lambda region: region.start_s)
    return [
        (
            float(np.floor(region.start_s / step_s) * step_s),
            min(end_s, float(np.ceil(region.end_s / step_s) * step_s)),
        )
        for region in joined
    ]


def filled(values: np.ndarray) -> np.ndarray:
    """Give windows without the sense, NaN in [N], the least score: nothing there is like it."""
    if np.isnan(values).all():
        return np.full(len(values), -1.0)
    return np.where(np.isnan(values), np.nanmin(values), values)


def blend(coarse: Curve, fine: Curve, regions: Sequence[tuple[float, float]]) -> Curve:
    """Put fine windows in the place of the coarse ones whose centres they cover."""
    if not len(fine.score):
        regions = []
    times = coarse.times_s
    inside = np.zeros(len(times), bool)
    for start, end in regions:
        inside |= (times >= start) & (times <= end)
    columns = [np.append(vars(coarse)[name][~inside], vars(fine)[name]) for name in COLUMNS]
    order = np.argsort(columns[0] + columns[1], kind="stable")
    both = Curve(*(column[order] for column in columns))
    return Curve(both.starts_s, both.ends_s, both.picture, both.sound, filled(both.score))


COLUMNS = ("starts_s", "ends_s", "picture", "sound", "score")


def span(curve: Curve, peak: Peak) -> Span:
    """Describe a peak of a curve: its seconds, its score and what each sense scored there."""
    senses = {"picture": curve.picture[peak.place], "sound": curve.sound[peak.place]}
    why = {name: 0.0 if np.isnan(value) else float(value) for name, value in senses.items()}
    return Span(peak.start_s, peak.end_s, peak.score, {**why, "speech": 0.0})


def fused(spans: list[Span], said: list[Peak]) -> list[Span]:
    """Join what is seen and heard with what is said by reciprocal rank fusion, the best first.

    As a library does it: where words are said at all, 1 is the first place in both rankings. What
    is said during a span belongs to it, and makes it longer where it goes on.
    """
    if not said:
        return spans
    free, joined = dict(enumerate(said)), []
    for place, one in enumerate(spans):
        during = {k: p for k, p in free.items() if p.start_s < one.end and one.start < p.end_s}
        free = {k: p for k, p in free.items() if k not in during}
        start = min([one.start, *(part.start_s for part in during.values())])
        end = max([one.end, *(part.end_s for part in during.values())])
        term, speech = rank_term(place, True), rank_term(min(during, default=None), True)
        joined.append(Span(start, end, term + speech, shared(one.why, term, speech)))
    for place, part in free.items():
        speech = rank_term(place, True)
        joined.append(Span(part.start_s, part.end_s, speech, shared({}, 0.0, speech)))
    return sorted(joined, key=lambda one: -one.score)


def shared(why: dict[str, float], term: float, speech: float) -> dict[str, float]:
    """Share a fused score's term of picture and sound among them, as their cosines are above 0."""
    picture, sound = max(why.get("picture", 0.0), 0.0), max(why.get("sound", 0.0), 0.0)
    part = picture / (picture + sound) if picture + sound else 1.0
    return {"picture": term * part, "sound": term * (1 - part), "speech": speech}
