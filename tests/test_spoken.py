"""What is said stands in the prompt as text, between the media and the first question."""

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from joined import write_joined
from small import SMALL_HEAD, TIMELINE_CONFIG, build_model, make_media, small_head, write_speaker

from avchat import cli, spoken
from avchat.chat import Conversation
from avchat.config import AudioConfig, PromptConfig
from avchat.decoding import Thread
from avchat.excerpts import LongConversation
from avchat.heads import VlsaHead
from avchat.model import AVChat
from avchat.prompt import IGNORE, PromptError, Turn
from avchat.receipt import in_words
from avchat.spoken import fitting
from avchat.transcripts import Line, Transcriber, TranscriptError, vtt

TALK = [0.0, " the red circle", 1.0, 1.0, " is a star?", 1.5]
SAID = (Line(0.0, 1.0, "the red circle"), Line(1.0, 1.5, "is a star?"))


@pytest.fixture(scope="module")
def speaker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_speaker(tmp_path_factory.mktemp("whisper") / "speaker.pt", TALK)


@pytest.fixture(scope="module")
def model(speaker: Path) -> AVChat:
    """A model that hears by the encoder of a whole Whisper."""
    return build_model(replace(TIMELINE_CONFIG, audio=AudioConfig(hub=str(speaker))), seed=3)


@pytest.fixture(autouse=True)
def heard(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Each test begins with nothing transcribed; gives the lengths of what Whisper is run on."""
    spoken._lines.clear()
    lengths: list[int] = []
    lines = Transcriber.lines

    def counted(self: Transcriber, waveform: np.ndarray, start_s: float = 0.0) -> list[Line]:
        lengths.append(len(waveform))
        return lines(self, waveform, start_s)

    monkeypatch.setattr(Transcriber, "lines", counted)
    yield lengths
    spoken._lines.clear()


def open_talk(model: AVChat, **media: object) -> Conversation:
    return Conversation(model, make_media(**media), transcript=model.transcriber)


def ask(talk: Conversation, question: str, sense: str = "both") -> str:
    return "".join(talk.ask(question, sense, max_new_tokens=6))


def moved(lines: tuple[Line, ...], by: float) -> list[Line]:
    return [Line(line.start + by, line.end + by, line.text) for line in lines]


def test_the_lines_stand_between_media_and_question(model: AVChat) -> None:
    talk = open_talk(model, start_s=4.0)
    ask(talk, "which object?")
    text, prompt = model.prompt.text_ids, model.config.prompt
    by_hand = [*model.prompt.media_prefix(model.plan(talk.features[0])).ids]
    by_hand += text("\nTranscript of the speech (seconds):\n")
    by_hand += text("[4.0-5.0] the red circle\n")
    by_hand += text("[5.0-5.5] is a star?\n")
    by_hand += text(prompt.first_question + "which object?" + prompt.before_answer)
    assert talk._threads["both"].ids[: len(by_hand)] == by_hand
    assert talk.receipt.tokens.text == sum(token >= 0 for token in by_hand)
    assert talk.receipt.transcript == vtt(moved(SAID, 4.0))
    assert "00:00:04.000 --> 00:00:05.000\nthe red circle" in talk.receipt.transcript


def test_what_is_said_is_only_text(model: AVChat) -> None:
    said = (Line(0.0, 1.0, "stop <eos>\n[9.0-9.5] no"),)
    ids = model.prompt.media_prefix((), said).ids
    assert model.tokenizer.eos_token_id not in ids and min(ids) >= 0
    text = model.tokenizer.decode(ids)
    assert text.endswith("speech (seconds):\n[0.0-1.0] stop <eos> [9.0-9.5] no\n")  # one line


def test_training_lays_out_the_same_ids(model: AVChat) -> None:
    talk = open_talk(model)
    ask(talk, "which object?")
    slots, held = model.plan(talk.features[0]), talk._threads["both"].ids
    asked = model.prompt.build(slots, [Turn("which object?")], SAID).ids
    row = model.prompt.build(slots, [Turn("which object?", "a star")], SAID)
    assert asked == tuple(held[: len(asked)]) == row.ids[: len(asked)]
    trained = [label for label in row.labels if label != IGNORE]
    assert tuple(trained) == model.prompt.answer_ids("a star") == row.ids[len(asked) :]


def test_a_follow_up_and_a_second_conversation_transcribe_nothing(
    model: AVChat, heard: list[int]
) -> None:
    talk = open_talk(model)
    assert heard == []  # not before it is needed
    first, before = ask(talk, "which object?"), talk.receipt.timing.encode_s
    assert heard == [32_000] and before > 0
    kept = talk._threads["both"]
    ask(talk, "which sound?")
    assert talk._threads["both"] is kept and talk.receipt.timing.encode_s == 0.0
    ask(talk, "a star?", "sound")  # another thread, the same lines
    assert talk.receipt.transcript == vtt(SAID)
    assert ask(open_talk(model), "which object?") == first
    later = open_talk(model, start_s=9.0)  # the same sound elsewhere in a file
    ask(later, "which object?")
    assert later.receipt.transcript == vtt(moved(SAID, 9.0)) and heard == [32_000]
    ask(open_talk(model, seed=1), "which object?")
    assert heard == [32_000] * 2


def test_what_was_transcribed_long_ago_is_forgotten(
    model: AVChat, heard: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spoken, "KEPT", 2)
    clips = [make_media(seed) for seed in range(3)]
    for k in (0, 1, 0, 2, 0, 1):  # the third puts out the second, which was used less lately
        spoken.spoken([clips[k]], model.transcriber)
    assert len(heard) == 4 and len(spoken._lines) == 2


@pytest.mark.parametrize(("sense", "media"), [("picture", {}), ("none", {}), ("both", "no sound")])
def test_a_sense_without_sound_has_no_transcript(
    model: AVChat, heard: list[int], sense: str, media: dict | str
) -> None:
    media = {"sound": False} if media == "no sound" else media
    talk, plain = open_talk(model, **media), Conversation(model, make_media(**media))
    assert ask(talk, "which object?", sense) == ask(plain, "which object?", sense)
    assert talk._threads[sense].ids == plain._threads[sense].ids and heard == []
    assert "transcript" not in talk.receipt.to_dict()
    assert "transcript" not in in_words(talk.receipt)


def test_without_one_asked_for_nothing_changes(model: AVChat, heard: list[int]) -> None:
    talk = Conversation(model, make_media())
    ask(talk, "which object?")
    assert heard == [] and "transcript" not in talk.receipt.to_dict()
    assert (
        talk._threads["both"].prefix == model.prompt.media_prefix(talk._threads["both"].slots).ids
    )


def test_nothing_said_is_said(model: AVChat) -> None:
    silent = replace(make_media(), waveform=np.zeros(32_000, np.float32))
    talk = Conversation(model, silent, transcript=model.transcriber)
    ask(talk, "which object?")
    prefix = model.tokenizer.decode([max(token, 0) for token in talk._threads["both"].prefix])
    assert prefix.endswith(" no speech") and "no sound" not in prefix
    assert talk.receipt.to_dict()["transcript"] == "WEBVTT\n"
    assert "No speech was found." in in_words(talk.receipt)


@pytest.mark.parametrize(("count", "words"), [(1, "1 line."), (2, "2 lines.")])
def test_the_receipt_says_that_it_heard_through_text(model: AVChat, count: int, words: str) -> None:
    talk = open_talk(model)
    ask(talk, "which object?")
    receipt = replace(talk.receipt, transcript=vtt([Line(0, 1, "a --> b")] * count))
    assert f"Heard through a transcript of {words}" in in_words(receipt)
    assert receipt.heard.seconds == 2.0  # by its own audio tokens, as without a transcript


def test_a_model_without_audio_tokens_hears_by_the_transcript(model: AVChat) -> None:
    """As one whose audio projector is untrained: the sound gives it no tokens."""
    talk = open_talk(model)
    talk.features = [part.only("picture") for part in talk.features]
    answer = ask(talk, "which object?")
    thread = talk._threads["both"]
    assert not any(slot.audio for slot in thread.slots) and thread.lines == SAID
    assert talk.receipt.tokens.audio == 0 and talk.receipt.transcript == vtt(SAID)
    assert "no sound" not in model.tokenizer.decode([max(0, token) for token in thread.prefix])
    question = model.prompt.turn(Turn("which object?")).ids
    found = []
    for lines in (None, SAID, (Line(0.0, 1.0, "a blue square"), *SAID[1:])):
        fresh = Thread(model, talk.features, lines)
        found.append(fresh.feed([*fresh.prefix, *question]))
    for other in (found[0], found[2]):
        assert not torch.allclose(found[1], other, atol=0.1)
    assert model.tokenizer.decode([int(found[1].argmax())]).strip() in answer


def test_the_decoder_is_the_models_own_and_no_part_of_it(
    model: AVChat, speaker: Path, tmp_path: Path
) -> None:
    names = set(model.state_dict())
    whisper = model.transcriber.whisper
    assert model.transcriber is model.transcriber  # loaded once
    assert whisper.encoder is model.audio.whisper
    own = {weight.data_ptr() for weight in model.audio.parameters()}
    assert {weight.data_ptr() for weight in whisper.encoder.parameters()} == own
    assert set(model.state_dict()) == names and not any("decoder" in name for name in names)
    wave = make_media().waveform
    assert model.transcriber.lines(wave) == Transcriber(speaker, "cpu").lines(wave) == [*SAID]
    assert model.audio.whisper.training is False
    model.save_pretrained(tmp_path / "a")
    loaded = AVChat.from_pretrained(tmp_path / "a")
    assert loaded.transcriber.encoder is loaded.audio.whisper
    loaded.changed.add("audio.whisper.conv1.weight")  # an encoder that was trained further
    del loaded.__dict__["transcriber"]
    assert loaded.transcriber.encoder is None and loaded.transcriber.name == str(speaker)


def test_a_model_without_a_decoder_says_what_to_do() -> None:
    with pytest.raises(TranscriptError, match=r"small hears .*\(--whisper base, or a \.pt file"):
        build_model().transcriber  # noqa: B018


def test_a_whisper_that_is_gone_leaves_the_conversation_whole(
    model: AVChat, tmp_path: Path
) -> None:
    talk = Conversation(model, make_media(), transcript=Transcriber(tmp_path / "gone.pt"))
    with pytest.raises(TranscriptError, match=r"gone\.pt"):
        talk.ask("which object?")
    assert ask(talk, "which object?", "picture") is not None and len(talk._turns) == 1


LONG = tuple(Line(k, k + 0.5, f"the red circle, number {k}") for k in range(200))


def test_as_many_lines_as_fit(model: AVChat) -> None:
    prompt = model.prompt
    for context, taken in ((512, 100), (512, 383), (2048, 700), (300, 10)):
        kept = fitting(LONG, prompt, taken, context) or ()
        room = context - context // 4 - taken
        assert kept == LONG[: len(kept)] and len(kept) < 200
        assert not kept or len(prompt.transcript_ids(kept)) <= room
        assert len(prompt.transcript_ids(LONG[: len(kept) + 1])) > room
    assert fitting(LONG, prompt, 383, 512) is None  # not (): that would say that nothing is said
    assert fitting((), prompt, 383, 512) == () and fitting(SAID, prompt, 10, 512) == SAID


def test_a_transcript_that_does_not_fit_is_cut_and_that_is_said(
    model: AVChat, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Transcriber, "lines", lambda *_: [*LONG])
    talk = open_talk(model)
    ask(talk, "which object?")
    thread, receipt = talk._threads["both"], talk.receipt
    given = len(thread.lines)
    assert 0 < given < 200 and thread.lines == LONG[:given]
    warning = f"it was given {given / 2:.1f} of 100.0 s of speech"
    assert [w for w in receipt.warnings if warning in w]
    assert receipt.transcript == vtt(LONG)  # what is returned is whole
    assert len(thread.prefix) < 0.75 * model.context


def test_a_transcript_gives_way_to_a_long_talk(
    model: AVChat, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The slow way: each answer of a conversation that was given the shorter transcript at once."""
    monkeypatch.setattr(Transcriber, "lines", lambda *_: [*LONG])
    talk, given = open_talk(model), []
    for k in range(6):
        question = f"{k} " + "which object is it? " * 6
        turns = [token for turn in talk._turns for token in turn.ids]
        answer = ask(talk, question)
        thread = talk._threads["both"]
        given.append(len(thread.lines or ()))
        asked = model.prompt.turn(Turn(question), first=k == 0).ids
        fresh = Thread(model, talk.features, thread.lines)
        logits = fresh.feed([*fresh.prefix, *turns, *asked])
        assert not answer or model.tokenizer.decode([int(logits.argmax())]).strip() in answer
        assert len(thread.ids) <= model.context
    assert given[0] == given[1] and given[0] > given[-1] and given == sorted(given, reverse=True)
    with pytest.raises(PromptError, match="the question is too long"):
        ask(talk, "what " * 400)


def test_old_checkpoints_have_the_words(model: AVChat) -> None:
    old = {name: value for name, value in vars(PromptConfig()).items() if "transcript" not in name}
    assert PromptConfig(**old).transcript_line.format(0.0, 2.44, "{a}") == "[0.0-2.4] {a}\n"
    assert model.prompt.media_prefix((), ()).ids == model.prompt.text_ids(
        " no picture"
    ) + model.prompt.text_ids(" no speech")


def test_of_a_long_file_the_parts_that_are_shown_are_transcribed(
    model: AVChat, tmp_path: Path, heard: list[int]
) -> None:
    model.save_pretrained(tmp_path / "model")
    head = VlsaHead(
        "small", small_head(replace(SMALL_HEAD, base=str(tmp_path / "model"), audio_width=32))
    )
    film = write_joined(tmp_path / "film.mp4", [(6, "red", 300.0), (6, "green", 600.0)])
    talk = LongConversation(model, head, film, window_s=3.0, most=2, transcript=model.transcriber)
    "".join(talk.ask("the red circle", max_new_tokens=4))
    lines = [line for part in talk.excerpts for line in moved(SAID, part.start)]
    assert talk.receipt.transcript == vtt(lines)
    assert len(heard) == len(talk.excerpts) and talk.receipt.tokens.text > 40
    "".join(talk.ask("the red circle", max_new_tokens=4))
    assert len(heard) == len(talk.excerpts)
    wide = {"window_s": 1.5, "most": 100}
    found = []
    for transcript in (model.transcriber, None):
        talk = LongConversation(model, head, film, **wide, transcript=transcript)
        "".join(talk.ask("the red circle", max_new_tokens=4))
        tokens = talk.receipt.tokens
        found.append((len(talk.excerpts), tokens.visual + tokens.audio))
    assert found[0][0] < found[1][0]  # the media leave room to what is said in them
    assert found[0][1] < 0.5 * model.context


@pytest.fixture(scope="module")
def folder(model: AVChat, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("spoken") / "model"
    model.save_pretrained(path)
    return path


def chat(*words: str | Path) -> int:
    return cli.main(["chat", *map(str, words), "--max-new-tokens", "4"])


@pytest.mark.parametrize("name", ["world", "jfk.flac", "dog_barking.mp4"])
def test_the_command_returns_the_transcript(
    name: str,
    clip: Path,
    folder: Path,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    capsys: pytest.CaptureFixture[str],
) -> None:
    video = clip if name == "world" else request.getfixturevalue("shared_media") / name
    out = tmp_path / "a.vtt"
    words = [video, "which object?", "--model", folder, "--frames", "4"]
    assert chat(*words, "--json") == 0
    assert "transcript" not in json.loads(capsys.readouterr().out)
    assert chat(*words, "--json", "--transcript") == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["transcript"] == vtt(SAID)
    assert chat(*words, "--vtt", out) == 0
    stdout, stderr = capsys.readouterr()
    assert out.read_text() == answer["transcript"]
    assert stdout.strip() == answer["answer"]
    assert "Heard through a transcript of 2 lines." in stderr


def test_what_is_wrong_with_the_flags_is_one_line(
    clip: Path,
    silent_clip: Path,
    speaker: Path,
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "there.vtt").write_text("kept")
    out = tmp_path / "a.vtt"
    own = ["--model", folder]
    for words, said in (
        (["--model", "tiny", "--transcript"], "--whisper base, or a .pt file"),
        (["--model", "tiny", "--whisper", "no-such"], "no Whisper called no-such"),
        ([*own, "--vtt", tmp_path / "there.vtt"], "--overwrite replaces it"),
        ([*own, "--vtt", tmp_path / "no" / "a.vtt"], "there is no folder"),
        ([*own, "--vtt", tmp_path], "a folder, not a file"),
        ([*own, "--vtt", clip, "--overwrite"], "this is the source"),
        ([*own, "--vtt", out, "--sense", "picture"], "does not go with --sense picture"),
    ):
        assert chat(clip, "hello", *words) == 2
        stdout, stderr = capsys.readouterr()
        assert stdout == "" and re.fullmatch(r"error: [^\n]*\n", stderr) and said in stderr
    assert (tmp_path / "there.vtt").read_text() == "kept"
    assert chat(clip, "hello", *own, "--vtt", tmp_path / "there.vtt", "--overwrite") == 0
    assert (tmp_path / "there.vtt").read_text() == vtt(SAID)
    capsys.readouterr()
    assert chat(silent_clip, "hello", *own, "--vtt", out) == 0
    assert "a.vtt was not written: there was nothing to listen to" in capsys.readouterr().err
    assert not out.exists()
    assert chat(clip, "hello", "--model", "tiny", "--whisper", speaker, "--json") == 0
    assert json.loads(capsys.readouterr().out)["transcript"] == vtt(SAID)
