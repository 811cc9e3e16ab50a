"""Stage 1: encoders and projectors.

    python train/pretrain.py --tiny --output runs/tiny/encoders

With `--tiny` the small encoders start from nothing and are trained, with their projectors, to name
what the world's generator put into each slot and quarter. With `--data` a model on published
encoders is trained on a manifest of captions or speech: projectors only, encoders and language
model frozen (P1's first stage).
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from torch import nn

from avchat.config import PRESETS, ModelError
from avchat.data import DataError, manifest_batch, read_manifest
from avchat.encoders import encode
from avchat.language import train_tokenizer
from avchat.model import AVChat
from avchat.pool import Glimpses, glimpses, world_texts
from avchat.tagging import Tagger
from avchat.training import Batch, Loss, RunConfig, TrainingError, fit
from avchat.world.lessons import draw_lesson


@dataclass(frozen=True)
class Pretrain(RunConfig):
    """Encoders and projectors."""

    output: Path = Path("runs/pretrain")
    tiny: bool = False
    """Train the bundled model's encoders from nothing on the world; no other data needed."""
    data: Path | None = None
    """Manifest (JSON lines) of clips with captions or what is said in them."""
    init: str = "timeline"
    """Preset, folder or Hub id to start from (not with --tiny)."""
    lr: float = 1e-3
    looks: int = 3
    """With --tiny: frames of each clip."""


class TagEncoders(nn.Module):
    """The encoders and projectors of a model, scored by the tags of the world."""

    def __init__(self, model: AVChat) -> None:
        super().__init__()
        self.parts = nn.ModuleList(
            [model.vision, model.audio, model.visual_projector, model.audio_projector]
        )
        self.tagger = Tagger(model.visual_projector.width_out)
        self.frames = model.config.frames
        self.project = model.project

    def forward(self, batch: Glimpses) -> Loss:
        """Sum the losses of what is seen and what is heard, times the clips."""
        seen_tokens = self.project(encode(batch.pictures, *self.parts[:2]))
        heard_tokens = self.project(encode(batch.sounds, *self.parts[:2]))
        seen = self.tagger.seen_loss(torch.stack([t.visual for t in seen_tokens]), batch.tags)
        heard = self.tagger.heard_loss(torch.stack([t.audio for t in heard_tokens]), batch.tags)
        logs = {"seen": float(seen.detach()), "heard": float(heard.detach())}
        return Loss((seen + heard) * len(batch.tags), logs)


def tiny(run: Pretrain) -> None:
    """Train the tiny encoders and their projectors on tags."""
    torch.manual_seed(run.seed)
    model = AVChat.from_config(PRESETS["tiny"], train_tokenizer(world_texts(3000, run.seed), 768))
    pupil = TagEncoders(model)

    def batch_at(number: int) -> Batch:
        first = number * run.batch
        drawn = [draw_lesson(run.seed, first + k, turns=0, sentences=0) for k in range(run.batch)]
        return Batch(glimpses(model, drawn, run.looks, number), run.batch)

    if fit(run, pupil, [{"params": list(pupil.parameters())}], batch_at):
        model.save_pretrained(run.output / "model")
        torch.save(pupil.tagger.state_dict(), run.output / "tagger.pt")


def projectors(run: Pretrain) -> None:
    """Train both projectors on a manifest; everything else is frozen."""
    model = AVChat.from_pretrained(run.init, trainable=True)
    samples = read_manifest(run.data)
    model.requires_grad_(False)
    trained = [*model.visual_projector.parameters(), *model.audio_projector.parameters()]
    for parameter in trained:
        parameter.requires_grad_(True)

    def batch_at(number: int) -> Batch:
        batch = manifest_batch(model, samples, run.batch, run.seed, number)
        return Batch(batch, batch.supervised)

    if fit(run, model, [{"params": trained}], batch_at):
        model.save_pretrained(run.output / "model")


def main(run: Pretrain) -> None:
    """Train on the world or on a manifest."""
    if run.tiny:
        tiny(run)
    elif run.data:
        projectors(run)
    else:
        raise DataError("give --data, a manifest of clips with captions, or --tiny")


if __name__ == "__main__":
    try:
        main(tyro.cli(Pretrain, description=__doc__))
    except (DataError, ModelError, TrainingError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from error
