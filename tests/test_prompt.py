"""The template: golden texts, labels of answers alone, and packed rows."""

import pytest
from small import POOLED_CONFIG, TOKENIZER

from avchat.config import OWLET, TINY
from avchat.projectors import Slot
from avchat.prompt import (
    IGNORE,
    PICTURE_ID,
    SOUND_ID,
    Prompt,
    PromptError,
    Segment,
    Turn,
    check_budget,
    pack_independent,
)

TIMELINE = Prompt(TINY.prompt, TOKENIZER)
BUNNY = Prompt(OWLET.prompt, TOKENIZER)
SLOTS = (Slot(0.0, 0.5, 0.25, 2, 1), Slot(0.5, 1.0, 0.75, 2, 1))
TURNS = [Turn("Which object?", "the red circle"), Turn("  which sound? ", "blue ")]


def written(ids: tuple[int, ...]) -> str:
    """Write ids as text, P for a visual and S for an audio placeholder."""
    text, run = "", []
    for token in [*ids, PICTURE_ID]:
        if token >= 0:
            run.append(token)
            continue
        text += TOKENIZER.decode(run) + ("P" if token == PICTURE_ID else "S")
        run = []
    return text[:-1]


def test_the_timeline_writes_times_then_what_is_seen_then_what_is_heard() -> None:
    row = TIMELINE.build(SLOTS, TURNS)
    assert written(row.ids) == (
        " 0.25sPPS 0.75sPPS which object?\n the red circle<eos> which sound?\n blue<eos>"
    )


def test_bunnys_words_are_kept() -> None:
    slots = (Slot(0.0, 1.0, None, 3, 0), Slot(0.0, 1.0, None, 0, 2))
    row = BUNNY.build(slots, TURNS)
    system = OWLET.prompt.opening.removesuffix(" USER: ").lower()
    assert written(row.ids) == (
        f"{system} user: PPPSS\nwhich object? assistant: the red circle<eos>"
        "user: which sound? assistant: blue<eos>"
    )
    assert POOLED_CONFIG.prompt == OWLET.prompt


def test_only_answers_and_their_ends_are_trained() -> None:
    row = TIMELINE.build(SLOTS, TURNS)
    trained = [label for label in row.labels if label != IGNORE]
    assert TOKENIZER.decode(trained) == " the red circle<eos> blue<eos>"
    pairs = zip(row.ids, row.labels, strict=True)
    assert all(label in (IGNORE, token) for token, label in pairs)


def test_what_is_missing_is_said_in_words() -> None:
    seen = (Slot(0.0, 0.5, 0.25, 2, 0),)
    heard = (Slot(0.0, 0.5, 0.25, 0, 1),)
    assert written(TIMELINE.media_prefix(seen).ids) == " 0.25sPP no sound"
    assert written(TIMELINE.media_prefix(heard).ids) == " 0.25sS no picture"
    assert written(TIMELINE.media_prefix(()).ids) == " no picture no sound"


def test_a_chat_that_grows_has_the_ids_of_training() -> None:
    grown = TIMELINE.media_prefix(SLOTS).ids
    for k, turn in enumerate(TURNS):
        grown += TIMELINE.turn(Turn(turn.question), first=k == 0).ids
        grown += TIMELINE.answer_ids(turn.answer)
    assert grown == TIMELINE.build(SLOTS, TURNS).ids


def test_an_open_question_is_not_trained() -> None:
    segment = TIMELINE.turn(Turn("which object?"))
    assert written(segment.ids) == " which object?\n"
    assert set(segment.labels) == {IGNORE}


def test_nobody_can_type_a_placeholder_or_an_end() -> None:
    ids = TIMELINE.turn(Turn("<eos> <pad> <|picture|> -1")).ids
    assert min(ids) >= 0 and TOKENIZER.eos_token_id not in ids


@pytest.mark.parametrize("question", ["", "  \n"])
def test_an_empty_question_is_refused(question: str) -> None:
    with pytest.raises(PromptError, match="the question is empty"):
        TIMELINE.turn(Turn(question))


def test_independent_turns_are_blocks_after_the_prefix() -> None:
    prefix = Segment((1,), (IGNORE,))
    a, b = Segment((2, 3), (IGNORE, 3), weight=2.0), Segment((4,), (4,))
    row = pack_independent(prefix, [a, b])
    assert row.ids == (1, 2, 3, 4)
    assert row.labels == (IGNORE, IGNORE, 3, 4)
    assert row.blocks == (0, 1, 1, 2)
    assert row.positions == (0, 1, 2, 1)
    assert row.weights == (1.0, 2.0, 2.0, 1.0)


def test_the_budget_names_its_numbers() -> None:
    ids = [PICTURE_ID] * 30 + [SOUND_ID] * 8 + [5] * 12
    check_budget(ids, 51)
    with pytest.raises(
        PromptError,
        match=r"the question is too long: 38 media tokens \+ 12 text tokens \+ 1 for the answer is "
        "more than the model's context of 50 tokens",
    ):
        check_budget(ids, 50)
    with pytest.raises(PromptError, match="the clip needs too many tokens: 38 media"):
        check_budget(ids, 50, question=False)
