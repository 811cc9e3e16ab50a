"""A whole Whisper with random weights runs through; what it says is nonsense, its times are not."""

from pathlib import Path

import numpy as np
import pytest
import torch
from joined import write_joined
from small import WHISPER_DIMS, write_speaker
from whisper import DecodingOptions
from whisper.audio import N_FRAMES
from whisper.model import ModelDimensions, Whisper

from avchat import transcripts
from avchat.media import load_media
from avchat.transcripts import Line, Transcriber, TranscriptError, in_window, tidy


def test_a_whole_whisper_runs_through(whisper_file: Path) -> None:
    sound = np.random.default_rng(0).normal(0, 0.1, 2 * 16_000).astype(np.float32)
    transcriber = Transcriber(whisper_file, device="cpu")
    lines = transcriber.lines(sound, start_s=100.0)
    assert lines, "random weights say something about noise"
    for line in lines:
        assert 100 <= line.start < line.end <= 102 and line.text == line.text.strip() != ""
    assert [line.start for line in lines] == sorted(line.start for line in lines)


class Listener(Transcriber):
    """One that knows only that there is a tone, and for how long."""

    def lines(self, waveform: np.ndarray, start_s: float = 0.0) -> list[Line]:
        loud = np.abs(waveform[: len(waveform) // 800 * 800]).reshape(-1, 800).max(axis=1) > 0.1
        edges = np.flatnonzero(np.diff(np.concatenate([[0], loud, [0]]))).reshape(-1, 2) / 20
        return [Line(start_s + a, start_s + b, "tone") for a, b in edges.tolist()]


def test_a_file_is_written_down_in_pieces_as_it_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scenes = [(s, "grey", 500.0 if n % 2 else None) for n, s in enumerate([2, 1, 1.5, 2, 4, 1, 3])]
    path = write_joined(tmp_path / "a.mkv", scenes)
    whole = Listener("none").lines(load_media(path, frames=0).waveform)
    times = [time for line in whole for time in (line.start, line.end)]
    assert times == pytest.approx([2, 3, 4.5, 6.5, 10.5, 11.5], abs=0.11)
    monkeypatch.setattr(transcripts, "PIECE_S", 5.5)  # the first piece ends within the second tone
    pieces = Listener("none").file_lines(path, 14.5)
    assert [line.text for line in pieces] == ["tone"] * 3
    for piece, line in zip(pieces, whole, strict=True):
        assert (piece.start, piece.end) == pytest.approx((line.start, line.end), abs=0.06)
    assert Listener("none").file_lines(path, 14.5, isolate=True) == pieces
    assert Listener("none").file_lines(tmp_path / "gone.mkv", 14.5) == []


@pytest.mark.parametrize("peak", [0.0, 5e-5])
def test_nothing_is_said_in_silence(peak: float) -> None:
    never_loaded = Transcriber("no-such-model")  # silence needs no model
    assert never_loaded.lines(np.full(16_000, peak, np.float32)) == []
    assert never_loaded.lines(np.zeros(0, np.float32)) == []


def test_models_that_cannot_be_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loud = np.ones(16_000, np.float32)
    with pytest.raises(TranscriptError, match="no Whisper called no-such-model"):
        Transcriber("no-such-model").lines(loud)
    (tmp_path / "text.pt").write_text("this is no model")
    with pytest.raises(TranscriptError, match="text.pt: not a Whisper model"):
        Transcriber(tmp_path / "text.pt").lines(loud)
    torch.save({"weights": torch.zeros(2)}, tmp_path / "other.pt")
    with pytest.raises(TranscriptError, match="other.pt: not a Whisper model"):
        Transcriber(tmp_path / "other.pt").lines(loud)
    torch.save({"dims": WHISPER_DIMS, "model_state_dict": {}}, tmp_path / "empty.pt")
    with pytest.raises(TranscriptError, match="empty.pt: not a Whisper model"):
        Transcriber(tmp_path / "empty.pt").lines(loud)
    # A published name without a network: a proxy that refuses stands for it.
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    with pytest.raises(TranscriptError, match="Whisper tiny cannot be had"):
        Transcriber("tiny").lines(loud)


def test_a_whisper_of_short_windows_cannot_transcribe(tmp_path: Path) -> None:
    dims = WHISPER_DIMS | {"n_audio_ctx": 200}
    whisper = Whisper(ModelDimensions(**dims))
    torch.save({"dims": dims, "model_state_dict": whisper.state_dict()}, tmp_path / "a.pt")
    with pytest.raises(TranscriptError, match="a.pt: hears 4 s at a time"):
        Transcriber(tmp_path / "a.pt").load()


def noise(seconds: float, peak: float = 0.1) -> np.ndarray:
    wave = np.random.default_rng(0).uniform(-1, 1, round(seconds * 16_000)).astype(np.float32)
    return wave * np.float32(peak / np.abs(wave).max())


def said_by(path: Path, wave: np.ndarray) -> list[tuple[float, float, str]]:
    """Transcribe, to plain data with rounded times."""
    lines = Transcriber(path, device="cpu").lines(wave)
    return [(round(line.start, 2), round(line.end, 2), line.text) for line in lines]


TALK = [0.0, " hello there", 1.5, 1.5, " who is it?", 2.4]


@pytest.mark.parametrize(
    ("sure", "no_speech", "heard"),
    [(20.0, 0.0, True), (20.0, 0.9, True), (9.0, 0.9, False)],
    ids=["speech", "sure of its words", "no speech"],
)
def test_words_that_are_unlikely_where_no_speech_is_are_not_written_down(
    sure: float, no_speech: float, heard: bool, tmp_path: Path
) -> None:
    """Whisper's own rule, on its real code: the decoder's probabilities alone are made."""
    path = write_speaker(tmp_path / "a.pt", TALK, sure=sure, no_speech=no_speech)
    lines = [(0.0, 1.5, "hello there"), (1.5, 2.4, "who is it?")]
    assert said_by(path, noise(3.0)) == (lines if heard else [])


def test_the_made_no_speech_is_what_whisper_reads(tmp_path: Path) -> None:
    whisper = Transcriber(write_speaker(tmp_path / "a.pt", TALK, no_speech=0.7), "cpu").whisper
    found = whisper.decode(torch.zeros(80, N_FRAMES), DecodingOptions(fp16=False))
    assert found.no_speech_prob == pytest.approx(0.7, abs=0.01) and found.avg_logprob > -0.1


def test_a_word_over_and_over_is_an_invention(tmp_path: Path) -> None:
    path = write_speaker(tmp_path / "a.pt", [0.0, " thank you" * 20, 2.0])
    whisper = Transcriber(path, "cpu").whisper
    kept = whisper.transcribe(noise(3.0), fp16=False, temperature=0.0)["text"]
    assert kept == " thank you" * 20  # Whisper keeps it
    assert said_by(path, noise(3.0)) == []


def test_each_window_has_its_time_and_the_end_cuts(tmp_path: Path) -> None:
    path = write_speaker(tmp_path / "a.pt", TALK)
    both = [(0.0, 1.5, "hello there"), (1.5, 2.4, "who is it?")]
    later = [(30.0, 31.5, "hello there"), (31.5, 32.0, "who is it?")]
    assert said_by(path, noise(32.0)) == [*both, *later]
    assert said_by(path, noise(1.2)) == [(0.0, 1.2, "hello there")]


def test_nothing_is_said_where_the_sound_falls_silent(tmp_path: Path) -> None:
    """Only the whole of a sound was looked at: Whisper invents words for a silent window of it."""
    path = write_speaker(tmp_path / "a.pt", TALK)
    wave = np.concatenate([noise(3.0), np.zeros(37 * 16_000, np.float32)])
    assert said_by(path, wave) == [(0.0, 1.5, "hello there"), (1.5, 2.4, "who is it?")]


@pytest.mark.parametrize(
    ("seconds", "peak", "count"),
    [(3.0, 0.9e-4, 0), (3.0, 1.1e-4, 2), (0.09, 0.5, 0), (0.11, 0.5, 1), (3.0, 1.0, 2)],
)
def test_what_is_too_quiet_or_too_short(
    seconds: float, peak: float, count: int, tmp_path: Path
) -> None:
    assert len(said_by(write_speaker(tmp_path / "a.pt", TALK), noise(seconds, peak))) == count


def test_dots_and_notes_are_not_speech(tmp_path: Path) -> None:
    script = [0.0, " ...", 2.0, 2.0, " la", 2.5]
    assert said_by(write_speaker(tmp_path / "a.pt", script), noise(3.0)) == [(2.0, 2.5, "la")]
    assert tidy([Line(0, 1, " \u266a\u266a"), Line(1, 2, "- !")], 9.0) == []
    assert len(tidy([Line(0, 1, "\u4f60\u597d"), Line(1, 2, "7")], 9.0)) == 2


def test_the_same_sound_gives_the_same_lines_and_draws_nothing(tmp_path: Path) -> None:
    """At temperatures above 0, which unsure words are tried at, Whisper draws."""
    path = write_speaker(tmp_path / "a.pt", TALK, sure=9.0)
    wave, found = noise(3.0), []
    transcriber = Transcriber(path, "cpu").load()
    for seed in (1, 2):
        torch.manual_seed(seed)
        expected = torch.rand(3)
        torch.manual_seed(seed)
        found.append(transcriber.lines(wave))
        assert torch.equal(torch.rand(3), expected)
    assert found[0] == found[1]
    whisper = transcriber.whisper
    texts = {whisper.transcribe(wave, fp16=False)["text"] for _ in range(2)}
    assert len(texts) == 2  # else nothing was tested


def test_a_long_sound_is_written_down_in_pieces_as_it_is_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wave = np.zeros(14 * 16_000, np.float32)
    for start, end in ((2, 3), (4.5, 6.5), (10.5, 11.5)):
        wave[int(start * 16_000) : int(end * 16_000)] = 0.5
    whole = Listener("none").lines(wave, 7.0)
    monkeypatch.setattr(transcripts, "PIECE_S", 5.5)
    pieces = Listener("none").wave_lines(wave, 7.0)
    assert len(pieces) == 3
    for piece, line in zip(pieces, whole, strict=True):
        assert (piece.start, piece.end) == pytest.approx((line.start, line.end), abs=0.06)


def test_a_lent_encoder_is_not_held_twice(tmp_path: Path) -> None:
    path = write_speaker(tmp_path / "a.pt", TALK)
    alone = Transcriber(path, "cpu")
    encoder = alone.whisper.encoder
    lent = Transcriber(path, encoder=encoder)
    assert lent.whisper.encoder is encoder and lent.lines(noise(3.0)) == alone.lines(noise(3.0))
    held = {weight.data_ptr() for weight in lent.whisper.parameters()}
    assert {weight.data_ptr() for weight in encoder.parameters()} <= held
    assert len(held) == len([*alone.whisper.parameters()])


LINES = [Line(0, 2, "one"), Line(2, 5, "two"), Line(5, 9, "three"), Line(20, 22, "four")]


@pytest.mark.parametrize(
    ("start", "end", "said"),
    [
        (0, 30, "one two three four"),
        (0, 4, "one two"),
        (3.5, 7, "two"),
        (7, 8, "three"),
        (9, 20, ""),
        (21, 21, ""),
    ],
)
def test_what_is_said_in_a_window(start: float, end: float, said: str) -> None:
    assert in_window(LINES, start, end) == said


def test_windows_side_by_side_share_the_lines_out() -> None:
    edges = np.arange(0, 31, 1.5)
    parts = [in_window(LINES, a, b) for a, b in zip(edges, edges[1:], strict=False)]
    assert " ".join(filter(None, parts)) == in_window(LINES, 0, 30)


def test_lines_are_tidied() -> None:
    raw = [Line(5, 9, " b\n c "), Line(0, 2, " a"), Line(3, 4, "  "), Line(9.5, 12, "late")]
    assert tidy(raw, 8.0) == [Line(0, 2, "a"), Line(5, 8.0, "b c")]
