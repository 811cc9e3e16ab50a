"""Stage 2: teach the model to answer, pictures and sound at once.

    accelerate launch train/finetune.py --data clips.jsonl --init timeline --output runs/mine
    torchrun --nproc-per-node 2 train/finetune.py --tiny --init runs/tiny/encoders/model

Projectors and the language model are trained (by LoRA on a published base or where there are
adapters, else all of it); encoders stay frozen unless they are given a learning rate. With `--tiny`
and no `--data` the clips are lessons of the world, and small heads (see avchat/tagging.py) help by
naming what the generator knows.
"""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from avchat.config import LoraConfig
from avchat.data import DataError
from avchat.language import has_lora
from avchat.model import AVChat
from avchat.pool import Pool, TaggedBatch
from avchat.prompt import PICTURE_ID, SOUND_ID
from avchat.saved import find_checkpoint
from avchat.script import run_script
from avchat.stage import StageConfig, begin, train
from avchat.tagging import Follower, Tagger
from avchat.trainable import Trainable
from avchat.training import Batch, Loss, fit, micro_batch
from avchat.world.lessons import Mix

# After so many layers of the language model an audio token should know who acts in its slot, and
# media tokens what follows from earlier ones.
ACTING_LAYER, SO_FAR_LAYER = 1, 3
TAG_WEIGHT, FOLLOW_WEIGHT = 0.15, 0.3


@dataclass(frozen=True)
class Finetune(StageConfig):
    """Projectors and language model, and encoders where they are given a learning rate."""

    output: Path = Path("runs/finetune")
    tiny: bool = False
    """Start from the bundled model; without --data, train on lessons of the world."""
    init: str = ""
    """Preset, folder or Hub id to start from (default: timeline, with --tiny the bundled model)."""
    language: Literal["auto", "lora", "qlora", "full", "frozen"] = "auto"
    """How the language model is trained. qlora: adapters on weights in 4 bit; auto: lora where the
    model is on a published base or has adapters, else full."""
    lora: LoraConfig = LoraConfig()
    """The adapters (Bunny's); of a model that has some, they go on as they are."""
    projectors: Literal["full", "lora", "frozen"] = "full"
    projector_lr: float = 2e-5
    """Peak learning rate of the projectors."""
    vision_lr: float = 0.0
    """Peak learning rate of the picture's encoder; 0: frozen."""
    audio_lr: float = 0.0
    """Peak learning rate of the sound's encoder; 0: frozen."""
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


def tiny(run: Finetune) -> None:
    """Train the tiny model on lessons of the world: all but the encoders, at one rate."""
    run, micro = replace(run, steps=run.steps or 1000), micro_batch(run)
    torch.manual_seed(run.seed)
    model = AVChat.from_pretrained(run.init or "tiny", trainable=True)
    model.vision.requires_grad_(False)
    model.audio.requires_grad_(False)
    pupil = Pupil(model)
    for name in ("tagger", "follower"):  # what an earlier stage left beside its model
        path = find_checkpoint(run.init or "tiny").parent / f"{name}.pt"
        if run.init and path.is_file():
            getattr(pupil, name).load_state_dict(torch.load(path, weights_only=True))
    pool = Pool(model, run.pool, run.seed, Mix(run.last, run.more, run.focus))

    def batch_at(number: int) -> Batch:
        tagged = pool.batch(number, micro, run.tokens)
        return Batch(tagged, tagged.batch.supervised)

    trained = [p for p in pupil.parameters() if p.requires_grad]
    if fit(run, pupil, [{"params": trained}], batch_at, save=model.save_pretrained):
        for name in ("tagger", "follower"):
            torch.save(getattr(pupil, name).state_dict(), run.output / f"{name}.pt")


def manifest(run: Finetune) -> None:
    """Train on the user's own clips."""
    torch.manual_seed(run.seed)  # of fresh adapters
    name = run.init or ("tiny" if run.tiny else "timeline")
    model = begin(run, name, 4 if run.language == "qlora" else None)
    language = run.language
    if language == "auto":
        adapted = has_lora(model.language) or model.config.language.hub is not None
        language = "lora" if adapted else "full"
    given = run.lora if run.lora != LoraConfig() else None
    trainable = Trainable(
        language=language,
        language_lr=run.lr,
        lora=given,
        visual_projector=run.projectors,
        audio_projector=run.projectors,
        projector_lr=run.projector_lr,
        vision_lr=run.vision_lr,
        audio_lr=run.audio_lr,
    )
    train(run, model, trainable)


def main(run: Finetune) -> None:
    """Train on the world or on a manifest."""
    if run.data:
        manifest(run)
    elif run.tiny:
        tiny(run)
    else:
        raise DataError("give --data, a manifest of clips with questions and answers, or --tiny")


if __name__ == "__main__":
    run_script(main, Finetune, __doc__)
