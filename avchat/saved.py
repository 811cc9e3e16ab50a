"""A saved model on disk: where a name leads, which weights belong in it.

A folder holds `config.json`, `model.safetensors`, `tokenizer/`, `README.md`, with LoRA `adapter/`
and, where it holds all of a published language model, `language/`. model.py writes and reads them.
"""

import hashlib
from pathlib import Path

from huggingface_hub import snapshot_download, try_to_load_from_cache
from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError
from torch import Tensor

from avchat.config import CONFIG_FILE, PRESETS, Config, ModelError
from avchat.weight_files import read_file

WEIGHTS_FILE = "model.safetensors"
ADAPTER_FOLDER = "adapter"
# apart from our config.json, which AutoTokenizer would take for one of its own
TOKENIZER_FOLDER = "tokenizer"
LANGUAGE_FOLDER = "language"  # the architecture of a language model that is saved whole
CARD_FILE = "README.md"
ASSETS = Path(__file__).parent / "assets"  # of the package: a folder for each bundled model


def is_unbundled(name: str) -> bool:
    """Say whether a name is a preset's without weights in the package."""
    return name in PRESETS and not (ASSETS / name / CONFIG_FILE).is_file()


def find_checkpoint(name: str) -> Path:
    """Find the folder of a bundled model, a folder or a Hub id (downloaded); else ModelError."""
    presets = ", ".join(PRESETS)
    if name in PRESETS and not is_unbundled(name):
        return ASSETS / name
    if Path(name).is_dir():
        run = Path(name) / "model"  # of a run's folder
        inside = not (Path(name) / CONFIG_FILE).is_file() and (run / CONFIG_FILE).is_file()
        return run if inside else Path(name)
    if name in PRESETS:
        raise ModelError(
            f"no weights for the preset {name}: none are in this package; train it (see train/) or "
            "name a folder or a Hub id"
        )
    reason = "not found on the Hub"
    if name.count("/") == 1:
        try:
            return Path(snapshot_download(name))
        except (RepositoryNotFoundError, HFValidationError):
            pass  # the reason above is the true one
        except OSError as error:
            reason = f"and the Hub could not be asked ({type(error).__name__})"
    raise ModelError(f"no model called {name}: not a preset ({presets}), not a folder, {reason}")


def commit_of(hub: str | None, revision: str | None) -> str | None:
    """Find which commit of a Hub repository was loaded; None for a folder or no repository."""
    if hub is None or Path(hub).is_dir():
        return None
    try:
        cached = try_to_load_from_cache(hub, CONFIG_FILE, revision=revision)
    except HFValidationError:  # a folder that is gone, of a language model that is saved whole
        return None
    return Path(cached).parent.name if isinstance(cached, str) else None


def read_weights(folder: Path) -> dict[str, Tensor]:
    """Read `model.safetensors`; ModelError when it is absent or damaged."""
    return read_file(folder / WEIGHTS_FILE)


def fingerprint(weights: dict[str, Tensor]) -> str:
    """Name weights by their values: 16 hexadecimal digits, the same on every device."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(name.encode())
        digest.update(weights[name].detach().cpu().float().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def own_prefixes(config: Config) -> tuple[str, ...]:
    """Name, as prefixes of weights, the parts that no base brings: trained projectors, what is
    inline.
    """
    parts = {"vision.": config.vision, "audio.": config.audio, "language.": config.language}
    inline = (prefix for prefix, part in parts.items() if part.inline is not None)
    heard = ("audio_projector.",) if config.hears else ()
    return ("visual_projector.", *heard, *inline)


def without_peft(name: str) -> str:
    """Give a weight the name that it has without peft's wrapping."""
    return name.replace("language.base_model.model.", "language.").replace(".base_layer.", ".")
