"""What a model is asked: questions on clips with their right answers, out of a file.

Enters: questions.jsonl of `avchat world`, a manifest as training reads it, or JSON lines of the
user's own:
    {"id": "7", "video": "clips/a.mp4", "question": "what barks?", "answer": "a dog",
     "choices": ["a dog", "a cat"], "family": "animals", "needs": "A"}
`video` is relative to the file; all after `answer` may be left out. Leaves: `Item`s.
"""

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from avchat.data import DataError, clip_path, read_lines, sample_of
from avchat.data_rows import Tally

NEEDS = ("V", "A", "S", "AV")  # what a question cannot be answered without; "" where nobody knows


class EvalError(DataError):
    """Something that cannot be measured; one line in the user's words."""


@dataclass(frozen=True)
class Item:
    """One question on one clip, with the answer that is right."""

    id: str
    video: Path
    question: str
    answer: str
    choices: tuple[str, ...] = ()  # the only answers there may be; empty: any words
    family: str = ""
    needs: str = ""
    start_s: float | None = None
    end_s: float | None = None
    also: tuple[str, ...] = ()  # other answers that are as right

    @property
    def clip(self) -> str:
        """Name what questions share: those on one clip are not independent."""
        return str(self.video)

    def asked(self) -> dict[str, Any]:
        """Return what an answer hangs on, but for the clip's bytes, which are hashed apart."""
        part = {"start": self.start_s, "end": self.end_s}
        return {"question": self.question, "choices": list(self.choices), **part}

    def known(self) -> dict[str, Any]:
        """Return what a report is about: who asked, what is right."""
        facts = {"id": self.id, "clip": self.clip, "family": self.family, "needs": self.needs}
        right = {"answer": self.answer, "also": list(self.also), "choices": list(self.choices)}
        return facts | {"question": self.question} | right

    def row(self) -> dict[str, Any]:
        """Return a line as `read_items` reads it, with the whole path."""
        names = {"start": self.start_s, "end": self.end_s, "needs": self.needs}
        found = {"id": self.id, "video": str(self.video.absolute()), "question": self.question}
        found |= {"answer": self.answer, "also": list(self.also), "choices": list(self.choices)}
        return found | {"family": self.family} | names


def read_items(path: Path, root: Path | None = None, tally: Tally | None = None) -> list[Item]:
    """Read a file of questions; EvalError or DataError names the file and the line.

    Args:
        root: the folder that its paths are relative to; None for its own.
        tally: counts what a manifest says without media: there is nothing to see or to hear.
    """
    tally, items = tally or Tally(), []
    for number, row in _rows(path):
        found = items_of(path, number, row, root)
        tally.carried += len(found)
        if not found:
            tally.left["without media"] += 1
        items += found
    if not items:
        why = ": no line has media, so there is nothing to see or to hear" if tally.left else ""
        raise EvalError(f"{path}: no questions{why}")
    check_ids(path, items)
    return items


def _rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    if path.is_dir():
        raise EvalError(f"{path}: is a folder; name the file of questions in it")
    return read_lines(path)


def items_of(path: Path, number: int, row: dict[str, Any], root: Path | None = None) -> list[Item]:
    """Make the items of one line: one, or one a turn of a conversation; none without media."""
    if "messages" in row or "caption" in row:
        return _of_sample(path, number, row, root)
    where = f"{path}, line {number}"
    for name in ("video", "question", "answer"):
        if not isinstance(row.get(name), str) or not row[name]:
            raise EvalError(f'{where}: "{name}" must be there, and be text')
    choices = row.get("choices") or []
    if not isinstance(choices, list) or not all(isinstance(one, str) for one in choices):
        raise EvalError(f'{where}: "choices" must be a list of texts')
    if choices and row["answer"] not in choices:
        raise EvalError(f"{where}: the answer, {row['answer']!r:.40}, is not among the choices")
    if len(choices) == 1:
        raise EvalError(f'{where}: "choices" names one answer alone: it would always be right')
    if len(set(choices)) < len(choices):
        raise EvalError(f'{where}: "choices" names an answer twice')
    also = row.get("also") or []
    if not isinstance(also, list) or not all(isinstance(one, str) for one in also):
        raise EvalError(f'{where}: "also" must be a list of texts')
    _check_part(where, row.get("start"), row.get("end"))
    item = Item(
        id=_id(row, number),
        video=clip_path(root or path.parent, row["video"]),
        question=row["question"],
        answer=row["answer"],
        choices=tuple(choices),
        **_groups(where, row),
        start_s=row.get("start"),
        end_s=row.get("end"),
        also=tuple(also),
    )
    return [item]


def _id(row: dict[str, Any], number: int) -> str:
    return str(number if row.get("id") is None else row["id"])


def _groups(where: str, row: dict[str, Any]) -> dict[str, str]:
    """Read which groups a question is counted in; null is as good as nothing."""
    if row.get("needs") and row["needs"] not in NEEDS:
        raise EvalError(f'{where}: "needs" is one of {", ".join(NEEDS)}, not {row["needs"]!r:.20}')
    return {name: str(row.get(name) or "") for name in ("family", "needs")}


def _check_part(where: str, start: Any, end: Any) -> None:
    for name, value in (("start", start), ("end", end)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise EvalError(f'{where}: "{name}" must be seconds, not {value!r:.20}')
        if value is not None and not math.isfinite(value):
            raise EvalError(f'{where}: "{name}" must be seconds, not {value}')
    if (start or 0) < 0 or (end is not None and end <= (start or 0)):
        raise EvalError(f"{where}: the part from {start or 0} s to {end} s is empty")


def _of_sample(path: Path, number: int, row: dict[str, Any], root: Path | None) -> list[Item]:
    """Ask what a line of a manifest teaches: each of its turns by itself, whatever its `sense`."""
    sample = sample_of(path, number, row, root)
    if sample.media is None:
        return []
    groups = _groups(f"{path}, line {number}", row)
    return [
        Item(
            id=sample.id if len(sample.turns) == 1 else f"{sample.id}-{k}",
            video=sample.media,
            question=turn.question,
            answer=turn.answer or "",
            **groups,
            start_s=sample.start_s,
            end_s=sample.end_s,
        )
        for k, turn in enumerate(sample.turns)
    ]


def check_ids(path: Path, items: Iterable[Item]) -> None:
    """Raise EvalError where two items have one id: their answers could not be told apart."""
    twice = [id for id, count in Counter(item.id for item in items).items() if count > 1]
    if twice:
        more = f" and {len(twice) - 1} more" if len(twice) > 1 else ""
        raise EvalError(f"{path}: the id {twice[0]!r:.60}{more} stands there twice")


def key_of(*parts: Any) -> str:
    """Name what an answer hangs on: a hash of plain data, the same in every run."""
    text = json.dumps(parts, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:32]
