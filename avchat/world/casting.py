"""Draw scenes at random, kind by kind, so that within a kind no answer hangs on what is not
asked about.
"""

from dataclasses import replace

import numpy as np

from avchat.world.scenes import (
    COLOURS,
    CROSS_MODAL,
    EVENTS,
    KINDS,
    MOTIONS,
    PLACES,
    SHAPES,
    SIZES,
    SLOTS,
    SOUNDS,
    VOICES,
    WORDS,
    Event,
    Object,
    Scene,
    Sound,
    held_out_pairs,
)

# How often each kind is drawn in training: cross-modal kinds get more than half, because they are
# what is hard to learn.
KIND_WEIGHTS = (0.07, 0.22, 0.09, 0.13, 0.23, 0.03, 0.05, 0.18)


def draw_scene(rng: np.random.Generator, kind: str, combinations: str = "seen") -> Scene:
    """Draw a scene of a kind; `combinations` is "seen" (training and test) or "held out" (every
    sounding pair unseen).
    """
    while True:
        scene = _DRAW[kind](rng, int(rng.integers(2**31)))
        if kind not in CROSS_MODAL or kind == "said":
            return scene
        held_out = held_out_pairs(scene)
        sounding = sum(bool(scene.sounds_at(o)) for o in scene.actors)
        if combinations == "seen" and held_out == 0:
            return scene
        if combinations == "held out" and held_out == sounding > 0:
            return scene


def draw_kind(rng: np.random.Generator) -> str:
    """Draw which kind of scene comes next."""
    return str(rng.choice(KINDS, p=KIND_WEIGHTS))


def _pick(rng: np.random.Generator, options, count: int) -> list:
    """Draw `count` different options."""
    return [options[i] for i in rng.choice(len(options), count, replace=False)]


def _one(rng: np.random.Generator, options):
    return options[rng.integers(len(options))]


def _objects(rng: np.random.Generator, count: int) -> list[Object]:
    """Draw objects of different names in different quarters of the picture."""
    names = _pick(rng, [(c, s) for c in COLOURS for s in SHAPES], count)
    places = _pick(rng, PLACES, count)
    return [
        Object(shape, colour, _one(rng, SIZES), place, _one(rng, MOTIONS))
        for (colour, shape), place in zip(names, places, strict=True)
    ]


def _act(
    rng: np.random.Generator, objects: list[Object], counts: list[int], kind: str = ""
) -> list[Object]:
    """Give the first len(counts) objects so many events each, all in different slots, each
    object of one kind.
    """
    slots = iter(_pick(rng, range(SLOTS), sum(counts)))
    acted = [
        replace(o, events=_events(sorted(next(slots) for _ in range(n)), kind or _one(rng, EVENTS)))
        for o, n in zip(objects, counts, strict=False)
    ]
    return acted + objects[len(counts) :]


def _events(slots: list[int], kind: str) -> tuple[Event, ...]:
    return tuple(Event(int(slot), kind) for slot in slots)


def _shuffled(rng: np.random.Generator, objects: list[Object]) -> tuple[Object, ...]:
    return tuple(objects[i] for i in rng.permutation(len(objects)))


def _sound(rng: np.random.Generator, slot: int, kind: str) -> Sound:
    return Sound(int(slot), kind, pitch=_one(rng, ("low", "middle", "high")))


def _same_sounds(rng: np.random.Generator, slots, kind: str) -> list[Sound]:
    """Sound the same thing, at the same pitch, in each slot."""
    pitch = _one(rng, ("low", "middle", "high"))
    return [Sound(int(slot), kind, pitch=pitch) for slot in slots]


def _any_objects(rng: np.random.Generator) -> tuple[Object, ...]:
    """Draw a picture in which nothing depends on the sound: 1 to 4 objects, up to two of which
    act.
    """
    objects = _objects(rng, int(rng.integers(1, 5)))
    actors = min(len(objects), int(rng.integers(0, 3)))
    return _shuffled(rng, _act(rng, objects, [int(n) for n in rng.integers(1, 5, actors)]))


def _any_sounds(rng: np.random.Generator) -> tuple[Sound, ...]:
    """Draw a sound track in which nothing depends on the picture, sometimes with nothing on it."""
    pattern = rng.integers(4)
    if pattern == 0:
        return ()
    if pattern == 1:
        return _words(rng)
    slots = _pick(rng, range(SLOTS), int(rng.integers(1, 5)))
    return tuple(_sound(rng, slot, _one(rng, SOUNDS)) for slot in sorted(slots))


def _words(rng: np.random.Generator) -> tuple[Sound, ...]:
    slots = sorted(_pick(rng, range(SLOTS), int(rng.integers(1, 4))))
    voice = _one(rng, VOICES)
    words = _pick(rng, WORDS, len(slots))
    return tuple(
        Sound(int(s), "word", word=w, voice=voice) for s, w in zip(slots, words, strict=True)
    )


def _draw_pictures(rng: np.random.Generator, seed: int) -> Scene:
    return Scene(seed, _any_objects(rng), _any_sounds(rng), "pictures")


def _draw_speech(rng: np.random.Generator, seed: int) -> Scene:
    return Scene(seed, _any_objects(rng), _words(rng), "speech")


def _draw_sounds(rng: np.random.Generator, seed: int) -> Scene:
    """One of: some of one kind among others, a rhythm, two of one kind that differ in pitch or
    loudness, one chirp or beep.
    """
    pattern = rng.choice(5, p=(0.25, 0.17, 0.15, 0.15, 0.28))
    if pattern == 0:
        sounds = _counted(rng)
    elif pattern == 1:
        sounds = _rhythm(rng)
    elif pattern == 2:
        first, second = _pick(rng, ("low", "high"), 2)
        a, b = sorted(_pick(rng, range(SLOTS), 2))
        sounds = [Sound(a, "beep", pitch=first), Sound(b, "beep", pitch=second)]
    elif pattern == 3:
        first, second = _pick(rng, ("quiet", "loud"), 2)
        a, b = sorted(_pick(rng, range(SLOTS), 2))
        kind = _one(rng, SOUNDS)
        sounds = [Sound(a, kind, loudness=first), Sound(b, kind, loudness=second)]
    else:
        slot = int(rng.integers(SLOTS))
        kind = _one(rng, SOUNDS if rng.random() < 0.5 else ("beep", "beep", *SOUNDS[1:3]))
        sounds = [Sound(slot, kind, pitch=_one(rng, ("low", "high")))]
    return Scene(seed, _any_objects(rng), tuple(sorted(sounds, key=lambda s: s.slot)), "sounds")


def _counted(rng: np.random.Generator) -> list[Sound]:
    """1 to 4 of one kind and up to 2 others of another kind."""
    wanted, other = _pick(rng, SOUNDS, 2)
    count, others = int(rng.integers(1, 5)), int(rng.integers(0, 3))
    slots = _pick(rng, range(SLOTS), count + others)
    return _same_sounds(rng, slots[:count], wanted) + _same_sounds(rng, slots[count:], other)


def _rhythm(rng: np.random.Generator) -> list[Sound]:
    """Three or four of a kind, evenly or unevenly spaced with even odds."""
    count = int(rng.integers(3, 5))
    even = bool(rng.integers(2))
    while True:
        slots = sorted(_pick(rng, range(SLOTS), count))
        if (len(set(np.diff(slots))) == 1) == even:
            return _same_sounds(rng, slots, _one(rng, SOUNDS))


def _draw_one_source(rng: np.random.Generator, seed: int) -> Scene:
    """2 or 3 actors that do the same thing equally often; one of them is heard, or (3 in 10)
    something off screen.
    """
    actors, each = (2 if rng.random() < 0.7 else 3), int(rng.integers(1, 3))
    objects = _act(
        rng, _objects(rng, int(rng.integers(actors, 5))), [each] * actors, _one(rng, EVENTS)
    )
    slots = objects[0].slots
    if rng.random() < 0.3:
        slots = sorted(
            _pick(rng, sorted(set(range(SLOTS)) - {s for o in objects for s in o.slots}), each)
        )
    return Scene(
        seed,
        _shuffled(rng, objects),
        tuple(_same_sounds(rng, slots, _one(rng, SOUNDS))),
        "one source",
    )


def _draw_two_sources(rng: np.random.Generator, seed: int) -> Scene:
    """Two actors heard with a sound of their own each, 1 to 3 times; 3 in 10 have a silent
    third.
    """
    each = int(rng.integers(1, 4))
    silent = each < 3 and rng.random() < 0.3
    counts = [each, each, each] if silent else [each, each]
    objects = _act(rng, _objects(rng, int(rng.integers(len(counts), 5))), counts)
    first, second = _pick(rng, SOUNDS, 2)
    sounds = _same_sounds(rng, objects[0].slots, first) + _same_sounds(
        rng, objects[1].slots, second
    )
    return Scene(
        seed, _shuffled(rng, objects), tuple(sorted(sounds, key=lambda s: s.slot)), "two sources"
    )


def _draw_order(rng: np.random.Generator, seed: int) -> Scene:
    """One event and one sound in neighbouring slots, never the outermost: there either alone
    would tell the order.
    """
    first = int(rng.integers(1, SLOTS - 2))
    event, sound = (first, first + 1) if rng.integers(2) else (first + 1, first)
    objects = _objects(rng, int(rng.integers(1, 5)))
    objects[0] = replace(objects[0], events=(Event(event, _one(rng, EVENTS)),))
    return Scene(seed, _shuffled(rng, objects), (_sound(rng, sound, _one(rng, SOUNDS)),), "order")


def _draw_sounders(rng: np.random.Generator, seed: int) -> Scene:
    """Three actors of different colours that act once; two of them are heard."""
    while True:
        objects = _act(rng, _objects(rng, int(rng.integers(3, 5))), [1, 1, 1])
        if len({o.colour for o in objects}) == len(objects):
            break
    slots = sorted(objects[0].slots + objects[1].slots)
    return Scene(
        seed,
        _shuffled(rng, objects),
        tuple(_same_sounds(rng, slots, _one(rng, SOUNDS))),
        "sounders",
    )


def _draw_said(rng: np.random.Generator, seed: int) -> Scene:
    """Two or three actors that act once; a word falls on each of two, and sometimes one word on
    nothing.
    """
    actors = int(rng.integers(2, 4))
    objects = _act(rng, _objects(rng, int(rng.integers(actors, 5))), [1] * actors)
    slots = [objects[0].slots[0], objects[1].slots[0]]
    if rng.random() < 0.5:
        slots += _pick(rng, sorted(set(range(SLOTS)) - {s for o in objects for s in o.slots}), 1)
    voice = _one(rng, VOICES)
    words = _pick(rng, WORDS, len(slots))
    sounds = [Sound(int(s), "word", word=w, voice=voice) for s, w in zip(slots, words, strict=True)]
    return Scene(seed, _shuffled(rng, objects), tuple(sorted(sounds, key=lambda s: s.slot)), "said")


_DRAW = {
    "pictures": _draw_pictures,
    "sounds": _draw_sounds,
    "speech": _draw_speech,
    "one source": _draw_one_source,
    "two sources": _draw_two_sources,
    "order": _draw_order,
    "sounders": _draw_sounders,
    "said": _draw_said,
}
