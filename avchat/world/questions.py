"""Questions about scenes, and their answers.

What enters is a `Scene`; what leaves are `Question`s in plain words with the answer, the closed
list of possible answers and what it needs: V (the picture), A (the sounds), S (the speech), or AV
(both at once). Each family has two functions: one lists what could be asked of a scene, one answers
it. The second is also the oracle: given a scene read off the frames and the sound track at the
model's own rate (`perceive`), it must answer the same, and given a scene with the sound or the
picture swapped it tells whether a question really depends on that sense (`depends_on`).
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import numpy as np

from avchat.world import answers, options, scenes, sentences, swaps
from avchat.world.phrasings import HELD_OUT, PHRASINGS
from avchat.world.scenes import (
    COLOURS,
    EVENTS,
    NUMBERS,
    PLACES,
    SHAPES,
    SIZES,
    SOUNDS,
    WORDS,
    Object,
    Scene,
    Sound,
)

Args = dict[str, str]

NAMES = tuple(f"the {c} {s}" for c in COLOURS for s in SHAPES)
THE_SOUNDS = tuple(f"the {s}" for s in SOUNDS)
YES_NO = ("yes", "no")
COUNTS = NUMBERS[1:5]
NO_SOUND = "i hear nothing: there is no sound."
NO_PICTURE = "i see nothing: there is no picture."


@dataclass(frozen=True)
class Question:
    """A question with its answer; `args` are what its words were filled with."""

    family: str
    needs: str
    question: str
    answer: str
    choices: tuple[str, ...]
    args: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Family:
    """How a family asks: what it needs, which scenes it is for, what can be asked, the answer,
    the closed list of answers.
    """

    needs: str
    kinds: frozenset[str]
    options: Callable[[Scene, np.random.Generator], Iterable[Args]]
    answer: Callable[[Scene, Args], str | None]
    choices: Callable[[Args], tuple[str, ...]]


def _fixed(*choices: str) -> Callable[[Args], tuple[str, ...]]:
    return lambda args: tuple(choices)


def _named(*keys: str) -> Callable[[Args], tuple[str, ...]]:
    return lambda args: tuple(f"the {args[k]}" for k in keys)


_ANY = frozenset(scenes.KINDS)
# Pictures and sound tracks drawn independently of each other: there the number of objects and of
# sounds is not given away.
_FREE = frozenset({"pictures", "sounds", "speech"})


def _in(*kinds: str) -> frozenset[str]:
    return frozenset(kinds)


FAMILIES: dict[str, Family] = {
    "colour": Family("V", _ANY, options.refs_colour, answers.colour, _fixed(*COLOURS)),
    "shape": Family("V", _ANY, options.refs_shape, answers.shape, _fixed(*SHAPES)),
    "size": Family("V", _ANY, options.refs_name, answers.size, _fixed(*SIZES)),
    "place": Family("V", _ANY, options.refs_name, answers.place, _fixed(*PLACES)),
    "motion": Family(
        "V", _ANY, options.refs_name, answers.motion, _fixed(*answers.MOTION_WORDS.values())
    ),
    "object_count": Family("V", _FREE, options.nothing, answers.object_count, _fixed(*COUNTS)),
    "object_exists": Family("V", _ANY, options.maybe_names, answers.object_exists, _fixed(*YES_NO)),
    "event_kind": Family("V", _ANY, options.refs_actor, answers.event_kind, _fixed(*EVENTS)),
    "event_count": Family("V", _FREE, options.refs_actor, answers.event_count, _fixed(*COUNTS)),
    "first_actor": Family("V", _FREE, options.nothing, answers.first_actor, _fixed(*NAMES)),
    "sound_kind": Family(
        "A", _in("sounds"), options.nothing, answers.sound_kind, _fixed(*THE_SOUNDS)
    ),
    "pitch": Family("A", _FREE, options.nothing, answers.pitch, _fixed("low", "high")),
    "chirp_direction": Family(
        "A", _FREE, options.nothing, answers.chirp_direction, _fixed("up", "down")
    ),
    "sound_count": Family("A", _FREE, options.heard_kinds, answers.sound_count, _fixed(*COUNTS)),
    "sound_order": Family(
        "A", _FREE, options.two_kinds, answers.sound_order, _named("sound", "other")
    ),
    "pitch_compare": Family(
        "A", _FREE, options.nothing, answers.pitch_compare, _fixed("higher", "lower")
    ),
    "loudness_compare": Family(
        "A",
        _in("sounds"),
        options.heard_kinds,
        answers.loudness_compare,
        _fixed("the first", "the second"),
    ),
    "rhythm": Family("A", _in("sounds"), options.nothing, answers.rhythm, _fixed("even", "uneven")),
    "sound_exists": Family("A", _FREE, options.maybe_sounds, answers.sound_exists, _fixed(*YES_NO)),
    "word": Family("S", _in("speech", "pictures"), options.nothing, answers.word, _fixed(*WORDS)),
    "word_order": Family(
        "S", _in("speech", "pictures", "said"), options.ends, answers.word_order, _fixed(*WORDS)
    ),
    "word_count": Family(
        "S", _in("speech", "pictures"), options.nothing, answers.word_count, _fixed(*COUNTS[:3])
    ),
    "voice": Family(
        "S",
        _in("speech", "pictures", "said"),
        options.nothing,
        answers.voice,
        _fixed("a man", "a woman"),
    ),
    "word_kind": Family(
        "S",
        _in("speech", "pictures"),
        options.nothing,
        answers.word_kind,
        _fixed("a number", "a colour"),
    ),
    "word_exists": Family(
        "S",
        _in("speech", "pictures", "said"),
        options.maybe_words,
        answers.word_exists,
        _fixed(*YES_NO),
    ),
    "which_object": Family(
        "AV", _in("one source"), options.nothing, answers.which_object, _fixed(*NAMES)
    ),
    "sync": Family("AV", _in("one source"), options.sound_and_actor, answers.sync, _fixed(*YES_NO)),
    "offscreen": Family(
        "AV", _in("one source"), options.nothing, answers.offscreen, _fixed(*YES_NO)
    ),
    "silent_event": Family(
        "AV", _in("one source"), options.shared_act, answers.silent_event, _fixed(*NAMES)
    ),
    "order": Family(
        "AV", _in("order"), options.act_and_sound, answers.order, _named("act", "sound")
    ),
    "which_object_of_two": Family(
        "AV", _in("two sources"), options.heard_kinds, answers.which_object_of_two, _fixed(*NAMES)
    ),
    "which_sound_of_two": Family(
        "AV",
        _in("two sources"),
        options.refs_actor,
        answers.which_sound_of_two,
        _fixed(*THE_SOUNDS),
    ),
    "nth_sounder": Family(
        "AV", _in("sounders"), options.first_second, answers.nth_sounder, _fixed(*COLOURS)
    ),
    "word_when": Family("AV", _in("said"), options.refs_actor, answers.word_when, _fixed(*WORDS)),
    "object_when": Family(
        "AV", _in("said"), options.heard_words, answers.object_when, _fixed(*NAMES)
    ),
}
ONE_SOURCE = ("which_object", "sync", "offscreen", "silent_event", "order")
TWO_SOURCES = (
    "which_object_of_two",
    "which_sound_of_two",
    "nth_sounder",
    "word_when",
    "object_when",
)
SENTENCES = ("describe", "timeline")  # answered by sentences, scored by slots


def needs(family: str) -> str:
    """Tell which senses a family needs; the sentence families need both."""
    return "AV" if family in SENTENCES else FAMILIES[family].needs


def phrasings(family: str, which: str = "seen") -> tuple[str, ...]:
    """List the phrasings of a family: "seen" in training or "held out" of it."""
    return PHRASINGS[family][-HELD_OUT:] if which == "held out" else PHRASINGS[family][:-HELD_OUT]


def every_question(scene: Scene, rng: np.random.Generator, which: str = "seen") -> list[Question]:
    """Ask everything that can be asked of a scene, each once, in random words; without the
    sentence families.
    """
    return [
        question
        for name, family in FAMILIES.items()
        if scene.kind in family.kinds
        for args in family.options(scene, rng)
        if (question := ask(scene, name, args, rng, which)) is not None
    ]


def ask(
    scene: Scene, family: str, args: Args, rng: np.random.Generator, which: str = "seen"
) -> Question | None:
    """Put one question; None when the scene has no single answer to it."""
    answer = FAMILIES[family].answer(scene, args)
    if answer is None:
        return None
    words = phrasings(family, which)
    text = words[rng.integers(len(words))].format(**args)
    choices = FAMILIES[family].choices(args)
    return Question(family, FAMILIES[family].needs, text, answer, choices, tuple(args.items()))


def describe(
    scene: Scene, rng: np.random.Generator, which: str = "seen", family: str = "describe"
) -> Question:
    """Ask for a sentence about the whole clip: "describe" lists objects and sounds, "timeline"
    what happens when.
    """
    words = phrasings(family, which)
    text = words[rng.integers(len(words))]
    answer = sentences.description(scene) if family == "describe" else sentences.timeline(scene)
    return Question(family, "AV", text, answer, (), ())


def depends_on(scene: Scene, question: Question) -> tuple[bool, bool]:
    """Tell whether some other sound, and whether some other picture, changes the answer
    (eval.md 6.3.2).
    """
    answer, args = FAMILIES[question.family].answer, dict(question.args)
    if question.needs == "AV":
        sounds, pictures = swaps.sound_swaps(scene), swaps.picture_swaps(scene)
    else:
        sounds, pictures = _other_sounds(scene, args), _other_pictures(scene, args)
    return (
        any(answer(other, args) != question.answer for other in sounds),
        any(answer(other, args) != question.answer for other in pictures),
    )


def _other_sounds(scene: Scene, args: Args) -> list[Scene]:
    """Take all sound away, and put the sound or word asked for in."""
    other = (
        Sound(0, "word", word=args["word"])
        if "word" in args
        else Sound(0, args.get("sound", SOUNDS[0]))
    )
    return [replace(scene, sounds=()), replace(scene, sounds=(other,))]


def _other_pictures(scene: Scene, args: Args) -> list[Scene]:
    """Take all objects away, and put the object asked for in."""
    colour, _, shape = args.get("ref", "red circle").partition(" ")
    other = Object(shape, colour, SIZES[0], PLACES[0], "still")
    return [replace(scene, objects=()), replace(scene, objects=(other,))]


def passes_filter(scene: Scene, question: Question) -> bool:
    """Keep AV questions that depend on both senses, V ones that do not depend on sound, A and S
    ones not on the picture.
    """
    on_sound, on_picture = depends_on(scene, question)
    if question.needs == "AV":
        return on_sound and on_picture
    return on_picture and not on_sound if question.needs == "V" else on_sound and not on_picture
