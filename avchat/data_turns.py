"""What conversations of other trainers have in common: turns with tags, and keys for one file."""

import json
import re
from dataclasses import dataclass
from pathlib import Path

from avchat.data import DataError, Sample
from avchat.data_rows import LeftOut, Row, Tally
from avchat.prompt import Turn

TAG = re.compile(r"\s*<(?:image|video|audio)>\s*")


@dataclass(frozen=True)
class Keys:
    """How a form names its turns."""

    turns: str
    who: str
    text: str
    asks: str
    answers: str


SHAREGPT = Keys("conversations", "from", "value", "human", "gpt")
MESSAGES = Keys("messages", "role", "content", "user", "assistant")


def read_turns(row: Row, keys: Keys, tally: Tally) -> tuple[Turn, ...]:
    """Read questions with their answers, without tags and system turns."""
    said = row.get(keys.turns)
    if not isinstance(said, list):
        raise DataError(f"needs {keys.turns}, a list of turns")
    for turn in said:
        fields = (turn.get(keys.who), turn.get(keys.text)) if isinstance(turn, dict) else (None,)
        if not all(isinstance(value, str) for value in fields):
            raise DataError(f"each of its {keys.turns} needs {keys.who} and {keys.text}, two texts")
    kept = [turn for turn in said if turn[keys.who] != "system"]
    if len(kept) < len(said) or row.get("system"):
        tally.lost["a system turn"] += 1
    pairs = [keys.asks, keys.answers] * (len(kept) // 2)
    if not kept or [turn[keys.who] for turn in kept] != pairs:
        raise LeftOut("with turns that are not questions with their answers")
    texts = [turn[keys.text] for turn in kept]
    asked = [TAG.sub(" ", text).strip() for text in texts[::2]]
    if not all(asked) or not all(text.strip() for text in texts[1::2]):
        raise LeftOut("with an empty turn")
    return tuple(Turn(q, a.strip()) for q, a in zip(asked, texts[1::2], strict=True))


def read_alpaca(row: Row, tally: Tally) -> tuple[Turn, ...]:
    """Read LLaMA-Factory's alpaca: earlier rounds, then an instruction with its input."""
    asked = [row.get("instruction"), row.get("input") or ""]
    history = row.get("history") or []
    texts = [*asked, row.get("output"), *(x for pair in history for x in pair)]
    if not all(isinstance(text, str) for text in texts):
        raise DataError("needs instruction and output, two texts; history in pairs of texts")
    last = "\n".join(text for text in asked if text)
    said = [x for pair in [*history, [last, row["output"]]] for x in pair]
    turns = [{"role": ("user", "assistant")[k % 2], "content": text} for k, text in enumerate(said)]
    return read_turns({"messages": turns, "system": row.get("system")}, MESSAGES, tally)


def write_turns(sample: Sample, keys: Keys, kind: str, before: bool = True) -> list[Row]:
    """Write turns, with the tag of a kind of file before or after the first question.

    Args: kind: empty where there is no file, and no tag.
    """
    if any(TAG.search(turn.question) for turn in sample.turns):
        raise LeftOut("with a question that holds a tag")
    said = []
    for number, turn in enumerate(sample.turns):
        tagged = [f"<{kind}>", turn.question] if before else [turn.question, f"<{kind}>"]
        question = "\n".join(tagged) if kind and not number else turn.question
        said.append({keys.who: keys.asks, keys.text: question})
        said.append({keys.who: keys.answers, keys.text: turn.answer})
    return said


def one_file(row: Row, *names: str) -> tuple[str, str]:
    """Tell the one file of a sample and what it is: image, audio, video, or heard, a video whose
    sound is named beside it. Both are empty where there is none.
    """
    found = []
    for name in names:
        values = row.get(name) or []
        for value in values if isinstance(values, list) else [values]:
            if not isinstance(value, str):
                raise DataError(f"{name} must be a path, not {value!r:.40}")
            found.append((name.removesuffix("s"), value.replace("\\", "/")))
    if not found:
        return "", ""
    files = dict(found)
    if len(found) == 1:
        return found[0]
    pair = len(found) == 2 and set(files) == {"video", "audio"}
    if not pair or Path(files["video"]).stem != Path(files["audio"]).stem:
        raise LeftOut("with more than one file")
    return "heard", files["video"]


def file_or_text(row: Row, *names: str) -> tuple[str, str]:
    """Tell the one file of a sample as `one_file` does; without one let pass text without a tag."""
    kind, name = one_file(row, *names)
    if not kind and TAG.search(json.dumps(row)):
        raise LeftOut("with a tag, but without a file")
    return kind, name


def surely_file(row: Row, *names: str) -> tuple[str, str]:
    """Tell the one file of a sample as `one_file` does; without one the sample is left out."""
    kind, name = one_file(row, *names)
    if not kind:
        raise LeftOut("without a clip")
    return kind, name
