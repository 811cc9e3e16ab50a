"""The table behind a library: what a row is, where it may lie, and what went wrong in words.

Legend: W windows, D width.
"""

import json
import random
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar

import numpy as np
import pyarrow as pa

if TYPE_CHECKING:  # where it runs it is imported when a library is opened: it takes seconds
    import lancedb
    from lancedb.index import FTS, BTree

Sense = Literal["picture", "sound", "both"]
SENSES: tuple[Sense, ...] = ("picture", "sound", "both")

TABLE = "windows"
RECORD = b"avchat.library"  # key in the table's metadata: which head made the vectors
FORMAT = 1
MAX_THUMBNAIL = 10_000  # bytes
PROBES = 10.5  # see num_probes


class LibraryError(Exception):
    """Say in one line, which names the library, why it cannot be used."""


ATTEMPTS = 12  # at a commit that another writer's has overtaken
T = TypeVar("T")


@dataclass(frozen=True)
class File:
    """A media file as it was when it was indexed."""

    hash: str  # of its bytes
    path: str
    size: int  # bytes
    mtime_s: float  # when it was last changed, seconds since 1970
    duration_s: float
    has_sound: bool
    windows: int = 0  # in the library; counted by `Library.files`


@dataclass(frozen=True)
class Entry:
    """One window of a file. Vectors: float32 [D] of unit length, None where a sense is absent."""

    start_s: float
    end_s: float
    picture: np.ndarray | None
    sound: np.ndarray | None
    both: np.ndarray
    thumbnail: bytes = b""  # JPEG
    transcript: str | None = None


@dataclass(frozen=True)
class Maker:
    """The head that made a library's vectors."""

    kind: str  # vlsa or siglip
    name: str  # of the model
    fingerprint: str
    width: int


def check_place(uri: str, create: bool) -> None:
    """Raise LibraryError where a local path cannot be, or become, a library. Makes nothing."""
    place = Path(uri)
    if "://" in uri:
        return
    if place.exists() and not place.is_dir():
        raise LibraryError(f"{uri}: this is a file, not a library")
    if not place.exists() and not create:
        raise LibraryError(f"{uri}: no library here; make one with avchat index")
    if place.exists() and not (place / f"{TABLE}.lance").is_dir() and any(place.iterdir()):
        raise LibraryError(f"{uri}: this folder holds something else, not a library")


def find_table(uri: str, db: "lancedb.DBConnection") -> "lancedb.table.Table | None":
    """Open the table of windows; None where there is none, or one whose making was cut short."""
    with told(uri):
        try:
            return db.open_table(TABLE)
        except ValueError as error:
            if "was not found" not in str(error):
                raise LibraryError(f"{uri}: {first_line(error)}") from error
    return None


def make_table(uri: str, db: "lancedb.DBConnection", maker: Maker) -> "lancedb.table.Table":
    """Make an empty table; where another process has just made it, open that one."""
    from lancedb.index import FTS, BTree

    record = json.dumps({"format": FORMAT, **vars(maker)})
    schema = table_schema(maker.width).with_metadata({RECORD: record})
    with told(uri):
        table = db.create_table(TABLE, schema=schema, exist_ok=True)
    for column, config in (("transcript", FTS(stem=True)), ("hash", BTree())):
        commit(uri, table, partial(_make_index, table, column, config))
    return table


def _make_index(table: "lancedb.table.Table", column: str, config: "FTS | BTree") -> None:
    """Index a column, unless another process has done so."""
    if not any(list(index.columns) == [column] for index in table.list_indices()):
        table.create_index(column, config=config, replace=True)


def commit(uri: str, table: "lancedb.table.Table", change: Callable[[], T]) -> T:
    """Carry out one operation on a table, again while other writers overtake it."""
    for attempt in range(ATTEMPTS):
        with told(uri):
            try:
                return change()
            except (OSError, RuntimeError) as error:
                if "conflict" not in str(error).lower() or attempt == ATTEMPTS - 1:
                    raise
        time.sleep(random.uniform(0.5, 1.5) * min(0.05 * 2**attempt, 5))
        table.checkout_latest()
    raise AssertionError("the last attempt returns or raises")


def table_schema(width: int) -> pa.Schema:
    """Say what a row, one window, consists of."""
    vector = pa.list_(pa.float32(), width)
    return pa.schema(
        [
            ("hash", pa.string()),
            ("path", pa.string()),
            ("clip", pa.string()),
            ("size", pa.int64()),
            ("mtime_s", pa.float64()),
            ("duration_s", pa.float64()),
            ("has_sound", pa.bool_()),
            ("start_s", pa.float64()),
            ("end_s", pa.float64()),
            ("thumbnail", pa.binary()),
            ("transcript", pa.string()),
            *((sense, vector) for sense in SENSES),
        ]
    )


def to_rows(file: File, entries: Sequence[Entry], schema: pa.Schema, width: int) -> pa.Table:
    """Lay out the windows of a file as rows of the table."""
    count = len(entries)
    columns = {
        **{name: [value] * count for name, value in vars(file).items() if name != "windows"},
        "clip": [Path(file.path).name] * count,
        "start_s": [entry.start_s for entry in entries],
        "end_s": [entry.end_s for entry in entries],
        "thumbnail": [entry.thumbnail for entry in entries],
        "transcript": [entry.transcript or None for entry in entries],
        **{sense: vector_column([vars(e)[sense] for e in entries], width) for sense in SENSES},
    }
    assert max(map(len, columns["thumbnail"])) <= MAX_THUMBNAIL, "thumbnails are small"
    return pa.table({name: columns[name] for name in schema.names}, schema=schema)


def vector_column(vectors: Sequence[np.ndarray | None], width: int) -> pa.FixedSizeListArray:
    """Make a column of W vectors [D]; an absent one is null, never zeros."""
    values = np.zeros((len(vectors), width), np.float32)
    for row, vector in zip(values, vectors, strict=True):
        if vector is not None:
            assert vector.shape == (width,) and abs(np.linalg.norm(vector) - 1) < 1e-3
            row[:] = vector
    absent = pa.array([vector is None for vector in vectors])
    return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), width, mask=absent)


def read_maker(uri: str, table: "lancedb.table.Table") -> Maker:
    """Read which head made a table's vectors."""
    with told(uri):
        record = json.loads((table.schema.metadata or {}).get(RECORD, b"{}"))
    if record.pop("format", None) != FORMAT:
        raise LibraryError(f"{uri}: a table of something else, or of another version of avchat")
    return Maker(**record)


def built_over(name: str | None) -> int:
    """Read from an index's name over how many vectors it was built; 0 where there is none."""
    found = re.search(r"_(\d+)$", name or "")
    return int(found[1]) if found else 0


def num_cells(vectors: int) -> int:
    """Choose in how many cells an index sorts so many vectors: as many as one then holds."""
    return max(1, round(vectors**0.5))


def num_probes(cells: int) -> int:
    """Choose in how many cells, the nearest ones, a question is looked up.

    Our choice: enough for a recall@10 of .98 at 20,000 to 1,000,000 vectors of no structure but
    their covariance (EXPERIMENTS.md, A library of a million windows).
    """
    return min(cells, round(PROBES * cells ** (1 / 3)))


def quoted(text: str) -> str:
    """Write a text as a literal of SQL."""
    return "'" + text.replace("'", "''") + "'"


def inside(path: str) -> str:
    """Write in SQL that a window's file is at a path or anywhere in that folder."""
    folder = path.rstrip("/") + "/"
    return f"path = {quoted(path)} OR starts_with(path, {quoted(folder)})"


def storage_options(uri: str, environ: Mapping[str, str]) -> dict[str, str] | None:
    """Take the options of an S3 store from the usual AWS_* variables; None for a folder."""
    if not uri.startswith("s3://"):
        return None
    endpoint = environ.get("AWS_ENDPOINT_URL_S3") or environ.get("AWS_ENDPOINT_URL")
    options = {
        "aws_access_key_id": environ.get("AWS_ACCESS_KEY_ID"),
        "aws_secret_access_key": environ.get("AWS_SECRET_ACCESS_KEY"),
        "aws_session_token": environ.get("AWS_SESSION_TOKEN"),
        "region": environ.get("AWS_REGION") or environ.get("AWS_DEFAULT_REGION") or "us-east-1",
        "endpoint": endpoint,
        "allow_http": "true" if (endpoint or "").startswith("http://") else None,
    }
    return {name: value for name, value in options.items() if value}


@contextmanager
def told(uri: str) -> Iterator[None]:
    """Turn what the store raises into a LibraryError of one line."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        if "conflict" in str(error).lower():
            reason = "other processes write to it all the time"
        elif re.search(r"No space left|File too large|quota", str(error), re.I):
            reason = "the disk is full; what was indexed before is safe"
        else:
            reason = first_line(error)
        raise LibraryError(f"{uri}: {reason}") from error


def first_line(error: Exception) -> str:
    """Shorten what a library says to one line."""
    return str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__
