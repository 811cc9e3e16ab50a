"""A folder that holds a model -> `Checkpoint`: avchat's own form, or those of Bunny and Owlet.

Enters: a folder as its authors published it. Leaves: a `Config`, tensors under our names, and what
builds the rest. Nothing that a repository brings as code is run, and every tensor is accounted for
(bunny.py). Public forms:
- merged: phi-2, the projector and SigLIP in shards (Bunny-v1_0-3B, Owlet-Phi-2; Owlet-Phi-2-Audio
  has an audio projector besides);
- adapters: a LoRA of stock phi-2 and `non_lora_trainables.bin` (bunny-phi-2-siglip-lora);
- projector: `mm_projector.bin` alone, over stock phi-2 (bunny-pretrain-phi-2-siglip).
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor
from transformers import AutoConfig, PreTrainedConfig

from avchat.bunny import (
    PROJECTOR,
    Placed,
    Shapes,
    UnknownForm,
    phi_config,
    place_adapters,
    place_hearing,
    place_phi,
    place_projector,
    place_tower,
    tower_hub,
    tower_name,
)
from avchat.config import (
    BUNNY_PROMPT,
    CONFIG_FILE,
    MODEL_TYPE,
    OWLET,
    PHI_2,
    VLSA_TYPE,
    Config,
    LoraConfig,
    ModelError,
    VisionConfig,
)
from avchat.saved import (
    ADAPTER_FOLDER,
    LANGUAGE_FOLDER,
    TOKENIZER_FOLDER,
    WEIGHTS_FILE,
    read_weights,
)
from avchat.weight_files import (
    INDEX,
    SAFE_FILE,
    TORCH_FILE,
    check_whole,
    read_file,
    read_shapes,
    weight_files,
)

BUNNY_TYPE = "bunny-phi"
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_FILES = ("adapter_model.safetensors", "adapter_model.bin")
REST_FILE, PROJECTOR_FILE = "non_lora_trainables.bin", "mm_projector.bin"
WHOLE = (SAFE_FILE, SAFE_FILE + INDEX, TORCH_FILE, TORCH_FILE + INDEX)
ADAPTER_PREFIX = "base_model.model."
OTHER_ADAPTERS = ("use_dora", "use_rslora", "rank_pattern", "alpha_pattern", "modules_to_save")
# what comes of a configuration whose values are of another kind than Bunny's
WRONG = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, StrictDataclassError)
# Bunny's head has no bias and stock phi-2's has one: over it all was trained as if it were zero.
HEAD_BIAS = "language.lm_head.bias"
# These were taught without the words that say what is missing.
PROMPT = replace(BUNNY_PROMPT, no_picture="", no_sound="")


@dataclass(frozen=True)
class Checkpoint:
    """A model on disk, in whichever form.

    `architecture` builds the language model where all of it is in `files`; `adapter` is a folder
    of peft's form. `names`: None for our own form, else their names -> ours.
    """

    folder: Path
    config: Config
    files: tuple[Path, ...]
    tokenizer: str
    architecture: PreTrainedConfig | None = None
    adapter: Path | None = None
    names: dict[str, str] | None = None
    zeros: tuple[tuple[str, int], ...] = ()  # vectors of ours that are zero there
    found: tuple[str, ...] = ()

    @property
    def where(self) -> Path:
        """Return what to name in a message about the weights."""
        return self.files[0] if len(self.files) == 1 else self.folder

    def weights(self) -> dict[str, Tensor]:
        """Read the tensors under our names, in the precision in which they are stored."""
        if self.names is None:
            return read_weights(self.folder)
        stored = {name: tensor for path in self.files for name, tensor in read_file(path).items()}
        weights = {ours: stored[theirs] for theirs, ours in self.names.items()}
        dtype = next(iter(weights.values())).dtype
        return weights | {name: torch.zeros(size, dtype=dtype) for name, size in self.zeros}


def read_checkpoint(folder: Path, name: str | None = None) -> Checkpoint:
    """Look at a folder and tell what is in it; the tensors themselves are not read yet.

    Args: name: of the model in receipts, for a public one; None for the folder's.

    Raises:
        ModelError: there is no model that we know, or tensors are missing or left over.
    """
    raw = _read_json(folder / CONFIG_FILE)
    kind = raw.get("model_type")
    if kind == MODEL_TYPE:
        return _own(folder)
    if kind == VLSA_TYPE:
        raise ModelError(f"{folder}: a lookup head (--head), not a model that answers")
    if kind != BUNNY_TYPE:
        raise ModelError(
            f"{folder / CONFIG_FILE}: a model of type {kind}; known are {MODEL_TYPE} and "
            f"{BUNNY_TYPE} (Bunny and Owlet over phi-2)"
        )
    if raw.get("mm_projector_type", "mlp2x_gelu") != "mlp2x_gelu":
        raise ModelError(
            f"{folder}: projector {raw['mm_projector_type']}: only mlp2x_gelu is known"
        )
    try:
        config = replace(OWLET, name=name or folder.name, prompt=PROMPT, hears=False)
        if (folder / ADAPTER_CONFIG).is_file():
            return _adapters(folder, raw, config)
        alone = not any((folder / name).is_file() for name in WHOLE)
        if alone and (folder / PROJECTOR_FILE).is_file():
            return _projector(folder, raw, config)
        return _merged(folder, raw, config)
    except ModelError:
        raise
    except UnknownForm as error:
        raise ModelError(f"{folder}: {error}") from error
    except WRONG as error:
        reason = " ".join(str(error).split())
        raise ModelError(f"{folder}: its configuration is not Bunny's ({reason})") from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: not readable as a configuration ({error})") from error
    if not isinstance(raw, dict):
        raise ModelError(f"{path}: not a configuration")
    return raw


def _own(folder: Path) -> Checkpoint:
    """Tell what is in a folder that avchat wrote."""
    language, adapter = folder / LANGUAGE_FOLDER, folder / ADAPTER_FOLDER
    whole = language.is_dir()  # all of the language model is here: its base is not asked for
    return Checkpoint(
        folder=folder,
        config=Config.load(folder),
        files=(folder / WEIGHTS_FILE,),
        tokenizer=str(folder / TOKENIZER_FOLDER),
        architecture=AutoConfig.from_pretrained(str(language)) if whole else None,
        adapter=adapter if adapter.is_dir() else None,
    )


def _merged(folder: Path, raw: dict[str, Any], config: Config) -> Checkpoint:
    """Place the tensors of a whole model: phi-2, projector, SigLIP, perhaps an audio projector."""
    check_whole(folder)
    files = tuple(weight_files(folder))
    shapes: Shapes = {}
    for path in files:
        shapes |= read_shapes(path)
    rows = shapes.get("lm_head.weight", (raw["vocab_size"],))[0]  # config.json may say 51200
    architecture = phi_config({**raw, "vocab_size": rows})
    placed, width = Placed(), architecture.hidden_size
    place_phi(placed, shapes, architecture)
    place_projector(placed, shapes, width)
    vision = place_tower(placed, shapes, raw)
    audio = place_hearing(placed, shapes, raw, width)
    placed.check(folder, shapes)
    heard = {} if audio is None else {"audio": audio, "hears": True}
    language = replace(PHI_2, lora=None)
    return Checkpoint(
        folder=folder,
        config=replace(config, vision=vision, language=language, **heard),
        files=files,
        tokenizer=str(folder),
        architecture=architecture,
        names=placed.names,
        zeros=((HEAD_BIAS, rows),),
        found=tuple(placed.found),
    )


def _adapters(folder: Path, raw: dict[str, Any], config: Config) -> Checkpoint:
    """Place an adapter's projector; check that the adapter has all layers that it speaks of."""
    said = _read_json(folder / ADAPTER_CONFIG)
    base = _base(said["base_model_name_or_path"])
    if other := [name for name in OTHER_ADAPTERS if said.get(name) not in (None, False, {}, [])]:
        raise UnknownForm(f"{ADAPTER_CONFIG} asks for {', '.join(other)}, which is not known here")
    if said.get("bias", "none") != "none":
        raise UnknownForm(f"{ADAPTER_CONFIG}: adapters that train biases are not known here")
    targets = tuple(sorted(said["target_modules"]))
    lora = LoraConfig(said["r"], said["lora_alpha"], said["lora_dropout"], targets)
    adapter = next((folder / n for n in ADAPTER_FILES if (folder / n).is_file()), None)
    if adapter is None or not (folder / REST_FILE).is_file():
        lacking = REST_FILE if adapter else ADAPTER_FILES[0]
        raise ModelError(f"{folder / lacking}: missing; download the repository again")
    held, placed = read_shapes(adapter), Placed()
    place_adapters(placed, held, phi_config(raw), targets, lora.r)
    placed.check(adapter, held)
    checkpoint = _projector(folder, raw, config, folder / REST_FILE, f"{ADAPTER_PREFIX}{PROJECTOR}")
    language = replace(checkpoint.config.language, hub=base, lora=lora)
    found = (f"adapters of rank {lora.r}, alpha {lora.alpha}, over {base}", *checkpoint.found)
    config = replace(checkpoint.config, language=language)
    return replace(checkpoint, config=config, tokenizer=base, adapter=folder, found=found)


def _projector(
    folder: Path,
    raw: dict[str, Any],
    config: Config,
    path: Path | None = None,
    prefix: str = PROJECTOR,
) -> Checkpoint:
    """Place a projector over stock phi-2 and SigLIP from the Hub."""
    path, placed = path or folder / PROJECTOR_FILE, Placed()
    shapes = read_shapes(path)
    place_projector(placed, shapes, raw["hidden_size"], prefix)
    placed.check(path, shapes)
    base = _base(raw.get("_name_or_path", ""))
    tower_name(raw)  # is one that we know
    vision = VisionConfig(hub=tower_hub(raw), layer=-2)
    return Checkpoint(
        folder=folder,
        config=replace(config, vision=vision, language=replace(PHI_2, hub=base, lora=None)),
        files=(path,),
        tokenizer=base,
        names=placed.names,
        zeros=((HEAD_BIAS, raw["vocab_size"]),),
        found=(f"projector: {path.name}, over {base}",),
    )


def _base(named: str) -> str:
    """Tell where stock phi-2 is to be had: in the folder that is named, if it is here, or the Hub.

    What is named is often a folder of the authors' machine, whose last part tells what was in it.
    """
    if named and Path(named).is_dir():
        return named
    if not named or named.rstrip("/").rsplit("/", 1)[-1] == "phi-2":
        return str(PHI_2.hub)
    if named.count("/") == 1 and not named.startswith((".", "/", "~")):
        return named
    raise UnknownForm(f"its base, {named}, is not here, and by its name it is not phi-2")
