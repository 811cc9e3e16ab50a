"""What is in a file: its hash, computed once as long as the file stays as it is."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from avchat.evaluation.records import Records, known_records
from avchat.heads import sha256_of

HASHES = "clips.jsonl"
MISSING = "missing"  # with its path the hash of what is not there: when it comes, it is asked about


class Hashes:
    """The hashes of clips.

    Args: records: those that are known; kept: whether they are open for more.
    """

    def __init__(self, records: Records, kept: bool = True) -> None:
        self.records, self.kept = records, kept
        self.known: dict[Path, str] = {}

    def of(self, path: Path) -> str:
        """Return the SHA-256 of a file, read anew where its size or time has changed."""
        if path not in self.known:
            self.known[path] = self._of(path)
        return self.known[path]

    def _of(self, path: Path) -> str:
        try:
            about = path.stat()
            key = f"{path.resolve()} {about.st_size} {about.st_mtime_ns}"
            if key not in self.records.rows:
                row = {"key": key, "sha256": sha256_of([path])}
                if not self.kept:
                    return row["sha256"]
                self.records.add([row])
        except OSError:
            return f"{MISSING} {path}"  # two that are missing have reasons of their own
        return self.records.rows[key]["sha256"]


@contextmanager
def hashes_in(folder: Path) -> Iterator[Hashes]:
    """Keep the hashes of a run's clips beside its answers."""
    with Records(folder / HASHES) as records:
        yield Hashes(records)


def hashes_read(folder: Path) -> Hashes:
    """Read the hashes that a run has kept; what is computed beyond them is kept in memory alone."""
    return Hashes(known_records(folder / HASHES), kept=False)
