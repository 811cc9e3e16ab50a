"""A folder of one evaluation: what is to be asked, what was said, what it cost.

    plan.jsonl      a line a question under a condition, with its key: what the run is to answer
    answers.jsonl   appended to, a line at a time, and never rewritten
    manifest.json   command, versions, hashes, counts, time

A key is a hash of all that an answer hangs on, so a run that goes on does what is missing and a
change of anything asks again exactly what it must. A torn last line, as a kill leaves it, is cut.
"""

import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from avchat.evaluation.items import EvalError
from avchat.writing import fresh

try:
    import fcntl
except ImportError:  # Windows has no such locks
    fcntl = None

PLAN, ANSWERS, MANIFEST = "plan.jsonl", "answers.jsonl", "manifest.json"
PACKAGES = ("avchat", "torch", "transformers", "openai-whisper", "av", "decord2", "numpy", "openai")

Row = dict[str, Any]


class Records:
    """A file of JSON lines with a `key` each, that is only ever appended to.

    Of two lines with one key the later counts: what failed may be tried again. Used in a `with`;
    meanwhile no other process writes to it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: dict[str, Row] = {}
        self._file: BinaryIO | None = None

    def __enter__(self) -> "Records":
        """Lock the file, read what is there, cut off a torn last line."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("ab+")
        except (FileExistsError, NotADirectoryError) as error:
            raise EvalError(f"{self.path.parent}: is a file, not a folder") from error
        except OSError as error:
            raise EvalError(f"{self.path}: cannot be written ({error.strerror})") from error
        if fcntl is not None:
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                self._file.close()
                raise EvalError(f"{self.path}: another run is writing to it") from error
        rows, whole = _read(self.path)
        self._file.truncate(whole)
        self.rows = {row["key"]: row for row in rows}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Let others write."""
        assert self._file is not None
        with suppress(OSError):  # of a full disk: it has been said when the rows were added
            self._file.close()

    def add(self, rows: Iterable[Row]) -> None:
        """Append rows: on the disk when this returns. EvalError where there is no room."""
        assert self._file is not None, "records are added within a with"
        rows = list(rows)
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        try:
            self._file.write(text.encode())
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise EvalError(f"{self.path}: cannot be written ({error.strerror})") from error
        self.rows |= {row["key"]: row for row in rows}

    def missing(self, keys: Iterable[str]) -> list[str]:
        """List the keys that have no row yet, or one that says why there is no answer."""
        return [key for key in keys if "error" in self.rows.get(key, {"error": ""})]


def read_records(path: Path) -> dict[str, Row]:
    """Read rows by key, without a lock: a report of a run that may still go on."""
    if not path.is_file():
        raise EvalError(f"{path}: there is nothing yet")
    return {row["key"]: row for row in _read(path)[0]}


def known_records(path: Path) -> Records:
    """Read the rows of a file, if it is there, to look things up in: nothing can be added."""
    found = Records(path)
    if path.is_file():
        found.rows = read_records(path)
    return found


def _read(path: Path) -> tuple[list[Row], int]:
    """Read rows and the number of bytes up to the last whole one.

    Raises EvalError where a line in the middle is no row: the file is not ours.
    """
    rows, whole = [], 0
    with path.open("rb") as file:
        for number, raw in enumerate(file, 1):
            if not raw.endswith(b"\n"):
                break
            try:
                row = json.loads(raw)
                row["key"]
            except (ValueError, TypeError, KeyError) as error:
                raise EvalError(f"{path}, line {number}: is not a line of a run") from error
            rows.append(row)
            whole += len(raw)
    return rows, whole


def write_whole(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with fresh(path, overwrite=True) as part:
        part.write_text(text, encoding="utf-8")


def write_plan(folder: Path, rows: Iterable[Row]) -> None:
    """Write down what a run is to answer: reports need no model and no clip."""
    write_whole(folder / PLAN, "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows))


def read_plan(folder: Path) -> Iterator[Row]:
    """Yield what a run was to answer; EvalError where the folder is no run's."""
    path = folder / PLAN
    if not path.is_file():
        raise EvalError(f"{folder}: no run is here ({PLAN} is missing)")
    yield from _read(path)[0]


def read_manifest(folder: Path) -> Row:
    """Return what is known of a run; EvalError where the folder is no run's."""
    try:
        return dict(json.loads((folder / MANIFEST).read_text(encoding="utf-8")))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise EvalError(f"{folder}: no run is here ({MANIFEST} is missing)") from error
    except ValueError as error:
        raise EvalError(f"{folder / MANIFEST}: not readable ({error})") from error


@contextmanager
def manifest(folder: Path, facts: Row) -> Iterator[Row]:
    """Keep a run's manifest: written at the start, and again with what was added, however it ends.

    What went before, of the same model, is added to: seconds, and what was done in them.
    """
    before = read_manifest(folder) if (folder / MANIFEST).is_file() else {}
    if before.get("revision") != json.loads(json.dumps(facts.get("revision"))):
        before = {"began": before.get("began", _now())}
    found = {
        "command": shlex.join(sys.argv),
        "script": Path(sys.argv[0]).name,
        "began": before.get("began", _now()),
        "versions": {name: _version(name) for name in PACKAGES},
        "python": platform.python_version(),
        "commit": _commit(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "seconds": before.get("seconds", {}),
        "tokens": before.get("tokens", 0),
        "clips_asked": before.get("clips_asked", 0),
        "answered": before.get("answered", 0),
        "peak_memory_mb": before.get("peak_memory_mb"),
        **facts,
    }
    save_manifest(folder, found)
    try:
        yield found
    finally:
        found["ended"] = _now()
        save_manifest(folder, found)


def save_manifest(folder: Path, found: Row) -> None:
    """Write a manifest as far as it has come: a kill then loses the cost of one step at most."""
    found["peak_memory_mb"] = max(peak_mb(), found.get("peak_memory_mb") or 0)
    write_whole(folder / MANIFEST, json.dumps(found, indent=1, ensure_ascii=False) + "\n")


def peak_mb() -> int:
    """Return the most memory that this process held, in MB."""
    import resource  # absent on Windows

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(most / (2**20 if sys.platform == "darwin" else 2**10))  # bytes there, kB here


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def _version(name: str) -> str | None:
    with suppress(PackageNotFoundError):
        return version(name)
    return None


def _commit() -> str | None:
    """Return the commit of the code that runs; None where it is no checkout."""
    here = Path(__file__).resolve().parent
    asked = ["git", "-C", str(here), "describe", "--always", "--dirty"]
    with suppress(OSError):
        done = subprocess.run(asked, capture_output=True, text=True, check=False)
        return done.stdout.strip() or None
    return None
