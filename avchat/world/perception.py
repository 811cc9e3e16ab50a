"""Read a scene back off what a model gets: frames at its own times, and sound slot by slot.

This is the oracle's eye: if the questions can be answered from what it reads, every one of them can
be answered from what the model is given, and none hangs on something that falls between two frames.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from avchat.world.pictures import object_centres
from avchat.world.scenes import EVENT_S, SLOT_S, SLOTS, Event, Object, Scene, slot_times_s

MOVED = 0.08  # of half a quarter, between two frames without an event: less is standing still


def perceive(scene: Scene, frame_times_s: Sequence[float]) -> Scene:
    """Return the scene as it can be seen at these times and heard in each slot.

    Events are those that show in some frame, at the slot of that frame; motion is the way from the
    first frame to the last without an event; a sound belongs to the slot that holds its middle.
    """
    times = np.asarray(frame_times_s, dtype=np.float64)
    happens_s = slot_times_s(scene)
    paths = object_centres(scene, times)
    objects = tuple(
        _seen(obj, path, times, happens_s) for obj, path in zip(scene.objects, paths, strict=True)
    )
    sounds = tuple(replace(s, slot=int(happens_s[s.slot] // SLOT_S)) for s in scene.sounds)
    return replace(scene, objects=objects, sounds=sounds)


def _seen(obj: Object, path: np.ndarray, times: np.ndarray, happens_s: np.ndarray) -> Object:
    kinds = {
        int(time // SLOT_S): event.kind
        for time in times
        for event in obj.events
        if abs(time - happens_s[event.slot]) < EVENT_S / 2 and 0 <= time < SLOTS * SLOT_S
    }
    events = tuple(Event(slot, kind) for slot, kind in sorted(kinds.items()))
    calm = [p for time, p in zip(times, path, strict=True) if int(time // SLOT_S) not in kinds]
    return replace(obj, events=events, motion=_direction(calm[-1] - calm[0]))


def _direction(way: np.ndarray) -> str:
    x, y = way
    if max(abs(x), abs(y)) < MOVED:
        return "still"
    if abs(x) > abs(y):
        return "right" if x > 0 else "left"
    return "down" if y > 0 else "up"
