"""Draw a scene's pictures: shapes as signed distances, each inside its own quadrant.

Legend: T frames, H and W rows and columns of a box in pixels of the 128-pixel picture. Inside this
file the 3 colours stand before rows and columns: numpy is twice as fast on long innermost rows.
"""

import colorsys
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from avchat.world.scenes import DURATION_S, EVENT_S, PLACES, Event, Object, Scene, slot_times_s

PICTURE = 128  # pixels a side; everything is drawn at this size
QUADRANT = PICTURE // 2

# Streams of np.random.default_rng([scene.seed, stream]); stream 1 is the timing jitter; objects add
# their index.
_BACKGROUND_STREAM = 0
_OBJECT_STREAM = 100

_HUES = {"red": 0.0, "orange": 28.0, "yellow": 54.0, "green": 128.0, "blue": 222.0, "purple": 284.0}
_SATURATION_VALUE = {
    "red": (0.88, 0.87),
    "orange": (0.95, 0.98),
    "yellow": (0.80, 0.96),
    "green": (0.80, 0.68),
    "blue": (0.80, 0.92),
    "purple": (0.68, 0.80),
}
_RADIUS = {"small": (11.4, 12.2), "big": (17.3, 18.1)}
_TRAVEL = {"small": (14.0, 16.0), "big": (8.0, 8.6)}  # pixels either side of the middle
_DIRECTIONS = {"still": (0, 0), "left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}

# Half width, half height, and how far the centroid lies below the middle of the box, in radii.
# The four areas are within 25 % of each other.
_TRIANGLE = 1.40  # circumradius
_STAR = 1.34  # outer radius
_STAR_NOTCH = 0.42  # inner radius over outer radius
_EXTENTS = {
    "circle": (1.0, 1.0, 0.0),
    "square": (0.88, 0.88, 0.0),
    "triangle": (_TRIANGLE * math.sqrt(3) / 2, _TRIANGLE * 0.75, _TRIANGLE * 0.25),
    "star": (_STAR * 0.951, _STAR * 0.9045, _STAR * 0.0955),
}

_HOLD_S = 0.10  # either side of its centre an event shows fully; it is gone at EVENT_S / 2
_LIFT = 11.0  # pixels a jump lifts
_SHADOW = 3.5  # half height of a jump's shadow
_GROUND = 4.0  # from an object's foot to the middle of a bounce's line
_LINE = 1.6  # half thickness of that line
_WIDEN, _FLATTEN = 0.28, 0.48  # a bounce's squash
_CORE = 0.55  # radius of a flash's white core, in radii
_HALO = 11.0  # pixels a flash's halo reaches beyond the radius


@dataclass(frozen=True)
class _Look:
    """How one object looks and moves, once its nuisance is drawn; pixels of its quadrant."""

    shape: str
    radius: float
    rgb: np.ndarray  # float32 [3], 0..255
    turn: float  # radians
    centre: tuple[float, float]
    travel: tuple[float, float]  # from the middle of the clip to its end
    half_width: float
    half_height: float


@dataclass(frozen=True)
class _Pose:
    """Where an object is at each wanted time: float64 [T] each, pixels of its quadrant."""

    x: np.ndarray
    y: np.ndarray
    foot: np.ndarray  # the ground under the object
    wide: np.ndarray
    tall: np.ndarray
    flash: np.ndarray  # strengths 0..1
    bounce: np.ndarray
    jump: np.ndarray


def render_frames(scene: Scene, times_s: Sequence[float], size: int = PICTURE) -> np.ndarray:
    """Draw the scene at each time.

    Args:
        scene: what is seen; its seed fixes every nuisance.
        times_s: T seconds from the start of the clip.
        size: pixels a side, 128 or 64; 64 is the 2x2 mean of the 128-pixel picture.

    Returns:
        uint8 [T, size, size, 3].
    """
    if size not in (PICTURE, PICTURE // 2):
        raise ValueError(f"a clip is drawn at 128 or 64 pixels, not {size}")
    times = np.asarray(times_s, dtype=np.float64)
    background = _background(scene.seed)
    shrink = PICTURE // size
    plain = background.astype(np.uint8)[None]
    frames = np.repeat(_halve(plain) if shrink == 2 else plain, len(times), axis=0)
    for item, look, pose in _cast(scene, times):
        place = PLACES.index(item.place)
        corner = (QUADRANT * (place // 2), QUADRANT * (place % 2))  # row, column
        _draw(frames, background, look, pose, corner, shrink)
    return np.ascontiguousarray(frames.transpose(0, 2, 3, 1))


def object_centres(scene: Scene, times_s: Sequence[float]) -> np.ndarray:
    """Give where each object's body is: float64 [objects, T, 2], x and y in quadrants, -1..1."""
    centres = np.zeros((len(scene.objects), len(times_s), 2))
    for index, (_, _, pose) in enumerate(_cast(scene, np.asarray(times_s, dtype=np.float64))):
        centres[index] = np.stack([pose.x, pose.y], axis=-1) / (QUADRANT / 2) - 1
    return centres


def _cast(scene: Scene, times: np.ndarray) -> Iterator[tuple[Object, _Look, _Pose]]:
    """Go through the objects with how each looks and where it is at each time."""
    slots_s = slot_times_s(scene)
    for index, item in enumerate(scene.objects):
        look = _look(item, np.random.default_rng([scene.seed, _OBJECT_STREAM + index]))
        yield item, look, _pose(look, item.events, slots_s, times)


def _background(seed: int) -> np.ndarray:
    """Return a grey ground with a slope and faint noise: float32 [3, 128, 128], whole numbers."""
    rng = np.random.default_rng([seed, _BACKGROUND_STREAM])
    grey = rng.uniform(48, 96) + rng.uniform(-4, 4, 3)
    slope = rng.uniform(-14, 14, 2)
    line = np.linspace(-1, 1, PICTURE)
    noise = rng.random((PICTURE, PICTURE), dtype=np.float32) * 10 - 5
    ground = noise + (slope[0] * line[:, None] + slope[1] * line).astype(np.float32)
    return np.floor(ground + grey.astype(np.float32)[:, None, None])


def _look(item: Object, rng: np.random.Generator) -> _Look:
    """Draw one object's nuisance: exact radius, colour, turn, place and travel."""
    radius = rng.uniform(*_RADIUS[item.size])
    hue = (_HUES[item.colour] + rng.uniform(-3, 3)) / 360 % 1
    saturation, value = _SATURATION_VALUE[item.colour]
    rgb = colorsys.hsv_to_rgb(hue, saturation, value * rng.uniform(0.94, 1.02))
    wide, tall, _ = _EXTENTS[item.shape]
    half_width, half_height = radius * wide, radius * tall
    across, along = _DIRECTIONS[item.motion]
    travel = rng.uniform(*_TRAVEL[item.size])
    room = (QUADRANT / 2 - 1 - half_width, QUADRANT / 2 - 1 - half_height)
    free = (room[0] - abs(across) * travel, room[1] - abs(along) * travel)
    spread = [min(max(f, 0.0) * 0.7, 6.0) for f in free]
    return _Look(
        shape=item.shape,
        radius=radius,
        rgb=np.clip(np.array(rgb) * 255, 0, 255).astype(np.float32),
        turn=rng.uniform(-0.09, 0.09),
        centre=(32 + spread[0] * rng.uniform(-1, 1), 32.5 + spread[1] * rng.uniform(-1, 1)),
        travel=(across * travel, along * travel),
        half_width=half_width,
        half_height=half_height,
    )


def _pose(look: _Look, events: Sequence[Event], slots_s: np.ndarray, times: np.ndarray) -> _Pose:
    """Place an object at each time, keeping all of it (with its shadow) inside its quadrant."""
    strength = {kind: np.zeros(len(times)) for kind in ("flash", "bounce", "jump")}
    for event in events:
        away = np.abs(times - slots_s[event.slot])
        rise = np.clip((EVENT_S / 2 - away) / (EVENT_S / 2 - _HOLD_S), 0, 1)
        strength[event.kind] = np.maximum(strength[event.kind], rise * rise * (3 - 2 * rise))
    flash, bounce, jump = strength["flash"], strength["bounce"], strength["jump"]
    wide, tall = 1 + _WIDEN * bounce, 1 - _FLATTEN * bounce
    phase = times / (DURATION_S / 2) - 1  # -1 at the start, 1 at the end
    x = look.centre[0] + look.travel[0] * phase
    foot = look.centre[1] + look.travel[1] * phase + look.half_height
    reach = look.half_width * wide + 1
    x = np.clip(x, reach, QUADRANT - reach)
    below = 1 + np.maximum(bounce * (_GROUND + _LINE), jump * _SHADOW)
    above = 1 + 2 * look.half_height * tall + jump * _LIFT
    foot = np.clip(foot, above, QUADRANT - below)
    y = foot - look.half_height * tall - jump * _LIFT
    return _Pose(x, y, foot, wide, tall, flash, bounce, jump)


def _draw(
    frames: np.ndarray,
    background: np.ndarray,
    look: _Look,
    pose: _Pose,
    corner: tuple[int, int],
    shrink: int,
) -> None:
    """Paint one object into all frames [T, 3, size, size]."""
    busy = (pose.flash + pose.bounce + pose.jump) > 0
    height = min(2 * math.ceil(look.half_height * 1.1 + 2), QUADRANT)
    width = min(2 * math.ceil(look.half_width * 1.1 + 2), QUADRANT)
    for chosen, box in ((~busy, (height, width)), (busy, (QUADRANT, QUADRANT))):
        (which,) = np.nonzero(chosen)
        if not len(which):
            continue
        top = _even(pose.y[which] - box[0] / 2, QUADRANT - box[0])
        left = _even(pose.x[which] - box[1] / 2, QUADRANT - box[1])
        ground = np.stack(
            [
                background[:, y : y + box[0], x : x + box[1]]
                for y, x in zip(top + corner[0], left + corner[1], strict=True)
            ]
        )
        rows = (top[:, None] + np.arange(box[0]) + 0.5)[:, :, None]
        columns = (left[:, None] + np.arange(box[1]) + 0.5)[:, None, :]
        patch = _paint(ground, rows, columns, look, pose, which)
        patch = _halve(patch) if shrink == 2 else patch
        tops, lefts = (top + corner[0]) // shrink, (left + corner[1]) // shrink
        for number, t in enumerate(which):
            y, x = tops[number], lefts[number]
            frames[t, :, y : y + patch.shape[2], x : x + patch.shape[3]] = patch[number]


def _even(edge: np.ndarray, last: int) -> np.ndarray:
    """Round box edges to even pixels inside 0..last, so that halving keeps boxes whole."""
    return np.clip(2 * np.round(edge / 2).astype(np.int64), 0, last)


def _paint(
    ground: np.ndarray,
    rows: np.ndarray,
    columns: np.ndarray,
    look: _Look,
    pose: _Pose,
    which: np.ndarray,
) -> np.ndarray:
    """Blend an object over its ground [T, 3, H, W]; rows [T, H, 1], columns [T, 1, W]."""

    def per_frame(values: np.ndarray) -> np.ndarray:
        return values[which][:, None, None]

    x = ((columns - per_frame(pose.x)) / per_frame(look.radius * pose.wide)).astype(np.float32)
    y = ((rows - per_frame(pose.y)) / per_frame(look.radius * pose.tall)).astype(np.float32)
    cos, sin = np.float32(math.cos(look.turn)), np.float32(math.sin(look.turn))
    across = cos * x + sin * y
    down = cos * y - sin * x - np.float32(_EXTENTS[look.shape][2])
    outside = _distance(look.shape, across, down)
    edge = per_frame(look.radius * np.sqrt(pose.wide * pose.tall)).astype(np.float32)
    cover = np.clip(0.5 - outside * edge, 0, 1)
    colour = look.rgb[:, None, None]
    if (pose.flash + pose.bounce + pose.jump)[which].any():
        ground = _paint_events(ground, rows, columns, look, pose, which)
        away = np.sqrt(across * across + down * down)
        core = np.clip((_CORE - away) * (look.radius / 2) + 0.5, 0, 1)
        core = (core * per_frame(pose.flash)).astype(np.float32)[:, None]
        colour = colour + core * (255 - colour)
    painted = ground + cover[:, None] * (colour - ground)
    return (painted + np.float32(0.5)).astype(np.uint8)


def _paint_events(
    ground: np.ndarray,
    rows: np.ndarray,
    columns: np.ndarray,
    look: _Look,
    pose: _Pose,
    which: np.ndarray,
) -> np.ndarray:
    """Lay what an event shows behind its object: halo, line or shadow; float32 [T, 3, H, W]."""

    def per_frame(values: np.ndarray) -> np.ndarray:
        return values[which][:, None, None].astype(np.float32)

    x = (columns - pose.x[which][:, None, None]).astype(np.float32)
    y = (rows - pose.y[which][:, None, None]).astype(np.float32)
    below = (rows - pose.foot[which][:, None, None]).astype(np.float32)
    halo = np.clip((look.radius + _HALO - np.sqrt(x * x + y * y)) / _HALO, 0, 1)
    halo = halo * halo * (0.85 * per_frame(pose.flash))
    line = np.clip(0.5 + _LINE - np.abs(below - _GROUND), 0, 1)
    line = line * np.clip(0.5 + look.half_width - np.abs(x), 0, 1) * per_frame(pose.bounce)
    oval = (x / look.half_width) ** 2 + (below / _SHADOW) ** 2
    shadow = np.clip((1.15 - oval) * 2, 0, 1) * (0.85 * per_frame(pose.jump))
    bright = np.maximum(halo, line)
    kept = (1 - shadow) * (1 - bright)
    return ground * kept[:, None] + (255 * bright)[:, None]


def _distance(shape: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the signed distance to a shape of radius 1 (negative inside), near its edge exact.

    x to the right and y down from the centroid, in radii. Only + - * max abs are used on arrays,
    so that every machine gives the same bits. The star is Inigo Quilez's folding.
    """
    if shape == "circle":
        # (d^2 - 1) / 2 has slope 1 at the edge; no square root needed
        return (x * x + y * y - 1) * np.float32(0.5)
    if shape == "square":
        return np.maximum(np.abs(x), np.abs(y)) - np.float32(_EXTENTS["square"][0])
    if shape == "triangle":
        slanted = np.abs(x) * np.float32(math.sqrt(3) / 2) - y * np.float32(0.5)
        return np.maximum(slanted, y) - np.float32(_TRIANGLE / 2)
    cos, sin = np.float32(math.cos(math.pi / 5)), np.float32(math.sin(math.pi / 5))
    x, up = np.abs(x), -y
    over = np.maximum(cos * x - sin * up, 0) * 2
    x, up = x - over * cos, up + over * sin
    over = np.maximum(-cos * x - sin * up, 0) * 2
    x, up = np.abs(x + over * cos), up + over * sin - np.float32(_STAR)
    # the edge from the tip to the notch
    edge_x = _STAR * _STAR_NOTCH * math.sin(math.pi / 5)
    edge_y = _STAR * (_STAR_NOTCH * math.cos(math.pi / 5) - 1)
    length = math.hypot(edge_x, edge_y)
    return up * np.float32(edge_x / length) - x * np.float32(edge_y / length)


def _halve(frames: np.ndarray) -> np.ndarray:
    """Return the rounded 2x2 mean of frames: uint8 [T, 3, H, W] -> uint8 [T, 3, H/2, W/2]."""
    tall = frames[:, :, ::2].astype(np.uint16) + frames[:, :, 1::2]
    return ((tall[..., ::2] + tall[..., 1::2] + 2) >> 2).astype(np.uint8)
