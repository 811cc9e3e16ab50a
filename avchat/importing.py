"""A public checkpoint -> a folder in avchat's own form, tensor by tensor, nothing rounded.

Enters: Bunny's or Owlet's files, in a folder or on the Hub. Leaves: a folder that loads, trains,
merges and is pushed like any other of ours, written beside its place and renamed into it.
"""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file

from avchat import __version__
from avchat.card import plain_card
from avchat.checkpoints import ADAPTER_CONFIG, ADAPTER_FILES, Checkpoint, read_checkpoint
from avchat.config import ModelError
from avchat.language import load_tokenizer
from avchat.merging import Beside
from avchat.saved import (
    ADAPTER_FOLDER,
    CARD_FILE,
    LANGUAGE_FOLDER,
    TOKENIZER_FOLDER,
    WEIGHTS_FILE,
    find_checkpoint,
)
from avchat.weight_files import read_file


@dataclass(frozen=True)
class Imported:
    """What was imported: tensors placed, bases that are still asked for, bytes written."""

    source: str
    output: str
    tensors: int
    found: tuple[str, ...]
    hears: bool
    bases: tuple[str, ...]
    bytes: int


def import_model(source: str, target: Path) -> Imported:
    """Write a public checkpoint in our form and read it back.

    Raises:
        ModelError: the source is none that we know, or not whole; the target is not empty or cannot
        be written. Nothing is left behind then.
    """
    if target.is_file() or (target.is_dir() and any(target.iterdir())):
        raise ModelError(f"{target}: there is something already; name another folder")
    found = read_checkpoint(find_checkpoint(source), Path(source).name)
    if found.names is None:
        raise ModelError(f"{source}: is in avchat's form already; copy the folder")
    tokenizer = _tokenizer(found, source)
    weights = found.weights()
    config = found.config
    with Beside(target) as new:
        config.save(new)
        tokenizer.save_pretrained(str(new / TOKENIZER_FOLDER))
        held = {name: weight.contiguous() for name, weight in weights.items()}
        save_file(held, new / WEIGHTS_FILE, metadata={"format": "pt"})
        if found.architecture is not None:
            found.architecture.dtype = next(iter(weights.values())).dtype
            found.architecture.save_pretrained(str(new / LANGUAGE_FOLDER))
        if found.adapter is not None:
            _copy_adapter(found.adapter, new / ADAPTER_FOLDER)
        (new / CARD_FILE).write_text(_card(found, source), encoding="utf-8")
        _check(new, weights)
        size = sum(path.stat().st_size for path in new.rglob("*") if path.is_file())
    bases = [config.vision.hub, config.audio.hub if config.hears else None]
    bases += [] if found.architecture is not None else [config.language.hub]
    return Imported(
        source=source,
        output=str(target),
        tensors=len(found.names),
        found=found.found,
        hears=config.hears,
        bases=tuple(base for base in bases if base is not None),
        bytes=size,
    )


def _tokenizer(found: Checkpoint, source: str) -> object:
    try:
        return load_tokenizer(found.tokenizer)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ModelError(f"{source}: its tokenizer could not be loaded ({reason})") from error


def _copy_adapter(adapter: Path, folder: Path) -> None:
    """Copy what peft reads, and not what lies beside it."""
    folder.mkdir()
    for name in (ADAPTER_CONFIG, *ADAPTER_FILES):
        if (adapter / name).is_file():
            shutil.copyfile(adapter / name, folder / name)


def _check(folder: Path, weights: dict[str, torch.Tensor]) -> None:
    """Read what was written: a full disk, or a cable, must not pass for a model."""
    written = read_file(folder / WEIGHTS_FILE)
    same = written.keys() == weights.keys() and all(
        torch.equal(written[name], weight) for name, weight in weights.items()
    )
    if not same:
        raise ModelError(f"{folder}: read back, the weights are not those that were written")


def _card(found: Checkpoint, source: str) -> str:
    """Write the model's card: where it is from, and what was found in it."""
    listed = "".join(f"- {line}\n" for line in found.found)
    raw = json.loads((found.folder / "config.json").read_text(encoding="utf-8"))
    hears = "" if found.config.hears else "\nIt was never taught to hear: it sees, and reads.\n"
    return (
        f"{plain_card(found.config)}\n## Imported\n\nFrom `{source}` (`{raw['model_type']}`), by "
        f"`avchat import`, avchat {__version__}: the same tensors in the same precision. Authors "
        f"and licence are those of the source.\n\n{listed}{hears}"
    )
