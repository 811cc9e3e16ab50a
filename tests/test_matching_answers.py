"""Which choice an answer names: the faults of public scorers, one by one."""

from pathlib import Path

import pytest

from avchat.evaluation.items import Item
from avchat.evaluation.matching_answers import choice_of, matched
from avchat.evaluation.verdicts import outcome

INSTRUMENTS = ("acoustic_guitar", "more than ten", "no", "one", "piano", "saxophone", "ten")
INSTRUMENTS += ("two", "xylophone", "yes", "zero")
ANIMALS = ("a cat", "a dog", "a dog barking", "the horse")
YES_NO = ("yes", "no")
KEYS = ("F minor", "F# minor")
NOTES = ("F", "F#", "G", "G#")
SECONDS = ("0.5 s", "-0.5 s")
TWINS = ("C", "C++", "polish", "Polish")  # of which words tell no two apart
COUNTS = ("5", "1,5", "1,500", "15")


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
        ("I hear nothing: there is no sound.", YES_NO, None),  # of a beep that says nothing
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
        ("F minor", KEYS, "F minor"),
        ("It is in f# minor.", KEYS, "F# minor"),
        ("F\u266f minor", KEYS, "F# minor"),
        ("(B) F minor", KEYS, None),
        ("F", NOTES, "F"),
        ("The answer is F#", NOTES, "F#"),
        ("B", NOTES, "F#"),  # its letter
        ("0.5 s", SECONDS, "0.5 s"),
        ("late by -0.5 s", SECONDS, "-0.5 s"),
        ("\u22120.5 s", SECONDS, "-0.5 s"),
        ("B. 0.5 s", SECONDS, None),
        ("0-0.5 s", SECONDS, "0.5 s"),  # from 0 to 0.5: no minus
        ("a ten-5 split", ("-5", "5"), "5"),
        ("C", TWINS[:2], "C"),
        ("**C++**", TWINS, "C++"),
        ("Polish.", TWINS, "Polish"),
        ("polish", TWINS, "polish"),
        ("It is polish", TWINS, None),
        ("POLISH", TWINS, None),
        ("(D) Polish", TWINS, "Polish"),
        ("(D) polish", TWINS, None),
        ("(D) POLISH", TWINS, "Polish"),
        ("There is a cat on the mat", ("a cat on a mat", "a cat on the mat"), "a cat on the mat"),
        ("I see a cat on the mat", ("a cat on a mat", "a cat on the mat"), None),
        ("1,5", COUNTS, "1,5"),
        ("15", COUNTS, "15"),
        ("1500", COUNTS, "1,500"),
    ],
)
def test_what_an_answer_names(said: str, choices: tuple[str, ...], choice: str | None) -> None:
    assert choice_of(said, choices) == choice


@pytest.mark.parametrize("choices", [KEYS, NOTES, SECONDS, TWINS, COUNTS])
def test_choices_that_differ_by_a_sign_are_not_one(choices: tuple[str, ...]) -> None:
    for gold in choices:
        one = item(gold, *choices)
        for said in choices:
            assert matched(said, one) is (said == gold), (said, gold)
            assert outcome(said, one.known()) == ("right" if said == gold else "wrong")
    assert matched("both, or neither", one) is None
    assert outcome("both, or neither", one.known()) == "unparsed"


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
    assert matched("-5", item("5")) is False and matched("It is -5.", item("-5")) is True
    assert matched("F", item("F#")) is False and matched("f#", item("F#")) is True
    assert matched("1,2,3", item("12,3")) is False and matched("1,5", item("15")) is False
    assert matched("1,234,567.5", item("1234567.5")) is True
