"""avchat in lmms-eval: what tasks hand over, both ways of asking, and the same scores as ours."""

import io
import json
import wave
from importlib.metadata import entry_points
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("lmms_eval", reason="lmms-eval is not installed (see docs/harnesses.md)")

from lmms_eval.api.instance import Instance
from lmms_eval.models import MODEL_REGISTRY_V2

from avchat import cli
from avchat.evaluation.items import EvalError
from avchat.evaluation.lmms_media import media_of
from avchat.evaluation.lmms_model import AVChatMessages, AVChatSimple, parts_of, until
from avchat.media import Media, MediaError, load_media
from avchat.prompt import Turn

FRAMES = 8


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("lmms") / "world"
    assert cli.main(["world", str(out), "--clips", "10", "--seed", "3", "--json"]) == 0
    return out


@pytest.fixture(scope="module")
def simple() -> AVChatSimple:
    return AVChatSimple("tiny", batch_size=4)


def docs_of(world: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (world / "questions.jsonl").read_text().splitlines()]
    short = [row for row in rows if row["choices"]]
    return [row | {"video": str(world / row["video"])} for row in short]


def instance(kind: str, *arguments: Any) -> Instance:
    return Instance(kind, arguments, 0, {"task": "t", "doc_id": 0, "repeats": 1})


def simple_requests(docs: list[dict[str, Any]], **how: Any) -> list[Instance]:
    return [
        instance("generate_until", doc["question"], how, video_of, k, "t", "test")
        for k, doc in enumerate(docs)
    ]


def video_of(doc: dict[str, Any]) -> list[Any]:
    return [doc["video"]]


def given(model: AVChatSimple, docs: list[dict[str, Any]]) -> AVChatSimple:
    model.task_dict = {"t": {"test": docs}}
    return model


# what tasks hand over


def test_a_video_brings_its_sound_and_an_audio_only_that(clip: Path) -> None:
    both, sound = media_of([("video", str(clip))], FRAMES), media_of([("audio", str(clip))], FRAMES)
    whole = load_media(clip, frames=FRAMES)
    assert np.array_equal(both.frames, whole.frames)
    assert np.array_equal(both.waveform, whole.waveform) and len(whole.waveform)
    assert not sound.has_video and np.array_equal(sound.waveform, whole.waveform)
    assert media_of([], FRAMES) is None


def test_a_part_of_a_video(clip: Path) -> None:
    part = {"url": str(clip), "video_start": 1.0, "video_end": 2.0}
    found = media_of([("video", part)], FRAMES)
    assert (found.start_s, found.duration_s) == pytest.approx((1.0, 1.0), abs=0.1)


def tone(rate: int, seconds: float = 1.0) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * 440 * np.arange(round(rate * seconds)) / rate)


def heard_hz(media: Media) -> float:
    spectrum = np.abs(np.fft.rfft(media.waveform))
    return float(spectrum.argmax() * 16_000 / len(media.waveform))


class Decoder:
    """As torchcodec's AudioDecoder, two channels."""

    def get_all_samples(self) -> SimpleNamespace:
        both = torch.from_numpy(np.stack([tone(22_050)] * 2))
        return SimpleNamespace(data=both, sample_rate=22_050)


def wav_bytes(rate: int) -> bytes:
    data = io.BytesIO()
    with wave.open(data, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((tone(rate) * 32767).astype("<i2").tobytes())
    return data.getvalue()


@pytest.mark.parametrize(
    "value",
    [
        {"array": tone(44_100), "sampling_rate": 44_100},
        {"array": np.stack([tone(8_000)] * 2), "sampling_rate": 8_000},
        {"bytes": wav_bytes(48_000), "path": "a.wav"},
        Decoder(),
    ],
    ids=["samples", "two channels", "bytes", "decoder"],
)
def test_sounds_of_any_kind(value: Any) -> None:
    found = media_of([("audio", value)], FRAMES)
    assert found.has_audio and not found.has_video
    assert len(found.waveform) == pytest.approx(16_000, abs=400)
    assert heard_hz(found) == pytest.approx(440, abs=5)


def test_pictures_follow_one_another_in_one_shape() -> None:
    wide, high = Image.new("RGB", (40, 20), "red"), Image.new("L", (10, 30), 255)
    found = media_of([("image", wide), ("image", high)], FRAMES)
    assert found.frames.shape == (2, 20, 40, 3) and found.frame_times_s.tolist() == [0, 1]
    assert found.frames[1, 10, 20].tolist() == [255] * 3  # white, in the middle
    assert found.frames[1, 10, 2].tolist() == [127] * 3  # grey, beside it
    assert len(media_of([("video", [wide] * 100)], FRAMES).frames) == FRAMES


def test_a_sound_apart_takes_the_place_of_the_picture_s_own(clip: Path) -> None:
    apart = {"array": tone(16_000, 4.0), "sampling_rate": 16_000}
    found = media_of([("video", str(clip)), ("audio", apart)], FRAMES)
    assert len(found.frames) == FRAMES and heard_hz(found) == pytest.approx(440, abs=5)


def test_videos_one_after_another(clip: Path, silent_clip: Path) -> None:
    found = media_of([("video", str(silent_clip)), ("video", str(clip))], FRAMES)
    length = load_media(clip, frames=1).duration_s
    assert found.duration_s == pytest.approx(2 * length, abs=0.2) and len(found.frames) == FRAMES
    assert np.all(np.diff(found.frame_times_s) > 0)
    half = len(found.waveform) // 2
    assert not found.waveform[: half - 1600].any() and found.waveform[half:].any()


@pytest.mark.parametrize(
    ("value", "said"),
    [("/nowhere/a.mp4", "a.mp4"), ({"id": 3}, "neither samples"), (7, "int: is no video")],
)
def test_what_cannot_be_read(value: Any, said: str) -> None:
    with pytest.raises(MediaError, match=said):
        media_of([("video", value)], FRAMES)


# asking


def test_the_harness_finds_us() -> None:
    assert "avchat" in {one.name for one in entry_points(group="lmms_eval.models")}
    assert MODEL_REGISTRY_V2.get_model_class("avchat") is AVChatMessages
    assert MODEL_REGISTRY_V2.get_model_class("avchat", force_simple=True) is AVChatSimple


def test_both_ways_say_the_same(simple: AVChatSimple, world: Path) -> None:
    docs = docs_of(world)
    said = given(simple, docs).generate_until(simple_requests(docs, max_new_tokens=16))
    chat = given(AVChatMessages("tiny", batch_size=3), docs)
    messages = [
        instance(
            "generate_until",
            "",
            lambda d: [
                {
                    "role": "user",
                    "content": [
                        {"type": "video", "url": d["video"]},
                        {"type": "text", "text": d["question"]},
                    ],
                }
            ],
            {"max_new_tokens": 16},
            k,
            "t",
            "test",
        )
        for k in range(len(docs))
    ]
    assert [one.text for one in chat.generate_until(messages)] == [one.text for one in said]
    right = [one.text == doc["answer"] for one, doc in zip(said, docs, strict=True)]
    assert sum(right) / len(docs) > 0.9
    assert all(one.token_counts.output_tokens > 0 for one in said)


@pytest.mark.slow
def test_a_sense_is_switched_off_and_choices_are_kept_to(world: Path) -> None:
    docs = docs_of(world)
    deaf = given(AVChatSimple("tiny", use_audio=False, choices=True, batch_size=16), docs)
    said = [one.text for one in deaf.generate_until(simple_requests(docs))]
    assert all(one in doc["choices"] for one, doc in zip(said, docs, strict=True))
    heard = [k for k, doc in enumerate(docs) if doc["needs"] in ("A", "S")]
    seen = [k for k, doc in enumerate(docs) if doc["needs"] == "V"]

    def share(kept: list[int]) -> float:
        return float(np.mean([said[k] == docs[k]["answer"] for k in kept]))

    assert share(seen) > 0.9 > share(heard)


def test_what_fails_alone_fails_alone(simple: AVChatSimple, world: Path) -> None:
    docs = docs_of(world)[:3]
    docs[1] = docs[1] | {"video": "/nowhere/gone.mp4"}
    docs[2] = docs[2] | {"question": " "}
    said = given(simple, docs).generate_until(simple_requests(docs))
    assert said[0].text == docs[0]["answer"] and [one.text for one in said[1:]] == ["", ""]


@pytest.mark.slow
def test_likelihood_of_answers(simple: AVChatSimple, world: Path) -> None:
    """Against the whole row in one pass."""
    docs = docs_of(world)[:4]
    model = given(simple, docs).model
    pairs = [(k, choice) for k, doc in enumerate(docs) for choice in doc["choices"]]
    requests = [
        instance("loglikelihood", docs[k]["question"], choice, video_of, k, "t", "test")
        for k, choice in pairs
    ]
    found = [one.text for one in simple.loglikelihood(requests)]
    assert all(isinstance(pair, tuple) for pair in found)  # a bare pair would become a text
    for (k, choice), (likelihood, greedy) in zip(pairs, found, strict=True):
        clip = model.encode([load_media(docs[k]["video"], frames=FRAMES)])
        before = [*model.prompt.media_prefix(model.plan(clip[0])).ids]
        before += model.prompt.turn(Turn(docs[k]["question"])).ids
        answer = [*model.prompt.answer_ids(choice)]
        row = torch.tensor([[*before, *answer]])
        with torch.inference_mode():
            embeds = model.embed(row, model.project(clip))
            logits = model.sayable(model.language(inputs_embeds=embeds).logits[0].float())
        chances = logits[len(before) - 1 : -1].log_softmax(-1)
        expected = float(chances[range(len(answer)), answer].sum())
        assert likelihood == pytest.approx(expected, abs=1e-3)
        assert greedy == (chances.argmax(-1).tolist() == answer)


def test_round_after_round(simple: AVChatSimple, world: Path) -> None:
    docs = docs_of(world)[:2]

    def again(doc: dict[str, Any], **state: Any) -> tuple:
        if state["round_idx"] == 2:
            return None, None, True, state["previous_output"], None
        assert len(state["previous_output"]) == state["round_idx"]
        return [doc["video"]], docs[1]["question"], False, state["previous_output"], None

    first = instance(
        "generate_until_multi_round",
        docs[0]["question"],
        {"max_new_tokens": 8},
        video_of,
        again,
        0,
        "t",
        "test",
    )
    said = given(simple, docs).generate_until_multi_round([first])
    assert len(said) == 1 and len(said[0]) == 2 and said[0][0] == docs[0]["answer"]


def test_a_talk_in_messages(world: Path) -> None:
    docs = docs_of(world)[:1]
    chat = given(AVChatMessages("tiny"), docs)
    asked = chat._of_messages(
        [
            {"role": "system", "content": "be brief."},
            {"role": "user", "content": [{"type": "video", "url": docs[0]["video"]}]},
            {"role": "user", "content": "what is there?"},
            {"role": "assistant", "content": [{"type": "text", "text": "a circle."}]},
            {"role": "user", "content": [{"type": "text", "text": docs[0]["question"]}]},
        ],
        {},
        None,
    )
    assert [turn.answer for turn in asked.turns] == ["a circle.", None]
    assert asked.turns[0].question == "be brief.\nwhat is there?"
    assert asked.media == [("video", docs[0]["video"])]
    assert isinstance(chat.answers([asked])[0].text, str)


@pytest.mark.parametrize(
    ("given", "said"),
    [("use_audio=maybe", "use_audio is True or False, not 'maybe'"), ("chioces=True", "chioces")],
)
def test_arguments_that_are_none(given: str, said: str) -> None:
    with pytest.raises(EvalError, match=f"--model_args: .*{said}"):
        AVChatSimple.create_from_arg_string(f"pretrained=tiny,{given}")


def test_small_things() -> None:
    assert until("a b\n\nc", ["\n\n"]) == "a b" and until("a", None) == "a"
    kinds = [kind for kind, _ in parts_of(["a.WAV", "b.webm", {"array": [], "sampling_rate": 1}])]
    assert kinds == ["audio", "video", "audio"]
