"""Which pictures a file has, when each of them shows, and which are wished: without decoding.

Shapes: T pictures.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
from av import VideoStream
from av.container import InputContainer

from avchat.container import (
    bears_times,
    clock_origin,
    is_indexed,
    open_file,
    picture_stream,
    play,
    read_packets,
    seek,
)

CLOCK_SLACK_S = 1e-6  # a frame that begins this much after the wanted time counts as shown


@dataclass(frozen=True)
class Wish:
    """Which frames to take."""

    frames: int = 16  # so many, spread evenly; unless fps says how many a second
    fps: float | None = None
    start: float | None = None  # seconds on the file's clock
    end: float | None = None
    keyframes: bool = False  # take the nearest keyframes instead: fast, and times say which


@dataclass(frozen=True)
class PictureList:
    """Every picture of one part of a track, in the order they are shown."""

    stamps: np.ndarray  # int64 [T], rising, in units of the track; its ordinals if not stamped
    times_s: np.ndarray  # float64 [T], on the file's clock
    end_s: float  # when the last one stops being shown
    keys: dict[int, int]  # stamps that a decoder can begin at (not all show) -> decoding stamps
    stamped: bool = True
    regular: bool = False  # a whole file with an index, and nothing odd in it


def list_pictures(path: Path, wish: Wish, horizon_s: float) -> PictureList | None:
    """List the pictures of the wished part without decoding; None where the file has no stamps.

    The list begins at a keyframe not after the part. Pictures that claim to show after `horizon_s`
    (where the file ends) are damage and left out.
    """
    start = wish.start or 0.0
    listed = scan_packets(path, start, wish.end, horizon_s)
    if start and listed is not None and listed.times_s[0] > start:
        return scan_packets(path, 0.0, wish.end, horizon_s)  # the seek, or the track, was too late
    return listed


def list_together(path: Path, wishes: Sequence[Wish], horizon_s: float) -> list[PictureList] | None:
    """List the pictures of several parts, in rising order, with one opening of the file.

    The lists are those of `list_pictures`, but that they may begin at another keyframe not after
    their part. None where that cannot be said, or packets do not bear their pictures' stamps.
    """
    lists: list[PictureList] = []
    with open_file(path) as container:
        stream = picture_stream(container)
        origin, indexed = float(clock_origin(container)), is_indexed(container)
        walked = [] if indexed else walk(container, stream, max(wish.end or 0 for wish in wishes))
        for wish in wishes:
            start = wish.start or 0.0
            if indexed and (start or lists) and not seek(container, stream, start + origin):
                return None
            packets = read_packets(container, stream) if indexed else walked
            listed = list_packets(packets, container, start, wish.end, horizon_s)
            if listed is None or not listed.stamped:
                return None
            if start and indexed and listed.times_s[0] > start:
                return None
            lists.append(listed)
    return lists


class Stamp(NamedTuple):
    """What is kept of a packet; named as PyAV names it."""

    pts: int | None
    dts: int | None
    duration: int | None
    is_keyframe: bool
    is_discard: bool


def walk(container: InputContainer, stream: VideoStream, end: float) -> list[Stamp]:
    """Keep the stamps of a track's packets from the beginning to the first decoded after `end`."""
    base, origin = float(stream.time_base), float(clock_origin(container))
    stamps: list[Stamp] = []
    for packet in read_packets(container, stream):
        stamps.append(Stamp(*(getattr(packet, name) for name in Stamp._fields)))
        if (packet.dts or 0) * base - origin >= end:
            break
    return stamps


def scan_packets(
    path: Path, start: float, end: float | None, horizon_s: float
) -> PictureList | None:
    """List pictures from the keyframe that a seek to `start` reaches; 0 is the file's beginning."""
    with open_file(path) as container:
        stream = picture_stream(container)
        if start and is_indexed(container):
            seek(container, stream, start + float(clock_origin(container)))
        packets = read_packets(container, stream)
        return list_packets(packets, container, start, end, horizon_s)


def list_packets(
    found: Iterable[av.Packet | Stamp],
    container: InputContainer,
    start: float,
    end: float | None,
    horizon_s: float,
) -> PictureList | None:
    """List the pictures of a track's packets, which begin at or before `start`."""
    stream = picture_stream(container)
    base, origin = float(stream.time_base), float(clock_origin(container))
    stamped = bears_times(container, stream)
    packets, keys, count, claimed = [], {}, 0, stream.frames
    for packet in found:
        count += 1
        if packet.pts is None:
            return None
        if stamped and end is not None and (packet.dts or 0) * base - origin >= end:
            break
        if packet.is_keyframe:
            keys[packet.pts] = packet.pts if packet.dts is None else packet.dts
        if not packet.is_discard and packet.pts * base - origin <= horizon_s:
            packets.append((packet.pts, packet.duration or 0))
    if not keys or not packets:
        return None
    stamps = np.sort(np.asarray([packet[0] for packet in packets], np.int64))
    stamps = np.unique(stamps) if stamped else stamps
    times = stamps * base - origin
    lasting = max(length for pts, length in packets if pts == stamps[-1]) * base
    if not lasting and len(stamps) > 1:
        lasting = float(np.median(np.diff(times)))
    if not stamped:  # the stamps are right, but for other frames: count frames as they come out
        keys = {int(place): int(place) for place in np.searchsorted(stamps, sorted(keys))}
        stamps = np.arange(len(stamps))
    whole = not start and end is None
    regular = whole and is_indexed(container) and len(stamps) == count >= claimed
    return PictureList(stamps, times, float(times[-1] + lasting), keys, stamped, regular)


def list_by_decoding(path: Path, horizon_s: float, max_pixels: int) -> PictureList | None:
    """List the pictures of a file that does not stamp its packets; None where none decodes."""
    times: list[float] = []
    keys = {}
    with open_file(path) as container:
        stream = picture_stream(container, max_pixels)
        origin = float(clock_origin(container))
        step = float(1 / (stream.average_rate or 25))
        for frame in play(container, stream):
            after = times[-1] + step if times else 0.0
            time = after if frame.time is None else frame.time - origin
            if frame.key_frame or not times:
                keys[len(times)] = len(times)
            times.append(time if after - step <= time <= horizon_s else after)
    if not times:
        return None
    return PictureList(
        np.arange(len(times)), np.asarray(times), times[-1] + step, keys, stamped=False
    )


def choose(listed: PictureList, wish: Wish) -> np.ndarray:
    """Pick the stamps of the wished frames: int64 [T], rising, none twice.

    `frames` are those shown at the centres of equal parts, `fps` those shown at 0, 1/fps, 2/fps ...
    of what the track shows between `start` and `end`. No frame is taken twice.
    """
    first = max(wish.start or 0.0, listed.times_s[0])
    last = listed.end_s if wish.end is None else min(wish.end, listed.end_s)
    if last < first or wish.frames < 1:
        return listed.stamps[:0]
    rate = wish.fps or wish.frames / max(last - first, CLOCK_SLACK_S)
    centre = 0.0 if wish.fps else 0.5
    edges = np.clip(np.append(listed.times_s, listed.end_s), first, last)
    # Wanted moments before each edge; a frame is wanted when one lies between its two edges.
    moments = np.ceil((edges - first - CLOCK_SLACK_S) * rate - centre)
    chosen = np.diff(moments) > 0
    stamps = np.intersect1d(listed.stamps, list(listed.keys))
    if not wish.keyframes or not len(stamps):
        return listed.stamps[chosen]
    times = listed.times_s[np.searchsorted(listed.stamps, stamps)]
    inside = (times >= first) & (times < last)
    if inside.any():
        stamps, times = stamps[inside], times[inside]
    nearest = np.abs(times[None, :] - listed.times_s[chosen][:, None]).argmin(axis=1)
    return np.unique(stamps[nearest])
