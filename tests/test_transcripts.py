"""A whole Whisper with random weights runs through; what it says is nonsense, its times are not."""

from pathlib import Path

import numpy as np
import pytest
import torch
from whisper.model import ModelDimensions, Whisper

from avchat.transcripts import Line, Transcriber, TranscriptError, in_window, tidy

DIMS = {
    "n_mels": 80,
    "n_audio_ctx": 1500,
    "n_audio_state": 16,
    "n_audio_head": 2,
    "n_audio_layer": 1,
    "n_vocab": 51865,
    "n_text_ctx": 24,
    "n_text_state": 16,
    "n_text_head": 2,
    "n_text_layer": 1,
}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Whisper, saved as the published ones are."""
    torch.manual_seed(0)
    whisper = Whisper(ModelDimensions(**DIMS))
    # Sure of its nonsense, as a trained one is of its words: else it tries six temperatures.
    whisper.decoder.token_embedding.weight.data *= 4
    path = tmp_path_factory.mktemp("whisper") / "small.pt"
    torch.save({"dims": DIMS, "model_state_dict": whisper.state_dict()}, path)
    return path


def test_a_whole_whisper_runs_through(weights: Path) -> None:
    sound = np.random.default_rng(0).normal(0, 0.1, 2 * 16_000).astype(np.float32)
    transcriber = Transcriber(weights, device="cpu")
    lines = transcriber.lines(sound, start_s=100.0)
    assert lines, "random weights say something about noise"
    for line in lines:
        assert 100 <= line.start < line.end <= 102 and line.text == line.text.strip() != ""
    assert [line.start for line in lines] == sorted(line.start for line in lines)


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
    torch.save({"dims": DIMS, "model_state_dict": {}}, tmp_path / "empty.pt")
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
