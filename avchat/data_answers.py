"""Answers -> how they are spread: in which scripts, how often the same, how often yes and no.

A set whose answers are mostly one answer teaches that answer. Scripts are counted, not languages:
to tell languages of one script apart needs a model, and short answers fool it.
"""

import unicodedata
from collections import Counter
from collections.abc import Sequence
from typing import Any

COMMON = 5  # answers that are listed
# Our choice of when to say something; of fewer answers no share means much.
ENOUGH, MOST, MOST_YES = 20, 0.5, 0.8
# The first word of a character's name in Unicode, where it does not say the script.
SCRIPTS = {"FULLWIDTH": "LATIN", "HALFWIDTH": "KATAKANA", "IDEOGRAPHIC": "CJK"}


def script_of(text: str) -> str:
    """Name the script that most letters of a text are in, as Unicode does; "none" without any."""
    letters = Counter(
        unicodedata.name(letter, "OTHER").split()[0] for letter in text if letter.isalpha()
    )
    if not letters:
        return "none"
    name = letters.most_common(1)[0][0]
    return SCRIPTS.get(name, name).lower()


def is_blank(text: str) -> bool:
    """Tell whether nothing of a text can be seen: signs of width zero, controls, blanks."""
    return all(unicodedata.category(letter)[0] in "ZC" for letter in text)


def plain(answer: str) -> str:
    """Write an answer without what makes the same answer look different: case, signs at its ends.

    One of signs alone stays as it is.
    """
    words = " ".join(answer.lower().split())
    return words.strip(".,!?;:\"'()") or words


def spread_of(answers: Sequence[str]) -> dict[str, Any]:
    """Say how answers are spread: shares are of all answers, 0..1."""
    if not answers:
        return {}
    said = [plain(answer) for answer in answers]
    scripts, common = Counter(map(script_of, answers)), Counter(said)
    first = Counter(text.split(" ", 1)[0].rstrip(",.;:!") for text in said)
    total = len(answers)
    return {
        "scripts": {name: round(count / total, 4) for name, count in scripts.most_common()},
        "different": len(common),
        "common": [
            {"answer": text, "count": count, "share": round(count / total, 4)}
            for text, count in common.most_common(COMMON)
        ],
        "yes": round(first["yes"] / total, 4),
        "no": round(first["no"] / total, 4),
    }


def biases(answers: Sequence[str]) -> list[str]:
    """Say in words where answers are so alike that a model need not look or listen."""
    if len(answers) < ENOUGH:
        return []
    spread, found = spread_of(answers), []
    most = spread["common"][0]
    if most["share"] > MOST:
        found.append(f"{most['share']:.0%} of the answers are the same: {most['answer']:.60}")
    yes, no = spread["yes"], spread["no"]
    if (yes + no) * len(answers) >= ENOUGH and max(yes, no) / (yes + no) > MOST_YES:
        name = "yes" if yes > no else "no"
        found.append(f"{max(yes, no) / (yes + no):.0%} of the answers yes or no are {name}")
    return found
