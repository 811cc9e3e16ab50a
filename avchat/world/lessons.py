"""An endless stream of training clips: the lesson of a clip's n-th visit is always the same for a
seed, so a run can resume exactly.

A lesson is a rendered clip with turns about it. Now and then a sense is switched off, and what
needs it is answered by saying so: that is how a model learns to admit that it heard or saw nothing.
Some clips are strangers, not of the world at all: there it learns to say that it does not know.
"""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from avchat.world import questions, sentences
from avchat.world.casting import draw_kind, draw_scene
from avchat.world.pictures import render_frames
from avchat.world.questions import NO_PICTURE, NO_SOUND, Question
from avchat.world.scenes import DURATION_S, Scene
from avchat.world.sounds import render_waveform
from avchat.world.strangers import strange_frames, strange_waveform
from avchat.world.tags import FRAME_TIMES_S

PICTURE_ONLY, SOUND_ONLY = 0.10, 0.10  # how often a sense is switched off
STRANGE = 0.08  # how many clips are not of the world
# How often a clip is passed off as a slower one, and as a part of a longer one: people's clips are
# not all 4 s long, and the times in the prompt must not matter to what is seen and heard.
SLOWER, LATER = 0.2, 0.2
# What people ask when they do not yet know the clip; the last of each only of a missing sense.
LOOK = ("what do you see?", "tell me what you see.", "describe the picture.", "what is there?")
LISTEN = ("what do you hear?", "tell me what you hear.", "describe the sound.", "what is said?")
NOT_KNOWN = "i do not know this."
# Fixed words that do not name what is asked about may be lost from a question: other phrasings must
# work too.
WORD_LOSS = 0.06
CAPITAL, BARE = 0.15, 0.1  # how often a question is typed so: with a capital, without its mark
SMALL_WORDS = frozenset(
    "a the is are do does you me tell look listen and in that it if which what".split()
)
# How much more often the families are asked that are learned last, as runs have shown.
LATE = dict.fromkeys(
    "motion rhythm loudness_compare word_exists sync which_object_of_two which_sound_of_two "
    "word_when".split(),
    2.0,
)
LATE |= dict.fromkeys("event_count event_kind sound_count first_actor object_when".split(), 3.5)
# How much more often in the last stage, of what the stage before had not yet learned.
LAST = {"motion": 5.0, "place": 4.0, "size": 3.0, "object_exists": 3.0, "event_count": 5.0}
LAST |= {"event_kind": 2.0, "first_actor": 5.0, "sound_count": 2.0, "rhythm": 2.0}
LAST |= {"word": 6.0, "word_order": 8.0, "word_exists": 6.0, "word_kind": 3.0, "word_when": 4.0}
LAST |= {"sync": 4.0, "which_sound_of_two": 3.0, "object_when": 2.0, "sound_order": 3.0}
MORE = 10.0  # how much more often what is named besides
# Of a family that is focused on: how many clips are of its kind, and how many times more it is
# asked in a clip: of each actor, so that the answer must hang on which one is meant.
FOCUS_CLIPS, FOCUS_ROUNDS = 0.6, 4
ADMISSIONS = 2  # turns of a lesson in the last stage that only say that a sense is missing
TRAIN_STREAM, CHECK_STREAM = 11, 12  # so that no test seed meets a training seed


@dataclass(frozen=True)
class Mix:
    """What a stage of training asks most."""

    last: bool = False  # as the last stages do: what is learned last
    more: tuple[str, ...] = ()  # families that these then ask `MORE` often
    focus: str = ""  # the family that they ask in most clips, several times, and `MORE` often


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
    slower: float = 1.0  # this many times as long; a whole number where there is sound
    start_s: float = 0.0
    strange: bool = False  # neither picture nor sound is of the world; `scene` is not shown

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
        if self.strange:
            return strange_frames(self.scene.seed, len(FRAME_TIMES_S), size)
        return render_frames(self.scene, FRAME_TIMES_S, size)

    def waveform(self) -> np.ndarray:
        """Render the sound track: float32 [samples], 16 kHz mono."""
        return strange_waveform(self.scene.seed) if self.strange else render_waveform(self.scene)


def draw_lesson(
    seed: int,
    clip: int,
    visit: int = 0,
    *,
    turns: int = 14,
    sentences: float = 0.5,
    stream: int = TRAIN_STREAM,
    strangers: bool = True,
    mix: Mix = Mix(),
) -> Lesson:
    """Draw the lesson of a clip's visit: the same clip is asked other questions at each visit.

    Args:
        turns: short questions about the clip, at most.
        sentences: how often each of the two sentence questions is asked as well.
        strangers: whether a clip may be a stranger.
        mix: what is asked most.
    """
    rng = np.random.default_rng([stream, seed, clip])
    scene = draw_scene(rng, _draw_kind(rng, mix.focus))
    strange = strangers and bool(rng.random() < STRANGE)
    rng = np.random.default_rng([stream, seed, clip, visit])
    sense = _draw_sense(rng, strange)
    slower, start_s = _draw_times(rng, sense)
    asked = questions.every_question(scene, rng)
    asked += [q for q in questions.every_question(scene, rng) if q.needs != "V"]  # in other words
    for _ in range(FOCUS_ROUNDS if mix.focus else 0):
        asked += [q for q in questions.every_question(scene, rng) if q.family == mix.focus]
    often = LAST | dict.fromkeys((*mix.more, mix.focus), MORE) if mix.last else LATE
    asked = choose(asked, turns, rng, often)
    if mix.last:
        asked = _few_admissions(asked, sense, strange)
    taught = [Turn(_as_typed(q, rng), answer_for(q, sense, strange), weight=3.0) for q in asked]
    retimed = slower != 1 or start_s > 0
    taught = _sentences(scene, sense, strange, retimed, sentences, rng) + taught
    independent = bool(rng.random() < 0.8)
    return Lesson(scene, tuple(taught), sense, independent, slower, start_s, strange)


def _draw_kind(rng: np.random.Generator, focus: str) -> str:
    """Draw which kind of scene comes next, often one in which `focus` can be asked."""
    if not focus or rng.random() >= FOCUS_CLIPS:
        return draw_kind(rng)
    kinds = sorted(questions.FAMILIES[focus].kinds)
    return kinds[rng.integers(len(kinds))]


def _draw_sense(rng: np.random.Generator, strange: bool) -> Literal["both", "sound", "picture"]:
    """Draw which senses are on: each choice as often as the others where the clip is strange."""
    often = 1 / 3 if strange else PICTURE_ONLY, 1 / 3 if strange else SOUND_ONLY
    draw = rng.random()
    if draw < often[0]:
        return "picture"
    return "sound" if draw < sum(often) else "both"


def _draw_times(rng: np.random.Generator, sense: str) -> tuple[float, float]:
    """Draw how much slower a clip is passed off as, and when it begins, in seconds.

    Pictures alone can be given any times; sound is stretched by repeating its states.
    """
    slower = rng.random() < SLOWER
    later = rng.random() < LATER
    if sense == "picture":
        factor = float(np.exp(rng.uniform(np.log(0.2), np.log(40)))) if rng.random() < 0.6 else 1.0
        return factor, float(rng.uniform(0, 120)) if later else 0.0
    factor = float(rng.integers(2, 6)) if slower else 1.0
    return factor, float(rng.integers(1, 240)) / 4 if later else 0.0


def _sentences(
    scene: Scene, sense: str, strange: bool, retimed: bool, often: float, rng: np.random.Generator
) -> list[Turn]:
    """Ask now and then for sentences about the whole clip, and what people ask first of any."""
    turns = []
    if rng.random() < often:
        question = _typed(questions.describe(scene, rng).question, rng)
        turns.append(Turn(question, description_for(scene, sense, strange)))
    if sense == "both" and not (retimed or strange) and rng.random() < often:
        q = questions.describe(scene, rng, family="timeline")
        turns.append(Turn(q.question, q.answer))
    for present, missing, asked in (("picture", "sound", LOOK), ("sound", "picture", LISTEN)):
        if often and sense == missing:
            question = _typed(asked[rng.integers(len(asked))], rng)
            turns.append(Turn(question, NO_SOUND if present == "sound" else NO_PICTURE, weight=3.0))
        elif rng.random() < often:
            question = _typed(asked[rng.integers(len(asked) - 1)], rng)
            turns.append(Turn(question, told_of(scene, present, strange)))
    return turns


def told_of(scene: Scene, sense: str, strange: bool = False) -> str:
    """Tell what one sense, "picture" or "sound", perceives."""
    if strange:
        return NOT_KNOWN
    return sentences.seen(scene) if sense == "picture" else sentences.heard(scene)


def description_for(scene: Scene, sense: str, strange: bool = False) -> str:
    """Describe what is there when only some senses are on."""
    if sense == "sound":
        return f"{NO_PICTURE} {told_of(scene, 'sound', strange)}"
    if strange:
        return NOT_KNOWN
    return sentences.description(scene if sense == "both" else replace(scene, sounds=()))


def _few_admissions(asked: list[Question], sense: str, strange: bool) -> list[Question]:
    """Drop questions whose answer is only that nothing can be told, but for the first few."""
    missing = [q for q in asked if answer_for(q, sense, strange) != q.answer]
    return [q for q in asked if q not in missing[ADMISSIONS:]]


def choose(
    asked: list[Question], count: int, rng: np.random.Generator, often: dict[str, float]
) -> list[Question]:
    """Choose questions, in an order in which those that need both senses, rare families, and
    those that are to come more `often`, come early.
    """
    families = [q.family for q in asked]
    rarity = np.array([1 / families.count(f) for f in families])
    # Pictures are asked about in every scene, sounds and speech in few, both at once are hard.
    rarity *= np.array([{"V": 0.3, "A": 1.0, "S": 0.6, "AV": 2.0}[q.needs] for q in asked])
    rarity *= np.array([often.get(q.family, 1.0) for q in asked])
    picked = (
        rng.choice(len(asked), min(count, len(asked)), replace=False, p=rarity / rarity.sum())
        if count and len(asked)
        else []
    )
    return [asked[i] for i in picked]


def answer_for(question: Question, sense: str, strange: bool = False) -> str:
    """Give the right answer when only some senses are on, or the clip is not of the world."""
    if sense == "picture" and question.needs != "V":
        return NO_SOUND
    if sense == "sound" and question.needs in ("V", "AV"):
        return NO_PICTURE
    return NOT_KNOWN if strange else question.answer


def _as_typed(question: Question, rng: np.random.Generator) -> str:
    """Drop small words here and there, except from what the phrasing was filled with, and write
    now and then with a capital or without the mark at the end.
    """
    kept = " ".join(value for _, value in question.args).split()
    words = [
        w
        for w in question.question.split()
        if w in kept or w not in SMALL_WORDS or rng.random() >= WORD_LOSS
    ]
    return _typed(" ".join(words), rng)


def _typed(text: str, rng: np.random.Generator) -> str:
    text = text.rstrip("?.") if rng.random() < BARE else text
    return text[:1].upper() + text[1:] if rng.random() < CAPITAL else text
