"""Whisper in Transformers' form: the same states and logits as Transformers' own, every size."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import WhisperConfig, WhisperForConditionalGeneration
from transformers import WhisperModel as Reference
from whisper import Whisper
from whisper.model import ModelDimensions, TextDecoder

from avchat.config import AudioConfig, ConfigError
from avchat.encoders import build_audio
from avchat.transcripts import Transcriber
from avchat.whisper_weights import (
    INDEX,
    WEIGHTS,
    build_encoder,
    dimensions,
    encoder_names,
    load_encoder,
    load_whisper,
    whisper_names,
)

SETTINGS = {
    "vocab_size": 60,
    "num_mel_bins": 80,
    "d_model": 16,
    "encoder_layers": 3,
    "encoder_attention_heads": 2,
    "decoder_layers": 1,  # as distil-whisper: fewer than the encoder has
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "max_source_positions": 50,
    "max_target_positions": 12,
    "pad_token_id": 1,
    "bos_token_id": 1,
    "eos_token_id": 1,
    "decoder_start_token_id": 2,
    "suppress_tokens": None,
    "begin_suppress_tokens": None,
}
# The published sizes: (width, layers of the encoder, heads, layers of the decoder, mel bands)
SIZES = {
    "tiny": (384, 4, 6, 4, 80),
    "base": (512, 6, 8, 6, 80),
    "small": (768, 12, 12, 12, 80),
    "medium": (1024, 24, 16, 24, 80),
    "large-v2": (1280, 32, 20, 32, 80),
    "large-v3": (1280, 32, 20, 32, 128),
    "large-v3-turbo": (1280, 32, 20, 4, 128),
    "distil-large-v3": (1280, 32, 20, 2, 128),
}


def write(
    folder: Path, max_shard_size: str = "5GB", **settings: Any
) -> WhisperForConditionalGeneration:
    """Write a small random Whisper as Transformers does."""
    torch.manual_seed(0)
    model = WhisperForConditionalGeneration(WhisperConfig(**SETTINGS | settings)).eval()
    with torch.no_grad():
        for weight in model.parameters():  # biases and norms begin at 0 and 1: nothing would show
            weight.add_(0.1 * torch.randn_like(weight))
    model.save_pretrained(folder, max_shard_size=max_shard_size)
    return model


@pytest.mark.parametrize("options", [{}, {"max_shard_size": "20KB"}], ids=["one file", "shards"])
def test_states_and_logits_are_transformers(tmp_path: Path, options: dict[str, Any]) -> None:
    published = write(tmp_path, **options)
    assert (tmp_path / WEIGHTS).is_file() is not bool(options)
    whisper = load_whisper(tmp_path)
    assert isinstance(whisper, Whisper) and not whisper.training
    mels, ids = torch.randn(2, 80, 100), torch.tensor([[2, 5, 7], [2, 9, 1]])
    with torch.no_grad():
        states = published.model.encoder(mels).last_hidden_state
        torch.testing.assert_close(whisper.encoder(mels), states, atol=1e-5, rtol=1e-4)
        logits = published(encoder_outputs=(states,), decoder_input_ids=ids).logits
        torch.testing.assert_close(whisper.decoder(ids, states), logits, atol=1e-5, rtol=1e-4)
        heard = build_audio(AudioConfig(hub=str(tmp_path)))(mels)
    torch.testing.assert_close(heard, states, atol=1e-5, rtol=1e-4)


def test_weights_in_half_precision_become_fp32(tmp_path: Path) -> None:
    published = write(tmp_path)
    published.half().save_pretrained(tmp_path)
    encoder = load_encoder(tmp_path)
    assert {weight.dtype for weight in encoder.state_dict().values()} == {torch.float32}


def test_an_encoder_inside_another_checkpoint_is_found_by_its_names(tmp_path: Path) -> None:
    published = write(tmp_path)
    prefix = "model.audio_tower.encoder."
    held = {prefix + name: w for name, w in published.model.encoder.state_dict().items()}
    names = encoder_names([*held, "model.embed_tokens.weight"], prefix)
    encoder = build_encoder(dimensions(published.config.to_dict()))
    encoder.load_state_dict({ours: held[theirs] for theirs, ours in names.items()})
    mels = torch.randn(1, 80, 100)
    expected = published.model.encoder(mels).last_hidden_state
    torch.testing.assert_close(encoder(mels), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("size", SIZES)
def test_every_size_fits_name_by_name(size: str) -> None:
    """Shapes alone, on the meta device."""
    width, layers, heads, decoder_layers, mels = SIZES[size]
    vocabulary = 51866 if mels == 128 else 51865
    config = WhisperConfig(
        vocab_size=vocabulary,
        num_mel_bins=mels,
        d_model=width,
        encoder_layers=layers,
        encoder_attention_heads=heads,
        decoder_layers=decoder_layers,
        decoder_attention_heads=heads,
        encoder_ffn_dim=4 * width,
        decoder_ffn_dim=4 * width,
    )
    dims = dimensions(config.to_dict())
    expected = (mels, 1500, width, heads, layers, vocabulary, 448, width, heads, decoder_layers)
    assert dims == ModelDimensions(*expected)
    with torch.device("meta"):
        theirs = {name: w.shape for name, w in Reference(config).state_dict().items()}
        text = vocabulary, 448, width, heads, decoder_layers
        towers = {"encoder": build_encoder(dims), "decoder": TextDecoder(*text)}
    ours = {new: theirs[old] for old, new in whisper_names(theirs).items()}
    assert ours == {
        f"{part}.{name}": weight.shape
        for part, tower in towers.items()
        for name, weight in tower.state_dict().items()
    }


def test_what_is_not_a_whole_whisper_is_refused_in_a_line(tmp_path: Path) -> None:
    write(tmp_path, max_shard_size="20KB")
    shards = sorted(tmp_path.glob("*.safetensors"))
    torn = shards[0].read_bytes()
    shards[0].write_bytes(torn[:40])
    with pytest.raises(ConfigError, match=rf"{shards[0].name}: the weights cannot be read"):
        load_encoder(tmp_path)
    shards[0].unlink()
    with pytest.raises(ConfigError, match=rf"{shards[0].name} is missing, which {INDEX} names"):
        load_encoder(tmp_path)
    (tmp_path / INDEX).unlink()
    with pytest.raises(
        ConfigError, match="neither model.safetensors nor model.safetensors.index.json can be"
    ):
        load_encoder(tmp_path)
    save_file({"model.encoder.conv1.bias": torch.zeros(3)}, tmp_path / WEIGHTS)
    with pytest.raises(ConfigError, match="weights missing, unknown or of another shape"):
        load_encoder(tmp_path)
    settings = json.loads((tmp_path / "config.json").read_text()) | {"model_type": "hubert"}
    (tmp_path / "config.json").write_text(json.dumps(settings))
    with pytest.raises(ConfigError, match="a hubert is not a Whisper"):
        load_encoder(tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(ConfigError, match=r"there is no config.json in it"):
        load_encoder(tmp_path)
    with pytest.raises(ConfigError, match="no such folder, and no name of the Hub"):
        load_encoder("a/b/c")


def test_without_a_network_it_is_the_network_that_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(OSError, match="offline|Hub"):
        load_encoder("nobody/nothing")


def test_a_whisper_in_this_form_transcribes(tmp_path: Path) -> None:
    """Thirty seconds at a time, as the published ones hear; its decoder is asked for real."""
    write(tmp_path, max_source_positions=1500, vocab_size=51865)
    with torch.inference_mode():
        lines = Transcriber(str(tmp_path), "cpu").lines(0.1 * np.sin(np.arange(16_000) / 9))
    assert all(0 <= line.start < line.end <= 1.0 for line in lines)


def test_one_weight_too_many_is_refused(tmp_path: Path) -> None:
    write(tmp_path)
    weights = load_file(tmp_path / WEIGHTS)
    save_file(weights | {"model.encoder.conv3.bias": torch.zeros(2)}, tmp_path / WEIGHTS)
    with pytest.raises(ConfigError, match=r"conv3.bias"):
        load_whisper(tmp_path)
