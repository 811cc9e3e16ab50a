"""Captions of clips, as people search for them: some of what is seen, and all that is heard, in
order.

A caption never tells the whole picture: one or two objects are named, so a clip is told from
others by its sound as well. `fits` says of which clips a caption is true, so that a gallery can be
drawn in which each caption has one right answer.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from avchat.world.answers import ACTS
from avchat.world.casting import draw_kind, draw_scene
from avchat.world.scenes import Object, Scene, Sound

About = Literal["both", "picture", "sound"]
TOLD = 0.35  # how often a caption tells which object a sound comes from, where one can


@dataclass(frozen=True)
class Caption:
    """A line about a clip, and what it names: objects with what they do, sounds in order, and
    (sound, object) pairs that go together, an empty object for a sound from off screen.
    """

    text: str
    seen: tuple[tuple[str, str], ...]
    heard: tuple[str, ...] | None  # None: nothing is said about sound
    made_by: tuple[tuple[str, str], ...] = ()

    def fits(self, scene: Scene) -> bool:
        """Tell whether the caption is true of a scene."""
        objects = {(o.name, _act(o)) for o in scene.objects}
        if not objects >= set(self.seen):
            return False
        if self.heard is not None and self.heard != _heard(scene):
            return False
        return set(self.made_by) <= set(_makers(scene))


def caption(scene: Scene, rng: np.random.Generator, about: About = "both") -> Caption:
    """Write a caption about the picture, the sound or both, in random words."""
    seen = heard = ""
    named: tuple[Object, ...] = ()
    made_by: tuple[tuple[str, str], ...] = ()
    if about != "sound":
        count = min(len(scene.objects), 1 + int(rng.integers(2)))
        order = rng.permutation(len(scene.objects))[:count]
        named = tuple(scene.objects[i] for i in order)
        seen = " and ".join(_phrase(o) for o in named)
    if about != "picture":
        heard = _sounds_phrase(scene.sounds)
        makers = _makers(scene)
        if about == "both" and makers and rng.random() < TOLD:
            made_by = (makers[rng.integers(len(makers))],)
            sound, maker = made_by[0]
            heard += f". the {sound} comes from " + (f"the {maker}" if maker else "off screen")
    parts = [part for part in (seen, heard) if part]
    if len(parts) == 2 and rng.random() < 0.3:
        parts.reverse()
    return Caption(
        text=". ".join(parts) + ".",
        seen=tuple((o.name, _act(o)) for o in named),
        heard=_heard(scene) if about != "picture" else None,
        made_by=made_by,
    )


def draw_gallery(seed: int, clips: int, about: About = "both") -> list[tuple[Scene, Caption]]:
    """Draw scenes, each with a caption that is true of no other: one right answer for each.

    Args:
        about: "both" for captions of picture and sound, "sound" for captions of the sound alone
            (then no two sound tracks are alike). The seed's stream is shared by no lesson.
    """
    rng = np.random.default_rng([14, seed])
    kept: list[tuple[Scene, Caption]] = []
    while len(kept) < clips:
        scene = draw_scene(rng, draw_kind(rng))
        line = caption(scene, rng, about)
        if any(c.fits(scene) or line.fits(s) for s, c in kept):
            continue
        kept.append((scene, line))
    return kept


def _act(obj: Object) -> str:
    return obj.events[0].kind if obj.events else ""


def _phrase(obj: Object) -> str:
    article = "an" if obj.colour == "orange" else "a"
    return f"{article} {obj.name}" + (f" {ACTS[_act(obj)]}" if obj.events else "")


def _name(sound: Sound) -> str:
    """Name a sound as a caption does; what has a clear pitch with it."""
    if sound.kind == "word":
        return f"word {sound.word}"
    pitched = sound.kind == "beep" and sound.pitch != "middle"
    return f"{sound.pitch} beep" if pitched else sound.kind


def _heard(scene: Scene) -> tuple[str, ...]:
    return tuple(_name(s) for s in sorted(scene.sounds, key=lambda s: s.slot))


def _makers(scene: Scene) -> list[tuple[str, str]]:
    """List which object each kind of sound comes from, "" where from none in the picture; only
    sounds that come from one place.
    """
    if scene.kind not in ("one source", "two sources"):
        return []
    found = []
    for kind in dict.fromkeys(_name(s) for s in scene.sounds):
        slots = {s.slot for s in scene.sounds if _name(s) == kind}
        makers = [o.name for o in scene.objects if slots <= set(o.slots)]
        found.append((kind, makers[0] if len(makers) == 1 else ""))
    return found


def _sounds_phrase(sounds: tuple[Sound, ...]) -> str:
    if not sounds:
        return "there is no sound"
    names = [_name(s) for s in sorted(sounds, key=lambda s: s.slot)]
    return ", then ".join(f"the {n}" if n.startswith("word") else f"a {n}" for n in names)
