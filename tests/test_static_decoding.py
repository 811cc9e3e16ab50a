"""Steps over static buffers say what steps over a growing cache say, on the CPU without a graph."""

import json
import runpy
from pathlib import Path
from threading import Event

import pytest
import torch
from small import POOLED_CONFIG, TIMELINE_CONFIG, build_model, make_media
from transformers import BitsAndBytesConfig, MistralConfig, MistralForCausalLM

from avchat import static_decoding
from avchat.chat import Conversation
from avchat.model import AVChat

QUESTIONS = ["which object?", "which sound makes the circle?", "red or blue?", "a star?"]


@pytest.fixture(scope="module", params=[TIMELINE_CONFIG, POOLED_CONFIG], ids=lambda c: c.name)
def model(request: pytest.FixtureRequest) -> AVChat:
    return build_model(request.param, seed=3)


@pytest.fixture
def static(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the path of a GPU on this machine."""
    monkeypatch.setattr(static_decoding, "DEVICES", {"cpu"})
    monkeypatch.setattr(static_decoding, "SMALLEST", 64)  # so that buffers are outgrown


def talk_through(model: AVChat, **drawn: float) -> tuple[list[str], Conversation]:
    """Ask several questions, stopping the second in its middle, under two senses."""
    talk, said = Conversation(model, make_media()), []
    for k, question in enumerate([*QUESTIONS, *QUESTIONS]):
        stop, pieces = Event(), []
        sense = "sound" if k == 5 else "both"
        for piece in talk.ask(question, sense, max_new_tokens=24, stop=stop, **drawn):
            pieces.append(piece)
            if k == 1 and len(pieces) == 3:
                stop.set()
        said.append("".join(pieces))
    return said, talk


@pytest.mark.parametrize("drawn", [{}, {"temperature": 0.8, "top_p": 0.9, "seed": 5}], ids=str)
def test_the_same_tokens_as_over_a_growing_cache(
    model: AVChat, drawn: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, slow = talk_through(model, **drawn)
    assert model.steps == {}, "not on the CPU"
    monkeypatch.setattr(static_decoding, "DEVICES", {"cpu"})
    monkeypatch.setattr(static_decoding, "SMALLEST", 64)
    answers, fast = talk_through(model, **drawn)
    assert answers == expected and sum(map(len, answers)) > 100
    assert len(model.steps) > 1, "buffers were outgrown in the middle of the talk"
    for sense, thread in fast._threads.items():
        assert thread.ids == slow._threads[sense].ids
        assert thread.cache.get_seq_length() == len(thread.ids), "all is back in the cache"
        for mine, other in zip(thread.cache.layers, slow._threads[sense].cache.layers, strict=True):
            torch.testing.assert_close(mine.keys, other.keys, atol=1e-4, rtol=1e-4)
    model.steps.clear()


def test_two_conversations_share_the_buffers(model: AVChat, static: None) -> None:
    """Word by word in turns: each takes the buffers from the other and gives all back."""
    alone = [
        "".join(Conversation(model, make_media(k)).ask(QUESTIONS[k], max_new_tokens=12))
        for k in range(2)
    ]
    talks = [Conversation(model, make_media(k)) for k in range(2)]
    said, running = ["", ""], []
    for k, talk in enumerate(talks):
        running.append(talk.ask(QUESTIONS[k], max_new_tokens=12))
    while running[0] or running[1]:
        for k in range(2):
            piece = next(running[k], None) if running[k] else None
            if piece is None:
                running[k] = None
            else:
                said[k] += piece
    assert said == alone
    model.steps.clear()


def test_buffers_follow_the_weights(model: AVChat, static: None) -> None:
    """A graph would go on reading where the weights lay before."""
    steps = static_decoding.steps_for(model, 3)
    assert static_decoding.steps_for(model, 63) is steps
    assert static_decoding.steps_for(model, 64).columns == 128
    embeddings = model.language.get_input_embeddings()
    embeddings.weight.data = embeddings.weight.data.clone()
    assert static_decoding.steps_for(model, 3) is not steps
    model.steps.clear()


def test_what_is_not_plain_takes_the_other_path(static: None) -> None:
    model = build_model(TIMELINE_CONFIG)
    assert static_decoding.suits(model)
    model.language.hf_device_map = {"model": 0, "lm_head": "cpu"}
    assert not static_decoding.suits(model), "spread over devices"
    del model.language.hf_device_map
    model.language.config.quantization_config = BitsAndBytesConfig(load_in_8bit=True)
    assert not static_decoding.suits(model), "8 bit"
    small = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2}
    small |= {"num_hidden_layers": 2, "num_key_value_heads": 1, "vocab_size": 360}
    model.language = MistralForCausalLM(MistralConfig(**small, sliding_window=16))
    assert not static_decoding.suits(model), "layers see a window"
    model.language = MistralForCausalLM(MistralConfig(**small, sliding_window=None))
    assert static_decoding.suits(model)
    model.language.config._attn_implementation = "eager"
    assert not static_decoding.suits(model), "its mask is another"


def test_the_benchmark_says_what_generate_says(
    clip: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Our path and `generate` over the same embeddings take the same tokens."""
    folder = Path(__file__).resolve().parent.parent / "eval"
    monkeypatch.syspath_prepend(str(folder))
    speed = runpy.run_path(str(folder / "chat_speed.py"))
    run = speed["ChatSpeed"](tokens=5, repeats=1, warm_up=0, json=True)
    speed["main"](run, lambda _: clip)
    report = json.loads(capsys.readouterr().out)
    assert report["tokens_alike"] == "5 of 5"
    assert report["ours"]["follow_up_first_token_s"] > 0 and report["limits"]["prompt_tokens"] > 20
