"""A library: windows of clips with their vectors, in a folder or on an S3 store, by LanceDB.

Enter: files cut in windows, each with the vectors of what is seen, heard, and both. Leaves: one
table on disk. `library_find` searches it. All windows of a file are written in one atomic commit,
so that a kill loses at most the file in hand, and any number of processes may read and write.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import pyarrow as pa

from avchat.library_table import (
    SENSES,
    Entry,
    File,
    LibraryError,
    Maker,
    Sense,
    built_over,
    check_place,
    commit,
    find_table,
    inside,
    make_table,
    num_cells,
    quoted,
    read_maker,
    storage_options,
    to_rows,
    told,
)

if TYPE_CHECKING:
    import lancedb

__all__ = ["INDEX_ROWS", "Entry", "File", "Library", "LibraryError", "Maker"]

INDEX_ROWS = 20_000  # vectors of a sense from which an index is faster than a scan
GROWTH = 4  # an index is built anew when its column has grown so many times since
TEND_EVERY = 200  # appends after which small fragments are merged
KEEP = timedelta(hours=1)  # old versions of the table, for readers that hold one

T = TypeVar("T")


class Library:
    """A table of windows; made by `Library.open`."""

    def __init__(
        self, uri: str, table: "lancedb.table.Table", maker: Maker, index_rows: int
    ) -> None:
        """Hold an open table."""
        self.uri, self.table, self.maker, self.index_rows = uri, table, maker, index_rows
        self._appends = 0

    @classmethod
    def open(
        cls,
        uri: str | Path,
        *,
        head_name: str | None = None,
        fingerprint: str | None = None,
        width: int | None = None,
        kind: str = "vlsa",
        create: bool = False,
        index_rows: int = INDEX_ROWS,
    ) -> "Library":
        """Open a library in a folder or at s3://; with `create`, make it where there is none.

        Without a fingerprint the library is opened whatever made it. Raises LibraryError where
        there is something else, or the vectors are of another head than the fingerprint's.
        """
        import lancedb  # it takes seconds: not when this file is imported

        uri = str(uri)
        check_place(uri, create)
        with told(uri):
            db = lancedb.connect(
                uri,
                read_consistency_interval=timedelta(0),  # see what other processes write, at once
                storage_options=storage_options(uri, os.environ),
            )
        table = find_table(uri, db)
        if table is None and create:
            assert head_name and fingerprint and width, "a new library records its head"
            table = make_table(uri, db, Maker(kind, head_name, fingerprint, width))
        if table is None:
            raise LibraryError(f"{uri}: no library here; make one with avchat index")
        maker = read_maker(uri, table)
        if fingerprint is not None and fingerprint != maker.fingerprint:
            raise LibraryError(
                f"{uri}: its vectors were made by {maker.kind} {maker.name} ({maker.fingerprint}), "
                f"not by {kind} {head_name} ({fingerprint}); use that model, or another library"
            )
        return cls(uri, table, maker, index_rows)

    def add(self, file: File, entries: Sequence[Entry]) -> bool:
        """Append all windows of a file in one commit; False when the library has the file.

        Windows of other bytes that were indexed under the same path are removed after it.
        """
        return bool(self.add_all([(file, entries)]))

    def add_all(self, files: Sequence[tuple[File, Sequence[Entry]]]) -> set[str]:
        """Append many files in one commit; return the hashes of those that were not there yet."""
        assert all(entries for _, entries in files), "a file has one window at least"
        fresh = {file.hash: (file, entries) for file, entries in reversed(files)}  # the first copy
        if not fresh:
            return set()
        for hash in self._among(fresh):
            del fresh[hash]
        if fresh:
            schema, width = self.table.schema, self.maker.width
            rows = pa.concat_tables(to_rows(*one, schema, width) for one in fresh.values())
            self._commit(lambda: self.table.add(rows))
            self.forget_older([file for file, _ in fresh.values()])
            if self._commit(lambda: self.table.count_rows(among(fresh))) > len(rows):
                self._drop_doubles(among(fresh))  # another writer had the same thought
            self._appends += 1
            if self._appends % TEND_EVERY == 0:
                self.tend()
        return set(fresh)

    def _among(self, hashes: Iterable[str]) -> set[str]:
        """Tell which of some hashes the library has."""
        where = among(hashes)
        if not self._commit(lambda: self.table.count_rows(where)):
            return set()
        return {row["hash"] for batch in self._scan(["hash"], where) for row in batch.to_pylist()}

    def forget_older(self, files: Sequence[File]) -> None:
        """Remove the windows of what was at the files' paths before they were changed."""
        paths = ", ".join(quoted(file.path) for file in files)
        hashes = ", ".join(quoted(file.hash) for file in files)
        older = f"path IN ({paths}) AND hash NOT IN ({hashes})"
        if self._commit(lambda: self.table.count_rows(older)):
            self._commit(lambda: self.table.delete(older))

    def files(self) -> dict[str, File]:
        """List the files by hash, with how many windows each has."""
        columns = ["hash", "path", "size", "mtime_s", "duration_s", "has_sound"]
        found: dict[str, File] = {}
        for batch in self._scan(columns):
            for row in batch.to_pylist():
                file = found.get(row["hash"]) or File(**row)
                found[row["hash"]] = replace(file, windows=file.windows + 1)
        return found

    def holds(self, path: str) -> bool:
        """Tell whether it has a file, or any file of a folder."""
        return self._commit(lambda: self.table.count_rows(inside(path))) > 0

    def moved(self, hash: str, path: str, mtime_s: float) -> None:
        """Note that a file is elsewhere now, or has another date."""
        values = {"path": path, "clip": Path(path).name, "mtime_s": mtime_s}
        self._commit(lambda: self.table.update(where=f"hash = {quoted(hash)}", values=values))

    def remove(self, paths: Iterable[str]) -> int:
        """Forget files, or all files of folders; return how many files that were."""
        where = " OR ".join(f"({inside(path)})" for path in paths)
        gone = {row["hash"] for batch in self._scan(["hash"], where) for row in batch.to_pylist()}
        if gone:
            self._commit(lambda: self.table.delete(where))
        return len(gone)

    def tend(self) -> None:
        """Merge small fragments, and build or extend the indexes of the senses where they pay."""
        for sense in SENSES:
            vectors = self._commit(lambda s=sense: self.table.count_rows(f"{s} IS NOT NULL"))
            built = self.index_of(sense)
            if vectors >= max(self.index_rows, GROWTH * built_over(built)):
                self._build(sense, vectors, built)
        self._commit(lambda: self.table.optimize(cleanup_older_than=KEEP))

    def rebuild(self) -> None:
        """Drop windows that two writers added both, build all indexes anew and compact."""
        self._drop_doubles()
        for sense in SENSES:
            built = self.index_of(sense)
            if built is not None:
                self._commit(lambda name=built: self.table.drop_index(name))
        self.tend()

    def index_of(self, sense: Sense) -> str | None:
        """Name the index over a sense's vectors; None where there is none yet."""
        names = [index.name for index in self._indices() if list(index.columns) == [sense]]
        return max(names, key=built_over, default=None)

    def stats(self) -> dict:
        """Count files, windows, hours and bytes; say which head made them and what is indexed."""
        files = self.files().values()
        size = self._commit(self.table.stats)["total_bytes"]
        return {
            "library": self.uri,
            "head": vars(self.maker),
            "files": len(files),
            "windows": sum(file.windows for file in files),
            "hours": sum(file.duration_s for file in files) / 3600,
            "with_sound": sum(file.has_sound for file in files),
            "transcribed": self._commit(lambda: self.table.count_rows("transcript IS NOT NULL")),
            "bytes": size,
            "indexed": [sense for sense in SENSES if self.index_of(sense)],
        }

    def thumbnail(self, hash: str, start_s: float) -> bytes:
        """Return the JPEG of one window; empty where it has no picture."""
        where = f"hash = {quoted(hash)} AND start_s = {start_s!r}"
        rows = [row for batch in self._scan(["thumbnail"], where) for row in batch.to_pylist()]
        return rows[0]["thumbnail"] if rows else b""

    def _build(self, sense: Sense, vectors: int, old: str | None) -> None:
        from lancedb.index import IvfSq

        # The name says over how many vectors it was built: see `built_over`.
        name = f"{sense}_{vectors}"
        # Given as a size, since `optimize` joins cells below its own idea of that, 8192 vectors.
        config = IvfSq(distance_type="cosine", target_partition_size=vectors // num_cells(vectors))
        self._commit(lambda: self.table.create_index(sense, config=config, name=name))
        if old is not None and old != name and old in [index.name for index in self._indices()]:
            self._commit(lambda: self.table.drop_index(old))

    def _indices(self) -> list:
        return list(self._commit(self.table.list_indices))

    def _drop_doubles(self, where: str | None = None) -> None:
        """Leave one of windows that are there twice: whoever looks, the one that came first."""
        seen, doubles = set(), []
        search = self.table.search().select(["hash", "start_s"]).with_row_id(True)
        rows = self._commit((search.where(where) if where else search).to_arrow)
        for row in sorted(rows.to_pylist(), key=lambda row: row["_rowid"]):
            key = row["hash"], row["start_s"]
            doubles += [row["_rowid"]] if key in seen else []
            seen.add(key)
        if doubles:
            places = ", ".join(map(str, doubles))
            self._commit(lambda: self.table.delete(f"_rowid IN ({places})"))

    def _scan(self, columns: list[str], where: str | None = None) -> Iterator[pa.RecordBatch]:
        with told(self.uri):
            query = self.table.search().select(columns)
            yield from (query.where(where) if where else query).to_batches()

    def _commit(self, change: Callable[[], T]) -> T:
        """Carry out one operation on the table, again while other writers overtake it."""
        return commit(self.uri, self.table, change)


def among(hashes: Iterable[str]) -> str:
    """Write in SQL that a window is of one of some files."""
    return f"hash IN ({', '.join(map(quoted, hashes))})"
