"""Which weights a checkpoint must hold, written and read: all but untouched bases and adapters.

Enters: an `AVChat`, whose file stands on this one, and a folder or what was read from one. Leaves:
tensors, named as in its state; a folder; or the model with its weights.
"""

from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor, nn

from avchat.checkpoints import read_checkpoint
from avchat.config import CONFIG_FILE, ModelError
from avchat.language import has_lora, plain_weights, save_architecture, save_lora
from avchat.saved import (
    ADAPTER_FOLDER,
    CARD_FILE,
    LANGUAGE_FOLDER,
    TOKENIZER_FOLDER,
    WEIGHTS_FILE,
    own_prefixes,
    without_peft,
)

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


def save(model: nn.Module, folder: Path, card: str) -> None:
    """Write config, weights, tokenizer, adapters and the model's card into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    model.config.save(folder)
    model.tokenizer.save_pretrained(str(folder / TOKENIZER_FOLDER))
    save_file(own_weights(model), folder / WEIGHTS_FILE, metadata={"format": "pt"})
    save_language_architecture(model, folder / LANGUAGE_FOLDER)
    if has_lora(model.language):
        save_lora(model.language, folder / ADAPTER_FOLDER)
    (folder / CARD_FILE).write_text(card, encoding="utf-8")


def load_weights(
    model: nn.Module, path: Path, weights: dict[str, Tensor], *, restored: bool
) -> None:
    """Load what was read from a file; every weight that no base brings must be there.

    Args: restored: the language model was built from them already.
    """
    model.changed |= set(weights)
    if restored:
        weights = {n: w for n, w in weights.items() if not n.startswith("language.")}
    own = model.state_dict()
    other = [n for n, w in weights.items() if n in own and w.shape != own[n].shape]
    if other:
        shapes = (" x ".join(map(str, x[other[0]].shape)) for x in (weights, own))
        reason = "{} is {} in the file and {} by the config".format(other[0], *shapes)
        raise ModelError(
            f"{path}: does not fit {CONFIG_FILE} ({len(other)} weights of another shape; {reason})"
        )
    missing, unknown = model.load_state_dict(weights, strict=False)
    built = own_prefixes(model.config)
    params = dict(model.named_parameters(remove_duplicate=False))  # tied ones are saved once
    found = {id(params[name]) for name in weights if name in params}
    missing = [n for n in missing if n not in params or id(params[n]) not in found]
    missing = [name for name in missing if name.startswith(built)]
    if missing or unknown:
        wrong = ", ".join([*missing, *unknown][:3])
        raise ModelError(
            f"{path}: {len(missing)} weights missing, {len(unknown)} unknown ({wrong}, ...)"
        )
