"""The answer to each family of questions, in plain words, or None when the scene has no single one.

Answers read only what can be perceived: never the seed, never how a scene was made.
"""

import numpy as np

from avchat.world.scenes import NUMBERS, Object, Scene, Sound

Args = dict[str, str]

MOTION_WORDS = {
    "still": "it stays still",
    "left": "left",
    "right": "right",
    "up": "up",
    "down": "down",
}
ACTS = {"flash": "flashes", "bounce": "bounces", "jump": "jumps"}


def find(scene: Scene, ref: str) -> Object | None:
    """Find the one object that "red circle", "circle", "red object" or "object at the top left"
    refers to.
    """
    found = [o for o in scene.objects if ref in _references(o)]
    return found[0] if len(found) == 1 else None


def _references(obj: Object) -> tuple[str, ...]:
    return (obj.name, obj.shape, f"{obj.colour} object", f"object at the {obj.place}")


def kinds_heard(scene: Scene) -> list[str]:
    """List the kinds of sound in order of their first time."""
    return list(dict.fromkeys(s.kind for s in scene.sounds if s.kind != "word"))


def words_heard(scene: Scene) -> list[Sound]:
    """List the spoken words in order."""
    return [s for s in scene.sounds if s.kind == "word"]


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
    kinds = kinds_heard(scene)
    return f"the {kinds[0]}" if len(kinds) == 1 and not words_heard(scene) else None


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
    kinds = [k for k in kinds_heard(scene) if k in (args["sound"], args["other"])]
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
    if len(slots) < 3 or len(kinds_heard(scene)) != 1 or words_heard(scene):
        return None
    return "even" if len(set(np.diff(slots))) == 1 else "uneven"


def sound_exists(scene: Scene, args: Args) -> str | None:
    """Tell whether a kind of sound is heard."""
    return "yes" if args["sound"] in kinds_heard(scene) else "no"


# Answers: spoken.


def word(scene: Scene, args: Args) -> str | None:
    """Answer with the only word."""
    words = words_heard(scene)
    return words[0].word if len(words) == 1 else None


def word_order(scene: Scene, args: Args) -> str | None:
    """Answer with the first or the last of two or more words."""
    words = words_heard(scene)
    return words[0 if args["nth"] == "first" else -1].word if len(words) > 1 else None


def word_count(scene: Scene, args: Args) -> str | None:
    """Count the words."""
    words = words_heard(scene)
    return NUMBERS[len(words)] if words else None


def voice(scene: Scene, args: Args) -> str | None:
    """Tell whose voice it is."""
    words = words_heard(scene)
    return f"a {words[0].voice}" if words else None


def word_kind(scene: Scene, args: Args) -> str | None:
    """Tell whether the only word is a number or a colour."""
    words = words_heard(scene)
    if len(words) != 1:
        return None
    return "a number" if words[0].word in NUMBERS else "a colour"


def word_exists(scene: Scene, args: Args) -> str | None:
    """Tell whether a word is spoken."""
    return "yes" if args["word"] in [s.word for s in words_heard(scene)] else "no"


# Answers: seen and heard. An object makes a sound when all its events, and nothing of another
# object, fall on it.


def in_time(scene: Scene, obj: Object) -> bool:
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
    return None if obj is None else "yes" if in_time(scene, obj) else "no"


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
