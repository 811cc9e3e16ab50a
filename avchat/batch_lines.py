"""The files of `avchat chat --batch`: lines of questions, and lines of answers that a run goes on
from where it was killed.

Enters: a JSON-lines file, a question on a file a line. Leaves: `Line`s, and their answers in a
second file, in the same order. Both are read line by line: they may have millions.
"""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from avchat.batch_media import Part

try:
    import fcntl
except ImportError:  # Windows has no such locks
    fcntl = None

FIELDS = ("id", "video", "question", "sense", "start", "end")  # given back with the answer
LINE_SENSES = ("both", "sound", "picture")
LONGEST_S = 1e9  # seconds: thirty years; nan is not below it either
SETTINGS = ".settings.json"  # ends the name of the file beside the answers


class BatchError(ValueError):
    """A file of questions or answers that cannot be used; one line in the user's words."""


@dataclass(frozen=True)
class Line:
    """A question on a part of a file; `given`: the fields of the line, as they were."""

    given: dict[str, Any]
    part: Part
    question: str
    sense: str | None


@dataclass(frozen=True)
class Survey:
    """What a file of questions holds: lines, and the fields in it that nothing reads."""

    lines: int
    unread: tuple[str, ...]


def survey(path: Path) -> Survey:
    """Read a file of questions to its end; BatchError, with the line's number, where it is bad."""
    lines, unread = 0, dict[str, None]()
    for fields in _objects(path):
        unread |= dict.fromkeys(name for name in fields if name not in FIELDS)
        lines += 1
    if not lines:
        raise BatchError(f"{path}: there is no question in it")
    return Survey(lines, tuple(unread))


def read_lines(path: Path) -> Iterator[Line]:
    """Yield the questions of a file; a video's path is relative to the file's folder."""
    for fields in _objects(path):
        given = {name: fields[name] for name in FIELDS if name in fields}
        video = os.path.join(path.parent, fields["video"])
        part = Part(video, fields.get("start"), fields.get("end"))
        yield Line(given, part, fields["question"], fields.get("sense"))


def _objects(path: Path) -> Iterator[dict[str, Any]]:
    """Yield what the lines of a file hold, checked; empty lines are none."""
    try:
        with path.open("rb") as file:
            for number, raw in enumerate(file, 1):
                if raw.strip():
                    yield _checked(f"{path}, line {number}", raw)
    except OSError as error:
        raise BatchError(f"{path}: cannot be read ({error.strerror})") from error


def _checked(where: str, raw: bytes) -> dict[str, Any]:
    """Parse one line of questions; BatchError says what is wrong with it."""
    try:
        fields = json.loads(raw.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise BatchError(f"{where}: not JSON ({error})") from error
    if not isinstance(fields, dict):
        raise BatchError(f'{where}: must be an object with "video" and "question"')
    for name in ("video", "question"):
        if not isinstance(fields.get(name), str):
            raise BatchError(f'{where}: "{name}" must be there, and be text')
        if _has_half(fields[name]):
            raise BatchError(f'{where}: "{name}" holds half of a character (a lone surrogate)')
    if not fields["video"] or "\0" in fields["video"]:
        raise BatchError(f'{where}: "video" must be the path of a file')
    if not isinstance(fields.get("id", ""), str | int):
        raise BatchError(f'{where}: "id" must be text or a whole number')
    if fields.get("sense", "both") not in LINE_SENSES:
        raise BatchError(f'{where}: "sense" must be one of {", ".join(LINE_SENSES)}')
    for name in ("start", "end"):
        value = fields.get(name)
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if value is not None and not (number and abs(value) < LONGEST_S):
            raise BatchError(f'{where}: "{name}" must be a number of seconds')
    return fields


def _has_half(text: str) -> bool:
    """Tell whether a text holds half of a UTF-16 pair, which JSON can write and UTF-8 cannot."""
    return any("\ud800" <= sign <= "\udfff" for sign in text)


class Answers:
    """The file of answers. A line is there whole, or it is not there after `resume`.

    Settings that change answers (the model, the longest answer) are in a file beside it, so that a
    run never goes on under others.
    """

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        self.path, self.settings = path, settings
        self.beside = path.with_name(path.name + SETTINGS)
        self.answered = self.failed = 0  # by this run and those before it
        self._held: BinaryIO | None = None  # open as long as it is locked

    def resume(self, lines: Iterator[Line]) -> int:
        """Take the lines that are answered already from `lines`; return how many they are.

        A last line that is not whole is cut off. Raises BatchError where the answers are not to
        these lines, or were given under other settings.
        """
        self._lock()
        if not self.path.exists() or not self.path.stat().st_size:
            self._begin()
            return 0
        self._check_settings()
        kept = 0
        with self.path.open("rb+") as file:
            for raw in file:
                if not raw.endswith(b"\n"):
                    file.truncate(kept)
                    break
                self._check_row(raw, next(lines, None))
                kept += len(raw)
        return self.answered + self.failed

    def _lock(self) -> None:
        """Keep other runs from this file until it is closed, or the process ends in any way."""
        if fcntl is None:
            return
        try:
            self._held = self.path.open("ab")
            fcntl.flock(self._held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BatchError(f"{self.path}: another run is writing to it") from error
        except OSError as error:
            raise BatchError(f"{self.path}: cannot be written ({error.strerror})") from error

    def close(self) -> None:
        """Let others write to the file."""
        if self._held is not None:
            self._held.close()

    def write(self, rows: list[dict[str, Any]]) -> None:
        """Append answers; BatchError where they cannot be written, as on a full disk."""
        text = "".join(json.dumps(row) + "\n" for row in rows)
        try:
            with self.path.open("ab") as file:
                file.write(text.encode())
        except OSError as error:
            raise BatchError(f"{self.path}: cannot be written ({error.strerror})") from error
        self._count(rows)

    def _count(self, rows: list[dict[str, Any]]) -> None:
        failed = sum("error" in row for row in rows)
        self.failed += failed
        self.answered += len(rows) - failed

    def _begin(self) -> None:
        """Write the settings, whole or not at all, before the first answer."""
        fresh = self.beside.with_name(self.beside.name + ".part")
        try:
            fresh.write_text(json.dumps(self.settings) + "\n", encoding="utf-8")
            fresh.replace(self.beside)
            self.path.touch()
        except OSError as error:
            raise BatchError(f"{self.path}: cannot be written ({error.strerror})") from error

    def _check_settings(self) -> None:
        """Compare the settings of the answers that are there with those of this run."""
        if not self.beside.is_file():
            raise BatchError(
                f"{self.path}: is there already, without {self.beside.name}; name another file"
            )
        try:
            before = dict(json.loads(self.beside.read_text(encoding="utf-8")))
        except (ValueError, TypeError) as error:
            raise BatchError(f"{self.beside}: not readable ({error})") from error
        other = [name for name, value in self.settings.items() if before.get(name) != value]
        if other:
            words = ", ".join(f"{n} {before.get(n)}, not {self.settings[n]}" for n in other)
            raise BatchError(
                f"{self.path}: was begun with {words}; name another file, or delete this one"
            )

    def _check_row(self, raw: bytes, line: Line | None) -> None:
        """Check that a row answers a line, and count it."""
        number = self.answered + self.failed + 1
        try:
            row = dict(json.loads(raw))
        except (ValueError, TypeError) as error:
            raise BatchError(f"{self.path}, line {number}: not an answer ({error})") from error
        if line is None:
            raise BatchError(f"{self.path}: has more lines than there are questions")
        if {name: row[name] for name in FIELDS if name in row} != line.given:
            raise BatchError(
                f"{self.path}, line {number}: answers another question than the one that stands "
                "there now; name another file, or delete this one"
            )
        self._count([row])
