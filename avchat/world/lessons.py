"""An endless stream of training clips: the lesson of a clip's n-th visit is always the same for a
seed, so a run can resume exactly.

A lesson is a rendered clip with turns about it. Now and then a sense is switched off, and what
needs it is answered by saying so: that is how a model learns to admit that it heard or saw nothing.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from avchat.world import questions
from avchat.world.casting import draw_kind, draw_scene
from avchat.world.pictures import render_frames
from avchat.world.questions import NO_PICTURE, NO_SOUND, Question
from avchat.world.scenes import DURATION_S, Scene
from avchat.world.sounds import render_waveform
from avchat.world.tags import FRAME_TIMES_S

PICTURE_ONLY, SOUND_ONLY = 0.10, 0.10  # how often a sense is switched off
# How often a clip is passed off as a slower one, and as a part of a longer one: people's clips are
# not all 4 s long, and the times in the prompt must not matter to what is seen and heard.
SLOWER, LATER = 0.2, 0.2
# Fixed words that do not name what is asked about may be lost from a question: other phrasings must
# work too.
WORD_LOSS = 0.06
SMALL_WORDS = frozenset(
    "a the is are do does you me tell look listen and in that it if which what".split()
)
# Families that are learned last, as runs have shown; they are asked twice as often.
LATE = frozenset(
    "motion event_count sound_count rhythm loudness_compare word_exists sync which_object_of_two "
    "which_sound_of_two word_when object_when".split()
)
TRAIN_STREAM, CHECK_STREAM = 11, 12  # so that no test seed meets a training seed


@dataclass(frozen=True)
class Turn:
    """A question with its answer, and the weight of each of the answer's tokens in the loss."""

    question: str
    answer: str
    weight: float = 1.0


@dataclass(frozen=True)
class Lesson:
    """One clip with turns; `independent` turns do not see each other, else they are one
    conversation.
    """

    scene: Scene
    turns: tuple[Turn, ...]
    sense: Literal["both", "sound", "picture"]
    independent: bool
    slower: int = 1  # this many times as long
    start_s: float = 0.0

    @property
    def frame_times_s(self) -> np.ndarray:
        """Give the middle of each slot, in seconds."""
        return FRAME_TIMES_S

    @property
    def duration_s(self) -> float:
        """Give the length of the clip in seconds."""
        return DURATION_S

    def frames(self, size: int) -> np.ndarray:
        """Render one frame a slot: uint8 [T, size, size, 3]."""
        return render_frames(self.scene, FRAME_TIMES_S, size)

    def waveform(self) -> np.ndarray:
        """Render the sound track: float32 [samples], 16 kHz mono."""
        return render_waveform(self.scene)


def draw_lesson(
    seed: int,
    clip: int,
    visit: int = 0,
    *,
    turns: int = 14,
    sentences: float = 0.5,
    stream: int = TRAIN_STREAM,
) -> Lesson:
    """Draw the lesson of a clip's visit: the same clip is asked other questions at each visit.

    Args:
        turns: short questions about the clip, at most.
        sentences: how often each of the two sentence questions is asked as well.
    """
    rng = np.random.default_rng([stream, seed, clip])
    scene = draw_scene(rng, draw_kind(rng))
    rng = np.random.default_rng([stream, seed, clip, visit])
    draw = rng.random()
    sense = (
        "picture"
        if draw < PICTURE_ONLY
        else "sound"
        if draw < PICTURE_ONLY + SOUND_ONLY
        else "both"
    )
    asked = questions.every_question(scene, rng)
    asked += [q for q in questions.every_question(scene, rng) if q.needs != "V"]  # in other words
    asked = choose(asked, turns, rng)
    taught = [Turn(_lose_words(q, rng), answer_for(q, sense), weight=3.0) for q in asked]
    slower = int(rng.integers(2, 6)) if rng.random() < SLOWER else 1
    start_s = float(rng.integers(1, 240)) / 4 if rng.random() < LATER else 0.0
    if sense == "both":
        for family in questions.SENTENCES if slower == 1 and not start_s else ("describe",):
            if rng.random() < sentences:
                q = questions.describe(scene, rng, family=family)
                taught.insert(0, Turn(q.question, q.answer))
    independent = bool(rng.random() < 0.8)
    return Lesson(scene, tuple(taught), sense, independent, slower, start_s)


def choose(asked: list[Question], count: int, rng: np.random.Generator) -> list[Question]:
    """Choose questions, in an order in which those that need both senses and rare families come
    early.
    """
    families = [q.family for q in asked]
    rarity = np.array([1 / families.count(f) for f in families])
    # Pictures are asked about in every scene, sounds and speech in few, both at once are hard.
    rarity *= np.array([{"V": 0.3, "A": 1.0, "S": 0.6, "AV": 2.0}[q.needs] for q in asked])
    rarity *= np.array([2.0 if q.family in LATE else 1.0 for q in asked])
    picked = (
        rng.choice(len(asked), min(count, len(asked)), replace=False, p=rarity / rarity.sum())
        if count and len(asked)
        else []
    )
    return [asked[i] for i in picked]


def answer_for(question: Question, sense: str) -> str:
    """Give the right answer when only some senses are on."""
    if sense == "picture" and question.needs != "V":
        return NO_SOUND
    if sense == "sound" and question.needs in ("V", "AV"):
        return NO_PICTURE
    return question.answer


def _lose_words(question: Question, rng: np.random.Generator) -> str:
    """Drop small words here and there, except from what the phrasing was filled with."""
    kept = " ".join(value for _, value in question.args).split()
    words = [
        w
        for w in question.question.split()
        if w in kept or w not in SMALL_WORDS or rng.random() >= WORD_LOSS
    ]
    return " ".join(words)
