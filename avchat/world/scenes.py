"""Scenes of the world: who is seen where, what happens when, what sounds when.

What enters is a random generator and the kind of scene that is wanted; what leaves is a `Scene`, a
few frozen dataclasses without pixels or samples. `render` turns it into pictures and sound,
`questions` asks about it.

Time is cut into `SLOTS` slots of `SLOT_S` seconds. Every visual event and every sound sits at the
centre of a slot, with a jitter that is the same for picture and sound, so "in time" means the same
slot and "at the wrong time" means at least half a second away: far above the frame distance of the
model and the 20 ms of a Whisper state.
"""

from dataclasses import dataclass

import numpy as np

DURATION_S = 4.0
SLOT_S = 0.5
SLOTS = int(DURATION_S / SLOT_S)
JITTER_S = 0.04
# How long an event is visible: above twice the jitter, so one frame a slot always sees it.
EVENT_S = 0.32

SHAPES = ("circle", "square", "triangle", "star")
COLOURS = ("red", "green", "blue", "yellow", "purple", "orange")
SIZES = ("small", "big")
PLACES = ("top left", "top right", "bottom left", "bottom right")
MOTIONS = ("still", "left", "right", "up", "down")
EVENTS = ("flash", "bounce", "jump")
SOUNDS = ("beep", "rising chirp", "falling chirp", "noise", "click", "drum", "siren", "chord")
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
WORDS = NUMBERS + COLOURS
VOICES = ("man", "woman")

KINDS = ("pictures", "sounds", "speech", "one source", "two sources", "order", "sounders", "said")
CROSS_MODAL = frozenset(KINDS[3:])


@dataclass(frozen=True)
class Event:
    """One thing that an object does, in one slot."""

    slot: int
    kind: str


@dataclass(frozen=True)
class Object:
    """A coloured shape in one quarter of the picture."""

    shape: str
    colour: str
    size: str
    place: str
    motion: str
    events: tuple[Event, ...] = ()

    @property
    def name(self) -> str:
        """Name it as answers do: "red circle"."""
        return f"{self.colour} {self.shape}"

    @property
    def slots(self) -> tuple[int, ...]:
        """List the slots in which it does something."""
        return tuple(event.slot for event in self.events)


@dataclass(frozen=True)
class Sound:
    """One sound or one spoken word (`kind` "word"), in one slot."""

    slot: int
    kind: str
    pitch: str = "middle"
    loudness: str = "normal"
    word: str = ""
    voice: str = ""


@dataclass(frozen=True)
class Scene:
    """Everything that a clip shows and sounds like; `seed` fixes what no question asks about."""

    seed: int
    objects: tuple[Object, ...]
    sounds: tuple[Sound, ...]
    kind: str = "pictures"

    @property
    def actors(self) -> tuple[Object, ...]:
        """List the objects that do something."""
        return tuple(o for o in self.objects if o.events)

    def sounds_at(self, obj: Object) -> tuple[Sound, ...]:
        """List the sounds that fall on the object's events."""
        return tuple(s for s in self.sounds if s.slot in obj.slots)


def slot_times_s(scene: Scene) -> np.ndarray:
    """Give the time of the middle of what happens in each slot, in seconds, [SLOTS]."""
    jitter = np.random.default_rng([scene.seed, 1]).uniform(-JITTER_S, JITTER_S, SLOTS)
    return (np.arange(SLOTS) + 0.5) * SLOT_S + jitter


def is_held_out(colour: str, shape: str, sound: str) -> bool:
    """Tell whether an object of this look making this sound is kept out of training (1 in 8
    combinations).
    """
    return (COLOURS.index(colour) + 2 * SHAPES.index(shape) + 3 * SOUNDS.index(sound)) % 8 == 0


def held_out_pairs(scene: Scene) -> int:
    """Count the sounding objects of the scene whose combination is kept out of training."""
    return sum(
        any(s.kind != "word" and is_held_out(o.colour, o.shape, s.kind) for s in scene.sounds_at(o))
        for o in scene.actors
    )
