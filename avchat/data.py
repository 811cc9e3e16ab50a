"""A manifest of the user's own clips -> samples.

A manifest is JSON lines, one conversation on one clip a line:
    {"id": "a", "media": "clips/a.mp4", "start": 1.5, "end": 9, "sense": "both",
     "messages": [{"role": "user", "content": "what barks?"},
                  {"role": "assistant", "content": "a dog"}]}
`media` is relative to the manifest; `start`, `end` (seconds) and `sense` may be left out. A line
without `media` is a conversation on nothing, which keeps the language model's own skills. A line
with a `caption` in place of messages, as lookup heads learn from, is asked for it in plain words.
"""

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
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise DataError(f"{path}: not readable ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not text in UTF-8 ({error.reason})") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise DataError(f"{path}, line {number}: not JSON ({error})") from error
        if not isinstance(row, dict) or not isinstance(row.get("media", ""), str):
            raise DataError(f"{path}, line {number}: needs an object with media, a path")
        yield number, row


def sample_of(path: Path, number: int, row: dict[str, Any], root: Path | None = None) -> Sample:
    """Make a sample of one line of a manifest; DataError says what is wrong with the line."""
    where = f"{path}, line {number}"
    check_part(where, row)
    if "caption" in row and "messages" not in row:
        row = _asked(where, number, row)
    if row.get("sense", "both") not in SENSES:
        raise DataError(f"{where}: sense must be one of {', '.join(SENSES)}, not {row['sense']!r}")
    return Sample(
        id=str(row.get("id", number)),
        media=(root or path.parent) / row["media"] if "media" in row else None,
        turns=_turns(where, row.get("messages")),
        start_s=row.get("start"),
        end_s=row.get("end"),
        sense=row.get("sense", "both"),
    )


def check_part(where: str, row: dict[str, Any]) -> None:
    """Raise DataError where start or end is no number of seconds."""
    for name in ("start", "end"):
        value = row.get(name)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise DataError(f"{where}: {name} must be a number of seconds, not {value!r}")


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
