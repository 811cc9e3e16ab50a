"""A conversation that is forked, taken back, put to rest or told something says what it would."""

from pathlib import Path

import pytest

from avchat.chat import Conversation
from avchat.excerpts import LongConversation
from avchat.heads import load_head
from avchat.model import AVChat
from avchat.prompt import PromptError

FIRST, SECOND, THIRD = "what is seen?", "what is heard?", "describe what you see and hear."


@pytest.fixture(scope="module")
def model(bundled: str) -> AVChat:
    """The bundled model."""
    return AVChat.from_pretrained(bundled)


def said(talk: Conversation | LongConversation, question: str, **options: object) -> str:
    """Ask and read the whole answer."""
    return "".join(talk.ask(question, **options))


def test_a_fork_says_the_same_and_leaves_the_other_alone(model: AVChat, clip: Path) -> None:
    talk = model.open(clip)
    said(talk, FIRST)
    twin = talk.fork()
    assert twin.turns == talk.turns == 1
    assert said(twin, SECOND) == said(talk.fork(), SECOND)
    assert (twin.turns, talk.turns) == (2, 1)
    assert twin.features is talk.features


@pytest.mark.parametrize("left", [0, 1])
def test_taken_back_it_goes_on_as_if_it_had_never_been_said(
    model: AVChat, clip: Path, left: int
) -> None:
    talk, anew = model.open(clip), model.open(clip)
    for question in (FIRST, SECOND)[:left]:
        said(anew, question)
    for question in (FIRST, SECOND, THIRD):
        said(talk, question)
        said(talk, question, sense="sound")
    talk.rewind(left)
    # under "both" each turn was asked twice above: what is left is the first asking alone
    assert talk.turns == left == anew.turns
    assert said(talk, THIRD) == said(anew, THIRD)
    assert talk.receipt.tokens == anew.receipt.tokens


def test_at_rest_it_computes_again_and_says_the_same(model: AVChat, clip: Path) -> None:
    talk, other = model.open(clip), model.open(clip)
    said(talk, FIRST), said(other, FIRST)
    talk.rest()
    assert said(talk, SECOND) == said(other, SECOND)


def test_what_it_is_told_stands_before_the_clip(model: AVChat, clip: Path) -> None:
    plain = model.open(clip)
    media = plain.media
    told = Conversation(model, media, features=plain.features, system="Answer in one word.")
    ids = model.prompt.text_ids(" Answer in one word.\n")
    prefix = told.question(FIRST).thread.prefix
    assert tuple(prefix) == (*ids, *plain.question(FIRST).thread.prefix)
    assert told.fork().question(FIRST).thread.prefix == prefix
    with pytest.raises(PromptError, match="the clip needs too many tokens"):
        Conversation(model, media, features=plain.features, system="word " * 5000)


def test_a_long_talk_is_forked_and_taken_back(model: AVChat, clip: Path) -> None:
    talk = LongConversation(model, load_head("tiny"), clip)
    said(talk, FIRST)
    twin = talk.fork()
    assert said(twin, SECOND)
    assert (twin.turns, talk.turns) == (2, 1)
    twin.rewind(0)
    assert (twin.turns, talk.turns) == (0, 1)
    talk.rest()
    fresh = LongConversation(model, load_head("tiny"), clip).after(talk.now)
    assert said(talk, SECOND) == said(fresh, SECOND)
