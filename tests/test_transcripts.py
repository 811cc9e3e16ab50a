"""A whole Whisper with random weights runs through; what it says is nonsense, its times are not."""

from pathlib import Path

import numpy as np
import pytest
import torch
from joined import write_joined
from small import WHISPER_DIMS

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
