"""What training reads: lessons of the world, or a manifest of the user's own clips, as batches
by number.

A manifest is JSON lines, one conversation on one clip a line:
    {"id": "a", "media": "clips/a.mp4", "start": 1.5, "end": 9, "sense": "both",
     "messages": [{"role": "user", "content": "what barks?"},
                  {"role": "assistant", "content": "a dog"}]}
`media` is relative to the manifest; `start`, `end` (seconds) and `sense` may be left out.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from avchat.encoders import (
    SENSES,
    STATE_SAMPLES,
    Features,
    Inputs,
    InputSpec,
    Sense,
    log_mels,
    prepare,
    preprocess_frames,
)
from avchat.media import Media, MediaError, load_media
from avchat.model import AVChat, Batch, collate
from avchat.prompt import Packed, PromptError, Turn, check_budget, pack, pack_independent
from avchat.world import lessons, questions
from avchat.world.casting import draw_kind, draw_scene
from avchat.world.pictures import render_frames
from avchat.world.sounds import render_waveform
from avchat.world.tags import Tags, tag


class DataError(Exception):
    """Training data that cannot be used; one line in the user's words, with the file and the
    line.
    """


@dataclass(frozen=True)
class Sample:
    """One conversation on one clip."""

    id: str
    media: Path
    turns: tuple[Turn, ...]
    start_s: float | None = None
    end_s: float | None = None
    sense: Sense = "both"


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


def read_manifest(path: Path, root: Path | None = None) -> list[Sample]:
    """Read a manifest; DataError names the file and the line that cannot be used.

    Args: root: the folder that its paths are relative to; None for its own.
    """
    samples = [sample_of(path, *numbered, root) for numbered in read_lines(path)]
    if not samples:
        raise DataError(f"{path}: no samples")
    return samples


def read_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the objects of a file of JSON lines, each with the number of its line.

    Raises:
        DataError: the file cannot be read, or a line is not an object with media, a path.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not readable ({error})") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise DataError(f"{path}, line {number}: not JSON ({error})") from error
        if not isinstance(row, dict) or not isinstance(row.get("media"), str):
            raise DataError(f"{path}, line {number}: needs an object with media, a path")
        yield number, row


def sample_of(path: Path, number: int, row: dict[str, Any], root: Path | None = None) -> Sample:
    """Make a sample of one line of a manifest; DataError says what is wrong with the line."""
    where = f"{path}, line {number}"
    check_part(where, row)
    if row.get("sense", "both") not in SENSES:
        raise DataError(f"{where}: sense must be one of {', '.join(SENSES)}, not {row['sense']!r}")
    return Sample(
        id=str(row.get("id", number)),
        media=(root or path.parent) / row["media"],
        turns=_turns(where, row.get("messages")),
        start_s=row.get("start"),
        end_s=row.get("end"),
        sense=row.get("sense", "both"),
    )


def check_part(where: str, row: dict[str, Any]) -> None:
    """Raise DataError where start or end is no number of seconds."""
    for name in ("start", "end"):
        value = row.get(name)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise DataError(f"{where}: {name} must be a number of seconds, not {value!r}")


def _turns(where: str, messages: object) -> tuple[Turn, ...]:
    """Pair messages: a user's question, then an assistant's answer, and so on."""
    if not isinstance(messages, list) or not messages or len(messages) % 2:
        raise DataError(f"{where}: messages must be pairs of user and assistant")
    for message, role in zip(messages, ("user", "assistant") * (len(messages) // 2), strict=True):
        if not isinstance(message, dict) or message.get("role") != role:
            raise DataError(
                f"{where}: messages must be user, assistant, user, ... (expected {role})"
            )
        if not isinstance(message.get("content"), str) or not message["content"].strip():
            raise DataError(f"{where}: a message of {role} is empty")
    texts = [message["content"] for message in messages]
    return tuple(Turn(q, a) for q, a in zip(texts[::2], texts[1::2], strict=True))


def sample_row(model: AVChat, sample: Sample) -> tuple[Packed, Inputs]:
    """Decode a sample's clip and lay out its conversation.

    Raises:
        DataError: the clip cannot be read, or the conversation does not fit the model's context.
    """
    try:
        media = load_media(
            sample.media,
            frames=model.config.frames,
            size=None,
            start=sample.start_s,
            end=sample.end_s,
        )
    except MediaError as error:
        raise DataError(f"sample {sample.id}: {error}") from error
    clip = model.prepare(media).only(sample.sense)
    row = model.prompt.build(model.plan(clip), sample.turns)
    try:
        check_budget(row.ids, model.context, question=False)
    except PromptError as error:
        raise DataError(f"sample {sample.id}: {error}") from error
    return row, clip


def manifest_batch(
    model: AVChat, samples: list[Sample], size: int, seed: int, number: int
) -> Batch:
    """Make batch `number`: each epoch is a fresh shuffle, and every sample comes once an epoch."""
    rows, clips = [], []
    for position in range(number * size, (number + 1) * size):
        epoch, index = divmod(position, len(samples))
        order = np.random.default_rng([seed, epoch]).permutation(len(samples))
        row, clip = sample_row(model, samples[order[index]])
        rows.append(row)
        clips.append(clip)
    return collate(rows, clips)
