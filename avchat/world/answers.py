"""What can be asked of a scene, and the answer: for each family of `questions` the options and the answering function.

An options function lists the fillings of the phrasing's slots; an answering function returns the answer in plain words, or
None when the scene has no single answer. Answers read only what can be perceived: never the seed, never how a scene was made
(`kind` is used by `questions` alone).
"""

from collections.abc import Iterable

import numpy as np

from avchat.world.scenes import COLOURS, NUMBERS, PLACES, SHAPES, SLOT_S, SLOTS, SOUNDS, WORDS, Object, Scene, Sound

Args = dict[str, str]

MOTION_WORDS = {"still": "it stays still", "left": "left", "right": "right", "up": "up", "down": "down"}
ACTS = {"flash": "flashes", "bounce": "bounces", "jump": "jumps"}
TIMES = {1: "one time", 2: "two times", 3: "three times", 4: "four times"}


def find(scene: Scene, ref: str) -> Object | None:
    """Find the one object that "red circle", "circle", "red object" or "object at the top left" refers to."""
    found = [o for o in scene.objects if ref in _references(o)]
    return found[0] if len(found) == 1 else None


def _references(obj: Object) -> tuple[str, ...]:
    return (obj.name, obj.shape, f"{obj.colour} object", f"object at the {obj.place}")


# Options.


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
    refs = [(f"{o.colour} object", f"object at the {o.place}")[rng.integers(2)] for o in scene.objects]
    return [{"ref": ref} for ref in refs if find(scene, ref)]


def refs_actor(scene: Scene, rng: np.random.Generator) -> Iterable[Args]:
    """Ask about each object that does something."""
    return [{"ref": o.name, "act": o.events[0].kind, "acts": ACTS[o.events[0].kind]} for o in scene.actors]


def maybe_names(scene: Scene, rng: np.random.Generator) -> Iterable[Args]:
    """Ask for one object that is there, or with even odds for one that is not."""
    there = [o.name for o in scene.objects]
    if rng.integers(2):
        return [{"ref": there[rng.integers(len(there))]}]
    absent = [f"{c} {s}" for c in COLOURS for s in SHAPES if f"{c} {s}" not in there]
    return [{"ref": absent[rng.integers(len(absent))]}]


def _kinds(scene: Scene) -> list[str]:
    """List the kinds of sound in order of their first time."""
    return list(dict.fromkeys(s.kind for s in scene.sounds if s.kind != "word"))


def heard_kinds(scene: Scene, rng: np.random.Generator) -> Iterable[Args]:
    """Ask about each kind of sound that is heard."""
    return [_sound_args(kind) for kind in _kinds(scene)]


def _sound_args(kind: str) -> Args:
    return {"sound": kind, "sounds": f"{kind}s"}


def two_kinds(scene: Scene, rng: np.random.Generator) -> Iterable[Args]:
    """Ask about two kinds of sound, in either order."""
    kinds = _kinds(scene)
    if len(kinds) < 2:
        return []
    first, second = (kinds[i] for i in rng.choice(len(kinds), 2, replace=False))
    return [{"sound": first, "other": second}]


def maybe_sounds(scene: Scene, rng: np.random.Generator) -> Iterable[Args]:
    """Ask for one kind of sound that is there, or with even odds for one that is not."""
    kinds = _kinds(scene)
    if kinds and rng.integers(2):
        return [_sound_args(kinds[rng.integers(len(kinds))])]
    absent = [s for s in SOUNDS if s not in kinds]
    return [_sound_args(absent[rng.integers(len(absent))])] if kinds else []


def _words(scene: Scene) -> list[Sound]:
    return [s for s in scene.sounds if s.kind == "word"]


def maybe_words(scene: Scene, rng: np.random.Generator) -> Iterable[Args]:
    """Ask for one word that is spoken, or with even odds for one that is not."""
    spoken = [s.word for s in _words(scene)]
    if not spoken:
        return []
    if rng.integers(2):
        return [{"word": spoken[rng.integers(len(spoken))]}]
    absent = [w for w in WORDS if w not in spoken]
    return [{"word": absent[rng.integers(len(absent))]}]


def heard_words(scene: Scene, rng: np.random.Generator) -> Iterable[Args]:
    """Ask about each spoken word."""
    return [{"word": s.word} for s in _words(scene)]


def ends(scene: Scene, rng: np.random.Generator) -> Iterable[Args]:
    """Ask for the first and for the last."""
    return [{"nth": "first"}, {"nth": "last"}]


def first_second(scene: Scene, rng: np.random.Generator) -> Iterable[Args]:
    """Ask for the first and for the second."""
    return [{"nth": "first"}, {"nth": "second"}]


def sound_and_actor(scene: Scene, rng: np.random.Generator) -> Iterable[Args]:
    """Ask about the one sound with the heard actor, or with even odds with a silent one."""
    heard = [o for o in scene.actors if _in_time(scene, o)]
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


# Answers: seen.


def colour(scene: Scene, args: Args) -> str | None:
    """Answer with the object's colour."""
    obj = find(scene, args["ref"])
    return obj and obj.colour


def shape(scene: Scene, args: Args) -> str | None:
    """Answer with the object's shape."""
    obj = find(scene, args["ref"])
    return obj and obj.shape


def size(scene: Scene, args: Args) -> str | None:
    """Answer with the object's size."""
    obj = find(scene, args["ref"])
    return obj and obj.size


def place(scene: Scene, args: Args) -> str | None:
    """Answer with the quarter of the picture."""
    obj = find(scene, args["ref"])
    return obj and obj.place


def motion(scene: Scene, args: Args) -> str | None:
    """Answer with the direction of the drift."""
    obj = find(scene, args["ref"])
    return obj and MOTION_WORDS[obj.motion]


def object_count(scene: Scene, args: Args) -> str | None:
    """Count the objects."""
    return NUMBERS[len(scene.objects)]


def object_exists(scene: Scene, args: Args) -> str | None:
    """Tell whether such an object is there."""
    return "yes" if find(scene, args["ref"]) else "no"


def event_kind(scene: Scene, args: Args) -> str | None:
    """Answer with what the object does."""
    obj = find(scene, args["ref"])
    return obj.events[0].kind if obj and obj.events else None


def event_count(scene: Scene, args: Args) -> str | None:
    """Count the object's events."""
    obj = find(scene, args["ref"])
    return NUMBERS[len(obj.events)] if obj and obj.events else None


def first_actor(scene: Scene, args: Args) -> str | None:
    """Answer with the object that acts first, of two or more."""
    if len(scene.actors) < 2:
        return None
    return f"the {min(scene.actors, key=lambda o: o.slots[0]).name}"


# Answers: heard.


def sound_kind(scene: Scene, args: Args) -> str | None:
    """Answer with the only kind of sound."""
    kinds = _kinds(scene)
    return f"the {kinds[0]}" if len(kinds) == 1 and not _words(scene) else None


def pitch(scene: Scene, args: Args) -> str | None:
    """Answer with the pitch of the only beep."""
    pitches = [s.pitch for s in scene.sounds if s.kind == "beep"]
    return pitches[0] if len(pitches) == 1 and pitches[0] != "middle" else None


def chirp_direction(scene: Scene, args: Args) -> str | None:
    """Answer with the direction of the only chirp."""
    chirps = [s.kind for s in scene.sounds if s.kind.endswith("chirp")]
    return {"rising chirp": "up", "falling chirp": "down"}[chirps[0]] if len(chirps) == 1 else None


def sound_count(scene: Scene, args: Args) -> str | None:
    """Count the sounds of a kind."""
    count = sum(s.kind == args["sound"] for s in scene.sounds)
    return NUMBERS[count] if 1 <= count <= 4 else None


def sound_order(scene: Scene, args: Args) -> str | None:
    """Answer with the kind that is heard first."""
    kinds = [k for k in _kinds(scene) if k in (args["sound"], args["other"])]
    return f"the {kinds[0]}" if len(kinds) == 2 else None


def pitch_compare(scene: Scene, args: Args) -> str | None:
    """Compare the pitch of two beeps, low and high."""
    pitches = [s.pitch for s in scene.sounds if s.kind == "beep"]
    return {("low", "high"): "higher", ("high", "low"): "lower"}.get(tuple(pitches))


def loudness_compare(scene: Scene, args: Args) -> str | None:
    """Compare the loudness of two sounds of a kind."""
    loudness = [s.loudness for s in scene.sounds if s.kind == args["sound"]]
    return {("quiet", "loud"): "the second", ("loud", "quiet"): "the first"}.get(tuple(loudness))


def rhythm(scene: Scene, args: Args) -> str | None:
    """Tell whether three or more sounds of one kind are evenly spaced."""
    slots = [s.slot for s in scene.sounds]
    if len(slots) < 3 or len(_kinds(scene)) != 1 or _words(scene):
        return None
    return "even" if len(set(np.diff(slots))) == 1 else "uneven"


def sound_exists(scene: Scene, args: Args) -> str | None:
    """Tell whether a kind of sound is heard."""
    return "yes" if args["sound"] in _kinds(scene) else "no"


# Answers: spoken.


def word(scene: Scene, args: Args) -> str | None:
    """Answer with the only word."""
    words = _words(scene)
    return words[0].word if len(words) == 1 else None


def word_order(scene: Scene, args: Args) -> str | None:
    """Answer with the first or the last of two or more words."""
    words = _words(scene)
    return words[0 if args["nth"] == "first" else -1].word if len(words) > 1 else None


def word_count(scene: Scene, args: Args) -> str | None:
    """Count the words."""
    words = _words(scene)
    return NUMBERS[len(words)] if words else None


def voice(scene: Scene, args: Args) -> str | None:
    """Tell whose voice it is."""
    words = _words(scene)
    return f"a {words[0].voice}" if words else None


def word_kind(scene: Scene, args: Args) -> str | None:
    """Tell whether the only word is a number or a colour."""
    words = _words(scene)
    if len(words) != 1:
        return None
    return "a number" if words[0].word in NUMBERS else "a colour"


def word_exists(scene: Scene, args: Args) -> str | None:
    """Tell whether a word is spoken."""
    return "yes" if args["word"] in [s.word for s in _words(scene)] else "no"


# Answers: seen and heard. An object makes a sound when all its events, and nothing of another object, fall on it.


def _in_time(scene: Scene, obj: Object) -> bool:
    """Tell whether the object's events and the sounds fall on the very same slots."""
    return {s.slot for s in scene.sounds} == set(obj.slots)


def _source(scene: Scene, sounds: list[Sound]) -> Object | None:
    """Find the actor whose events fall on exactly these sounds."""
    slots = {s.slot for s in sounds}
    found = [o for o in scene.actors if set(o.slots) == slots]
    return found[0] if found else None


def which_object(scene: Scene, args: Args) -> str | None:
    """Answer with the object that makes the sound."""
    obj = _source(scene, list(scene.sounds))
    return f"the {obj.name}" if obj else None


def sync(scene: Scene, args: Args) -> str | None:
    """Tell whether the sound is in time with the object."""
    obj = find(scene, args["ref"])
    return None if obj is None else "yes" if _in_time(scene, obj) else "no"


def offscreen(scene: Scene, args: Args) -> str | None:
    """Tell whether an object in the picture makes the sound."""
    if not scene.sounds or not scene.actors:
        return None
    return "yes" if which_object(scene, args) else "no"


def silent_event(scene: Scene, args: Args) -> str | None:
    """Answer with the one of two actors that is not heard."""
    silent = [o for o in scene.actors if not scene.sounds_at(o)]
    return f"the {silent[0].name}" if len(silent) == 1 and len(scene.actors) == 2 else None


def order(scene: Scene, args: Args) -> str | None:
    """Tell whether the one event or the one sound comes first."""
    if len(scene.actors) != 1 or len(scene.sounds) != 1:
        return None
    event, sound = scene.actors[0].slots[0], scene.sounds[0].slot
    return f"the {args['act']}" if event < sound else f"the {args['sound']}"


def which_object_of_two(scene: Scene, args: Args) -> str | None:
    """Answer with the object that makes a kind of sound."""
    obj = _source(scene, [s for s in scene.sounds if s.kind == args["sound"]])
    return f"the {obj.name}" if obj else None


def which_sound_of_two(scene: Scene, args: Args) -> str | None:
    """Answer with the sound that an object makes."""
    obj = find(scene, args["ref"])
    kinds = {s.kind for s in scene.sounds_at(obj)} if obj else set()
    return f"the {kinds.pop()}" if len(kinds) == 1 else None


def nth_sounder(scene: Scene, args: Args) -> str | None:
    """Answer with the colour of the object that is heard first or second."""
    heard = sorted((o for o in scene.actors if scene.sounds_at(o)), key=lambda o: o.slots[0])
    nth = ("first", "second").index(args["nth"])
    return heard[nth].colour if len(heard) == 2 else None


def word_when(scene: Scene, args: Args) -> str | None:
    """Answer with the word that is spoken when the object acts."""
    obj = find(scene, args["ref"])
    words = [s.word for s in scene.sounds_at(obj) if s.kind == "word"] if obj else []
    return words[0] if len(words) == 1 else None


def object_when(scene: Scene, args: Args) -> str | None:
    """Answer with the object that acts when the word is spoken."""
    obj = _source(scene, [s for s in scene.sounds if s.word == args["word"]])
    return f"the {obj.name}" if obj else None


# Sentences.


def description(scene: Scene) -> str:
    """Describe objects from the top left on, then the kinds of sound in order, each with the object that it goes with."""
    seen = [_describe_object(o) for o in sorted(scene.objects, key=lambda o: PLACES.index(o.place))]
    if not scene.sounds:
        return " ".join([*seen, "there is no sound."])
    heard = dict.fromkeys(f"the word {s.word}" if s.kind == "word" else f"the {s.kind}" for s in scene.sounds)
    return " ".join([*seen, f"the sounds are {', '.join(heard)}."])


def _describe_object(obj: Object) -> str:
    moves = "stays still" if obj.motion == "still" else f"moves {obj.motion}"
    acts = f" and {ACTS[obj.events[0].kind]} {TIMES[len(obj.events)]}" if obj.events else ""
    return f"a {obj.size} {obj.name} at the {obj.place} {moves}{acts}."


def timeline(scene: Scene) -> str:
    """Say for each slot in which something happens what is heard and which object acts."""
    rows = [row for slot in range(SLOTS) if (row := _row(scene, slot))]
    return " ".join(rows) if rows else "nothing happens."


def _row(scene: Scene, slot: int) -> str:
    heard = [f"the word {s.word}" if s.kind == "word" else f"the {s.kind}" for s in scene.sounds if s.slot == slot]
    seen = [f"the {o.name} {ACTS[e.kind]}" for o in scene.objects for e in o.events if e.slot == slot]
    if not heard and not seen:
        return ""
    return f"{(slot + 0.5) * SLOT_S:.2f}s: {', '.join(heard + sorted(seen))}."


def slots_right(answer: str, truth: str) -> float:
    """Score a sentence answer: F1 over its statements (eval.md 6.2, slot recall and precision), 0..1.

    A statement is a word with the sentence that it stands in, sentences being matched by what they are about: the object's
    name or the time.
    """
    said, true = _statements(answer), _statements(truth)
    right = len(said & true)
    return 2 * right / (len(said) + len(true)) if said or true else 1.0


def _statements(text: str) -> set[tuple[str, str]]:
    sentences = [s.strip() for s in text.lower().replace(". ", ".\n").splitlines() if s.strip()]
    return {(_topic(s), word) for s in sentences for word in _facts(s)}


def _topic(sentence: str) -> str:
    named = [f"{c} {s}" for c, s in _pairs() if f"{c} {s}" in sentence]
    return sentence.split(":")[0] if ":" in sentence else named[0] if named else "sounds"


def _pairs() -> Iterable[tuple[str, str]]:
    return ((c, s) for c in COLOURS for s in SHAPES)


def _facts(sentence: str) -> set[str]:
    """Split what a sentence says into comparable pieces: list items after a colon or "are", else words that carry meaning."""
    body = sentence.rstrip(".")
    if ":" in body or body.startswith("the sounds are"):
        return {item.strip() for item in body.split(":")[-1].removeprefix("the sounds are").split(",")}
    return {w for w in body.split() if w not in ("a", "the", "at", "and", "there", "is")}
