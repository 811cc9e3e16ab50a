"""What variants are trained on: clips of the world, encoded once by encoders that all share.

Enters: a model with encoders. Leaves: batches by number, so that a run that was killed goes on with
what an uninterrupted one would have seen. Every question has its true answer, with whatever sense a
variant has: a deaf variant learns what can be told without hearing, not to say that it is deaf.
"""

from collections.abc import Callable

import numpy as np

from avchat.collate import Batch, collate
from avchat.encoders import Features, Sense
from avchat.model import AVChat
from avchat.pool import Pool, retimed
from avchat.prompt import Packed, Turn
from avchat.world.lessons import LISTEN, LOOK, Lesson, choose, draw_lesson, told_of
from avchat.world.questions import every_question

SENSES: tuple[Sense, Sense] = ("picture", "sound")
CLIPS_SEED = 31  # of the clips that are learned from: other ones than the bundled model's


# makes a row of a clip that was drawn, and gives the clip as the row shows it
Teach = Callable[[Lesson, Features, np.random.Generator], tuple[Packed, Features]]


class Lessons:
    """Clips of the world, drawn and encoded when they are first wanted."""

    def __init__(self, base: AVChat, clips: int) -> None:
        self.pool = Pool(base, clips, CLIPS_SEED)
        self._drawn: dict[int, Lesson] = {}

    def batch(self, seeds: list[int], rows: int, teach: Teach) -> Batch:
        """Make a batch of `rows` clips, the same one for the same seeds."""
        rng = np.random.default_rng(seeds)
        numbers = rng.choice(self.pool.size, rows, replace=False).tolist()
        drawn = [(number, self._lesson(number)) for number in numbers]
        made = [
            teach(lesson, retimed(clip, 1.0, 0.0), rng)
            for (_, lesson), clip in zip(drawn, self.pool.features(drawn), strict=True)
        ]
        return collate([row for row, _ in made], [clip for _, clip in made])

    def _lesson(self, number: int) -> Lesson:
        if number not in self._drawn:
            drawn = draw_lesson(CLIPS_SEED, number, turns=0, sentences=0, strangers=False)
            self._drawn[number] = drawn
        return self._drawn[number]


def words_of(model: AVChat, most: int) -> Teach:
    """Ask what is asked later, and have a sense described now and then, without any clip: the
    language model learns how the world is spoken of.
    """

    def teach(lesson: Lesson, clip: Features, rng: np.random.Generator) -> tuple[Packed, Features]:
        nothing = clip.only("none")
        turns = [_described(lesson, told, rng) for told in SENSES if rng.random() < 0.5]
        turns += _asked(lesson, most, rng)
        return model.prompt.build_independent(model.plan(nothing), turns), nothing

    return teach


def captions_of(model: AVChat, sense: Sense) -> Teach:
    """Let one sense be described, P1's way: the picture for one projector, the sound for the
    other.
    """

    def teach(lesson: Lesson, clip: Features, rng: np.random.Generator) -> tuple[Packed, Features]:
        told = SENSES[int(rng.integers(2))] if sense == "both" else sense
        kept = clip.only(told)
        turns = [_described(lesson, told, rng)]
        return model.prompt.build_independent(model.plan(kept), turns), kept

    return teach


def questions_on(model: AVChat, sense: Sense, most: int) -> Teach:
    """Ask short questions that do not see each other, at most so many, about a clip with some
    senses.
    """

    def teach(lesson: Lesson, clip: Features, rng: np.random.Generator) -> tuple[Packed, Features]:
        kept = clip.only(sense)
        turns = _asked(lesson, most, rng)
        return model.prompt.build_independent(model.plan(kept), turns), kept

    return teach


def _asked(lesson: Lesson, most: int, rng: np.random.Generator) -> list[Turn]:
    asked = choose(every_question(lesson.scene, rng), most, rng, {})
    return [Turn(one.question, one.answer) for one in asked]


def _described(lesson: Lesson, sense: str, rng: np.random.Generator) -> Turn:
    words = LOOK if sense == "picture" else LISTEN
    return Turn(words[rng.integers(len(words) - 1)], told_of(lesson.scene, sense))
