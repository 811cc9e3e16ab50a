"""A manifest of the user's own clips -> samples.

A manifest is JSON lines, one conversation on one clip a line:
    {"id": "a", "media": "clips/a.mp4", "start": 1.5, "end": 9, "sense": "both",
     "messages": [{"role": "user", "content": "what barks?"},
                  {"role": "assistant", "content": "a dog"}]}
`media` is relative to the manifest; `start`, `end` (seconds) and `sense` may be left out. A line
without `media` is a conversation on nothing, which keeps the language model's own skills. A line
with a `caption` in place of messages, as lookup heads learn from, is asked for it in plain words.
"""

import difflib
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from avchat.encoders import SENSES, Sense
from avchat.prompt import Turn

# What is asked for a caption of so much of a clip: our choice, one by its sample's id.
CAPTION_QUESTIONS: dict[str, tuple[str, ...]] = {
    "both": ("Describe what is seen and heard.", "What happens in this clip?"),
    "picture": ("Describe what is seen.", "What does this video show?"),
    "sound": ("Describe what is heard.", "What can be heard?"),
}

LONGEST_S = 1e7  # 115 days: what is beyond is no time in a file


FIELDS = frozenset("id media start end sense messages caption of".split())
FOREIGN_MEDIA = frozenset("video audio image videos audios images file path clip".split())


class DataError(Exception):
    """Training data that cannot be used; one line in the user's words, with the file and the
    line.
    """


@dataclass(frozen=True)
class Sample:
    """One conversation on one clip, or on none."""

    id: str
    media: Path | None  # None: a conversation of text alone
    turns: tuple[Turn, ...]
    start_s: float | None = None
    end_s: float | None = None
    sense: Sense = "both"


def read_manifest(path: Path, root: Path | None = None) -> list[Sample]:
    """Read a manifest; DataError names the file and the line that cannot be used.

    Args: root: the folder that its paths are relative to; None for its own.
    """
    samples = [sample_of(path, *numbered, root) for numbered in read_lines(path)]
    if not samples:
        raise DataError(f"{path}: no samples")
    return samples


def read_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the objects of a file of JSON lines, each with the number of its line.

    Raises:
        DataError: the file cannot be read, or a line is not an object, its media not a path.
    """
    for number, line in text_lines(path):
        yield number, parse_line(path, number, line)


def text_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the lines of a text that are not blank, with their numbers; DataError if unreadable."""
    try:
        text = path.read_text(encoding="utf-8-sig")  # with or without the mark that Windows puts
    except OSError as error:
        raise DataError(f"{path}: not readable ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not text in UTF-8 ({error.reason})") from error
    # not splitlines: it also splits at U+2028 and its like, which a JSON string may hold
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield number, line


def parse_line(path: Path, number: int, line: str) -> dict[str, Any]:
    """Parse one line of a manifest; DataError where it is no object or its media is no path."""
    try:
        row = json.loads(line)
        if "\\u" in line:  # half a surrogate pair parses, but no tokenizer and no file takes it
            json.dumps(row, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}, line {number}: not JSON ({error})") from error
    media = row.get("media", "-") if isinstance(row, dict) else None
    if not isinstance(media, str) or not is_path(media):
        raise DataError(f"{path}, line {number}: needs an object with media, a path")
    return row


def is_path(text: str) -> bool:
    """Tell whether a text can name a file: longer ones, or with a NUL, the system refuses."""
    sizes = [len(part.encode()) for part in text.split("/")]
    return bool(text.strip()) and "\0" not in text and max(sizes) <= 255 and sum(sizes) <= 3000


def clip_path(folder: Path, name: str) -> Path:
    """Join a folder and a path as a manifest names it; Windows' backslashes are understood."""
    path = folder / name
    if "\\" in name and not path.exists():  # elsewhere a backslash is a letter of a name
        return folder / name.replace("\\", "/")
    return path


def sample_of(path: Path, number: int, row: dict[str, Any], root: Path | None = None) -> Sample:
    """Make a sample of one line of a manifest; DataError says what is wrong with the line."""
    where = f"{path}, line {number}"
    check_part(where, row)
    check_fields(where, row)
    if "caption" in row and "messages" not in row:
        row = _asked(where, number, row)
    if row.get("sense", "both") not in SENSES:
        senses = ", ".join(SENSES)
        raise DataError(f"{where}: sense must be one of {senses}, not {row['sense']!r:.40}")
    return Sample(
        id=str(row.get("id", number)),
        media=clip_path(root or path.parent, row["media"]) if "media" in row else None,
        turns=_turns(where, row.get("messages")),
        start_s=row.get("start"),
        end_s=row.get("end"),
        sense=row.get("sense", "both"),
    )


def check_fields(where: str, row: dict[str, Any]) -> None:
    """Raise DataError for a field that is one of ours misspelt, or another trainer's name for it:
    passed over, a clip would be a conversation of text alone. Others are the user's own.
    """
    for name in set(row) - FIELDS:
        meant = "media" if name.lower() in FOREIGN_MEDIA else None
        close = [meant] if meant else difflib.get_close_matches(name.lower(), FIELDS, 1, 0.7)
        if close:
            raise DataError(f"{where}: unknown field {name!r}: {close[0]} is meant?")


def check_part(where: str, row: dict[str, Any]) -> None:
    """Raise DataError where start or end is no number of seconds, or no part lies between them."""
    for name in ("start", "end"):
        value = row.get(name)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise DataError(f"{where}: {name} must be a number of seconds, not {value!r:.40}")
        if value is not None and not 0 <= value <= LONGEST_S:  # NaN is not, either
            raise DataError(f"{where}: {name} must be 0 to {LONGEST_S:g} seconds")
    start, end = row.get("start"), row.get("end")
    if end is not None and end <= (start or 0):
        raise DataError(f"{where}: end, {end:g} s, must be after the start, {start or 0:g} s")
    if "media" not in row and (start, end) != (None, None):
        raise DataError(f"{where}: start and end are of a clip; there is no media")


def _asked(where: str, number: int, row: dict[str, Any]) -> dict[str, Any]:
    """Turn a captioned clip into a conversation of one turn."""
    sense, caption = row.get("of", "both"), row["caption"]
    if sense not in CAPTION_QUESTIONS:
        raise DataError(f"{where}: of must be both, picture or sound, not {sense!r}")
    if not isinstance(caption, str) or "media" not in row:
        raise DataError(f"{where}: a caption needs media, a path, and must be a text")
    questions = CAPTION_QUESTIONS[sense]
    asked = questions[zlib.crc32(str(row.get("id", number)).encode()) % len(questions)]
    messages = [{"role": "user", "content": asked}, {"role": "assistant", "content": caption}]
    return {**row, "sense": sense, "messages": messages}


def _turns(where: str, messages: object) -> tuple[Turn, ...]:
    """Pair messages: a user's question, then an assistant's answer, and so on."""
    if not isinstance(messages, list) or not messages or len(messages) % 2:
        raise DataError(f"{where}: messages must be pairs of user and assistant")
    for message, role in zip(messages, ("user", "assistant") * (len(messages) // 2), strict=True):
        if not isinstance(message, dict) or message.get("role") != role:
            raise DataError(
                f"{where}: messages must be user, assistant, user, ... (expected {role})"
            )
        if not isinstance(message.get("content"), str) or not message["content"].strip():
            raise DataError(f"{where}: a message of {role} is empty")
    texts = [message["content"] for message in messages]
    return tuple(Turn(q, a) for q, a in zip(texts[::2], texts[1::2], strict=True))
