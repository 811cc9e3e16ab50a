"""Which weights a checkpoint must hold: all but untouched bases and adapters.

Enters: an `AVChat`, whose file stands on this one. Leaves: tensors, named as in its state.
"""

from pathlib import Path

from torch import Tensor, nn

from avchat.checkpoints import read_checkpoint
from avchat.language import plain_weights, save_architecture
from avchat.saved import own_prefixes, without_peft

PROJECTORS = ("visual_projector", "audio_projector")


def own_weights(model: nn.Module) -> dict[str, Tensor]:
    """Collect what a checkpoint must hold: all but the untouched bases and the adapters."""
    built = own_prefixes(model.config)
    trained = {name for name, weight in model.named_parameters() if weight.requires_grad}
    weights, seen = {}, set()
    for name, weight in _state(model).items():
        bare = without_peft(name)
        wanted = bare.startswith(built) or name in trained or bare in model.changed
        # tied weights are one tensor under two names: safetensors wants it once
        quantised = model.unquantised is not None and bare.startswith("language.")
        once = ".lora_" not in name and weight.data_ptr() not in seen
        if wanted and once and not quantised:
            seen.add(weight.data_ptr())
            weights[bare] = weight.detach().cpu().contiguous()
    if model.unquantised is not None:
        weights |= language_of(read_checkpoint(model.unquantised).weights(), "language.")
    return weights


def _state(model: nn.Module) -> dict[str, Tensor]:
    """Return the state of a model whose projectors' adapters, if any, are folded in."""
    state = model.state_dict()
    for part in PROJECTORS:
        if any(name.startswith(part) and ".lora_" in name for name in state):
            kept = {name: w for name, w in state.items() if not name.startswith(f"{part}.")}
            folded = plain_weights(getattr(model, part))
            state = kept | {f"{part}.{name}": weight for name, weight in folded.items()}
    return state


def save_language_architecture(model: nn.Module, folder: Path) -> None:
    """Where a checkpoint holds all of a published language model, save what builds it."""
    if model.unquantised is not None:
        read_checkpoint(model.unquantised).architecture.save_pretrained(str(folder))
        return
    weights = model.named_parameters(remove_duplicate=False)  # tied ones under both of their names
    held = {name for name, weight in weights if weight.requires_grad}
    held |= model.changed
    names = [n for n in model.state_dict() if n.startswith("language.") and ".lora_" not in n]
    whole = all(name in held or without_peft(name) in held for name in names)
    if model.config.language.hub is not None and whole:
        save_architecture(model.language, folder)


def language_of(weights: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Pick the language model's weights, under names that begin with `prefix` instead."""
    own = {n: w for n, w in weights.items() if n.startswith("language.")}
    return {prefix + name.removeprefix("language."): weight for name, weight in own.items()}
