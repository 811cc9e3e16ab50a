"""Write a part of the world to disk: real video files and the questions about them.

Scenes and questions are chosen so that scores mean something (shared/research/eval.md 6.3):
cross-modal clips come as minimal pairs (`...a` and `...b`: same picture with another sound, or same
sound with another picture) that get the same questions with different answers, every question
passes the intervention filter, and answers are balanced in each family.
"""

import json
import math
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from avchat.world import casting, questions, scenes, swaps
from avchat.world.clip_file import write_clip
from avchat.world.questions import FAMILIES, Question
from avchat.world.scenes import CROSS_MODAL, Scene

# name -> (number in the seed, phrasings, combinations)
SPLITS = {
    "train": (21, "seen", "seen"),
    "test": (22, "seen", "seen"),
    "phrasings": (23, "held out", "seen"),
    "combinations": (24, "seen", "held out"),
}
# Kinds of scene in a dataset, where cross-modal ones count double as pairs; sounds are many because
# each asks of few families.
KIND_WEIGHTS = (0.05, 0.38, 0.13, 0.15, 0.12, 0.07, 0.06, 0.04)
PER_FAMILY = 0.3  # questions of a family, at most, as a part of the clips
DESCRIBED = 4  # every fourth clip is also to be described


class DatasetError(ValueError):
    """A dataset that cannot be made; the message is one line in the user's words."""


@dataclass(frozen=True)
class Clip:
    """One clip of a dataset with what is asked about it."""

    name: str
    scene: Scene
    asked: tuple[Question, ...]


def draw_dataset(clips: int, seed: int, split: str = "test") -> list[Clip]:
    """Draw the scenes and questions of a split; the same arguments give the same dataset.

    Raises:
        DatasetError: there is no such split.
    """
    if split not in SPLITS:
        raise DatasetError(f"no split called {split}: there are {', '.join(SPLITS)}")
    number, phrasings, combinations = SPLITS[split]
    rng = np.random.default_rng([number, seed])
    named = _draw_scenes(rng, clips, combinations)
    units = [unit for group in _groups(named) for unit in _units(group, rng, phrasings)]
    asked = _balance(units, rng, round(PER_FAMILY * clips))
    for k, (name, scene) in enumerate(named):
        if k % DESCRIBED == 0:
            asked[name] += [
                questions.describe(scene, rng, phrasings, family) for family in questions.SENTENCES
            ]
    return [Clip(name, scene, tuple(asked[name])) for name, scene in named]


def _draw_scenes(
    rng: np.random.Generator, clips: int, combinations: str
) -> list[tuple[str, Scene]]:
    """Draw scenes; a cross-modal one is followed by its partner."""
    drawn: list[tuple[str, Scene]] = []
    while len(drawn) < clips:
        kind = str(rng.choice(scenes.KINDS, p=KIND_WEIGHTS))
        if combinations == "held out" and kind not in ("one source", "two sources", "sounders"):
            continue
        scene = casting.draw_scene(rng, kind, combinations)
        partner = _partner(scene, rng, combinations) if kind in CROSS_MODAL else None
        number = f"{len(drawn):05d}"
        if partner is None or len(drawn) + 1 == clips:
            drawn.append((number, scene))
        else:
            drawn += [(number + "a", scene), (number + "b", partner)]
    return drawn


def _partner(scene: Scene, rng: np.random.Generator, combinations: str) -> Scene | None:
    """Draw the other half of a minimal pair, out of the same combinations."""
    sounding = [o for o in scene.actors if scene.sounds_at(o)]
    others = swaps.sound_swaps(scene)
    if scene.kind == "order":
        # Never the outermost slots: there the one modality alone would tell.
        others = [s for s in (*others, *swaps.picture_swaps(scene)) if _inner(s)]
    if combinations == "held out":
        others = [s for s in others if scenes.held_out_pairs(s) == len(sounding)]
    else:
        others = [s for s in others if scenes.held_out_pairs(s) == 0]
    return others[rng.integers(len(others))] if others else None


def _inner(scene: Scene) -> bool:
    slots = [s.slot for s in scene.sounds] + [t for o in scene.actors for t in o.slots]
    return 0 < min(slots) and max(slots) < scenes.SLOTS - 1


def _groups(named: list[tuple[str, Scene]]) -> list[list[tuple[str, Scene]]]:
    groups: dict[str, list[tuple[str, Scene]]] = defaultdict(list)
    for name, scene in named:
        groups[name.rstrip("ab")].append((name, scene))
    return list(groups.values())


Unit = list[tuple[str, Question]]


def _units(group: list[tuple[str, Scene]], rng: np.random.Generator, phrasings: str) -> list[Unit]:
    """List what may be asked: single questions, and for a pair the same question of both with
    different answers.
    """
    units: list[Unit] = []
    for name, scene in group:
        for question in questions.every_question(scene, rng, phrasings):
            if questions.passes_filter(scene, question) and not (
                len(group) == 2 and question.needs == "AV"
            ):
                units.append([(name, question)])
    if len(group) == 2:
        (name, scene), (other_name, other) = group
        for question in questions.every_question(scene, rng, phrasings):
            if question.needs != "AV" or not questions.passes_filter(scene, question):
                continue
            answer = FAMILIES[question.family].answer(other, dict(question.args))
            if answer is not None and answer != question.answer:
                twin = Question(**{**question.__dict__, "answer": answer})
                if questions.passes_filter(other, twin):
                    units.append([(name, question), (other_name, twin)])
    return [units[i] for i in rng.permutation(len(units))]


def _balance(units: list[Unit], rng: np.random.Generator, most: int) -> dict[str, list[Question]]:
    """Keep units so that each answer of a family comes equally often, `most` questions in all."""
    asked: dict[str, list[Question]] = defaultdict(list)
    for family in FAMILIES:
        found = [units[i] for i in rng.permutation(len(units)) if units[i][0][1].family == family]
        for unit in _even(found, _quota(family, found, most)):
            for name, question in unit:
                asked[name].append(question)
    return asked


def _even(units: list[Unit], quota: int) -> list[Unit]:
    """Take units, those with the rarest answers so far first, up to where answers are last even.

    Even: the most frequent answer leads the rarest by one, or by 5 % of all.
    """
    counts: Counter = Counter({_side(q): 0 for unit in units for _, q in unit})
    left, taken, even = list(units), [], 0
    while left:
        unit = min(left, key=lambda u: sum(counts[_side(q)] for _, q in u))
        left.remove(unit)
        added = counts + Counter(_side(q) for _, q in unit)
        if max(added.values()) <= quota:
            counts.update(_side(q) for _, q in unit)
            taken.append(unit)
            if max(counts.values()) - min(counts.values()) <= max(1, 0.05 * counts.total()):
                even = len(taken)
    return taken[:even]


def _side(question: Question) -> str:
    """Name what is balanced: the answer, or which of the two that the question names where
    those differ each time.
    """
    if question.family in ("order", "sound_order"):
        return str(question.choices.index(question.answer))
    return question.answer


def _quota(family: str, units: list[Unit], most: int) -> int:
    """Give how often each answer may come up: as often as the rarest can, or as the mean where
    answers are many.
    """
    found = [q for unit in units for _, q in unit]
    if not found:
        return 0
    choices = 2 if family in ("order", "sound_order") else len(found[0].choices)
    counts = Counter(_side(q) for q in found)
    possible = len(found) / choices if choices > 8 else min(counts.values())
    return math.ceil(min(possible, most / choices))


def write_dataset(
    out: Path,
    clips: int,
    seed: int,
    split: str = "test",
    progress: Callable[[int, int], None] | None = None,
) -> list[Clip]:
    """Write `clips` video files and questions.jsonl into a folder; clips that are there already
    are kept.

    Args:
        progress: is told how many clips of how many are written.

    Raises:
        ValueError: the folder holds other clips, or there is no such split.
    """
    dataset = draw_dataset(clips, seed, split)
    out.mkdir(parents=True, exist_ok=True)
    _claim(out, {"clips": clips, "seed": seed, "split": split})
    for k, clip in enumerate(dataset):
        path = out / f"{clip.name}.mp4"
        if not path.exists():
            torn = path.with_suffix(".part.mp4")
            write_clip(clip.scene, torn)
            torn.rename(path)
        if progress:
            progress(k + 1, len(dataset))
    rows = [row for clip in dataset for row in question_rows(clip)]
    (out / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return dataset


def _claim(out: Path, settings: dict) -> None:
    """Mark a folder as this dataset's; DatasetError when it holds clips of another one."""
    mark = out / "world.json"
    if mark.exists():
        if json.loads(mark.read_text()) != settings:
            raise DatasetError(f"{out}: holds other clips of the world; give another folder")
    elif any(out.glob("*.mp4")):
        raise DatasetError(f"{out}: holds videos that are not of the world; give another folder")
    else:
        mark.write_text(json.dumps(settings) + "\n")


def question_rows(clip: Clip) -> list[dict]:
    """Write out a clip's questions, as the lines of questions.jsonl."""
    return [
        {
            "id": f"{clip.name}-{k}-{q.family}",
            "video": f"{clip.name}.mp4",
            "family": q.family,
            "needs": q.needs,
            "question": q.question,
            "answer": q.answer,
            "choices": list(q.choices),
        }
        for k, q in enumerate(clip.asked)
    ]
