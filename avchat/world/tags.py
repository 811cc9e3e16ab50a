"""What is where, slot by slot and quarter by quarter: the generator's own truth, for
pretraining encoders.

Legend: K slots, Q quarters of the picture.
"""

from dataclasses import dataclass

import numpy as np

from avchat.world.pictures import object_centres
from avchat.world.scenes import (
    COLOURS,
    EVENTS,
    MOTIONS,
    PLACES,
    SHAPES,
    SIZES,
    SLOT_S,
    SLOTS,
    SOUNDS,
    VOICES,
    WORDS,
    Scene,
)

PITCHES = ("low", "middle", "high")
LOUDNESS = ("quiet", "normal", "loud")
MOST = 4  # counts go no further
# How many classes each tag has; 0 stands for nothing there.
SEEN = {"colour": len(COLOURS) + 1, "shape": len(SHAPES) + 1, "size": len(SIZES) + 1}
SEEN |= {"event": len(EVENTS) + 1}
HEARD = {"sound": len(SOUNDS) + 2, "pitch": len(PITCHES) + 1, "loudness": len(LOUDNESS) + 1}
HEARD |= {"word": len(WORDS) + 1, "voice": len(VOICES) + 1}
ACTING = {"actor_colour": len(COLOURS) + 1, "actor_shape": len(SHAPES) + 1}
# What has to be remembered of earlier slots; NOT_YET where it cannot be known so far.
SEEN_SO_FAR = {"motion": len(MOTIONS) + 1, "events": MOST + 2}
HEARD_SO_FAR = {
    "same": MOST + 2,
    "all": SLOTS + 1,
    "gap": SLOTS,
    "even": 3,
    "pitch": 4,
    "loudness": 4,
}
NOT_YET = -100
FRAME_TIMES_S = (np.arange(SLOTS) + 0.5) * SLOT_S


@dataclass(frozen=True)
class Tags:
    """What is where and when; a dict holds an int64 array for each name of the tables above.

    `seen` and `seen_so_far`: [K, Q]; `heard`, `heard_so_far` and `acting` (who acts in the slot):
    [K]; `centres`: float32 [K, Q, 2].
    """

    seen: dict[str, np.ndarray]
    heard: dict[str, np.ndarray]
    acting: dict[str, np.ndarray]
    seen_so_far: dict[str, np.ndarray]
    heard_so_far: dict[str, np.ndarray]
    centres: np.ndarray


def tag(scene: Scene) -> Tags:
    """Write down what one frame in the middle of each slot shows and what each slot sounds like."""
    seen = {name: np.zeros((SLOTS, len(PLACES)), np.int64) for name in SEEN}
    heard = {name: np.zeros(SLOTS, np.int64) for name in HEARD}
    acting = {name: np.zeros(SLOTS, np.int64) for name in ACTING}
    centres = np.zeros((SLOTS, len(PLACES), 2), np.float32)
    for obj, path in zip(scene.objects, object_centres(scene, FRAME_TIMES_S), strict=True):
        quarter = PLACES.index(obj.place)
        seen["colour"][:, quarter] = COLOURS.index(obj.colour) + 1
        seen["shape"][:, quarter] = SHAPES.index(obj.shape) + 1
        seen["size"][:, quarter] = SIZES.index(obj.size) + 1
        centres[:, quarter] = path
        for event in obj.events:
            seen["event"][event.slot, quarter] = EVENTS.index(event.kind) + 1
            acting["actor_colour"][event.slot] = COLOURS.index(obj.colour) + 1
            acting["actor_shape"][event.slot] = SHAPES.index(obj.shape) + 1
    for sound in scene.sounds:
        heard["sound"][sound.slot] = (*SOUNDS, "word").index(sound.kind) + 1
        if sound.kind == "word":
            heard["word"][sound.slot] = WORDS.index(sound.word) + 1
            heard["voice"][sound.slot] = VOICES.index(sound.voice) + 1
        else:
            heard["pitch"][sound.slot] = PITCHES.index(sound.pitch) + 1
            heard["loudness"][sound.slot] = LOUDNESS.index(sound.loudness) + 1
    so_far = _seen_so_far(scene), _heard_so_far(scene)
    return Tags(seen, heard, acting, *so_far, centres)


def _seen_so_far(scene: Scene) -> dict[str, np.ndarray]:
    """Tell for each frame how the object has moved (from the third frame on) and acted so far."""
    motion = np.zeros((SLOTS, len(PLACES)), np.int64)
    events = np.zeros((SLOTS, len(PLACES)), np.int64)
    for obj in scene.objects:
        quarter = PLACES.index(obj.place)
        motion[:, quarter] = MOTIONS.index(obj.motion) + 1
        motion[:2, quarter] = NOT_YET
        for slot in range(SLOTS):
            events[slot, quarter] = 1 + min(MOST, sum(s <= slot for s in obj.slots))
    return {"motion": motion, "events": events}


def _heard_so_far(scene: Scene) -> dict[str, np.ndarray]:
    """Tell for each sound which one of its kind it is, which one of all, and how it compares.

    `gap`: slots since the sound before; `even`: 1 when three or more sounds came in even steps, 2
    when not; `pitch`, `loudness` against the last of the same kind: 1 the same, 2 more, 3 less.
    """
    tags = {name: np.zeros(SLOTS, np.int64) for name in HEARD_SO_FAR}
    for k, sound in enumerate(sorted(scene.sounds, key=lambda s: s.slot)):
        before = [s for s in scene.sounds if s.slot < sound.slot]
        same = [s for s in before if s.kind == sound.kind]
        tags["same"][sound.slot] = 1 + min(MOST, len(same))
        tags["all"][sound.slot] = 1 + k
        steps = np.diff([*sorted(s.slot for s in before), sound.slot])
        if len(steps):
            tags["gap"][sound.slot] = steps[-1]
        if len(steps) > 1:
            tags["even"][sound.slot] = 1 if len(set(steps)) == 1 else 2
        if same:
            last = max(same, key=lambda s: s.slot)
            tags["pitch"][sound.slot] = _compare(PITCHES, last.pitch, sound.pitch)
            tags["loudness"][sound.slot] = _compare(LOUDNESS, last.loudness, sound.loudness)
    return tags


def _compare(scale: tuple[str, ...], before: str, now: str) -> int:
    step = scale.index(now) - scale.index(before)
    return 1 if step == 0 else 2 if step > 0 else 3
