"""Stage 2: teach the model to answer, pictures and sound at once.

    accelerate launch train/finetune.py --data clips.jsonl --init timeline --output runs/mine
    torchrun --nproc-per-node 2 train/finetune.py --tiny --init runs/tiny/encoders/model

Projectors and the language model are trained (LoRA where the model's config asks for it, else all
of it); encoders stay frozen. With `--tiny` the clips are lessons of the world, and small heads
(see avchat/tagging.py) help by naming what the generator knows.
"""

import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
import tyro
from torch import nn

from avchat.config import ModelError
from avchat.data import DataError, manifest_batch, read_manifest
from avchat.model import AVChat
from avchat.pool import Pool, TaggedBatch
from avchat.prompt import PICTURE_ID, SOUND_ID
from avchat.tagging import Follower, Tagger
from avchat.training import Batch, Loss, RunConfig, TrainingError, fit
from avchat.world.lessons import Mix

# After so many layers of the language model an audio token should know who acts in its slot, and
# media tokens what follows from earlier ones.
ACTING_LAYER, SO_FAR_LAYER = 1, 3
TAG_WEIGHT, FOLLOW_WEIGHT = 0.15, 0.3


@dataclass(frozen=True)
class Finetune(RunConfig):
    """Projectors and language model."""

    output: Path = Path("runs/finetune")
    tiny: bool = False
    """Train on lessons of the world instead of a manifest."""
    data: Path | None = None
    """Manifest (JSON lines) of clips with questions and answers."""
    init: str = ""
    """Preset, folder or Hub id to start from (default: timeline, with --tiny the bundled model)."""
    projector_lr: float = 0.1
    """Learning rate of the projectors, as a part of lr (Bunny: 2e-5 of 2e-4)."""
    pool: int = 32768
    """With --tiny: clips that are rendered and encoded once."""
    tokens: int = 208
    """With --tiny: length of a row."""
    last: bool = False
    """With --tiny: the last stage, which asks most about what is learned last."""
    more: tuple[str, ...] = ()
    """With --last: families of questions that are asked even more often."""
    focus: str = ""
    """With --last: one family that is asked in most clips, about each object that it can be."""


class Pupil(nn.Module):
    """A chat model with the heads that help it to learn the world."""

    def __init__(self, model: AVChat) -> None:
        super().__init__()
        self.model = model
        width = model.visual_projector.width_out
        self.tagger, self.follower = Tagger(width), Follower(width)
        self._states: dict[int, torch.Tensor] = {}  # layer -> [B, L, D]
        for layer in (ACTING_LAYER, SO_FAR_LAYER):
            model.language.model.layers[layer - 1].register_forward_hook(partial(self._keep, layer))

    def _keep(self, layer: int, module: nn.Module, args: tuple, output: torch.Tensor) -> None:
        self._states[layer] = output

    def _at(self, layer: int, ids: torch.Tensor, placeholder: int, rows: list[int]) -> torch.Tensor:
        """Pick the states [rows, N, D] of a layer at a kind of media token."""
        states = self._states[layer]
        return torch.stack([states[k][ids[k] == placeholder] for k in rows])

    def forward(self, tagged: TaggedBatch) -> Loss:
        """Sum the answers' loss and the weighted losses of the heads."""
        batch, tags = tagged.batch, tagged.tags
        tokens = self.model.project(batch.clips)
        loss = self.model(batch, tokens=tokens)
        known = [k for k, tag in enumerate(tags) if tag is not None]
        seen = [k for k in known if len(tokens[k].visual)]
        heard = [k for k in known if len(tokens[k].audio)]
        both = [k for k in heard if k in seen]
        naming, acting, so_far = (loss.total.new_zeros(()) for _ in range(3))
        if seen:
            at_seen = [tags[k] for k in seen]
            visual = torch.stack([tokens[k].visual for k in seen])
            states = self._at(SO_FAR_LAYER, batch.ids, PICTURE_ID, seen)
            naming = naming + self.tagger.seen_loss(visual, at_seen)
            so_far = so_far + self.follower.seen_loss(states, at_seen)
        if heard:
            at_heard = [tags[k] for k in heard]
            audio = torch.stack([tokens[k].audio for k in heard])
            states = self._at(SO_FAR_LAYER, batch.ids, SOUND_ID, heard)
            naming = naming + self.tagger.heard_loss(audio, at_heard)
            so_far = so_far + self.follower.heard_loss(states, at_heard)
        if both:
            states = self._at(ACTING_LAYER, batch.ids, SOUND_ID, both)
            acting = self.follower.acting_loss(states, [tags[k] for k in both])
        heads = TAG_WEIGHT * naming + FOLLOW_WEIGHT * (acting + so_far)
        logs = {
            "answers": float(loss.total.detach() / loss.weight),
            "naming": float(naming.detach()),
            "acting": float(acting.detach()),
            "so_far": float(so_far.detach()),
            **loss.logs,
        }
        return Loss(loss.total + heads * loss.weight.detach(), logs)


def freeze_encoders(model: AVChat) -> None:
    """Freeze what this stage does not train."""
    model.vision.requires_grad_(False)
    model.audio.requires_grad_(False)


def tiny(run: Finetune) -> None:
    """Train the tiny model on lessons of the world."""
    torch.manual_seed(run.seed)
    model = AVChat.from_pretrained(run.init or "tiny", trainable=True)
    freeze_encoders(model)
    pupil = Pupil(model)
    for name in ("tagger", "follower"):  # what an earlier stage left beside its model
        path = Path(run.init).parent / f"{name}.pt"
        if run.init and path.is_file():
            getattr(pupil, name).load_state_dict(torch.load(path, weights_only=True))
    pool = Pool(model, run.pool, run.seed, Mix(run.last, run.more, run.focus))

    def batch_at(number: int) -> Batch:
        tagged = pool.batch(number, run.batch, run.tokens)
        return Batch(tagged, tagged.batch.supervised)

    trained = [p for p in pupil.parameters() if p.requires_grad]
    if fit(run, pupil, [{"params": trained}], batch_at):
        model.save_pretrained(run.output / "model")
        for name in ("tagger", "follower"):
            torch.save(getattr(pupil, name).state_dict(), run.output / f"{name}.pt")


def manifest(run: Finetune) -> None:
    """Train on the user's own clips."""
    model = AVChat.from_pretrained(run.init or "timeline", trainable=True)
    freeze_encoders(model)
    samples = read_manifest(run.data)
    projectors = [*model.visual_projector.parameters(), *model.audio_projector.parameters()]
    groups = [
        {"params": projectors, "lr": run.projector_lr},
        {"params": [p for p in model.language.parameters() if p.requires_grad]},
    ]

    def batch_at(number: int) -> Batch:
        batch = manifest_batch(model, samples, run.batch, run.seed, number)
        return Batch(batch, batch.supervised)

    if fit(run, model, groups, batch_at):
        model.save_pretrained(run.output / "model")


def main(run: Finetune) -> None:
    """Train on the world or on a manifest."""
    if run.tiny:
        tiny(run)
    elif run.data:
        manifest(run)
    else:
        raise DataError("give --data, a manifest of clips with questions and answers, or --tiny")


if __name__ == "__main__":
    try:
        main(tyro.cli(Finetune, description=__doc__))
    except (DataError, ModelError, TrainingError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from error
