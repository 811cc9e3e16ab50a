"""Whisper in any of its published forms -> the class of openai-whisper.

Enters: a name that openai-whisper knows, its .pt file, or a repository of the Hub or a folder in
the form of Transformers (`config.json` and safetensors, in one file or in shards), such as
`openai/whisper-small` or `distil-whisper/distil-large-v3`. Leaves: a whole `Whisper`, or its
encoder alone.
"""

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.error import URLError

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    HFValidationError,
    LocalEntryNotFoundError,
)
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from whisper import Whisper, available_models, load_model
from whisper.model import AudioEncoder as WhisperEncoder
from whisper.model import ModelDimensions

from avchat.config import CONFIG_FILE, ConfigError

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"

# Transformers' names inside a layer, and openai-whisper's.
LAYER = {
    "self_attn_layer_norm": "attn_ln",
    "encoder_attn_layer_norm": "cross_attn_ln",
    "final_layer_norm": "mlp_ln",
    "fc1": "mlp.0",
    "fc2": "mlp.2",
}
ATTENTION = {"self_attn": "attn", "encoder_attn": "cross_attn"}
HEADS = {"q_proj": "query", "k_proj": "key", "v_proj": "value", "out_proj": "out"}
OUTSIDE = {
    "encoder.embed_positions.weight": "encoder.positional_embedding",
    "encoder.layer_norm": "encoder.ln_post",
    "decoder.embed_positions.weight": "decoder.positional_embedding",
    "decoder.embed_tokens": "decoder.token_embedding",
    "decoder.layer_norm": "decoder.ln",
}


def load_whisper(name: str | Path, revision: str | None = None) -> Whisper:
    """Load a whole Whisper in fp32 on the CPU, in evaluation mode.

    Raises:
        ConfigError: the weights cannot be read, or are not those of a Whisper; OSError: there is no
        network, or no such repository.
    """
    return _load(str(name), revision, whole=True)


def load_encoder(name: str | Path, revision: str | None = None) -> WhisperEncoder:
    """Load the encoder of a Whisper, as `load_whisper` does; a decoder is not read."""
    return _load(str(name), revision, whole=False)


def _load(name: str, revision: str | None, whole: bool) -> Any:
    if name in available_models() or Path(name).is_file():
        try:
            whisper = load_model(name, device="cpu")
        except RuntimeError as error:
            raise ConfigError(f"audio {name}: {error}") from error
        except URLError as error:  # openai-whisper fetches it by itself
            raise ConfigError(
                f"audio {name}: cannot be fetched ({error.reason}); where there is a network, "
                "fetch it, then copy its .pt file into ~/.cache/whisper"
            ) from error
        return whisper if whole else whisper.encoder
    if not Path(name).is_dir() and "/" not in name:
        names = ", ".join(available_models())
        raise ConfigError(
            f"audio {name}: no such Whisper and no such file; known: {names}, and repositories "
            "of the Hub such as openai/whisper-small"
        )
    dims = dimensions(_settings(name, revision))
    network = Whisper(dims) if whole else build_encoder(dims)
    _fill(network, name, _tensors(name, revision, whole))
    return network.eval()


def dimensions(settings: dict[str, Any]) -> ModelDimensions:
    """Read a Whisper's sizes from Transformers' configuration; ConfigError where it is of another
    kind.
    """
    if settings.get("model_type") != "whisper":
        raise ConfigError(f"audio: a {settings.get('model_type')} is not a Whisper")
    return ModelDimensions(
        n_mels=settings["num_mel_bins"],
        n_audio_ctx=settings["max_source_positions"],
        n_audio_state=settings["d_model"],
        n_audio_head=settings["encoder_attention_heads"],
        n_audio_layer=settings["encoder_layers"],
        n_vocab=settings["vocab_size"],
        n_text_ctx=settings["max_target_positions"],
        n_text_state=settings["d_model"],
        n_text_head=settings["decoder_attention_heads"],
        n_text_layer=settings["decoder_layers"],
    )


def build_encoder(dims: ModelDimensions) -> WhisperEncoder:
    """Build an encoder with random weights."""
    return WhisperEncoder(
        dims.n_mels,
        dims.n_audio_ctx,
        dims.n_audio_state,
        dims.n_audio_head,
        dims.n_audio_layer,
    )


def whisper_names(keys: Iterable[str], prefix: str = "") -> dict[str, str]:
    """Give the tensors of Transformers' `WhisperModel` the names that openai-whisper has for them.

    Args: keys: names of tensors; those that do not begin with `prefix` are left out.

    Returns:
        The given name -> openai-whisper's, which begins with "encoder." or "decoder.".
    """
    return {
        key: _renamed(key.removeprefix(prefix))
        for key in keys
        if key.startswith((f"{prefix}encoder.", f"{prefix}decoder."))
    }


def encoder_names(keys: Iterable[str], prefix: str = "") -> dict[str, str]:
    """Give the tensors of Transformers' `WhisperEncoder` the names of openai-whisper's encoder.

    Args: prefix: what stands before "conv1.weight" in a checkpoint that holds an encoder.
    """
    return {
        key: _renamed(f"encoder.{key.removeprefix(prefix)}").removeprefix("encoder.")
        for key in keys
        if key.startswith(prefix)
    }


def _renamed(key: str) -> str:
    for theirs, ours in OUTSIDE.items():
        if key == theirs or key.startswith(f"{theirs}."):
            return ours + key[len(theirs) :]
    match = re.fullmatch(r"(\w+)\.layers\.(\d+)\.(.+)\.(\w+)", key)
    if match is None:
        return key  # conv1 and conv2 are called the same
    tower, number, layer, kind = match.groups()
    block, _, head = layer.partition(".")
    inside = f"{ATTENTION[block]}.{HEADS.get(head, head)}" if block in ATTENTION else LAYER[block]
    return f"{tower}.blocks.{number}.{inside}.{kind}"


def _settings(name: str, revision: str | None) -> dict[str, Any]:
    path = _file(name, CONFIG_FILE, revision)
    if path is None:
        raise ConfigError(f"audio {name}: there is no {CONFIG_FILE} in it")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"{path}: not readable as a configuration ({error})") from error


def _tensors(name: str, revision: str | None, whole: bool) -> dict[str, Tensor]:
    """Read the weights, under openai-whisper's names; without the decoder unless `whole`."""
    path = _file(name, WEIGHTS, revision)
    paths = [path] if path is not None else _shards(name, revision)
    tensors: dict[str, Tensor] = {}
    for shard in paths:
        try:
            with safe_open(shard, framework="pt") as stored:
                keys = list(stored.keys())
                prefix = "model." if any(key.startswith("model.") for key in keys) else ""
                names = whisper_names(keys, prefix)
                part = "" if whole else "encoder."
                wanted = {key: ours for key, ours in names.items() if ours.startswith(part)}
                tensors |= {ours: stored.get_tensor(key).float() for key, ours in wanted.items()}
        except SafetensorError as error:
            raise ConfigError(f"{shard}: the weights cannot be read ({error})") from error
    if whole:
        return tensors
    return {key.removeprefix("encoder."): weight for key, weight in tensors.items()}


def _shards(name: str, revision: str | None) -> list[Path]:
    index = _file(name, INDEX, revision)
    if index is None:
        raise ConfigError(f"audio {name}: neither {WEIGHTS} nor {INDEX} can be had of it")
    files = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    found = {file: _file(name, file, revision) for file in files}
    for file in (file for file, path in found.items() if path is None):
        raise ConfigError(f"audio {name}: {file} is missing, which {INDEX} names: fetch it again")
    return [path for path in found.values() if path is not None]


def _file(name: str, file: str, revision: str | None) -> Path | None:
    """Find a file in a folder, or in a repository of the Hub; None where that does not have it."""
    if Path(name).is_dir():
        path = Path(name) / file
        return path if path.is_file() else None
    try:
        return Path(hf_hub_download(name, file, revision=revision))
    except LocalEntryNotFoundError:  # not in the cache, and the Hub cannot be asked
        if file == CONFIG_FILE:
            raise
        return None
    except EntryNotFoundError:
        return None
    except HFValidationError as error:
        raise ConfigError(f"audio {name}: no such folder, and no name of the Hub") from error


def _fill(network: nn.Module, name: str, tensors: dict[str, Tensor]) -> None:
    """Load all weights of a network; ConfigError names what is missing, unknown or of another
    shape.
    """
    own = network.state_dict()
    wrong = sorted(own.keys() ^ tensors.keys())
    wrong += [key for key in own.keys() & tensors.keys() if own[key].shape != tensors[key].shape]
    if wrong:
        raise ConfigError(
            f"audio {name}: {len(wrong)} weights missing, unknown or of another shape "
            f"({', '.join(wrong[:3])}, ...): the download may not be whole"
        )
    network.load_state_dict(tensors)
