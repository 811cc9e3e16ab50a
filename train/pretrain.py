"""Stage 1: encoders and projectors.

    python train/pretrain.py --tiny --output runs/tiny/encoders

With `--tiny` the small encoders start from nothing and are trained, with their projectors, to name
what the world's generator put into each slot and quarter. With `--data` a model on published
encoders is trained on a manifest of captions or speech: projectors only, encoders and language
model frozen (P1's first stage).
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from avchat.config import PRESETS, LoraConfig
from avchat.data import DataError
from avchat.encoders import encode
from avchat.model import AVChat
from avchat.pool import Glimpses, glimpses, world_texts
from avchat.script import run_script
from avchat.stage import StageConfig, begin, train
from avchat.tagging import Tagger
from avchat.tokenizer import train_tokenizer
from avchat.trainable import Trainable
from avchat.training import Batch, Loss, fit, micro_batch
from avchat.world.lessons import draw_lesson


@dataclass(frozen=True)
class Pretrain(StageConfig):
    """Encoders and projectors."""

    output: Path = Path("runs/pretrain")
    tiny: bool = False
    """Without --data, train the bundled model's encoders from nothing on the world; with it, start
    from the bundled model."""
    init: str = ""
    """Preset, folder or Hub id to start from (default: timeline, with --tiny the bundled model)."""
    part: Literal["audio", "visual", "both"] = "both"
    """Which projector is trained. P1: audio on speech with its text and captioned sounds, visual on
    captioned pictures."""
    projectors: Literal["full", "lora"] = "full"
    lora: LoraConfig = LoraConfig()
    """With --projectors lora: their adapters."""
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
    run, micro = replace(run, steps=run.steps or 1000), micro_batch(run)
    torch.manual_seed(run.seed)
    model = AVChat.from_config(PRESETS["tiny"], train_tokenizer(world_texts(3000, run.seed), 768))
    pupil = TagEncoders(model)

    def batch_at(number: int) -> Batch:
        clips = range(number * micro, (number + 1) * micro)
        drawn = [draw_lesson(run.seed, clip, turns=0, sentences=0) for clip in clips]
        return Batch(glimpses(model, drawn, run.looks, number), micro)

    groups = [{"params": list(pupil.parameters())}]
    if fit(run, pupil, groups, batch_at, save=model.save_pretrained):
        torch.save(pupil.tagger.state_dict(), run.output / "tagger.pt")


def manifest(run: Pretrain) -> None:
    """Train projectors on manifests; encoders and language model are frozen (P1's first stage)."""
    torch.manual_seed(run.seed)
    model = begin(run, run.init or ("tiny" if run.tiny else "timeline"))
    trainable = Trainable(
        language="frozen",
        lora=run.lora,
        visual_projector="frozen" if run.part == "audio" else run.projectors,
        audio_projector="frozen" if run.part == "visual" else run.projectors,
        projector_lr=run.lr,
    )
    train(run, model, trainable)


def main(run: Pretrain) -> None:
    """Train on the world or on a manifest."""
    if run.data:
        manifest(run)
    elif run.tiny:
        tiny(run)
    else:
        raise DataError("give --data, a manifest of clips with captions, or --tiny")


if __name__ == "__main__":
    run_script(main, Pretrain, __doc__)
