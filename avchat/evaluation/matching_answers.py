"""What was said -> which of the choices it names, and whether that one is right.

Whole words, never a part of one: "no" is not in "piano", nor "one" in "xylophone". What names no
choice, or several, is unparsed: it is counted as such, neither guessed nor dropped.
"""

import re
from collections.abc import Sequence

from avchat.evaluation.items import Item

NUMBERS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen "
    "fifteen sixteen seventeen eighteen nineteen twenty"
).split()
DIGITS = {word: str(number) for number, word in enumerate(NUMBERS)}
FILLERS = frozenset("the a an it is it's its there are".split())  # before an answer
ARTICLES = frozenset("the a an".split())
DENIALS = frozenset("no not never neither nor without cannot".split())
WORD = re.compile(r"\d+(?:[.,]\d+)*|[^\W_]+(?:'[^\W_]+)*")
CLAUSE = re.compile(r"[,;:!?\n]|\.(?!\d)")
MARKS = re.compile(r"</?\w+>|[*`\"]")  # of **B** and <answer>B</answer>
LETTERED = re.compile(r"\s*(?:\(([A-Za-z])\)|([A-Za-z])[^\S\n]*(?:[).:,]|\n|$))\s*")
# a capital, since "the answer is a dog" names no letter
SPOKEN_LETTER = re.compile(
    r"(?i:answer|option|choice)(?:\s+(?i:is|option)|\s*:)*\s*(?:\(([A-Za-z])\)|([A-Z])(?=[\s).:,]|$))"
)

# one more letter in what follows: "A or B"
OTHER_LETTER = re.compile(r"\b([A-Z])(?=\s*(?:[).:,;]|and\b|or\b|$))")

Words = tuple[str, ...]


def matched(said: str, item: Item) -> bool | None:
    """Tell whether an answer is right; None where it cannot be told which answer it is.

    Without choices whole answers are compared, and None is for an empty one alone.
    """
    right = {plain(answer) for answer in (item.answer, *item.also)}
    if not item.choices:
        return plain(said) in right if said.strip() else None
    chosen = choice_of(said, item.choices)
    return None if chosen is None else plain(chosen) in right


def choice_of(said: str, choices: Sequence[str]) -> str | None:
    """Find the one choice that an answer names; None where it names none or several.

    An answer is the choice itself, its letter ("B", "(B) a dog.", "the answer is B"), yes or no
    followed by more, or a text in which the words of one choice stand.
    """
    known = {plain(choice): choice for choice in reversed(choices)}  # of equals the first
    said = MARKS.sub("", said)
    if (whole := known.get(plain(said))) is not None:
        return whole
    if lettered := _lettered(said, choices, known):
        return lettered[0]
    clauses = {plain(part) for part in CLAUSE.split(said)} & {("yes",), ("no",)} & set(known)
    if clauses:
        return known[clauses.pop()] if len(clauses) == 1 else None
    return _one(_named(said, known), known)


def plain(text: str) -> Words:
    """Reduce an answer to its words: no case, no points, no leading "it is a", numbers as digits.

    Underscores are spaces, as in MUSIC-AVQA's acoustic_guitar.
    """
    words = _words(text)
    while len(words) > 1 and words[0] in FILLERS:
        words = words[1:]
    return words or (text.strip().lower(),)


def _words(text: str) -> Words:
    found = WORD.findall(text.lower().replace("\u2019", "'"))
    return tuple(DIGITS.get(word, word.replace(",", "")) for word in found)


def _lettered(
    said: str, choices: Sequence[str], known: dict[Words, str]
) -> tuple[str | None] | None:
    """Read a letter; (None,) where what follows names another choice than it does.

    Yes and no have no letters, nor have lists that are longer than the alphabet.
    """
    if set(known) == {("yes",), ("no",)} or len(choices) > 26:
        return None
    sign = LETTERED.match(said) or SPOKEN_LETTER.search(said)
    index = ord((sign[1] or sign[2]).upper()) - ord("A") if sign else len(choices)
    if index >= len(choices):
        return None
    rest = said[sign.end() :]
    named = {plain(rest)} if plain(rest) in known else _named(rest, known)
    others = {ord(letter) - ord("A") for letter in OTHER_LETTER.findall(rest)} - {index}
    agree = named <= {plain(choices[index])} and not others & set(range(len(choices)))
    return (choices[index] if agree else None,)


def _named(said: str, known: dict[Words, str]) -> set[Words]:
    """Find the choices whose words stand in a text, the longest first: "more than ten" is not ten.

    A text that denies names nothing: "it is not a dog" is no dog.
    """
    words = [word for word in _words(said) if word not in ARTICLES]
    forms = {tuple(word for word in form if word not in ARTICLES): form for form in known}
    inside = {word for form in forms for word in form}
    if any((w in DENIALS or w.endswith("n't")) and w not in inside for w in words):
        return set()
    found, at = set(), 0
    longest_first = sorted((form for form in forms if form), key=len, reverse=True)
    while at < len(words):
        here = (form for form in longest_first if tuple(words[at : at + len(form)]) == form)
        form = next(here, None)
        if form:
            found.add(forms[form])
        at += len(form) if form else 1
    return found


def _one(named: set[Words], known: dict[Words, str]) -> str | None:
    return known[named.pop()] if len(named) == 1 else None
