"""What was said -> which of the choices it names, and whether that one is right.

Whole words, never a part of one: "no" is not in "piano", nor "one" in "xylophone". What names no
choice, or several, is unparsed: it is counted as such, neither guessed nor dropped. A minus before
a number and a sharp after a note are part of the word. Choices that differ by less than a word
("Polish" and "polish", "C" and "C++") are twins: only their very text, or a letter, names them.
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
DENIALS = frozenset("no not never neither nor without cannot nothing none nobody".split())
SIGNS = str.maketrans({"\u2019": "'", "\u2212": "-", "\u266f": "#"})  # as keyboards have them
# a minus is none between words or numbers ("ten-year", "5-10"), a sharp only at a word's end
WORD = re.compile(r"(?:(?<![\w)-])-)?\d+(?:[.,]\d+)*|[^\W_]+(?:'[^\W_]+)*(?:#(?!\w))?")
THOUSANDS = re.compile(r"-?\d{1,3}(?:,\d{3})+(?:\.\d+)?")  # "1,5" and "1,2,3" are none
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
    """Tell whether an answer to an item is right, as `is_right` does."""
    return is_right(said, (item.answer, *item.also), item.choices)


def is_right(said: str, answers: Sequence[str], choices: Sequence[str]) -> bool | None:
    """Tell whether an answer is right; None where it cannot be told which answer it is.

    Without choices whole answers are compared, and None is for an empty one alone.

    Args: answers: those that are right.
    """
    right = {plain(answer) for answer in answers}
    if not choices:
        return plain(said) in right if said.strip() else None
    chosen = choice_of(said, choices)
    if not chosen:
        return None
    if _known(choices)[plain(chosen)] is None:
        return chosen.strip() in {answer.strip() for answer in answers}
    return plain(chosen) in right


def choice_of(said: str, choices: Sequence[str]) -> str | None:
    """Find the one choice that an answer names; None where it names none or several.

    An answer is the choice itself, its letter ("B", "(B) a dog.", "the answer is B"), yes or no
    followed by more, or a text in which the words of one choice stand.
    """
    if (verbatim := _verbatim(said, choices)) is not None:
        return verbatim
    known = _known(choices)
    said = MARKS.sub("", said)
    if plain(said) in known:
        return known[plain(said)]
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
    found = WORD.findall(text.lower().translate(SIGNS))
    return tuple(DIGITS.get(word, _number(word)) for word in found)


def _number(word: str) -> str:
    return word.replace(",", "") if THOUSANDS.fullmatch(word) else word


def _verbatim(said: str, choices: Sequence[str]) -> str | None:
    """Find the choice that an answer is to the letter; marks around it and a last point may be."""
    bare = MARKS.sub("", said).strip()
    for form in filter(None, (said.strip(), bare, bare.removesuffix("."))):
        for choice in choices:
            if choice.strip() == form:
                return choice
    return None


def _known(choices: Sequence[str]) -> dict[Words, str | None]:
    """Map the words of choices to them; None where those of several, unlike texts are the same."""
    groups: dict[Words, dict[str, str]] = {}
    for choice in choices:
        groups.setdefault(plain(choice), {}).setdefault(choice.strip(), choice)
    return {form: [*some.values()][0] if len(some) == 1 else None for form, some in groups.items()}


def _lettered(
    said: str, choices: Sequence[str], known: dict[Words, str | None]
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
    others = {ord(letter) - ord("A") for letter in OTHER_LETTER.findall(rest)} - {index}
    agree = _fits(rest, choices[index], choices, known) and not others & set(range(len(choices)))
    return (choices[index] if agree else None,)


def _fits(rest: str, choice: str, choices: Sequence[str], known: dict[Words, str | None]) -> bool:
    """Tell whether what follows a letter names no other choice than the letter does."""
    if (verbatim := _verbatim(rest, choices)) is not None:
        return verbatim.strip() == choice.strip()
    if plain(rest) in known:
        return plain(rest) == plain(choice)
    return _named(rest, known) <= {_without_articles(plain(choice))}


def _named(said: str, known: dict[Words, str | None]) -> set[Words]:
    """Find the choices whose words stand in a text, the longest first: "more than ten" is not ten.

    A text that denies names nothing: "it is not a dog" is no dog. Words are without articles.
    """
    words = _without_articles(_words(said))
    forms = {_without_articles(form) for form in known}
    inside = {word for form in forms for word in form}
    if any((w in DENIALS or w.endswith("n't")) and w not in inside for w in words):
        return set()
    found, at = set(), 0
    longest_first = sorted((form for form in forms if form), key=len, reverse=True)
    while at < len(words):
        here = (form for form in longest_first if words[at : at + len(form)] == form)
        form = next(here, None)
        if form:
            found.add(form)
        at += len(form) if form else 1
    return found


def _without_articles(words: Words) -> Words:
    return tuple(word for word in words if word not in ARTICLES)


def _one(named: set[Words], known: dict[Words, str | None]) -> str | None:
    """Take the one choice that is named; twins cannot be told apart by words."""
    chosen = [choice for form, choice in known.items() if _without_articles(form) in named]
    return chosen[0] if len(chosen) == 1 else None
