"""What readers of benchmarks share: clips by their names, a row's fields, ids where there are none.

A benchmark names its clips without saying where they lie or how they end: people download them
again, as .mp4, .webm or .mkv.
"""

import ast
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from avchat.data import clip_path, is_path
from avchat.data_rows import Row, kind_of, read_rows
from avchat.evaluation.items import EvalError, key_of

ENDINGS = {"video": ".mp4", "audio": ".wav"}  # of a clip that is not there
YES_NO = ("yes", "no")


@dataclass
class Clips:
    """The clips of a folder, found by their names without endings; each folder is listed once."""

    folder: Path
    _listed: dict[Path, dict[tuple[str, str], list[Path]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raise EvalError where the folder is none: each single clip would be missing."""
        if not self.folder.is_dir():
            raise EvalError(f"{self.folder}: no such folder of clips")

    def path(self, *names: str, kind: Literal["video", "audio"] = "video") -> Path:
        """Find a clip under the first of its names that leads to one.

        Args:
            names: as people call the same clip, subfolders and endings included or not.
            kind: what is looked for first; where there is none, the other.

        Returns:
            The first name's path, as .mp4 or .wav, where no file is there: who counts missing
            clips, counts it.

        Raises:
            EvalError: several files have the name, or no file can have it.
        """
        for name in names:
            if not is_path(name):
                raise EvalError(f"{self.folder}: no file can be called {name!r:.60}")
            if found := self._found(clip_path(self.folder, name), kind):
                return found
        first = clip_path(self.folder, names[0])
        return first if kind_of(first) else first.with_name(first.name + ENDINGS[kind])

    def _found(self, path: Path, kind: str) -> Path | None:
        if kind_of(path) and path.is_file():
            return path
        stem = path.stem if kind_of(path) else path.name
        for one in (kind, "audio" if kind == "video" else "video"):
            found = self._stems(path.parent).get((one, stem), [])
            if len(found) > 1:
                both = " and ".join(sorted(clip.name for clip in found)[:2])
                raise EvalError(f"{path.parent}: {both} have one name; which of them is meant?")
            if found:
                return found[0]
        return None

    def _stems(self, folder: Path) -> dict[tuple[str, str], list[Path]]:
        """List a folder: (what it is, name without ending) -> files."""
        if folder not in self._listed:
            stems = self._listed.setdefault(folder, {})
            for path in folder.iterdir() if folder.is_dir() else ():
                if path.is_file():
                    stems.setdefault((kind_of(path), path.stem), []).append(path)
        return self._listed[folder]


def video_path(folder: Path, name: str) -> Path:
    """Find a video by its name, whatever its ending; `folder/name.mp4` where there is none.

    Raises EvalError where several files have the name, or there is no such folder.
    """
    return Clips(folder).path(name)


@dataclass
class Named:
    """Ids out of content, for files that give none: the same wherever a row stands in its file."""

    seen: Counter[str] = field(default_factory=Counter)

    def id(self, *parts: Any, tail: str = "") -> str:
        """Name a row by what it says; from the second on, rows that say the same are numbered."""
        name = key_of(*parts)[:16] + tail
        self.seen[name] += 1
        return name if self.seen[name] == 1 else f"{name}-{self.seen[name]}"


def pair_of(id: str) -> str:
    """Return what the ids of questions that belong together share: the part before the slash."""
    return id.partition("/")[0]


@dataclass(frozen=True)
class Line:
    """One row of a benchmark's file, and where it stands."""

    path: Path
    number: int
    row: Row

    @cached_property
    def where(self) -> str:
        """Name the place, for what is wrong with it."""
        return f"{self.path}, line {self.number}"

    def word(self, name: str) -> str:
        """Return a field as text; an id or an answer may be a number. EvalError for another."""
        value = self.row.get(name)
        if isinstance(value, bool) or not isinstance(value, str | int) or not str(value).strip():
            raise EvalError(f'{self.where}: "{name}" must be there, and be text')
        return str(value).strip()

    def words(self, name: str) -> list[str]:
        """Return a field as texts: a list, or a list that was written as a text."""
        value = self.row.get(name)
        if isinstance(value, str):
            try:
                value = ast.literal_eval(value.strip())  # reads JSON's lists of texts, runs nothing
            except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
                raise EvalError(f'{self.where}: "{name}" is no list: {value!r:.60}') from error
        if not isinstance(value, list) or not all(isinstance(v, str | int) for v in value):
            raise EvalError(f'{self.where}: "{name}" must be a list of texts')
        return [str(one).strip() for one in value]

    def one_of(self, name: str, allowed: Sequence[str]) -> str:
        """Return a field that must be one of a few, in lower case."""
        value = self.word(name).lower().rstrip(".")
        if value not in allowed:
            raise EvalError(f'{self.where}: "{name}" must be {" or ".join(allowed)}, not {value}')
        return value


def read_set_lines(path: Path) -> Iterator[Line]:
    """Yield the rows of a JSON list or of JSON lines; DataError where the file is neither."""
    for number, row in read_rows(path):
        yield Line(path, number, row)
