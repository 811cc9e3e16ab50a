"""What converters of training data share: rows of a file, paths under a root, what was left out.

A path in a foreign file is relative to a root that the file does not name; in a manifest of ours it
is relative to the manifest.
"""

import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from avchat.data import DataError, Sample, is_path

Row = dict[str, Any]
PICTURES = frozenset(".jpg .jpeg .png .webp .bmp .tif .tiff".split())
SOUNDS = frozenset(".wav .mp3 .flac .m4a .aac .ogg .opus .wma .aiff .aif".split())
SPACE = re.compile(r"[ \t\r\n]*")
VIDEOS = frozenset(".mp4 .m4v .mov .mkv .webm .avi .mpg .mpeg .ts .wmv .flv .3gp .ogv .gif".split())


class LeftOut(Exception):
    """A sample that cannot be carried over; the message completes "left out: 3 with ..."."""


@dataclass
class Tally:
    """What became of the samples of a file, and why."""

    carried: int = 0
    left: Counter[str] = field(default_factory=Counter)  # samples, by reason
    lost: Counter[str] = field(default_factory=Counter)  # carried samples, by what they lost

    def line(self) -> str:
        """Say in one line what was not carried over; empty when everything was."""
        parts = []
        if self.left:
            reasons = ", ".join(f"{count} {why}" for why, count in self.left.most_common())
            total = self.carried + self.left.total()
            parts.append(f"{self.left.total()} of {total} samples left out: {reasons}")
        if self.lost:
            what = ", ".join(f"{name} ({count})" for name, count in self.lost.most_common())
            parts.append(f"carried without: {what}")
        return "; ".join(parts)


@dataclass(frozen=True)
class Place:
    """The folder that paths are relative to."""

    root: Path

    @cached_property
    def stems(self) -> dict[tuple[str, str], Path]:
        """Find the media files below the root: (what it is, name without ending) -> path."""
        found: dict[tuple[str, str], Path] = {}
        for folder, _, names in sorted(os.walk(self.root)):
            for name in sorted(names):
                path = Path(folder) / name
                found.setdefault((kind_of(path), path.stem), path)
        return found

    def clip(self, stem: str, ending: str, tally: Tally) -> Path:
        """Find the clip that a table names without its ending; a lost one is counted."""
        kinds = ("audio", "video") if ending in SOUNDS else ("video", "audio")
        for kind in kinds:
            if found := self.stems.get((kind, stem)):
                return found
        tally.lost[f"a file found, so {ending} was put after its name"] += 1
        return self.root / f"{stem}{ending}"

    def name(self, media: Path) -> str:
        """Write a path relative to the root, with slashes; LeftOut where no file can have it."""
        if not is_path(str(media)):
            raise LeftOut("with a path that no file can have")
        # '..' leads out of where a link leads to: compare true folders, but keep the file's name
        true = Path(os.path.realpath(media.parent)) / media.name
        return Path(os.path.relpath(true, os.path.realpath(self.root))).as_posix()


def kind_of(path: Path) -> str:
    """Tell by the ending whether a file is an image, audio, video or none of them ("")."""
    ending = path.suffix.lower()
    kinds = {"image": PICTURES, "audio": SOUNDS, "video": VIDEOS}
    return next((kind for kind, endings in kinds.items() if ending in endings), "")


def read_text(path: Path) -> str:
    """Read a text file, with or without a byte order mark; DataError where it is none."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(f"{path}: not readable ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not text in UTF-8 ({error.reason})") from error


def parse(path: Path, text: str, first_line: int = 1) -> Any:
    """Parse JSON; DataError names the line."""
    [(_, value)] = values(path, text, first_line, listed=False)
    return value


def values(
    path: Path, text: str, first_line: int = 1, *, listed: bool
) -> Iterator[tuple[int, Any]]:
    """Yield the one JSON value of a text, or those of its list, each with its line in the file.

    A list is read value by value, so that what is wrong with one of them is said of its line.
    """
    decoder, line, counted, surrogates = json.JSONDecoder(), first_line, 0, "\\u" in text
    at = skip(text, 0, "[" if listed else "")
    try:
        while not (listed and text.startswith("]", at)):
            line, counted = line + text.count("\n", counted, at), at
            value, at = decoder.raw_decode(text, at)
            if surrogates:  # half a pair parses, but no tokenizer and no file takes it
                json.dumps(value, ensure_ascii=False).encode()
            yield line, value
            at = skip(text, at)
            if not listed:
                break
            if not text.startswith((",", "]"), at):
                raise json.JSONDecodeError("Expecting ',' or ']'", text, at)
            at = skip(text, at, ",")
        if (at := skip(text, at, "]" if listed else "")) < len(text):
            raise json.JSONDecodeError("Extra data", text, at)
    except json.JSONDecodeError as error:
        number = first_line + error.lineno - 1
        raise DataError(f"{path}, line {number}: not JSON ({error.msg})") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}, line {line}: not JSON ({error})") from error


def skip(text: str, at: int, sign: str = "") -> int:
    """Skip white space, a sign that stands there, and white space after it."""
    found = SPACE.match(text, at).end()
    return SPACE.match(text, found + 1).end() if sign and text[found : found + 1] == sign else found


def read_rows(path: Path) -> Iterator[tuple[int, Row]]:
    """Yield the objects of a JSON list or of JSON lines, each with its line in the file."""
    text = read_text(path)
    if text.lstrip().startswith("["):
        rows = values(path, text, listed=True)
    else:  # not splitlines: it also splits at U+2028 and its like, which a JSON string may hold
        lines = enumerate(text.split("\n"), 1)
        rows = ((n, parse(path, line, n)) for n, line in lines if line.strip())
    for number, row in rows:
        if not isinstance(row, dict):
            raise DataError(f"{path}, line {number}: needs an object, not {row!r:.40}")
        yield number, row


def wrong_root(manifest: Path, paths: Iterable[Path]) -> str:
    """Say how to mend a manifest whose paths are relative to a parent folder or the current one.

    Args: paths: those that lead nowhere. Empty where another folder does not explain them all.
    """
    lost, own = set(paths), manifest.parent
    names = {path.relative_to(own) for path in lost if path.is_relative_to(own)}
    if not lost or len(names) < len(lost):
        return ""
    folders = [*own.resolve().parents, Path.cwd()]
    root = next((at for at in folders if all((at / name).is_file() for name in names)), None)
    if root is None:
        return ""
    return (
        f"{len(lost)} paths are relative to {root}, not to the manifest: avchat data convert "
        f"{manifest} NEW.jsonl --from avchat --to avchat --media-root {root}"
    )


def require_files(manifest: Path, paths: Iterable[Path | None]) -> None:
    """Raise DataError where files of a manifest are not there, with a hint where they may be.

    Args: paths: of its samples; None for those of text alone.
    """
    lost = sorted({path for path in paths if path is not None and not path.is_file()})
    if not lost:
        return
    if hint := wrong_root(manifest, lost):
        raise DataError(f"{manifest}: {hint}")
    more = f" (and {len(lost) - 1} more)" if len(lost) > 1 else ""
    raise DataError(f"{manifest}: {no_file(lost[0])}{more}")


def no_file(path: Path) -> str:
    """Say why a path leads to no file."""
    return f"{path} is a folder, not a file" if path.is_dir() else f"no such file: {path}"


def write_rows(path: Path, rows: list[Row], lines: bool) -> None:
    """Write rows as JSON lines or as one JSON list, in folders that are made; all or nothing."""
    if lines:
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    else:
        text = json.dumps(rows, ensure_ascii=False, indent=2) + "\n"
    begun = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        begun.write_text(text, encoding="utf-8")
        begun.replace(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error.strerror})") from error


def manifest_row(sample: Sample, index: int, place: Place, tally: Tally) -> Row:
    """Write a sample as a line of our manifest."""
    row: Row = {"id": sample.id}
    row |= {"media": place.name(sample.media)} if sample.media is not None else {}
    row |= {"start": sample.start_s} if sample.start_s is not None else {}
    row |= {"end": sample.end_s} if sample.end_s is not None else {}
    row |= {"sense": sample.sense} if sample.sense != "both" else {}
    messages = []
    for turn in sample.turns:
        messages.append({"role": "user", "content": turn.question})
        messages.append({"role": "assistant", "content": turn.answer})
    return row | {"messages": messages}
