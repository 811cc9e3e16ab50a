"""Talking about a long file: the windows that rank highest are what the model sees."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from joined import write_joined
from small import SMALL_HEAD, build_model, small_head

from avchat.chat import Conversation
from avchat.excerpts import LongConversation, is_long
from avchat.heads import VlsaHead
from avchat.media import MediaError, load_media, probe
from avchat.model import AVChat
from avchat.prompt import PromptError

SCENES = [(6, "red", 300.0), (6, "green", None), (6, "blue", 900.0), (6, "grey", 2000.0)]


@pytest.fixture(scope="module")
def model() -> AVChat:
    return build_model()


@pytest.fixture(scope="module")
def head(model: AVChat, tmp_path_factory: pytest.TempPathFactory) -> VlsaHead:
    folder = tmp_path_factory.mktemp("model")
    model.save_pretrained(folder)
    return VlsaHead("small", small_head(replace(SMALL_HEAD, base=str(folder))))


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_joined(tmp_path_factory.mktemp("film") / "film.mp4", SCENES)


@pytest.mark.slow
def test_the_windows_that_rank_highest_are_what_the_model_sees(
    model: AVChat, head: VlsaHead, film: Path
) -> None:
    seen = []
    talk = LongConversation(
        model, head, film, window_s=3.0, most=2, progress=lambda done, of: seen.append((done, of))
    )
    assert seen == [(k + 1, 8) for k in range(8)]
    for question, sense in (("the red circle", "both"), ("a sound?", "sound")):
        answer = "".join(talk.ask(question, sense, max_new_tokens=6))
        text = head.texts([question])[0]
        parts = []
        for window in talk.windows:  # the slow way: each window decoded and scored by itself
            part = {"start": window.start_s, "end": window.end_s}
            vectors = head.clips([load_media(film, frames=head.frames, size=head.size, **part)])[0]
            found = vectors.both if sense == "both" else vectors.sound
            parts.append((float(found @ text), part))
        best = sorted(sorted(range(8), key=lambda k: -parts[k][0])[:2])
        assert [x.start for x in talk.excerpts] == [parts[k][1]["start"] for k in best]
        scores = [parts[k][0] for k in best]
        assert [x.score for x in talk.excerpts] == pytest.approx(scores, abs=1e-3)
        if sense == "both":
            media = [load_media(film, frames=model.config.frames, **parts[k][1]) for k in best]
            alone = Conversation(model, media)
            assert answer == "".join(alone.ask(question, max_new_tokens=6))
        assert talk.receipt.seen.frames == (0 if sense == "sound" else 2 * model.config.frames)


def test_a_talk_goes_on_when_the_windows_change(model: AVChat, head: VlsaHead, film: Path) -> None:
    talk = LongConversation(model, head, film, window_s=3.0, most=1)
    questions = ["the red circle", "a blue square", "star?", "the green star or the sound?"]
    windows, texts = set(), []
    for question in questions:
        "".join(talk.ask(question, max_new_tokens=4))
        windows.add(talk.excerpts[0].start)
        texts.append(talk.receipt.tokens.text)
    assert len(windows) > 1  # else nothing was tested
    assert texts == sorted(texts) and texts[-1] > texts[0] + 10


def test_a_long_talk_leaves_room_for_itself(model: AVChat, head: VlsaHead, film: Path) -> None:
    talk = LongConversation(model, head, film, window_s=3.5, most=100)
    ends = [window.end_s for window in talk.windows]
    assert [window.start_s for window in talk.windows] == [0.0, *ends[:-1]]  # nothing twice
    "".join(talk.ask("the red circle", max_new_tokens=4))
    assert 1 < len(talk.excerpts) <= 8
    tokens = talk.receipt.tokens
    assert tokens.visual + tokens.audio + tokens.text < 0.8 * model.context


def test_what_is_long(model: AVChat, film: Path) -> None:
    assert is_long(probe(film), model)  # 24 s, four frames
    assert not is_long(replace(probe(film), duration_s=15.0), model)


def test_an_empty_question_is_refused_before_any_work(
    model: AVChat, head: VlsaHead, film: Path
) -> None:
    talk = LongConversation(model, head, film, window_s=8.0)
    with pytest.raises(PromptError, match="the question is empty"):
        talk.ask(" ")


def test_a_window_without_the_sense_is_never_the_best(
    model: AVChat, head: VlsaHead, tmp_path: Path
) -> None:
    mute = write_joined(tmp_path / "mute.mp4", SCENES[:2], sound=False)
    talk = LongConversation(model, head, mute, window_s=3.0)
    assert np.array_equal(talk.scores("the red circle", "sound"), -np.ones(4))


@pytest.mark.slow
def test_what_cannot_be_decoded_is_left_out_and_said(
    model: AVChat, head: VlsaHead, tmp_path: Path
) -> None:
    film = write_joined(tmp_path / "film.mkv", SCENES)
    film.write_bytes(film.read_bytes()[: int(0.6 * film.stat().st_size)])
    talk = LongConversation(model, head, film, window_s=3.0, isolate=True)
    assert 0 < len(talk.windows) < 8 and talk.windows[-1].end_s < 24
    "".join(talk.ask("the red circle", max_new_tokens=3))
    assert "parts could not be decoded" in talk.receipt.warnings[0]
    film.write_bytes(b"nothing" * 100)
    with pytest.raises(MediaError):
        LongConversation(model, head, film)
