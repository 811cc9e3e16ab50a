"""Variants of one small model that differ in one thing each, and are trained alike but for it.

What reviewers of both papers asked for and neither paper ran: does sound help when a model has
learned with it, what does training the projectors first add, and does the layout of the tokens
matter? On the world, from frozen encoders, in P1's stages:

    words      the language model alone learns how the world is spoken of: it stands for phi-2
    captions   projectors learn to put what they get into the frozen language model's words
    questions  projectors and language model learn to answer

P1 adapts phi-2 by LoRA; a language model of a million weights is trained whole (our choice). No
head helps, as they do in train/finetune.py --tiny: they need slots, which one layout has not.
"""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from avchat.config import Config
from avchat.encoders import Sense
from avchat.evaluation.items import EvalError
from avchat.evaluation.variant_lessons import Lessons, Teach, captions_of, questions_on, words_of
from avchat.model import AVChat
from avchat.run_config import RunConfig
from avchat.stage import Answerer
from avchat.training import Batch, fit


@dataclass(frozen=True)
class Variant:
    """One way to train; the first one is what the others are compared with."""

    name: str
    sense: Sense = "both"  # what it learns with, and is asked with
    layout: Literal["timeline", "pooled"] = "timeline"
    captions: bool = True  # whether projectors are trained before
    language: bool = True  # whether the language model learns from questions about clips


VARIANTS = (
    Variant("audio-visual, timeline"),
    Variant("picture only", sense="picture"),
    Variant("sound only", sense="sound"),
    Variant("words only", sense="none", captions=False),
    Variant("no projector pretraining", captions=False),
    Variant("projectors only", language=False),
    Variant("concatenated", layout="pooled"),
)


@dataclass(frozen=True)
class Recipe:
    """How variants are trained (--train)."""

    seeds: int = 3
    """Models of each variant."""
    steps: int = 700
    """Steps on questions about clips."""
    words: int = 150
    """Steps of the language model on words without clips, before."""
    captions: int = 120
    """Steps of the projectors alone on captions, before."""
    rows: int = 16
    """Clips of a step."""
    questions: int = 6
    """Questions about a clip, in one row."""
    train_clips: int = 6144
    """Clips that are learned from; encoded once, and asked about afresh at each visit."""
    lr: float = 1.5e-3

    def check(self) -> None:
        """Raise EvalError for settings that no training can have."""
        for name, value in asdict(self).items():
            if value <= 0:
                raise EvalError(f"--{name.replace('_', '-')} must be above 0, not {value:g}")
        if self.rows > self.train_clips:
            raise EvalError(f"--rows {self.rows}: there are {self.train_clips} --train-clips")

    def steps_of(self, variant: Variant) -> int:
        """Count the steps of one model of a variant, after its words."""
        return self.steps + (self.captions if variant.captions else 0)

    def clips_of(self, variant: Variant) -> int:
        """Count the clips that one model learns from, each as often as it is visited."""
        return self.rows * self.steps_of(variant)


def chosen(names: tuple[str, ...]) -> list[Variant]:
    """Find variants by how their names begin, the first one always with them.

    Raises:
        EvalError: a name is none's, or several begin so.
    """
    found = {VARIANTS[0].name} if names else {variant.name for variant in VARIANTS}
    for name in names:
        meant = [variant.name for variant in VARIANTS if variant.name.startswith(name)]
        if len(meant) != 1:
            known = "; ".join(f'"{variant.name}"' for variant in VARIANTS)
            raise EvalError(f"no variant, or several, are called {name!r}: there are {known}")
        found.add(meant[0])
    return [variant for variant in VARIANTS if variant.name in found]


@dataclass(frozen=True)
class Training:
    """Everything that variants share: the model whose encoders they have, clips, the recipe."""

    base: AVChat
    lessons: Lessons
    recipe: Recipe
    seed: int

    def words(self, folder: Path) -> bool:
        """Train the language model that all variants of a seed begin with; False: stopped."""
        torch.manual_seed(self.seed)
        model = fresh(self.base, VARIANTS[0])
        teach = words_of(model, self.recipe.questions)
        return self._stage(0, self.recipe.words, model, [model.language], folder, teach)

    def variant(self, variant: Variant, words: Path, folder: Path) -> bool:
        """Train one variant into folder/questions; False: stopped, to be gone on with."""
        torch.manual_seed(self.seed)
        model, recipe = fresh(self.base, variant), self.recipe
        begin = AVChat.from_pretrained(words / "model")
        model.language.load_state_dict(begin.language.state_dict())
        projectors = [model.visual_projector, model.audio_projector]
        if variant.captions:
            teach = captions_of(model, variant.sense)
            place = folder / "captions"
            if not self._stage(1, recipe.captions, model, projectors, place, teach):
                return False
        learn = [*projectors, model.language] if variant.language else projectors
        teach = questions_on(model, variant.sense, recipe.questions)
        return self._stage(2, recipe.steps, model, learn, folder / "questions", teach)

    def _stage(
        self,
        number: int,
        steps: int,
        model: AVChat,
        learn: list[nn.Module],
        folder: Path,
        teach: Teach,
    ) -> bool:
        """Train some modules of a model in place; what is trained already is read back.

        Each stage has batches of its own; variants of one seed have the same ones.
        """
        if (folder / "model").is_dir():
            model.load_state_dict(AVChat.from_pretrained(folder / "model").state_dict())
            return True
        model.requires_grad_(False)
        for part in learn:
            part.requires_grad_(True)
        run = RunConfig(
            output=folder,
            steps=steps,
            batch=self.recipe.rows,
            lr=self.recipe.lr,
            weight_decay=0.02,
            precision="bf16",
            seed=self.seed,
            save_every=100,
            keep=1,
            tracker="none",
        )

        def batch_at(k: int) -> Batch:
            rows = self.lessons.batch([self.seed, number, k], run.batch, teach)
            return Batch(rows, rows.supervised)

        groups = [{"params": [p for part in learn for p in part.parameters()]}]
        # On a CPU the backward of torch's fused attention is slow at this size: with plain
        # products a step took 0.40 s, not 0.50 (16 rows of 137 tokens).
        with sdpa_kernel(SDPBackend.MATH):
            return fit(run, Answerer(model, False), groups, batch_at, save=model.save_pretrained)


def fresh(base: AVChat, variant: Variant) -> AVChat:
    """Build a model from nothing but the base's encoders, which stay as they are."""
    model = AVChat.from_config(config_of(base.config, variant), base.tokenizer)
    model.vision.load_state_dict(base.vision.state_dict())
    model.audio.load_state_dict(base.audio.state_dict())
    return model


def config_of(base: Config, variant: Variant) -> Config:
    """Give a variant's layout to a model in slots.

    "pooled" is P1's: one token a frame, one a patch, then the sound, with as many tokens of sound
    as slots have, and no times: neither in words nor in the tokens.
    """
    if variant.layout == base.projector.layout:
        return base
    projector = replace(
        base.projector,
        layout=variant.layout,
        time_embedding=False,
        cell_embedding=False,
        audio_tokens=base.frames * base.projector.audio_tokens,
    )
    return replace(base, projector=projector)
