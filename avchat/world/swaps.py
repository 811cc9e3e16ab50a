"""Give a cross-modal scene another sound track, or another picture, that turns its answers
round.
"""

from dataclasses import replace

from avchat.world.scenes import SLOTS, Event, Object, Scene, Sound


def sound_swaps(scene: Scene) -> list[Scene]:
    """List a cross-modal scene under other sound tracks that turn its answers round; the
    picture stays.

    Sounds move from the events of one actor to those of another, or off screen; the sound of
    `order` moves to the other side of the event; what was heard from off screen moves onto an
    actor.
    """
    if scene.kind == "order":
        slot = scene.actors[0].slots[0]
        return [
            replace(scene, sounds=(replace(scene.sounds[0], slot=2 * slot - scene.sounds[0].slot),))
        ]
    return [replace(scene, sounds=_move(scene.sounds, slots)) for slots in _moves(scene)]


def picture_swaps(scene: Scene) -> list[Scene]:
    """List a cross-modal scene with other pictures that turn its answers round; the sound track
    stays.
    """
    if scene.kind == "order":
        sound, actor = scene.sounds[0].slot, scene.actors[0]
        event = replace(actor.events[0], slot=2 * sound - actor.slots[0])
        return [_with_events(scene, {actor: (event,)})]
    swapped = []
    for slots in _moves(scene):
        back = {b: a for a, b in slots.items()}
        full = slots | back if len(back.keys() & slots.keys()) < len(slots) else back
        moved = {
            o: tuple(
                sorted(
                    (replace(e, slot=full.get(e.slot, e.slot)) for e in o.events),
                    key=lambda e: e.slot,
                )
            )
            for o in scene.actors
        }
        swapped.append(_with_events(scene, moved))
    return swapped


def _moves(scene: Scene) -> list[dict[int, int]]:
    """List maps of slots to slots: what the heard actors hear goes round all actors, or to
    where nothing is seen.
    """
    heard = [o for o in scene.actors if scene.sounds_at(o)]
    ring = [*heard, *(o for o in scene.actors if o not in heard)]
    if not heard:
        sounds = sorted(s.slot for s in scene.sounds)
        return [dict(zip(sounds, o.slots, strict=True)) for o in ring]
    turns = [
        {
            a: b
            for o, t in zip(ring, ring[k:] + ring[:k], strict=True)
            for a, b in zip(o.slots, t.slots, strict=True)
        }
        for k in range(1, len(ring))
    ]
    free = sorted(
        set(range(SLOTS)) - {s for o in ring for s in o.slots} - {s.slot for s in scene.sounds}
    )
    if len(heard) == 1 and len(free) >= len(heard[0].slots):
        turns.append(dict(zip(heard[0].slots, free, strict=False)))
    return turns


def _move(sounds: tuple[Sound, ...], slots: dict[int, int]) -> tuple[Sound, ...]:
    moved = [replace(s, slot=slots.get(s.slot, s.slot)) for s in sounds]
    return tuple(sorted(moved, key=lambda s: s.slot))


def _with_events(scene: Scene, events: dict[Object, tuple[Event, ...]]) -> Scene:
    return replace(
        scene, objects=tuple(replace(o, events=events.get(o, o.events)) for o in scene.objects)
    )
