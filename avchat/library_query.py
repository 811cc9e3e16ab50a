"""Words and examples -> a query of a library, for the command line and for the app.

An example is a file or a part of one; its vector is made by the head that made the library's.

Legend: D width.
"""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import numpy as np

from avchat.heads import Head
from avchat.library_find import Query
from avchat.library_table import Sense
from avchat.media import load_media

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
    """Return the unit vector float32 [D] of one sense of a file, or of its part in seconds.

    MediaError where it cannot be decoded, QueryError where it lacks the sense.
    """
    look = {"frames": head.frames, "size": head.size, "sound": head.hears}
    media = load_media(path, start=start, end=end, isolate=True, **look)
    vector = vars(head.clips([media])[0])[sense]
    if vector is None:
        raise QueryError(f"{path.name}: the library's head, {head.name}, gets nothing of it")
    return vector


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
