"""Saved models: fold adapters in, take over, upload. cli.py runs them: `avchat merge | import |
push`.

Heavy imports stay inside.
"""

import contextlib
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from avchat.input_error import InputError


@dataclass(frozen=True)
class Merge:
    """Fold a model's LoRA adapters into its language model, all of which DST then holds."""

    run: Annotated[str, Positional, arg(metavar="RUN")]
    """a run's folder (its model/ is taken), a checkpoint, a model's folder, or a name on the Hub"""
    target: Annotated[Path, Positional, arg(metavar="DST")]
    """the folder to write; it must not be there yet, or be empty"""
    best: bool = False
    """of a run's folder take best/, the model of the lowest validation loss"""
    dtype: Literal["as-is", "bf16", "fp32"] = "as-is"
    """precision of the language model's weights as written; as-is: that of the base"""
    json: bool = False
    """print one JSON object: what was taken, and how far logits moved"""


@dataclass(frozen=True)
class Import:
    """Write a public checkpoint, Bunny's or Owlet's, in avchat's form; nothing is rounded."""

    source: Annotated[str, Positional, arg(metavar="SRC")]
    """a folder with the files as they are published, or a name on the Hub"""
    target: Annotated[Path, Positional, arg(metavar="DST")]
    """the folder to write; it must not be there yet, or be empty"""
    json: bool = False
    """print one JSON object: what was found and written"""


@dataclass(frozen=True)
class Push:
    """Upload a saved model to the Hugging Face Hub, as it is; a new repository is private."""

    folder: Positional[Path]
    """a model's folder, as a run or avchat merge wrote it"""
    repo_id: Annotated[str, Positional, arg(metavar="REPO_ID")]
    """the repository, such as me/my-model; made when absent"""
    public: bool = False
    """let everybody see a repository that is new"""
    dry_run: bool = False
    """upload nothing: list the files with their sizes, and print the card"""


def merge(verb: Merge) -> None:
    """Merge; what was taken goes to stderr, what came of it to stdout."""
    with _one_line():
        from avchat import merging

        source = merging.locate(verb.run, best=verb.best)
        print(f"taking {source}", file=sys.stderr)
        done = merging.merge(source, verb.target, verb.dtype)
    if verb.json:
        print(json.dumps(asdict(done)))
        return
    print(
        f"{done.output}: adapters of rank {done.lora.r} folded in, {done.bytes / 1e6:.1f} MB\n"
        f"largest difference of logits: {done.folding:.2g} by folding, {done.rounding:.2g} as "
        f"written in {done.dtype} (the largest logit is {done.largest_logit:.3g})"
    )


def import_(verb: Import) -> None:
    """Import; say what was found, and which bases are still fetched when the model is loaded."""
    with _one_line():
        from avchat.importing import import_model

        done = import_model(verb.source, verb.target)
    if verb.json:
        print(json.dumps(asdict(done)))
        return
    print(f"{done.output}: {done.tensors} tensors, {done.bytes / 1e6:.1f} MB")
    print("\n".join(done.found))
    print("it hears" if done.hears else "no audio projector: it was never taught to hear")
    if done.bases:
        print(f"from elsewhere when it is loaded: {', '.join(done.bases)}")


def push(verb: Push) -> None:
    """Upload, or say what would be."""
    with _one_line():
        from avchat import push as pushing
        from avchat.saved import CARD_FILE

        config = pushing.check_model(verb.folder)
        pushing.check_name(verb.repo_id)
        files = pushing.files_of(verb.folder)
        card = verb.folder / CARD_FILE
        if not card.is_file():
            _note(f"there is no {CARD_FILE}, the model's card")
        for base in pushing.left_behind(verb.folder, config):
            _note(f"{base} is a base on this machine: nobody else can load this model without it")
        if not verb.dry_run:
            address = pushing.push(verb.folder, verb.repo_id, private=not verb.public)
    if not verb.dry_run:
        print(f"{len(files)} files, {sum(files.values()) / 1e6:.1f} MB, at {address}")
        return
    kind = "public" if verb.public else "private"
    print(f"would upload to {verb.repo_id} ({kind} if it is new):")
    print("".join(f"{size / 1e6:12.3f} MB  {name}\n" for name, size in files.items()))
    print(card.read_text(encoding="utf-8") if card.is_file() else "no card")


def _note(line: str) -> None:
    print(f"note: {line}", file=sys.stderr)


@contextlib.contextmanager
def _one_line() -> Iterator[None]:
    """Turn the faults of models into an InputError; what libraries print is no answer."""
    from avchat.config import ModelError

    with contextlib.redirect_stdout(sys.stderr):
        try:
            yield
        except ModelError as error:
            raise InputError(str(error)) from error
