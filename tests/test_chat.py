"""Conversations: the cache gives what a fresh computation gives, whatever happened before."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from threading import Event

import pytest
import torch
from small import POOLED_CONFIG, TIMELINE_CONFIG, build_model, make_media

from avchat.batch import answer_batch
from avchat.chat import Conversation
from avchat.decoding import picker
from avchat.media import MediaError
from avchat.model import AVChat
from avchat.prompt import PromptError, Turn

QUESTIONS = ["which object?", "which sound makes the circle?", "red or blue?", "a star?"]


@pytest.fixture(scope="module", params=[TIMELINE_CONFIG, POOLED_CONFIG], ids=lambda c: c.name)
def model(request: pytest.FixtureRequest) -> AVChat:
    return build_model(request.param, seed=3)


@pytest.fixture
def talk(model: AVChat) -> Conversation:
    return Conversation(model, make_media())


def ask(talk: Conversation, question: str, sense: str = "both", **options: object) -> str:
    return "".join(talk.ask(question, sense, max_new_tokens=8, **options))


@torch.no_grad()
def slow_answer(talk: Conversation, ids: list[int], sense: str = "both") -> list[int]:
    """Decode greedily without a cache: the whole sequence anew for every token."""
    model, said = talk.model, []
    tokens = model.project([part.only(sense) for part in talk.features])
    while len(said) < 8:
        embeds = model.embed(torch.tensor([ids + said]), tokens)
        logits = model.language(inputs_embeds=embeds).logits[0, -1]
        token = int(logits[: len(model.tokenizer)].argmax())
        if model.prompt.stops(token):
            break
        said.append(token)
    return said


def test_cached_is_uncached_over_turns_and_senses(talk: Conversation) -> None:
    model, history = talk.model, []
    senses = ["both", "sound", "both", "picture", "none", "sound", "both"]
    for k, sense in enumerate(senses):
        question = QUESTIONS[k % 4]
        prefix = model.prompt.media_prefix(model.plan(talk.features[0].only(sense))).ids
        history += model.prompt.turn(Turn(question), first=k == 0).ids
        expected = slow_answer(talk, [*prefix, *history], sense)
        answer = ask(talk, question, sense)
        text = model.tokenizer.decode(expected, skip_special_tokens=True).lstrip()
        assert answer == text
        history += [*expected, model.tokenizer.eos_token_id]
    assert {turn.ids[-1] for turn in talk._turns} == {model.tokenizer.eos_token_id}


@pytest.mark.parametrize("sense", ["both", "sound", "picture"])
def test_parts_of_a_file_stand_one_after_another(model: AVChat, sense: str) -> None:
    """Two parts with their own times; the slow way lays out and embeds each by itself."""
    later = replace(make_media(), start_s=40.0, frame_times_s=make_media().frame_times_s + 40.0)
    talk = Conversation(model, [make_media(), replace(later, waveform=later.waveform[:16_000])])
    slots = [s for part in talk.features for s in model.plan(part.only(sense))]
    prefix = model.prompt.media_prefix(slots).ids
    question = model.prompt.turn(Turn(QUESTIONS[0])).ids
    expected = slow_answer(talk, [*prefix, *question], sense)
    assert ask(talk, QUESTIONS[0], sense) == (
        model.tokenizer.decode(expected, skip_special_tokens=True).lstrip()
    )
    receipt, alone = talk.receipt, Conversation(model, make_media())
    ask(alone, QUESTIONS[0], sense)
    if sense != "sound":
        assert receipt.seen.frames == 2 * alone.receipt.seen.frames
    if sense != "picture":
        assert receipt.heard.seconds == pytest.approx(alone.receipt.heard.seconds + 1.0, abs=0.05)


def test_a_follow_up_computes_only_its_own_tokens(talk: Conversation) -> None:
    ask(talk, QUESTIONS[0])
    fed: list[int] = []
    hook = talk.model.language.register_forward_pre_hook(
        lambda module, args, kwargs: fed.append(kwargs["inputs_embeds"].shape[1]),
        with_kwargs=True,
    )
    ask(talk, QUESTIONS[1])
    hook.remove()
    question = talk.model.prompt.turn(Turn(QUESTIONS[1]), first=False).ids
    # the end of the first answer (its last token when it was cut, and <eos>), then the question
    assert len(question) + 1 <= fed[0] <= len(question) + 2
    assert set(fed[1:]) <= {1}


def test_a_follow_up_at_size_computes_neither_media_nor_turns() -> None:
    """As many media tokens as Owlet has, through small parts: counted at each part's door."""
    config = replace(
        POOLED_CONFIG,
        frames=100,
        language=replace(
            POOLED_CONFIG.language,
            inline=POOLED_CONFIG.language.inline | {"max_position_embeddings": 1024},
        ),
        projector=replace(POOLED_CONFIG.projector, audio_tokens=64),
    )
    model = build_model(config)
    talk = Conversation(model, make_media(frames=100, duration_s=30.0))
    fed, calls = [], []
    hooks = [
        model.language.register_forward_pre_hook(
            lambda module, args, kwargs: fed.append(kwargs["inputs_embeds"].shape[1]),
            with_kwargs=True,
        )
    ]
    doors = [model.vision, model.audio, model.visual_projector, model.audio_projector]
    hooks += [door.register_forward_pre_hook(lambda door, _: calls.append(door)) for door in doors]
    ask(talk, QUESTIONS[0])
    prompt = fed[0]
    assert prompt > 100 + 16 + 64 and calls == doors[2:], "encoded when it was opened"
    for question in QUESTIONS[1:]:
        fed.clear()
        calls.clear()
        ask(talk, question)
        words = len(model.prompt.turn(Turn(question), first=False).ids)
        assert not calls
        assert sum(fed) <= words + 2 + 8, "its own words, the end before them, its answer"
    for hook in hooks:
        hook.remove()


def test_the_ids_in_the_cache_are_those_of_training(talk: Conversation) -> None:
    model = talk.model
    answers = ["the red circle", "blue", "a green star"]
    for question, answer in zip(QUESTIONS, answers, strict=False):
        said = [*model.prompt.answer_ids(answer)]
        steps = iter(said)
        force = model.language.register_forward_hook(
            lambda module, args, out, steps=steps: _only(out, next(steps))
        )
        assert ask(talk, question) == answer
        force.remove()
    turns = [Turn(q, a) for q, a in zip(QUESTIONS, answers, strict=False)]
    row = model.prompt.build(model.plan(talk.features[0]), turns)
    assert [*row.ids[:-1]] == talk._threads["both"].ids  # the last <eos> waits for the next turn


def _only(out: object, token: int) -> object:
    """Make a model say one token."""
    out.logits = torch.full_like(out.logits, -1e9)
    out.logits[..., token] = 0.0
    return out


def fresh_answers(model: AVChat, questions: list[str]) -> list[str]:
    talk = Conversation(model, make_media())
    return [ask(talk, question) for question in questions]


def test_stop_ends_the_answer_and_the_conversation_goes_on(talk: Conversation) -> None:
    stop, pieces = Event(), []
    for piece in talk.ask(QUESTIONS[0], max_new_tokens=40, stop=stop):
        pieces.append(piece)
        if len(pieces) == 3:
            stop.set()
    assert len(pieces) == 3 and talk.receipt.answer == "".join(pieces).strip()
    said = len(talk._turns[0].ids) - len(talk.model.prompt.turn(Turn(QUESTIONS[0])).ids) - 1
    assert said == talk.receipt.tokens.answer <= 6
    prefix = talk.model.prompt.media_prefix(talk.model.plan(talk.features[0])).ids
    question = talk.model.prompt.turn(Turn(QUESTIONS[1]), first=False).ids
    expected = slow_answer(talk, [*prefix, *talk._turns[0].ids, *question], "both")
    answer = ask(talk, QUESTIONS[1])
    assert answer == talk.model.tokenizer.decode(expected, skip_special_tokens=True).lstrip()


def test_a_reader_who_leaves_is_a_stop(talk: Conversation) -> None:
    pieces = talk.ask(QUESTIONS[0], max_new_tokens=40)
    first = next(pieces)
    answer = ask(talk, QUESTIONS[1])  # closes the first one
    with pytest.raises(StopIteration):
        next(pieces)
    assert len(talk._turns) == 2 and first and answer is not None


def test_a_turn_stopped_before_its_first_word_never_was(talk: Conversation) -> None:
    stop = Event()
    stop.set()
    assert ask(talk, QUESTIONS[3], stop=stop) == ""
    assert talk.receipt.answer == "" and not talk._turns
    assert [ask(talk, q) for q in QUESTIONS] == fresh_answers(talk.model, QUESTIONS)


@pytest.mark.parametrize("step", [0, 3])
def test_a_failed_turn_leaves_no_trace(talk: Conversation, step: int) -> None:
    first = ask(talk, QUESTIONS[0])
    last_layer = talk.model.language.model.layers[-1]
    calls: list[int] = []

    def fail(module: object, args: object) -> None:
        calls.append(1)
        if len(calls) > step:
            raise RuntimeError("out of memory")

    hook = last_layer.register_forward_pre_hook(fail)  # the first layers have cached already
    receipt = talk.receipt
    with pytest.raises(RuntimeError, match="out of memory"):
        ask(talk, QUESTIONS[3])
    hook.remove()
    assert talk.receipt is receipt
    assert [first, ask(talk, QUESTIONS[1])] == fresh_answers(talk.model, QUESTIONS[:2])


def test_a_seed_gives_the_same_answer_again(model: AVChat) -> None:
    def sample(seed: int | None) -> str:
        talk = Conversation(model, make_media())
        return ask(talk, QUESTIONS[0], temperature=2.0, seed=seed)

    assert sample(7) == sample(7)
    assert len({sample(seed) for seed in range(6)}) > 1
    assert sample(None) != sample(None) or sample(None) != sample(None)


def test_sampling_respects_temperature_and_top_p() -> None:
    logits = torch.tensor([0.1, 0.6, 0.05, 0.25]).log()
    assert {picker(0, 1, None)(logits)} == {1}
    for top_p, expected in ((1.0, {0, 1, 2, 3}), (0.9, {0, 1, 3}), (0.7, {1, 3}), (0.1, {1})):
        pick = picker(1.0, top_p, seed=0)
        assert {pick(logits) for _ in range(300)} == expected
    pick = picker(1.0, 1.0, seed=0)
    share = sum(pick(logits) == 1 for _ in range(2000)) / 2000
    assert share == pytest.approx(0.6, abs=0.04)
    cold = picker(0.2, 1.0, seed=0)
    assert sum(cold(logits) == 1 for _ in range(500)) / 500 > 0.95


def test_characters_of_several_bytes_come_whole(talk: Conversation) -> None:
    model = talk.model
    steps = iter(model.prompt.answer_ids("caf\u00e9 \u2603"))
    force = model.language.register_forward_hook(lambda m, args, out: _only(out, next(steps)))
    pieces = list(talk.ask("which?"))
    force.remove()
    assert "".join(pieces) == "caf\u00e9 \u2603" and "\ufffd" not in "".join(pieces)


def test_the_receipt_is_the_contract(talk: Conversation) -> None:
    answer = ask(talk, QUESTIONS[0])
    receipt = talk.receipt.to_dict()
    assert list(receipt) == ["answer", "model", "seen", "heard", "tokens", "timing", "warnings"]
    assert receipt["answer"] == answer.strip()
    assert receipt["model"] == talk.model.config.name
    assert receipt["seen"] == {"frames": 4, "seconds": 2.0}
    assert receipt["heard"] == {"seconds": 2.0, "track": True}
    slots = talk.model.plan(talk.features[0])
    assert receipt["tokens"]["visual"] == sum(slot.visual for slot in slots)
    assert receipt["tokens"]["audio"] == sum(slot.audio for slot in slots)
    question = talk.model.prompt.turn(Turn(QUESTIONS[0])).ids
    assert receipt["tokens"]["text"] >= len(question)
    times = receipt["timing"]
    assert list(times) == ["media_s", "encode_s", "first_token_s", "total_s"]
    assert times["encode_s"] > 0 and times["total_s"] > times["first_token_s"] > 0
    ask(talk, QUESTIONS[1])
    assert talk.receipt.timing.encode_s == 0.0  # spent once


@pytest.mark.parametrize(
    ("media", "sense", "seen", "heard", "words"),
    [
        ({}, "sound", 0, 2.0, ["the picture was switched off"]),
        ({}, "picture", 4, 0.0, ["the sound was switched off"]),
        ({"sound": False}, "both", 4, 0.0, ["no sound track: nothing was heard"]),
        ({"picture": False}, "both", 0, 2.0, ["no picture: nothing was seen"]),
        ({"sound": False}, "sound", 0, 0.0, ["no sound track", "a guess from the question alone"]),
        ({"picture": False}, "picture", 0, 0.0, ["no picture", "a guess from the question"]),
    ],
)
def test_what_was_not_used_is_said(
    model: AVChat, media: dict, sense: str, seen: int, heard: float, words: list[str]
) -> None:
    talk = Conversation(model, make_media(**media))
    ask(talk, "what do you hear?", sense)
    receipt = talk.receipt
    assert (receipt.seen.frames, receipt.heard.seconds) == (seen, heard)
    assert receipt.heard.track == media.get("sound", True)
    for word in words:
        assert any(word in warning for warning in receipt.warnings), receipt.warnings


def test_a_silent_track_and_a_cut_answer_are_said(model: AVChat) -> None:
    media = make_media()
    media.waveform[:] = 0.0
    talk = Conversation(model, media)
    list(talk.ask("what do you hear?", max_new_tokens=1))
    said = " | ".join(talk.receipt.warnings)
    assert "the sound track of this part is silent" in said
    assert talk.receipt.tokens.answer == 0 or "the answer was cut after 1 tokens" in said


@pytest.mark.parametrize(
    ("question", "options", "message"),
    [
        (" ", {}, "the question is empty"),
        ("why?", {"sense": "smell"}, "no sense called smell: it is one of both, sound, picture"),
        ("why?", {"temperature": -1.0}, "temperature must not be negative"),
        ("why?", {"top_p": 0.0}, "top_p must be above 0 and at most 1, not 0.0"),
        ("why?", {"max_new_tokens": 0}, "max_new_tokens must be at least 1"),
        ("red " * 600, {}, r"the question is too long: \d+ media tokens .* context of 512 tokens"),
    ],
)
def test_what_cannot_be_asked_is_refused_at_once(
    talk: Conversation, question: str, options: dict, message: str
) -> None:
    with pytest.raises(PromptError, match=message):
        talk.ask(question, **options)
    assert ask(talk, QUESTIONS[0]) == fresh_answers(talk.model, QUESTIONS[:1])[0]


def test_a_clip_that_does_not_fit_is_refused_before_it_is_encoded() -> None:
    model = build_model()
    model.vision.forward = None  # calling it would be a TypeError
    with pytest.raises(PromptError, match=r"the clip needs too many tokens: 500 media tokens"):
        Conversation(model, make_media(frames=100))


def test_an_answer_ends_where_the_context_does(talk: Conversation) -> None:
    talk.model.context, kept = len(talk.model.prompt.media_prefix(()).ids) + 60, talk.model.context
    try:
        list(talk.ask(QUESTIONS[0], sense="none", max_new_tokens=500))
    finally:
        talk.model.context = kept
    tokens = talk.receipt.tokens
    assert tokens.text + tokens.answer <= kept


@pytest.mark.parametrize("sense", ["both", "sound", "picture", "none"])
def test_a_batch_is_the_same_as_one_by_one(model: AVChat, sense: str) -> None:
    media = [make_media(0), make_media(1, sound=False), make_media(2, frames=3, duration_s=1.1)]
    clips = model.encode([*media, make_media(3, picture=False)])
    clips = [*clips, clips[0]]
    questions = [*QUESTIONS, "red?"]
    together = answer_batch(model, clips, questions, sense=sense, max_new_tokens=8, rows=3)
    for clip, question, answer in zip(clips, questions, together, strict=True):
        assert [answer] == answer_batch(model, [clip], [question], sense=sense, max_new_tokens=8)
    talk = Conversation(model, media[0])
    assert ask(talk, questions[0], sense).strip() == together[0]


def test_choices_are_kept_to(model: AVChat) -> None:
    clips = model.encode([make_media(k) for k in range(4)])
    choices = [
        ["red", "red circle", "blue"],
        ["the red star", "the blue star"],
        ["only this"],
        ["a", "a star", "a star or a square"],
    ]
    answers = answer_batch(model, clips, QUESTIONS, choices=choices)
    assert all(answer in row for answer, row in zip(answers, choices, strict=True))
    for clip, question, row, answer in zip(clips, QUESTIONS, choices, answers, strict=True):
        assert answer == slow_choice(model, clip, question, row)


@torch.no_grad()
def slow_choice(model: AVChat, clip: object, question: str, choices: list[str]) -> str:
    """Walk down the choices token by token, with a fresh computation for each."""
    ids = [*model.prompt.media_prefix(model.plan(clip)).ids, *model.prompt.turn(Turn(question)).ids]
    left = {choice: [*model.prompt.answer_ids(choice)] for choice in choices}
    tokens = model.project([clip])
    for place in range(100):
        logits = model.language(inputs_embeds=model.embed(torch.tensor([ids]), tokens)).logits[
            0, -1
        ]
        best = max({row[place] for row in left.values()}, key=lambda token: float(logits[token]))
        left = {choice: row for choice, row in left.items() if row[place] == best}
        ids.append(best)
        if best == model.tokenizer.eos_token_id:
            break
    (choice,) = left
    return choice


@pytest.fixture
def opened(clip: Path) -> Iterator[Conversation]:
    yield build_model().open(clip, start=1.0, end=3.0)


def test_a_real_file_is_opened(opened: Conversation, clip: Path) -> None:
    assert opened.features[0].start_s == 1.0
    assert opened.features[0].duration_s == pytest.approx(2.0, abs=0.1)
    assert ask(opened, QUESTIONS[0]) is not None
    assert opened.receipt.seen.frames == 4 and opened.receipt.heard.track
    assert opened.receipt.timing.media_s > 0
    with pytest.raises(MediaError, match="missing.mp4"):
        opened.model.open(clip.with_name("missing.mp4"))
