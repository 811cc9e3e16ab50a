"""Evidence: differences of likelihood that a plain computation gives too, and the verdict."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small import POOLED_CONFIG, TIMELINE_CONFIG, build_model, make_media

from avchat.chat import Conversation
from avchat.cli import main
from avchat.evidence import NEEDED, Evidence, Lost, conditions, verdict
from avchat.media import Media
from avchat.model import AVChat
from avchat.prompt import PromptError, Turn

QUESTIONS = ["which object?", "which sound makes the circle?", "red or blue?"]


@pytest.fixture(
    scope="module",
    params=[TIMELINE_CONFIG, pytest.param(POOLED_CONFIG, marks=pytest.mark.slow)],
    ids=lambda c: c.name,
)
def model(request: pytest.FixtureRequest) -> AVChat:
    return build_model(request.param, seed=3)


def ask(talk: Conversation, question: str, sense: str = "both") -> str:
    return "".join(talk.ask(question, sense, max_new_tokens=8))


@torch.no_grad()
def slow_chances(talk: Conversation, turn: int, sense: str) -> torch.Tensor:
    """Score an answer under a sense by one plain pass over the whole sequence, without a cache."""
    model, spoken = talk.model, talk._turns
    parts = [part.only(sense) for part in talk.features]
    slots = [slot for part in parts for slot in model.plan(part)]
    ids = [*model.prompt.media_prefix(slots).ids]
    for earlier in spoken[:turn]:
        ids += [*earlier.question, *earlier.answer]
    answer = spoken[turn].answer[:-1]
    ids += [*spoken[turn].question, *answer]
    embeds = model.embed(torch.tensor([ids]), model.project(parts))
    logits = model.language(inputs_embeds=embeds, use_cache=False).logits[0].float()
    chances = logits.log_softmax(-1)[-len(answer) - 1 : -1]
    return chances[torch.arange(len(answer)), torch.tensor(answer)]


@pytest.mark.parametrize("sense", ["both", "sound", "picture"])
@pytest.mark.parametrize("turn", [0, 1, 2])
def test_the_batched_pass_is_the_plain_one(model: AVChat, sense: str, turn: int) -> None:
    talk = Conversation(model, make_media())
    for k, question in enumerate(QUESTIONS):
        assert ask(talk, question, sense if k == turn else "both")
    found = talk.evidence(turn)
    full = slow_chances(talk, turn, sense)
    for name in ("sound", "picture", "both"):
        lost = full - slow_chances(talk, turn, conditions(sense)[name])
        assert getattr(found.lost, name) == pytest.approx(float(lost.sum()), abs=2e-3)
        words = sum(getattr(word.lost, name) for word in found.words)
        assert words == pytest.approx(float(lost.sum()), abs=2e-3)
    assert " ".join(word.word for word in found.words) == " ".join(said(talk, turn).split())
    if sense == "sound":
        assert found.lost.picture == pytest.approx(0, abs=1e-6)
    assert talk.evidence(turn - 3) == found  # counted from the end


def said(talk: Conversation, turn: int) -> str:
    answer = list(talk._turns[turn].answer)
    return talk.model.tokenizer.decode(answer, skip_special_tokens=True)


def test_weighing_changes_no_later_answer_and_keeps_what_it_computed(model: AVChat) -> None:
    plain, weighed = (Conversation(model, make_media()) for _ in range(2))
    senses = ["both", "sound", "picture", "none", "both"]
    for sense in senses:
        assert ask(plain, QUESTIONS[0], sense) == ask(weighed, QUESTIONS[0], sense)
        weighed.evidence()
        weighed.evidence(0)
    fed: list[int] = []
    hook = model.language.register_forward_pre_hook(
        lambda module, args, kwargs: fed.append(kwargs["inputs_embeds"].shape[1]),
        with_kwargs=True,
    )
    weighed.evidence()
    hook.remove()
    turn = weighed._turns[-1]
    # nothing before the question runs again: one pass over question and answer
    assert fed == [len(turn.question) + len(turn.answer) - 2]


def test_a_clip_without_sound_rests_on_nothing_heard(model: AVChat) -> None:
    talk = Conversation(model, make_media(sound=False))
    ask(talk, QUESTIONS[0])
    assert talk.evidence().lost.sound == pytest.approx(0, abs=1e-5)


def test_what_cannot_be_weighed_is_said(model: AVChat) -> None:
    talk = Conversation(model, make_media())
    with pytest.raises(PromptError, match="no answer -1: there are 0"):
        talk.evidence()
    ask(talk, QUESTIONS[0])
    with pytest.raises(PromptError, match="no answer 1: there are 1"):
        talk.evidence(1)
    talk._turns[0] = replace(talk._turns[0], answer=talk._turns[0].answer[-1:])
    with pytest.raises(PromptError, match="empty"):
        talk.evidence()


def test_an_answer_that_is_broken_off_is_weighed_as_far_as_it_came(model: AVChat) -> None:
    talk = Conversation(model, make_media())
    pieces = talk.ask(QUESTIONS[0], max_new_tokens=8)
    next(pieces)
    assert len(talk.evidence().words) == 1


def test_a_failure_leaves_the_conversation_whole(model: AVChat) -> None:
    talk, other = (Conversation(model, make_media()) for _ in range(2))
    ask(talk, QUESTIONS[0])
    ask(other, QUESTIONS[0])

    def fail(module: object, args: object) -> None:
        raise RuntimeError("out of memory")

    hook = model.language.model.layers[1].register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError):
        talk.evidence()
    hook.remove()
    assert ask(talk, QUESTIONS[1], "picture") == ask(other, QUESTIONS[1], "picture")
    one, two = talk.evidence(0).lost, other.evidence(0).lost
    assert (one.sound, one.both) == pytest.approx((two.sound, two.both), abs=1e-4)


@pytest.mark.parametrize(
    ("lost", "expected", "words"),
    [
        (Lost(5, 0.1, 6), "sound", "rests on the sound: without the sound it is 148 times less"),
        (Lost(-0.3, 3, 2.5), "picture", "without the sound it is 1.3 times more likely"),
        (Lost(3, 3, 5), "both", "sound and picture"),
        (Lost(0, 0, 4), "both", "either alone"),
        (Lost(0.2, 0.2, 0.3), "question", "the question alone"),
        (Lost(0.05, -2, -3), "question", "20 times more likely"),
        (Lost(NEEDED, 0, 0), "sound", "2.0 times less likely, without the picture as likely"),
        (Lost(40, 0, 40), "sound", "more than a million times less"),
    ],
)
def test_the_verdict_and_its_words(lost: Lost, expected: str, words: str) -> None:
    assert verdict(lost) == expected
    assert words in Evidence(expected, lost, ()).says()


def test_the_bundled_model_rests_on_what_a_question_needs(clip: Path) -> None:
    talk = AVChat.from_pretrained("tiny").open(clip)
    assert "".join(talk.ask("count the noises."))
    assert talk.evidence().verdict == "sound"
    assert "".join(talk.ask("how many objects are there?"))
    assert talk.evidence().verdict == "picture"


def test_the_command_line_weighs(clip: Path, capsys: pytest.CaptureFixture) -> None:
    words = ["chat", str(clip), "how many objects are there?", "--evidence"]
    assert main(words) == 0
    assert "Evidence: this answer rests on the picture" in capsys.readouterr().err
    assert main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["evidence"]
    assert found["verdict"] == "picture"
    assert {"word", "sound", "picture", "both"} == set(found["words"][0])


def test_media_of_a_long_answer_are_projected_once_a_sense(model: AVChat) -> None:
    media: Media = make_media()
    talk, calls = Conversation(model, media), []
    ask(talk, QUESTIONS[0])
    hook = model.visual_projector.register_forward_hook(lambda *_: calls.append(1))
    talk.evidence()
    talk.evidence()
    hook.remove()
    assert (
        len(calls) == 2
    )  # of sound and picture alone; where nothing is there, nothing is projected


def test_turns_are_counted_as_training_lays_them_out(model: AVChat) -> None:
    talk = Conversation(model, make_media())
    ask(talk, QUESTIONS[0])
    question = model.prompt.turn(Turn(QUESTIONS[0])).ids
    assert talk._turns[0].question == tuple(question)
