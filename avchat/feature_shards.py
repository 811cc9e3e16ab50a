"""Records and their tensors in one folder, which many processes fill at once without locks.

Each process writes files of its own: `shard-PROCESS-NUMBER.safetensors`, and after each whole shard
the records of what is in it as lines of `index-PROCESS.jsonl`. So a process that is killed loses
the shard it was filling, and nothing that is read was ever half written.
"""

import json
import os
import secrets
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from avchat.data import DataError
from avchat.data_split import digest

SHARD_BYTES = 256 * 2**20
SHARD_RECORDS = 4096
SHARD_S = 60.0  # what a kill may cost, on a machine too slow to fill a shard in that time
OPEN_SHARDS = 64  # kept open for reading; each is mapped, not read
TORN_S = 3600.0  # a file that nobody has gone on writing for so long belongs to nobody
HASH_DIGITS = 32  # 128 bits: no two of all the clips in the world are taken for one

Record = dict[str, Any]


def read_records(folder: Path) -> Iterator[Record]:
    """Yield the records of all processes whose shards are there."""
    there = {path.name for path in folder.glob("shard-*.safetensors")}
    for path in sorted(folder.glob("index-*.jsonl")):
        with path.open(encoding="utf-8") as file:
            for line in file:
                try:
                    record = json.loads(line)
                except ValueError:  # empty, or torn when its writer was killed
                    continue
                if record.get("shard") is None or record["shard"] in there:
                    yield record


def write_whole(path: Path, data: bytes) -> None:
    """Write a file that is whole or absent; DataError where it cannot be written."""
    torn = path.with_name(f"{path.name}.{secrets.token_hex(4)}.torn")
    try:
        with torn.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        torn.replace(path)
    except OSError as error:
        raise DataError(f"{path.parent}: cannot be written ({error.strerror})") from error
    finally:
        torn.unlink(missing_ok=True)


class ShardWriter:
    """Collects records and tensors of this process, and writes a shard when it is full.

    Args: taken: is told of each record once it can be read.
    """

    def __init__(self, folder: Path, taken: Callable[[Record], None]) -> None:
        """Begin; what killed processes have left half written is removed."""
        self.folder, self.taken = folder, taken
        self.process, self.number = secrets.token_hex(4), 0
        for torn in folder.glob("*.torn"):
            if time.time() - torn.stat().st_mtime > TORN_S:
                torn.unlink(missing_ok=True)
        self._empty()

    def _empty(self) -> None:
        self.records: list[Record] = []
        self.tensors: dict[str, Tensor] = {}
        self.bytes, self.began = 0, time.monotonic()

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(self, *raised: object) -> None:
        """Write the last shard, also when stopped: what is computed is kept."""
        self.flush()

    def add(self, record: Record, tensors: Mapping[str, Tensor] | None = None) -> None:
        """Take a record and its named tensors (CPU, contiguous, each its own memory)."""
        if tensors:
            held = {name: f"{len(self.records)}.{name}" for name in tensors}
            record = record | {"shard": self.shard, "tensors": held}
            self.tensors |= {held[name]: tensor for name, tensor in tensors.items()}
            self.bytes += sum(tensor.nbytes for tensor in tensors.values())
        self.records.append(record)
        full = self.bytes >= SHARD_BYTES or len(self.records) >= SHARD_RECORDS
        if full or time.monotonic() - self.began > SHARD_S:
            self.flush()

    @property
    def shard(self) -> str:
        """Name the shard that is being filled."""
        return f"shard-{self.process}-{self.number:05d}.safetensors"

    def flush(self) -> None:
        """Write the shard, then its records."""
        if not self.records:
            return
        if self.tensors:
            data = save(self.tensors)
            write_whole(self.folder / self.shard, data)
            self.records.append({"sum": [self.shard, zlib.crc32(data)]})
        lines = "".join(json.dumps(record) + "\n" for record in self.records)
        try:
            with (self.folder / f"index-{self.process}.jsonl").open("a", encoding="utf-8") as file:
                file.write("\n" + lines)  # a line torn by Ctrl-C must not take the next one along
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise DataError(f"{self.folder}: cannot be written ({error.strerror})") from error
        for record in self.records:
            self.taken(record)
        self.number += 1
        self._empty()


class ShardReader:
    """Tensors out of mapped shards, of which a bounded number is kept open."""

    def __init__(self, folder: Path, most: int = OPEN_SHARDS) -> None:
        """Open nothing yet."""
        self.folder = folder
        self.sums: dict[str, int] = {}  # by shard
        self.checked: set[str] = set()
        self._open = lru_cache(most)(self._open_shard)

    def _open_shard(self, shard: str) -> Any:
        """Open a shard; its bytes are compared with their sum, once."""
        path = self.folder / shard
        if shard in self.sums and shard not in self.checked:
            if sum_of(path) != self.sums[shard]:
                raise OSError("its bytes are not those that were written")
            self.checked.add(shard)
        return safe_open(path, framework="pt")

    def tensors(self, shard: str, held: Mapping[str, str]) -> dict[str, Tensor]:
        """Map named tensors; DataError where the shard is gone or damaged."""
        try:
            opened = self._open(shard)
            return {name: opened.get_tensor(key) for name, key in held.items()}
        except (OSError, SafetensorError) as error:
            raise DataError(
                f"{self.folder / shard}: damaged ({error}); remove it, and run train/cache.py again"
            ) from error


def sum_of(path: Path) -> int:
    """Compute the CRC-32 of a file, read piece by piece."""
    total = 0
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            total = zlib.crc32(piece, total)
    return total


class Place(NamedTuple):
    """What a path held when it was looked at."""

    hash: str
    size: int
    mtime_ns: int


class Places:
    """Which contents are at which paths, so that a file is hashed once."""

    def __init__(self, folder: Path) -> None:
        """Know nothing yet. Args: folder: paths are kept absolute, and as seen from here."""
        self.folder = folder.absolute()
        self.at: dict[str, dict[tuple[int, int], Place]] = {}
        self.sizes: set[int] = set()
        self.fresh: list[Record] = []  # of files that were moved or touched, not yet written down

    def names(self, path: Path) -> tuple[str, str]:
        """Name a path absolutely, and from the folder: either may outlive a move."""
        whole = os.path.abspath(path)
        return whole, os.path.relpath(whole, self.folder)

    def take(self, record: Record) -> None:
        """Learn from a record of a place."""
        self._learn(tuple(record["paths"]), Place(*record["place"]))

    def _learn(self, names: tuple[str, ...], place: Place) -> None:
        self.sizes.add(place.size)
        for name in names:
            self.at.setdefault(name, {})[place.size, place.mtime_ns] = place

    def look(self, path: Path) -> Record:
        """Hash a file, unless its size and date are known; OSError or DataError if it cannot be."""
        stat = path.stat()
        place = self._seen(path, stat)
        if place is None:
            place = Place(digest(path)[:HASH_DIGITS], stat.st_size, stat.st_mtime_ns)
        self._learn(self.names(path), place)
        return {"paths": self.names(path), "place": place}

    def find(self, path: Path) -> str | None:
        """Name the contents of a file if they may be known, or that it had where it is gone."""
        try:
            stat = path.stat()
        except OSError:
            held = [p for name in self.names(path) for p in self.at.get(name, {}).values()]
            return max(held, key=lambda place: place.mtime_ns).hash if held else None
        place = self._seen(path, stat)
        if place is None and stat.st_size in self.sizes and is_readable(path):
            self.fresh.append(self.look(path))
            return self.fresh[-1]["place"].hash
        return place.hash if place else None

    def _seen(self, path: Path, stat: os.stat_result) -> Place | None:
        known = (self.at.get(name, {}) for name in self.names(path))
        return next(
            (p for some in known if (p := some.get((stat.st_size, stat.st_mtime_ns)))), None
        )


def is_readable(path: Path) -> bool:
    """Tell whether there is an ordinary file that may be read."""
    return path.is_file() and os.access(path, os.R_OK)
