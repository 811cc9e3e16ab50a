"""Lessons of the world as batches by number: rendered, encoded once, asked about afresh.

Enters: a model and a seed. Leaves: batches of conversations on clips, with what the generator knows
of each.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch

from avchat.collate import Batch, collate
from avchat.encoders import (
    STATE_SAMPLES,
    Features,
    Inputs,
    InputSpec,
    log_mels,
    prepare,
    preprocess_frames,
)
from avchat.media import Media
from avchat.model import AVChat
from avchat.prompt import Packed, Turn, pack, pack_independent
from avchat.world import lessons, questions
from avchat.world.casting import draw_kind, draw_scene
from avchat.world.pictures import render_frames
from avchat.world.sounds import render_waveform
from avchat.world.tags import Tags, tag


@dataclass(frozen=True)
class TaggedBatch:
    """A batch of lessons, with what the generator knows of each clip."""

    batch: Batch
    tags: list[Tags | None]  # None: the clip is not of the world

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "TaggedBatch":
        """Return this batch with its tensors on a device; tags go there when they are used."""
        return replace(self, batch=self.batch.to(device, non_blocking=non_blocking))


def lesson_inputs(lesson: lessons.Lesson, spec: InputSpec) -> Inputs:
    """Render a lesson and make it ready for the encoders, without a file in between."""
    media = Media(
        frames=lesson.frames(spec.image_size),
        frame_times_s=lesson.frame_times_s,
        waveform=lesson.waveform(),
        start_s=0.0,
        duration_s=lesson.duration_s,
        has_video=True,
        has_audio=True,
    )
    return prepare(media, spec)


def known(lesson: lessons.Lesson) -> Tags | None:
    """Tell what the generator knows of a lesson's clip: nothing of a stranger."""
    return None if lesson.strange else tag(lesson.scene)


def lesson_row(
    model: AVChat, lesson: lessons.Lesson, clip: Inputs | Features, tokens: int, order: int
) -> Packed:
    """Lay out as many of a lesson's turns as fit `tokens`, so that rows of a batch are about
    equally long.

    Args:
        order: seed for the order of the turns.
    """
    turns = [Turn(t.question, t.answer, t.weight) for t in lesson.turns]
    prefix = model.prompt.media_prefix(model.plan(clip))
    kept, length = [], len(prefix.ids)
    for turn in turns:
        size = len(model.prompt.turn(turn).ids)
        if length + size <= tokens or not kept:
            kept, length = [*kept, turn], length + size
    kept = [kept[i] for i in np.random.default_rng(order).permutation(len(kept))]
    if lesson.independent:
        return pack_independent(prefix, [model.prompt.turn(turn) for turn in kept])
    return pack(prefix, model.prompt.turns(kept))


def retimed(clip: Features, slower: float, start_s: float) -> Features:
    """Give full-precision features as of a clip that is `slower` times as long and begins later.

    Each audio state is repeated, so the tokens hold the same averages: only the times change. Where
    there is sound `slower` must be a whole number.
    """
    audio = clip.audio
    if audio is not None:
        assert slower == int(slower), f"sound cannot be repeated {slower} times"
        audio = audio.float().repeat_interleave(int(slower), dim=0)
    return Features(
        visual=None if clip.visual is None else clip.visual.float(),
        audio=audio,
        frame_times_s=tuple(start_s + slower * time for time in clip.frame_times_s),
        start_s=start_s,
        duration_s=slower * clip.duration_s,
    )


class Pool:
    """Clips of the world with their frozen features, each encoded when it is first wanted.

    Questions are drawn afresh at each visit, so what a run sees again is a clip's features and
    never its lesson.
    """

    def __init__(self, model: AVChat, size: int, seed: int, mix: lessons.Mix | None = None) -> None:
        """Begin empty. Args: mix: what is asked most (default: as in the first stage)."""
        self.model, self.size, self.seed, self.mix = model, size, seed, mix or lessons.Mix()
        self._features: dict[int, Features] = {}

    def batch(self, number: int, count: int, tokens: int) -> TaggedBatch:
        """Make batch `number` of `count` clips, rows of at most `tokens` tokens."""
        drawn = []
        for k in range(number * count, (number + 1) * count):
            visit, clip = divmod(k, self.size)
            sentences = 0.25 if self.mix.last else 0.5
            lesson = lessons.draw_lesson(self.seed, clip, visit, sentences=sentences, mix=self.mix)
            drawn.append((clip, lesson))
        rows, clips = [], []
        for (_, lesson), kept in zip(drawn, self.features(drawn), strict=True):
            features = retimed(kept.only(lesson.sense), lesson.slower, lesson.start_s)
            rows.append(lesson_row(self.model, lesson, features, tokens, order=number))
            clips.append(features)
        return TaggedBatch(collate(rows, clips), [known(lesson) for _, lesson in drawn])

    def features(self, drawn: list[tuple[int, lessons.Lesson]]) -> list[Features]:
        """Give the features of clips by number, in half precision; those that are new are
        encoded.
        """
        self._encode({clip: lesson for clip, lesson in drawn if clip not in self._features})
        return [self._features[clip] for clip, _ in drawn]

    @torch.no_grad()
    def _encode(self, fresh: dict[int, lessons.Lesson]) -> None:
        if fresh:
            encoded = self.model.encode(
                [lesson_inputs(lesson, self.model.spec) for lesson in fresh.values()]
            )
            for clip, features in zip(fresh, encoded, strict=True):
                half = replace(features, visual=features.visual.half(), audio=features.audio.half())
                self._features[clip] = half


def lesson_batch(model: AVChat, drawn: list[lessons.Lesson], tokens: int = 256) -> TaggedBatch:
    """Render lessons, not yet encoded, and lay out their turns."""
    clips = [lesson_inputs(lesson, model.spec).only(lesson.sense) for lesson in drawn]
    rows = [
        lesson_row(model, lesson, clip, tokens, 0)
        for lesson, clip in zip(drawn, clips, strict=True)
    ]
    return TaggedBatch(collate(rows, clips), [known(lesson) for lesson in drawn])


@dataclass(frozen=True)
class Glimpses:
    """A few frames and the whole sound of each clip, as clips of one sense each, with their
    tags.
    """

    pictures: list[Inputs]
    sounds: list[Inputs]
    tags: list[Tags]

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "Glimpses":
        """Return these clips on a device; tags go there when they are used."""
        pictures = [clip.to(device) for clip in self.pictures]
        return replace(self, pictures=pictures, sounds=[clip.to(device) for clip in self.sounds])


def glimpses(model: AVChat, drawn: list[lessons.Lesson], looks: int, order: int) -> Glimpses:
    """Render lessons' scenes for tagging: `looks` frames of each, since frames of one clip teach
    much the same.

    Args:
        order: seed for which frames.
    """
    rng = np.random.default_rng(order)
    pictures, sounds, tags = [], [], []
    for lesson in drawn:
        at = np.sort(rng.choice(len(lesson.frame_times_s), looks, replace=False))
        times = lesson.frame_times_s[at]
        pixels = preprocess_frames(
            render_frames(lesson.scene, times, model.spec.image_size), model.spec
        )
        pictures.append(Inputs(pixels, None, 0, tuple(times.tolist()), 0.0, lesson.duration_s))
        wave = render_waveform(lesson.scene)
        states = len(wave) // STATE_SAMPLES
        sounds.append(Inputs(None, log_mels(wave, model.spec), states, (), 0.0, lesson.duration_s))
        whole = tag(lesson.scene)
        seen = {name: values[at] for name, values in whole.seen.items()}
        tags.append(replace(whole, seen=seen, centres=whole.centres[at]))
    return Glimpses(pictures, sounds, tags)


def world_texts(clips: int, seed: int) -> list[str]:
    """Write out every phrasing and the texts of some scenes: what the tiny tokenizer is trained
    on.
    """
    rng = np.random.default_rng([13, seed])
    admissions = questions.NO_SOUND, questions.NO_PICTURE, lessons.NOT_KNOWN
    admissions += *lessons.LOOK, *lessons.LISTEN
    texts = [f" {text}" for text in admissions] * 100
    for _ in range(clips):
        scene = draw_scene(rng, draw_kind(rng))
        for which in ("seen", "held out"):
            asked = questions.every_question(scene, rng, which)
            asked += [
                questions.describe(scene, rng, which, family) for family in questions.SENTENCES
            ]
            texts += [text for q in asked for text in (" " + q.question, " " + q.answer)]
    return texts
