"""Questions to a library: vectors and words in, the windows that fit best out, with reasons.

    found = find(library, Query(((vector, 1.0),), text="a dog barks"), top=10)

The vectors are compared with one sense of each window by their cosine, over an index where there is
one; the words are looked up in what was said, and the two rankings are fused.

Legend: C candidates, D width.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from avchat.library import Library, LibraryError
from avchat.library_table import (
    SENSES,
    Sense,
    built_over,
    inside,
    num_cells,
    num_probes,
    quoted,
    told,
)

__all__ = ["Filters", "Found", "Query", "find"]

RANK_OFFSET = 60  # k of reciprocal rank fusion, as in Cormack, Clarke and Buettcher 2009
UNWANTED = 0.5  # how much of the likeness to what is not wanted is taken off: our choice
FOLD = 0.99  # cosine in each sense from which two windows show and sound the same: our choice
CANDIDATES = 3  # windows fetched for each that is wanted, as some are folded; at least:
MIN_CANDIDATES = 32
COLUMNS = ["hash", "path", "start_s", "end_s", *SENSES]


@dataclass(frozen=True)
class Query:
    """What is looked for: vectors float32 [D] of unit length, each with a weight above 0."""

    wanted: tuple[tuple[np.ndarray, float], ...] = ()
    unwanted: tuple[tuple[np.ndarray, float], ...] = ()
    text: str = ""  # looked up in the transcripts
    sense: Sense = "both"  # of the windows, that the vectors are compared with


@dataclass(frozen=True)
class Filters:
    """Which windows come into question; None: any."""

    folder: str | None = None
    min_length_s: float | None = None  # of the whole file
    max_length_s: float | None = None
    has_sound: bool | None = None
    after_s: float | None = None  # the file was last changed from then on, seconds since 1970
    before_s: float | None = None  # and before this


@dataclass(frozen=True)
class Found:
    """One window that fits.

    `score` is the mean cosine with what is wanted, by weight, less `UNWANTED` times that with what
    is not. When words of the query occur in transcripts, all scores of the answer are those of
    reciprocal rank fusion instead, scaled so that 1 is the first place in both rankings.

    `why` sums to the score. Of a cosine, `picture` and `sound` are the Shapley values of the two
    senses: what each adds to the score of `both`, averaged over the orders in which they can be
    added; a sense that is absent or not asked for has 0. Of a fused score, `speech` is the term of
    the transcript's rank, and the term of the vectors' rank is shared by picture and sound in
    proportion to the positive part of those values.
    """

    clip: str
    path: str
    start: float
    end: float
    score: float
    why: dict[str, float]  # picture, sound, speech
    hash: str
    missing: bool  # the file is no longer at its path


@dataclass(frozen=True)
class _Window:
    """A candidate, with what is known of it so far."""

    row: dict
    vector_term: float
    text_term: float

    @property
    def score(self) -> float:
        return self.vector_term + self.text_term


def find(
    library: Library,
    query: Query,
    filters: Filters = Filters(),
    *,
    top: int = 10,
    threshold: float | None = None,
    fold: float = FOLD,
    exact: bool = False,
) -> list[Found]:
    """Return the windows that fit best, best first; fewer than `top` where no more fit.

    Windows whose mean cosine with what is wanted is below `threshold` do not fit, unless words of
    the query are in their transcript: an empty list says that there is no good match. Windows that
    overlap a better one of their file, or are in each sense as like one as `fold`, are left out.
    `exact` scans all vectors. Raises LibraryError when the library cannot be read or the query is
    empty.
    """
    if not query.wanted and not query.text.strip():
        raise LibraryError("the query is empty")
    where = " AND ".join(f"({condition})" for condition in conditions(filters))
    count = max(MIN_CANDIDATES, CANDIDATES * top)
    with told(library.uri):
        index = None if exact else library.index_of(query.sense)
        probes = num_probes(num_cells(built_over(index))) if index else 0
        most = 0 if where else probes  # a filter may leave little of those cells
        while True:
            near = by_vectors(library, query, where, count, probes, most)
            said = by_words(library, query.text, where, count)
            kept = folded(ranked(query, near, said, threshold), top, fold)
            all_seen = not most and max(len(near), len(said)) < count
            if len(kept) == top or all_seen:
                return [as_found(query, window, bool(said)) for window in kept]
            count, most = 4 * count, 0


def conditions(filters: Filters) -> Iterator[str]:
    """Write the filters in SQL."""
    if filters.folder is not None:
        yield inside(filters.folder)
    if filters.min_length_s is not None:
        yield f"duration_s >= {float(filters.min_length_s)!r}"
    if filters.max_length_s is not None:
        yield f"duration_s <= {float(filters.max_length_s)!r}"
    if filters.has_sound is not None:
        yield f"has_sound = {str(filters.has_sound).lower()}"
    if filters.after_s is not None:
        yield f"mtime_s >= {float(filters.after_s)!r}"
    if filters.before_s is not None:
        yield f"mtime_s < {float(filters.before_s)!r}"


def mixed(query: Query) -> np.ndarray:
    """Mix a query's vectors into the one [D] whose dot product with a window's is the score."""
    return mean_of(query.wanted) - UNWANTED * mean_of(query.unwanted)


def mean_of(vectors: tuple[tuple[np.ndarray, float], ...]) -> np.ndarray:
    """Average vectors [D] by weight; 0 of none."""
    total = sum(weight for _, weight in vectors)
    return sum((vector * (weight / total) for vector, weight in vectors), np.float32(0))


def by_vectors(
    library: Library, query: Query, where: str, count: int, probes: int, most: int
) -> list[dict]:
    """Fetch the windows nearest to a query's vectors, nearest first.

    Args:
        probes: cells of the index in which they are looked for; 0: without the index.
        most: cells where those hold too few; 0: all.
    """
    if not query.wanted:
        return []
    vector = mixed(query)
    if np.linalg.norm(vector) < 1e-6:
        raise LibraryError("the query: what is wanted and what is not are the same")
    search = library.table.search(vector, vector_column_name=query.sense, query_type="vector")
    search = search.distance_type("cosine").limit(count).select([*COLUMNS, "_distance"])
    if probes:
        search = search.minimum_nprobes(probes).maximum_nprobes(most)
    else:
        search = search.bypass_vector_index()
    if where:
        search = search.where(where, prefilter=True)
    # Windows without the sense have no distance and do not come. The index's distances are of
    # vectors in 8 bits: what it fetches is put in order by the whole ones.
    rows = rows_of(search.to_arrow())
    return sorted(rows, key=lambda row: -float(np.dot(row[query.sense], vector)))


def by_words(library: Library, text: str, where: str, count: int) -> list[dict]:
    """Fetch the windows in whose transcript words of a text occur, best first."""
    if not text.strip():
        return []
    search = library.table.search(text, query_type="fts", fts_columns="transcript")
    search = search.limit(count).select([*COLUMNS, "_score"])
    rows = (search.where(where, prefilter=True) if where else search).to_arrow()
    return sorted(rows_of(rows), key=lambda row: -row["_score"])


def rows_of(table: pa.Table) -> list[dict]:
    """Turn a table into rows, their vectors float32 [D] or None."""
    rows = table.drop_columns(list(SENSES)).to_pylist()
    for sense in SENSES:
        column = table[sense].combine_chunks()
        width = column.type.list_size
        vectors = column.values.to_numpy(zero_copy_only=False)[width * column.offset :].reshape(
            -1, width
        )
        for row, vector, valid in zip(rows, vectors, column.is_valid().to_pylist(), strict=False):
            row[sense] = vector if valid else None
    return rows


def ranked(
    query: Query, near: list[dict], said: list[dict], threshold: float | None
) -> list[_Window]:
    """Join two rankings into one, best first; near windows below the threshold are left out."""
    wanted, mix = mean_of(query.wanted), mixed(query)
    if threshold is not None:
        near = [row for row in near if np.dot(row[query.sense], wanted) >= threshold]
    places = [{key_of(row): place for place, row in enumerate(rows)} for rows in (near, said)]
    windows = []
    for key, row in {key_of(row): row for row in (*said, *near)}.items():
        if said:
            terms = [rank_term(ranks.get(key), bool(query.wanted)) for ranks in places]
        else:
            terms = [float(np.dot(row[query.sense], mix)), 0.0]
        windows.append(_Window(row, *terms))
    return sorted(windows, key=lambda window: -window.score)


def rank_term(place: int | None, both: bool) -> float:
    """Return what a place (from 0; None: not in the ranking) adds to a fused score."""
    most = 1 / 2 if both else 1.0
    return 0.0 if place is None else most * (RANK_OFFSET + 1) / (RANK_OFFSET + 1 + place)


def key_of(row: dict) -> tuple[str, float]:
    """Name a window; two writers may have added it both."""
    return row["hash"], row["start_s"]


def folded(windows: list[_Window], top: int, fold: float) -> list[_Window]:
    """Keep the best `top` windows that are neither of the same moment nor as like as `fold`."""
    kept: list[_Window] = []
    for window in windows:
        if len(kept) == top:
            break
        if not any(same_moment(window.row, k.row) or alike(window.row, k.row, fold) for k in kept):
            kept.append(window)
    return kept


def same_moment(a: dict, b: dict) -> bool:
    """Tell whether two windows are of the same file and overlap."""
    inside = a["start_s"] < b["end_s"] and b["start_s"] < a["end_s"]
    return a["hash"] == b["hash"] and (inside or a["start_s"] == b["start_s"])


def alike(a: dict, b: dict, fold: float) -> bool:
    """Tell whether two windows show and sound nearly the same: in each sense that they have."""
    if any((a[sense] is None) != (b[sense] is None) for sense in SENSES):
        return False
    return all(float(np.dot(a[s], b[s])) >= fold for s in SENSES if a[s] is not None)


def as_found(query: Query, window: _Window, fused: bool) -> Found:
    """Say what was found, and why."""
    row = window.row
    picture, sound = shares(query, row) if query.wanted else (0.0, 0.0)
    if fused:
        positive = max(picture, 0.0), max(sound, 0.0)
        part = positive[0] / sum(positive) if sum(positive) else float(row["picture"] is not None)
        picture, sound = window.vector_term * part, window.vector_term * (1 - part)
    return Found(
        clip=Path(row["path"]).name,
        path=row["path"],
        start=row["start_s"],
        end=row["end_s"],
        score=window.score,
        why={"picture": picture, "sound": sound, "speech": window.text_term},
        hash=row["hash"],
        missing=not Path(row["path"]).exists(),
    )


def shares(query: Query, row: dict) -> tuple[float, float]:
    """Share the cosine of a window's vector among its senses: (picture, sound), the sum is kept."""
    mix = mixed(query)
    alone = {
        sense: 0.0 if row[sense] is None else float(np.dot(row[sense], mix)) for sense in SENSES
    }
    if query.sense == "picture" or (query.sense == "both" and row["sound"] is None):
        return alone[query.sense], 0.0
    if query.sense == "sound" or row["picture"] is None:
        return 0.0, alone[query.sense]
    difference = alone["picture"] - alone["sound"]
    return (alone["both"] + difference) / 2, (alone["both"] - difference) / 2


def vectors_at(library: Library, hash: str, start_s: float) -> dict[Sense, np.ndarray | None]:
    """Return the vectors of one window, float32 [D] of each sense that it has.

    Raises LibraryError where the library has no such window.
    """
    where = f"hash = {quoted(hash)} AND start_s = {float(start_s)!r}"
    with told(library.uri):
        rows = rows_of(library.table.search().select(list(SENSES)).where(where).to_arrow())
    if not rows:
        raise LibraryError(f"{library.uri}: there is no such window")
    return {sense: rows[0][sense] for sense in SENSES}
