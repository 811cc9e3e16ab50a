"""Searches in the library: a wish in, windows of its files out, named by hash and seconds.

What happens, without the page, as in `shelf.py`. No path comes from outside but those of uploads,
and none leaves.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from avchat.cuts import cut_isolated
from avchat.encoders import Sense
from avchat.heads import Head
from avchat.library import File, Library
from avchat.library_find import FOLD, Filters, Found, Query, find, vectors_at
from avchat.library_query import QueryError, day, example_vector, make_query, natural_sense
from avchat.ui.app import App
from avchat.ui.clips import clock
from avchat.ui.finding import CLEAR, CLEAR_EXAMPLE, FRAME_S
from avchat.ui.progress import Told, silent
from avchat.ui.shelf import folders_of, opened, plainly
from avchat.ui.visitors import Refused, Visitor

MOST = 60  # results that may be asked for
NEAR_MISSES = 3  # shown where nothing is a good match
Part = Literal["", "clip", "range", "frame"]
FROM_CLIP: dict[str, str] = {"clip": "clip", "range": "clip", "frame": "image"}


@dataclass(frozen=True)
class LibraryWish:
    """What to look for: words, examples, or several of them; and where.

    part: what of the clip in view is an example; start, end: its range in seconds, or the time of
    the frame. Lengths are of whole files, in seconds; days are YYYY-MM-DD.
    """

    text: str = ""
    unwanted: str = ""
    sound: Path | None = None
    picture: Path | None = None
    part: Part = ""
    start: float | None = None
    end: float | None = None
    sense: Sense = "both"
    folder: str = ""  # its id
    min_length_s: float | None = None
    max_length_s: float | None = None
    has_sound: bool = False
    after: str = ""
    before: str = ""
    top: int = 12
    least: float | None = None  # score; None: what counts as clear
    fold: float = FOLD  # 1: nothing is folded


@dataclass(frozen=True)
class Hit:
    """A part of a file that fits, in seconds; picture, sound, speech sum to the score."""

    hash: str
    name: str
    start: float
    end: float
    score: float
    picture: float
    sound: float
    speech: float
    has_sound: bool
    missing: bool
    thumbnail: bytes  # JPEG


@dataclass(frozen=True)
class Hits:
    """What was found, the best first; where nothing was, the closest."""

    found: list[Hit]
    closest: list[Hit]
    sense: Sense  # that was really compared
    least: float | None


def library_find(app: App, visitor: Visitor, wish: LibraryWish, told: Told = silent) -> Hits:
    """Look for a wish in the library. Raises one of `asking.FAULTS`."""
    check(wish)
    with visitor.doing(app.settings.per_person):
        library = opened(app)
        limits = filters(app, library, wish)
        told("looking at what you gave", 0, 1)
        examples, sense = examples_of(app, visitor, wish)
        head = app.engine.shared_head
        unwanted = [wish.unwanted] if wish.unwanted.strip() else []
        vectors = [(vector, 1.0) for vector in examples]
        query = make_query(head, wish.text, unwanted, vectors, sense)
        least = least_of(head, wish, sense)
        return hits(library, query, limits, wish, least)


def library_like(
    app: App, visitor: Visitor, hash: str, start: float, sense: Sense, top: int = 12
) -> Hits:
    """Look for more that looks or sounds like a window of the library."""
    with visitor.doing(app.settings.per_person), plainly(app):
        library = opened(app)
        vector = vectors_at(library, hash, start)[sense]
        if vector is None:
            raise Refused(f"there is no {sense} in this part")
        wish = LibraryWish(sense=sense, top=top)
        least = CLEAR_EXAMPLE.get(app.engine.shared_head.name)
        query = Query(((vector, 1.0),), sense=sense)
        return hits(library, query, Filters(), wish, least, but=(hash, start))


def check(wish: LibraryWish) -> None:
    """Refuse a wish that makes no sense, before anything is decoded."""
    if not (wish.text.strip() or wish.sound or wish.picture or wish.part):
        raise Refused("say what to look for, or give a sound, a picture or a part of a clip")
    if not 1 <= wish.top <= MOST:
        raise Refused(f"how many: a number from 1 to {MOST}")
    if not 0 < wish.fold <= 1:
        raise Refused("how alike: a number above 0, 1 at most")
    for length in (wish.min_length_s, wish.max_length_s):
        if length is not None and not 0 <= length < math.inf:
            raise Refused("lengths are numbers of seconds")
    if wish.part == "range" and (wish.start is None or wish.end is None):
        raise Refused("mark a range on the timeline first")
    if wish.part == "range" and not 0 <= wish.start < wish.end:
        raise Refused(f"there is no range from {wish.start:g} s to {wish.end:g} s")


def filters(app: App, library: Library, wish: LibraryWish) -> Filters:
    """Collect the filters; the folder's id becomes its path here."""
    folder = None
    if wish.folder:
        folders = folders_of(app, list(library.files().values()))
        if wish.folder not in folders:
            raise Refused("this folder is no longer in the library")
        folder = str(folders[wish.folder][0])
    try:
        after, before = (day(date) if date.strip() else None for date in (wish.after, wish.before))
    except ValueError as error:
        raise Refused(str(error)) from error
    has_sound = True if wish.has_sound else None
    return Filters(folder, wish.min_length_s, wish.max_length_s, has_sound, after, before)


def examples_of(app: App, visitor: Visitor, wish: LibraryWish) -> tuple[list[np.ndarray], Sense]:
    """Make the vectors of a wish's examples, and say which sense they are compared by.

    A sound alone is compared with what is heard, a picture alone with what is seen.
    """
    given = {"text": wish.text.strip(), "sound": wish.sound, "image": wish.picture}
    kinds = [kind for kind, one in given.items() if one]
    kinds += [FROM_CLIP[wish.part]] if wish.part else []
    sense = wish.sense if wish.sense != "both" else natural_sense(kinds)
    head, vectors = app.engine.shared_head, []
    try:
        if wish.sound:
            vectors.append(example_vector(head, Path(wish.sound), "sound"))
        if wish.picture:
            vectors.append(example_vector(head, Path(wish.picture), "picture"))
        if wish.part:
            clip = visitor.in_view()
            start, end = {
                "clip": (None, None),
                "range": (wish.start, wish.end),
                "frame": (wish.start or 0.0, (wish.start or 0.0) + FRAME_S),
            }[wish.part]
            own: Sense = "picture" if wish.part == "frame" else sense
            vectors.append(example_vector(head, clip.path, own, start=start, end=end))
    except QueryError as error:
        raise Refused(str(error)) from error
    return vectors, sense


def least_of(head: Head, wish: LibraryWish, sense: Sense) -> float | None:
    """Return the score from which on a match counts as clear; None where nobody knows."""
    if wish.least is not None:
        return wish.least
    if wish.sound or wish.picture or wish.part:
        return CLEAR_EXAMPLE.get(head.name) if not wish.text.strip() else None
    return CLEAR.get(head.name, {}).get(sense) if head.threshold is None else head.threshold


def hits(
    library: Library,
    query: Query,
    limits: Filters,
    wish: LibraryWish,
    least: float | None,
    but: tuple[str, float] | None = None,
) -> Hits:
    """Look a query up; where nothing is a good match, tell the closest.

    Args: but: hash and start of the window that the query is made of.
    """
    fold = wish.fold if wish.fold < 1 else math.inf
    files = library.files()
    if not files:
        raise Refused("the library is empty: add files to it")

    def look(top: int, least: float | None) -> list[Hit]:
        found = find(library, query, limits, top=top + 1, threshold=least, fold=fold)
        others = [one for one in found if (one.hash, one.start) != but]
        return [hit(library, one, files) for one in others[:top]]

    good = look(wish.top, least)
    return Hits(good, [] if good or least is None else look(NEAR_MISSES, None), query.sense, least)


def hit(library: Library, one: Found, files: dict[str, File]) -> Hit:
    """Tell of a window that was found what may be told."""
    why = one.why["picture"], one.why["sound"], one.why["speech"]
    has_sound = one.hash in files and files[one.hash].has_sound
    thumbnail = library.thumbnail(one.hash, one.start)
    span = one.start, one.end, one.score
    return Hit(one.hash, one.clip, *span, *why, has_sound, one.missing, thumbnail)


def library_file(app: App, hash: str) -> Path:
    """Find the file that a hash names; Refused where it is gone."""
    with plainly(app):
        file = opened(app).files().get(hash)
    if file is None:
        raise Refused("this file is no longer in the library")
    if not Path(file.path).is_file():
        raise Refused(f"{Path(file.path).name} is no longer there")
    return Path(file.path)


def library_cut(app: App, visitor: Visitor, hash: str, start: float, end: float) -> Path:
    """Cut a part of a file of the library into a file in the person's folder."""
    path = library_file(app, hash)
    folder = visitor.folder / "cuts"
    folder.mkdir(exist_ok=True)
    out = folder / f"{path.stem}_{start:.1f}-{end:.1f}.mp4"
    with visitor.doing(app.settings.per_person) as stop:
        if cut_isolated(path, start, end, out, exact=True, overwrite=True, stop=stop) is None:
            raise Refused("stopped: nothing was cut")
    return out


def as_data(found: Hits) -> dict[str, Any]:
    """Give what was found as JSON can hold it: seconds, scores, hashes; no path."""
    return {
        "sense": found.sense,
        "least_score": found.least,
        "clips": [hit_data(one) for one in found.found],
        "closest": [hit_data(one) for one in found.closest],
    }


def hit_data(one: Hit) -> dict[str, Any]:
    """Give a hit as JSON can hold it."""
    why = {"picture": one.picture, "sound": one.sound, "speech": one.speech}
    return {
        "file": one.hash,
        "name": one.name,
        "start": round(one.start, 3),
        "end": round(one.end, 3),
        "time": f"{clock(one.start)} to {clock(one.end)}",
        "score": round(one.score, 4),
        "why": {name: round(value, 4) for name, value in why.items()},
        "missing": one.missing,
    }
