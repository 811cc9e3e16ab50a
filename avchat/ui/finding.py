"""Moments of the clip in view: looked for by words, by a sound, by a picture, by a part of a clip.

What happens, without the page: `find` takes the app, the person and a wish and yields a search that
grows; `moments_tab.py` shows it and `endpoints.py` sends it. Vectors are made once for each clip.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from avchat.embedded import EmbeddedFile, Found
from avchat.encoders import Sense
from avchat.heads import Head
from avchat.library_query import QueryError, example_vector
from avchat.media import Media, MediaInfo, probe
from avchat.moments import Span, check_senses, query_vector
from avchat.parts import load_parts
from avchat.thumbnails import THUMBNAIL_SIDE, thumbnail
from avchat.ui.app import App
from avchat.ui.clips import Clip, clock, moment
from avchat.ui.engine import NO_HEAD
from avchat.ui.progress import Told, silent
from avchat.ui.searches import BYS, Search, Wish
from avchat.ui.span_files import write_spans
from avchat.ui.visitors import Refused, Visitor
from avchat.windows import Window

MOST = 50  # results that may be asked for
FRAME_S = 0.04  # of a clip, around the moment in view
# Scores from which on a match is clear. A head's own threshold comes first. For the bundled one,
# which has none: of 31 captions that were true of a film of the world 100 % (picture: 58 %) were
# found, of 80 that were not 13 % (32 %).
CLEAR: dict[str, dict[str, float]] = {"tiny": {"both": 0.6, "sound": 0.6, "picture": 0.5}}
# An example is compared with its own kind, and much is a little like it: our choice.
CLEAR_EXAMPLE = {"tiny": 0.8}


def find(
    app: App, visitor: Visitor, clip: Clip, wish: Wish, told: Told = silent
) -> Iterator[Search]:
    """Look through a clip for what fits a wish; yield the search each time that more is known.

    The last one is kept with the clip, also when it was stopped. Raises one of `asking.FAULTS`.
    """
    head = app.engine.shared_head
    if head is None:
        raise Refused(NO_HEAD)
    check(wish)
    check_senses(head, clip.info, wish.sense)
    with visitor.doing(app.settings.per_person, passing=True) as stop:
        query, wish = query_of(head, clip, wish)
        number = clip.search.number + 1 if clip.search else 1
        for film in app.engine.embedding(clip, told, stop):
            clip.curve = film.curve(query, wish.sense, wish.sound_weight)
            clip.search = searched(clip, film, wish, number)
            yield clip.search
        found = clip.search.found
        told("taking pictures", 0, 1)
        pictures = stills(clip, [*found.spans, *found.misses])
        clip.search = replace(clip.search, pictures=pictures, over=True)
        yield clip.search


def check(wish: Wish) -> None:
    """Refuse a wish that makes no sense, before anything is decoded."""
    if wish.by not in BYS:
        raise Refused(f"no way to look called {wish.by}: it is one of {', '.join(BYS)}")
    if wish.sense not in ("both", "sound", "picture"):
        raise Refused(f"no sense called {wish.sense}: it is one of both, sound, picture")
    if not 1 <= wish.top <= MOST:
        raise Refused(f"how many: a number from 1 to {MOST}")
    if wish.gap_s < 0:
        raise Refused("the gap between two moments cannot be less than 0 seconds")
    if wish.by == "text" and not wish.text.strip():
        raise Refused("say what to look for")
    if wish.by in ("sound", "clip") and wish.file is None:
        raise Refused(
            "give a sound to look for" if wish.by == "sound" else "give a clip to compare"
        )
    if wish.by == "range" and (wish.start is None or wish.end is None):
        raise Refused("mark a range on the timeline first")
    if wish.by == "range" and not 0 <= wish.start < wish.end:
        raise Refused(f"there is no range from {wish.start:g} s to {wish.end:g} s")


def query_of(head: Head, clip: Clip, wish: Wish) -> tuple[np.ndarray, Wish]:
    """Turn a wish into a unit vector float32 [D], and say which sense it is really compared by.

    A sound that is compared with both is compared with what is heard, a frame with what is seen.
    """
    if wish.by == "text":
        return query_vector(head, wish.text), wish
    if wish.by == "sound":
        info = probe(wish.file, isolate=True)
        wish = replace(wish, sense="sound" if wish.sense == "both" else wish.sense)
        check_senses(head, clip.info, wish.sense)
        return example(head, wish.file, info, "sound"), wish
    if wish.by == "frame":
        at = min(max(wish.start or 0.0, 0.0), max(0.0, clip.duration_s - FRAME_S))
        wish = replace(wish, sense="picture" if wish.sense == "both" else wish.sense)
        check_senses(head, clip.info, wish.sense)
        return example(head, clip.path, clip.info, "picture", at, at + FRAME_S), wish
    if wish.by == "range":
        if wish.start >= clip.duration_s:
            raise Refused(f"there is no range from {wish.start:g} s on: the clip is shorter")
        part = wish.start, min(wish.end, clip.duration_s)
        return example(head, clip.path, clip.info, wish.sense, *part), wish
    info = probe(wish.file, isolate=True)
    return example(head, wish.file, info, wish.sense), wish


def example(
    head: Head,
    path: Path,
    info: MediaInfo,
    sense: Sense,
    start: float | None = None,
    end: float | None = None,
) -> np.ndarray:
    """Return the mean direction of a file or a part of it, a unit vector float32 [D].

    Raises MediaError where nothing decodes, Refused where the sense is absent.
    """
    if sense == "sound" and not info.has_audio:
        raise Refused("there is no sound in what you gave as an example")
    if sense == "picture" and not info.has_video:
        raise Refused("there is no picture in what you gave as an example")
    try:
        return example_vector(head, path, sense, start=start, end=end)
    except QueryError as error:
        raise Refused("nothing in this example can be compared") from error


def least_of(head: Head, wish: Wish) -> float | None:
    """Return the score from which on a match counts as clear; None where nobody knows."""
    if wish.least is not None:
        return wish.least
    if wish.by != "text":
        return CLEAR_EXAMPLE.get(head.name)
    if head.threshold is not None:
        return head.threshold
    clear = CLEAR.get(head.name)
    if clear is None:
        return None
    weight = wish.sound_weight if wish.sense == "both" else None
    if weight is None:
        return clear[wish.sense]
    return weight * clear["sound"] + (1 - weight) * clear["picture"]


def searched(clip: Clip, film: EmbeddedFile, wish: Wish, number: int) -> Search:
    """Say what a clip's curve holds for a wish.

    Whoever opened the same bytes first may call the file otherwise.
    """
    curve, warnings = clip.curve, tuple(w.replace(film.path.name, clip.name) for w in film.warnings)
    least = least_of(film.head, wish)
    bound = -1.0 if least is None else least  # a cosine is never less: whatever stands out counts
    found = film.find(curve, top=wish.top, least=bound, gap_s=wish.gap_s)
    if found.spans:
        found = Found(found.spans, [])
    return Search(wish, number, curve, found, least, film.complete, warnings)


def stills(clip: Clip, spans: Sequence[Span]) -> tuple[bytes, ...]:
    """Make a small JPEG of the middle of each span; empty bytes where there is no picture."""
    if not clip.info.has_video or not spans:
        return (b"",) * len(spans)
    middles = [(span.start + span.end) / 2 for span in spans]
    order = sorted(range(len(spans)), key=lambda k: middles[k])  # decoded in one pass
    windows = [Window(middles[k], middles[k] + FRAME_S) for k in order]
    taken = load_parts(clip.path, windows, frames=1, size=THUMBNAIL_SIDE, sound=False, isolate=True)
    made = {
        k: thumbnail(one.frames, clip.info) if isinstance(one, Media) else b""
        for k, one in zip(order, taken, strict=True)
    }
    return tuple(made[k] for k in range(len(spans)))


def last_search(clip: Clip) -> Search:
    """Return the last search in a clip; Refused where there was none."""
    if clip.search is None:
        raise Refused("look for something first")
    return clip.search


def chosen(clip: Clip, ids: Sequence[str]) -> list[Span]:
    """Return the spans of the last search that ids name; Refused for ids of an older one."""
    search = last_search(clip)
    known = dict(zip(search.ids, [*search.found.spans, *search.found.misses], strict=True))
    gone = [one for one in ids if one not in known]
    if gone:
        raise Refused("these results are gone: look again")
    return [known[one] for one in ids]


def export(
    app: App, visitor: Visitor, form: str, ids: Sequence[str] = (), told: Told = silent
) -> Path:
    """Write the results that ids name, or all clear ones, into a file in the person's folder.

    Args: form: one of `span_files.FORMS`. Raises one of FAULTS or ExportError.
    """
    clip = visitor.in_view()
    search = last_search(clip)
    spans = chosen(clip, ids) if ids else search.found.spans
    with visitor.doing(app.settings.per_person) as stop:
        folder = visitor.folder / clip.id / "moments"
        return write_spans(clip, spans, form, title_of(search.wish), folder, told, stop)


def title_of(wish: Wish) -> str:
    """Name what was looked for, in words."""
    if wish.by == "text":
        return wish.text.strip()
    if wish.by == "range":
        return f"like {moment(wish.start)} to {moment(wish.end)}"
    if wish.by == "frame":
        return f"like the picture at {moment(wish.start or 0.0)}"
    return "like the sound that was given" if wish.by == "sound" else "like the clip that was given"


def as_data(search: Search) -> dict[str, Any]:
    """Give a search as JSON can hold it: seconds, scores, ids; no path."""
    rows = [*search.found.spans, *search.found.misses]
    clear = len(search.found.spans)
    return {
        "looked_for": title_of(search.wish),
        "sense": search.wish.sense,
        "least_score": search.least,
        "complete": search.complete,
        "warnings": list(search.warnings),
        "moments": [span_data(*row) for row in zip(search.ids, rows[:clear], strict=False)],
        "closest": [span_data(*row) for row in zip(search.ids[clear:], rows[clear:], strict=True)],
    }


def span_data(number: str, span: Span) -> dict[str, Any]:
    """Give a span as JSON can hold it."""
    return {
        "id": number,
        "start": round(span.start, 3),
        "end": round(span.end, 3),
        "time": f"{clock(span.start)} to {clock(span.end)}",
        "score": round(span.score, 4),
        "why": {name: round(value, 4) for name, value in span.why.items() if name != "speech"},
    }
