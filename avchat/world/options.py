"""What can be asked of a scene: for each family of questions the fillings of its phrasings'
slots.
"""

from collections.abc import Iterable

import numpy as np

from avchat.world.answers import ACTS, Args, find, in_time, kinds_heard, words_heard
from avchat.world.scenes import COLOURS, SHAPES, SOUNDS, WORDS, Scene


def nothing(scene: Scene, rng: np.random.Generator) -> Iterable[Args]:
    """Ask without filling anything in."""
    return [{}]


def refs_name(scene: Scene, rng: np.random.Generator) -> Iterable[Args]:
    """Ask about each object by its name."""
    return [{"ref": o.name} for o in scene.objects]


def refs_colour(scene: Scene, rng: np.random.Generator) -> Iterable[Args]:
    """Ask about each object without saying its colour."""
    refs = [(o.shape, f"object at the {o.place}")[rng.integers(2)] for o in scene.objects]
    return [{"ref": ref} for ref in refs if find(scene, ref)]


def refs_shape(scene: Scene, rng: np.random.Generator) -> Iterable[Args]:
    """Ask about each object without saying its shape."""
    refs = [
        (f"{o.colour} object", f"object at the {o.place}")[rng.integers(2)] for o in scene.objects
    ]
    return [{"ref": ref} for ref in refs if find(scene, ref)]


def refs_actor(scene: Scene, rng: np.random.Generator) -> Iterable[Args]:
    """Ask about each object that does something."""
    return [
        {"ref": o.name, "act": o.events[0].kind, "acts": ACTS[o.events[0].kind]}
        for o in scene.actors
    ]


def maybe_names(scene: Scene, rng: np.random.Generator) -> Iterable[Args]:
    """Ask for one object that is there, or with even odds for one that is not."""
    there = [o.name for o in scene.objects]
    if rng.integers(2):
        return [{"ref": there[rng.integers(len(there))]}]
    absent = [f"{c} {s}" for c in COLOURS for s in SHAPES if f"{c} {s}" not in there]
    return [{"ref": absent[rng.integers(len(absent))]}]


def heard_kinds(scene: Scene, rng: np.random.Generator) -> Iterable[Args]:
    """Ask about each kind of sound that is heard."""
    return [_sound_args(kind) for kind in kinds_heard(scene)]


def _sound_args(kind: str) -> Args:
    return {"sound": kind, "sounds": f"{kind}s"}


def two_kinds(scene: Scene, rng: np.random.Generator) -> Iterable[Args]:
    """Ask about two kinds of sound, in either order."""
    kinds = kinds_heard(scene)
    if len(kinds) < 2:
        return []
    first, second = (kinds[i] for i in rng.choice(len(kinds), 2, replace=False))
    return [{"sound": first, "other": second}]


def maybe_sounds(scene: Scene, rng: np.random.Generator) -> Iterable[Args]:
    """Ask for one kind of sound that is there, or with even odds for one that is not."""
    kinds = kinds_heard(scene)
    if kinds and rng.integers(2):
        return [_sound_args(kinds[rng.integers(len(kinds))])]
    absent = [s for s in SOUNDS if s not in kinds]
    return [_sound_args(absent[rng.integers(len(absent))])] if kinds else []


def maybe_words(scene: Scene, rng: np.random.Generator) -> Iterable[Args]:
    """Ask for one word that is spoken, or with even odds for one that is not."""
    spoken = [s.word for s in words_heard(scene)]
    if not spoken:
        return []
    if rng.integers(2):
        return [{"word": spoken[rng.integers(len(spoken))]}]
    absent = [w for w in WORDS if w not in spoken]
    return [{"word": absent[rng.integers(len(absent))]}]


def heard_words(scene: Scene, rng: np.random.Generator) -> Iterable[Args]:
    """Ask about each spoken word."""
    return [{"word": s.word} for s in words_heard(scene)]


def ends(scene: Scene, rng: np.random.Generator) -> Iterable[Args]:
    """Ask for the first and for the last."""
    return [{"nth": "first"}, {"nth": "last"}]


def first_second(scene: Scene, rng: np.random.Generator) -> Iterable[Args]:
    """Ask for the first and for the second."""
    return [{"nth": "first"}, {"nth": "second"}]


def sound_and_actor(scene: Scene, rng: np.random.Generator) -> Iterable[Args]:
    """Ask about the one sound with the heard actor, or with even odds with a silent one."""
    heard = [o for o in scene.actors if in_time(scene, o)]
    silent = [o for o in scene.actors if o not in heard]
    pool = heard if heard and (not silent or rng.integers(2)) else silent
    return [{"sound": scene.sounds[0].kind, "ref": pool[rng.integers(len(pool))].name}]


def shared_act(scene: Scene, rng: np.random.Generator) -> Iterable[Args]:
    """Ask about what all actors do, where they do the same."""
    kinds = {e.kind for o in scene.actors for e in o.events}
    return [{"act": kind, "acts": ACTS[kind]} for kind in kinds] if len(kinds) == 1 else []


def act_and_sound(scene: Scene, rng: np.random.Generator) -> Iterable[Args]:
    """Ask about the one event and the one sound."""
    return [{"act": scene.actors[0].events[0].kind, "sound": scene.sounds[0].kind}]
