"""What conversations of other trainers have in common: turns with tags, and keys for one file."""

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


def write_turns(sample: Sample, keys: Keys, kind: str, before: bool = True) -> list[Row]:
    """Write turns, with the tag of a kind of file before or after the first question."""
    if any(TAG.search(turn.question) for turn in sample.turns):
        raise LeftOut("with a question that holds a tag")
    said = []
    for number, turn in enumerate(sample.turns):
        tagged = [f"<{kind}>", turn.question] if before else [turn.question, f"<{kind}>"]
        question = turn.question if number else "\n".join(tagged)
        said.append({keys.who: keys.asks, keys.text: question})
        said.append({keys.who: keys.answers, keys.text: turn.answer})
    return said


def one_file(row: Row, *names: str) -> tuple[str, str]:
    """Tell the one file of a sample and what it is: image, audio, video, or heard, a video whose
    sound is named beside it.
    """
    found = []
    for name in names:
        values = row.get(name) or []
        for value in values if isinstance(values, list) else [values]:
            if not isinstance(value, str):
                raise DataError(f"{name} must be a path, not {value!r:.40}")
            found.append((name.removesuffix("s"), value))
    if not found:
        raise LeftOut("without a clip")
    files = dict(found)
    if len(found) == 1:
        return found[0]
    pair = len(found) == 2 and set(files) == {"video", "audio"}
    if not pair or Path(files["video"]).stem != Path(files["audio"]).stem:
        raise LeftOut("with more than one file")
    return "heard", files["video"]
