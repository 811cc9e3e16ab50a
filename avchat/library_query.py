"""Words and examples -> a query of a library, for the command line and for the app.

An example is a file or a part of one; its vector is made by the head that made the library's.

Legend: D width.
"""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import numpy as np

from avchat.heads import Head, Vectors
from avchat.library_find import Query
from avchat.library_table import Sense
from avchat.media import Media, MediaError, probe
from avchat.parts import load_parts
from avchat.windows import Window, measure_length, spread

PARTS = 8  # windows of a long example that are looked at
ALONE: dict[tuple[str, ...], Sense] = {("sound",): "sound", ("image",): "picture"}


class QueryError(ValueError):
    """Say in one line why nothing can be looked for."""


def natural_sense(given: Sequence[str]) -> Sense:
    """Choose what is compared with examples of the kinds `text`, `sound`, `clip` and `image`.

    A sound alone is compared with sounds, a picture alone with pictures, all else with both.
    """
    return ALONE.get(tuple(given), "both")


def example_vector(
    head: Head,
    path: Path,
    sense: Sense,
    *,
    start: float | None = None,
    end: float | None = None,
) -> np.ndarray:
    """Return the mean direction of one sense of a file, or of its part in seconds, float32 [D].

    Of a long one a few windows are looked at, evenly spread. MediaError where nothing decodes,
    QueryError where it lacks the sense.
    """
    found = mean_direction([vars(one)[sense] for one in looks(head, path, sense, start, end)])
    if found is None:
        lacks = {"sound": "no sound", "picture": "no picture", "both": "nothing"}[sense]
        raise QueryError(f"{path.name}: there is {lacks} in it to look for")
    return found


def file_vectors(
    head: Head, path: Path, start: float | None = None, end: float | None = None
) -> Vectors:
    """Return the mean directions of a file, or of its part in seconds: of each sense that it has.

    Raises:
        MediaError: nothing decodes.
    """
    seen = looks(head, path, "both", start, end)
    senses = ("picture", "sound", "both")
    return Vectors(*(mean_direction([vars(one)[sense] for one in seen]) for sense in senses))


def looks(
    head: Head, path: Path, sense: Sense, start: float | None, end: float | None
) -> list[Vectors]:
    """Look at a file, of a long one at a few windows, evenly spread; MediaError if none decodes."""
    windows = windows_of(path, head.window_s, start, end)
    places = np.linspace(0, len(windows) - 1, min(len(windows), PARTS)).round().astype(int)
    taken = load_parts(
        path,
        [windows[place] for place in places],
        frames=0 if sense == "sound" else head.frames,
        size=head.size,
        sound=head.hears and sense != "picture",
        isolate=True,
    )
    media = [one for one in taken if isinstance(one, Media)]
    if not media:
        raise next(one for one in taken if isinstance(one, MediaError))
    return head.clips(media)


def mean_direction(vectors: Sequence[np.ndarray | None]) -> np.ndarray | None:
    """Return the mean direction, float32 [D], of the vectors that there are; None of none."""
    known = [vector for vector in vectors if vector is not None]
    if not known:
        return None
    mean = np.mean(known, axis=0, dtype=np.float64)
    return (mean / np.linalg.norm(mean)).astype(np.float32)


def windows_of(path: Path, length_s: float, start: float | None, end: float | None) -> list[Window]:
    """Lay windows side by side over a file or a part of it; a still picture has one, of no end."""
    info = probe(path, isolate=True)
    if info.is_still:
        return [Window(0.0, 0.0)]
    whole_s = info.duration_s if info.is_exact else measure_length(path, isolate=True)
    end_s = whole_s if end is None else min(end, whole_s)
    return spread(min(start or 0.0, end_s), end_s, length_s, 0.0)


def make_query(
    head: Head,
    text: str,
    unwanted: Sequence[str],
    examples: Sequence[tuple[np.ndarray, float]],
    sense: Sense,
    *,
    text_weight: float = 1.0,
) -> Query:
    """Join words, words that should not fit, and vectors [D] of examples with their weights."""
    words = [(head.texts([text])[0], text_weight)] if text.strip() else []
    against = [(vector, 1.0) for vector in head.texts(list(unwanted))] if unwanted else []
    return Query((*words, *examples), tuple(against), text, sense)


def day(date: str) -> float:
    """Turn a date of the local time, YYYY-MM-DD, into seconds since 1970; ValueError if none."""
    try:
        return datetime.fromisoformat(date).timestamp()
    except ValueError as error:
        raise ValueError(f"{date}: write the date as YYYY-MM-DD") from error
