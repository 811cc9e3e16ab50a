"""A model with LoRA adapters -> a model without, whose language model has them folded in.

Enters: what a run, a checkpoint or the Hub holds. Leaves: a folder that stands by itself, written
beside its place and renamed into it, after it was loaded again and had said the same.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from avchat import __version__
from avchat.card import merged_card, plain_card
from avchat.checkpoints import read_checkpoint
from avchat.config import CONFIG_FILE, LoraConfig, ModelError
from avchat.language import base_dtype, has_lora, is_quantised
from avchat.model import AVChat
from avchat.prompt import Turn
from avchat.saved import WEIGHTS_FILE, find_checkpoint

Precision = Literal["as-is", "bf16", "fp32"]
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
STORED = {"BF16": torch.bfloat16, "F16": torch.float16}
TOLERANCE = 1e-3  # of the largest logit: sums in fp32 are done in another order
CHECKED = (Turn("What do you see, and what do you hear?", "A dog that barks at the sea."),)


@dataclass(frozen=True)
class Merged:
    """What was merged, and how far logits moved (largest absolute difference over the prompt)."""

    source: str
    output: str
    lora: LoraConfig
    dtype: str  # of the language model's weights, as written
    folding: float  # adapters beside the weights against folded in, in fp32
    rounding: float  # against what was written
    largest_logit: float
    bytes: int


def locate(name: str, *, best: bool = False) -> str:
    """Find which model is meant: `best/` or `model/` of a run's folder, `model/` of a checkpoint;
    else the name itself.

    Raises:
        ModelError: there is none (yet); the line says which there are.
    """
    folder = Path(name)
    if (folder / CONFIG_FILE).is_file() or not folder.is_dir():
        if best:
            raise ModelError(f"{name}: --best is for the folder of a run")
        return name
    models = [p for p in (folder / "best", folder / "model") if (p / CONFIG_FILE).is_file()]
    models += sorted(path.parent for path in folder.glob(f"checkpoints/*/model/{CONFIG_FILE}"))
    wanted = folder / ("best" if best else "model")
    if wanted in models:
        return str(wanted)
    listed = f"there is {models[-1]}" if models else "nor any other"
    missing = "best/ (a run with --validation keeps one)" if best else "model/ (a finished run's)"
    raise ModelError(f"{name}: no model in {missing}; {listed}")


def merge(source: str, target: Path, precision: Precision = "as-is") -> Merged:
    """Fold a model's adapters into its language model and save it.

    Computed in fp32 on the CPU, on the base in its own precision: what was trained on 4 bit too.

    Args: source: a folder or a name on the Hub; precision: of the language model's weights as
    written; as-is: the base's.

    Raises:
        ModelError: there are no adapters, the target is not empty or cannot be written, or logits
        would differ; nothing is left behind.
    """
    if target.is_file() or (target.is_dir() and any(target.iterdir())):
        raise ModelError(f"{target}: there is something already; name another folder")
    folder = find_checkpoint(source)
    model = AVChat.from_pretrained(source, device="cpu", dtype=torch.float32)
    lora = model.config.language.lora
    if not has_lora(model.language) or lora is None:
        raise ModelError(f"{source}: no adapters, so there is nothing to merge")
    if is_quantised(model.language):
        base = model.config.language.hub
        raise ModelError(
            f"{source}: its base, {base}, is published in few bits: nothing to fold in"
        )
    dtype = DTYPES.get(precision) or _stored_dtype(folder, model)
    before = _logits(model)
    model.merge()
    folding = _difference(_logits(model), before)
    largest = float(before.abs().max())
    if not folding <= TOLERANCE * largest:
        raise ModelError(f"{source}: merged, its logits would differ by {folding:g}")
    card = merged_card(model.card or plain_card(model.config), _note(source, lora, dtype, folding))
    with Beside(target) as new:
        rounding = _write(model, new, card, dtype, before)
        size = sum(path.stat().st_size for path in new.rglob("*") if path.is_file())
    name = str(dtype).removeprefix("torch.")
    return Merged(source, str(target), lora, name, folding, rounding, largest, size)


def _write(model: AVChat, new: Path, card: str, dtype: torch.dtype, before: Tensor) -> float:
    """Save a merged model and load it again; return how far its logits are from `before`."""
    _round(model, dtype)
    model.save_pretrained(new, card=card)
    _round(model, torch.float32)
    meant = _logits(model)
    del model.language  # room for the one that is loaded
    loaded = AVChat.from_pretrained(new, device="cpu", dtype=torch.float32)
    written = _logits(loaded)
    if not _difference(written, meant) <= TOLERANCE * float(meant.abs().max()):
        raise ModelError(f"{new}: loaded again, the merged model says something else")
    return _difference(written, before)


def _round(model: AVChat, dtype: torch.dtype) -> None:
    """Set the precision of the language model's weights; `to` would round its frequencies too."""
    for weight in model.language.parameters():
        weight.data = weight.data.to(dtype)


class Beside:
    """A folder beside the target, renamed into its place at the end, removed when that fails."""

    def __init__(self, target: Path) -> None:
        self.target, self.new = target, target.with_name(f"new-{target.name}")

    def __enter__(self) -> Path:
        """Make the new folder, empty."""
        shutil.rmtree(self.new, ignore_errors=True)  # of a merge that was killed
        try:
            self.new.mkdir(parents=True)
        except OSError as error:
            raise ModelError(f"{self.target} cannot be written ({error.strerror})") from error
        return self.new

    def __exit__(self, kind: type | None, error: BaseException | None, trace: object) -> None:
        """Rename it into its place, or remove it."""
        if error is None:
            if self.target.is_dir():
                self.target.rmdir()  # empty: looked at before
            self.new.rename(self.target)
            return
        shutil.rmtree(self.new, ignore_errors=True)
        if isinstance(error, OSError | SafetensorError):
            reason = str(error).splitlines()[0]
            raise ModelError(f"{self.target} cannot be written ({reason})") from error


@torch.inference_mode()
def _logits(model: AVChat) -> Tensor:
    """Compute the logits [1, L, V] of a short prompt on nothing seen or heard."""
    ids = torch.tensor([model.prompt.build(None, CHECKED).ids])
    return model.language(inputs_embeds=model.embed(ids, []), use_cache=False).logits.float()


def _difference(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max())


def _stored_dtype(folder: Path, model: AVChat) -> torch.dtype:
    """Tell in which precision the weights are stored that the adapters are folded into."""
    if read_checkpoint(folder).architecture is None:
        return base_dtype(model.config.language)
    with safe_open(folder / WEIGHTS_FILE, "pt") as file:
        name = next(name for name in file.keys() if name.startswith("language."))
        return STORED.get(file.get_slice(name).get_dtype(), torch.float32)


def _note(source: str, lora: LoraConfig, dtype: torch.dtype, folding: float) -> str:
    name = str(dtype).removeprefix("torch.")
    return (
        f"LoRA adapters (rank {lora.r}, alpha {lora.alpha}) are folded into the language model, "
        f"whose weights are all in this folder, in {name} (`avchat merge`, avchat {__version__}). "
        f"In fp32 the logits of a short prompt moved by {folding:.2g} at most."
    )
