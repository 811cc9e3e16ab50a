"""Which choice an answer names: the faults of public scorers, one by one."""

from pathlib import Path

import pytest

from avchat.evaluation.items import Item
from avchat.evaluation.matching_answers import choice_of, matched

INSTRUMENTS = ("acoustic_guitar", "more than ten", "no", "one", "piano", "saxophone", "ten")
INSTRUMENTS += ("two", "xylophone", "yes", "zero")
ANIMALS = ("a cat", "a dog", "a dog barking", "the horse")
YES_NO = ("yes", "no")


@pytest.mark.parametrize(
    ("said", "choices", "choice"),
    [
        ("piano", INSTRUMENTS, "piano"),  # no "no" in it
        ("The xylophone.", INSTRUMENTS, "xylophone"),  # nor a "one"
        ("It is a saxophone", INSTRUMENTS, "saxophone"),
        ("trombone", INSTRUMENTS, None),
        ("know", YES_NO, None),
        ("yesterday", YES_NO, None),
        ("Acoustic guitar", INSTRUMENTS, "acoustic_guitar"),
        ("I hear more than ten", INSTRUMENTS, "more than ten"),
        ("2", INSTRUMENTS, "two"),
        ("There are 2.", INSTRUMENTS, "two"),
        ("0", INSTRUMENTS, "zero"),
        ("2.5", INSTRUMENTS, None),
        ("Yes, there is.", YES_NO, "yes"),
        ("Yes, there is no dog.", YES_NO, "yes"),
        ("No, I did not see any tree in the video.", YES_NO, "no"),
        ("There is no tree", YES_NO, "no"),
        ("I see it. Yes!", YES_NO, "yes"),
        ("Yes. No.", YES_NO, None),
        ("yes or no", YES_NO, None),
        ("The tree is not seen", YES_NO, None),
        ("B", YES_NO, None),
        ("B", ANIMALS, "a dog"),
        ("b)", ANIMALS, "a dog"),
        ("(B) a dog.", ANIMALS, "a dog"),
        ("B. the dog", ANIMALS, "a dog"),
        ("(B) a cat", ANIMALS, None),  # the letter says one, the words another
        ("The answer is (D).", ANIMALS, "the horse"),
        ("The answer is D because it neighs", ANIMALS, "the horse"),
        ("The answer is a dog", ANIMALS, "a dog"),  # no letter A
        ("A dog", ANIMALS, "a dog"),
        ("a", ANIMALS, "a cat"),
        ("E", ANIMALS, None),
        ("**B**", ANIMALS, "a dog"),
        ("<answer>B</answer>", ANIMALS, "a dog"),
        ("B\nThe dog barks, not the cat.", ANIMALS, "a dog"),
        ("B\nThe cat.", ANIMALS, None),
        ("B. It is plan X.", ANIMALS, "a dog"),
        ("B\nIt barks.", ANIMALS, "a dog"),
        ("Answer: D", ANIMALS, "the horse"),
        ("option (b)", ANIMALS, "a dog"),
        ("A or B", ANIMALS, None),
        ("A, B", ANIMALS, None),
        ("(A) or (B)", ANIMALS, None),
        ("The answer is A. No, the answer is B.", ANIMALS, None),
        ("(A) 2", ("two", "one"), "two"),
        ("1.", ("two", "one"), "one"),  # a number, no letter
        ("I think the dog, then", ANIMALS, "a dog"),
        ("It hears a dog barking at night", ANIMALS, "a dog barking"),
        ("a dog and a horse", ANIMALS, None),
        ("It is not a dog", ANIMALS, None),
        ("No dog is seen", ANIMALS, None),
        ("cathedral", ANIMALS, None),
        ("", ANIMALS, None),
        (" .!", YES_NO, None),
        ("\u00e9t\u00e9", ("hiver", "\u00c9t\u00e9"), "\u00c9t\u00e9"),
        ("+", ("-", "+"), "+"),
    ],
)
def test_what_an_answer_names(said: str, choices: tuple[str, ...], choice: str | None) -> None:
    assert choice_of(said, choices) == choice


def item(answer: str, *choices: str, also: tuple[str, ...] = ()) -> Item:
    return Item("1", Path("a.mp4"), "q", answer, choices=choices, also=also)


def test_an_answer_is_right_wrong_or_unparsed() -> None:
    assert matched("piano", item("no", *INSTRUMENTS)) is False
    assert matched("xylophone", item("one", *INSTRUMENTS)) is False
    assert matched("saxophone", item("one", *INSTRUMENTS)) is False
    assert matched("One.", item("one", *INSTRUMENTS)) is True
    assert matched("trombone", item("one", *INSTRUMENTS)) is None
    assert matched("There is.", item("no", *YES_NO)) is None
    assert matched("A", item("a cat", *ANIMALS)) is True  # no unparsed text falls back to A
    assert matched("It cannot be told", item("a cat", *ANIMALS)) is None
    assert matched("Yes, there are fish", item("yes", *YES_NO)) is True


def test_open_answers_are_compared_whole() -> None:
    assert matched("It is a Dog.", item("dog")) is True
    assert matched("2", item("two")) is True and matched("two", item("2")) is True
    assert matched("piano", item("no")) is False
    assert matched("the dog", item("hound", also=("dog",))) is True
    assert matched(" ", item("dog")) is None
