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
# How many classes each tag has; 0 stands for nothing there.
SEEN = {"colour": len(COLOURS) + 1, "shape": len(SHAPES) + 1, "size": len(SIZES) + 1}
SEEN |= {"event": len(EVENTS) + 1}
HEARD = {"sound": len(SOUNDS) + 2, "pitch": len(PITCHES) + 1, "loudness": len(LOUDNESS) + 1}
HEARD |= {"word": len(WORDS) + 1, "voice": len(VOICES) + 1}
ACTING = {"actor_colour": len(COLOURS) + 1, "actor_shape": len(SHAPES) + 1}
FRAME_TIMES_S = (np.arange(SLOTS) + 0.5) * SLOT_S


@dataclass(frozen=True)
class Tags:
    """`seen`: int64 [K, Q] each; `heard` and `acting` (who acts in the slot): int64 [K] each;
    `centres`: float32 [K, Q, 2].
    """

    seen: dict[str, np.ndarray]
    heard: dict[str, np.ndarray]
    acting: dict[str, np.ndarray]
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
    return Tags(seen, heard, acting, centres)
