"""The pictures of a file -> the wanted frames, upright, with their true times on the file's clock.

A track is first listed without decoding (0.03 s for a minute of 1080p), so that the wanted frames
are known exactly before any work is done. Then one of three ways decodes them, to the same frames:
- decord, where a fair share of all frames is wanted (short clips, high rates): nearly every frame
  must be decoded anyway, and its one native call is as fast as any or faster. Of MP4, MOV, Matroska
  and WebM only: in the others its seeks miss (MPEG-PS, AVI with B frames: other frames come out).
  Of well-formed ones only: an odd index can abort it, and with it the process;
- `decode_sparse`, PyAV, where few are wanted: only the groups of pictures that hold one, several
  groups side by side, and in them the decoder skips each frame that is neither wanted nor referred
  to. 1.5 to 2 times as fast as decord on a minute of 1080p (`python eval/speed.py media`);
- `decode_all`, PyAV, in order, for what the others refuse: packets without stamps, and damage.

Shapes: T frames, H, W pixels.
"""

import os
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import av
import decord
import numpy as np
from av.container import InputContainer
from av.sidedata.sidedata import Type as SideDataType

from avchat.container import (
    MediaError,
    decode,
    drain,
    is_indexed,
    open_file,
    picture_stream,
    play,
    read_packets,
    seek,
)
from avchat.listing import (
    PictureList,
    Wish,
    choose,
    list_by_decoding,
    list_pictures,
    list_together,
)

CORES = os.cpu_count() or 1  # decoders of one file share; batch_media.py runs a file on each
DENSE = 4  # decord from every fourth frame on
MAX_WORKERS = 8  # decoders side by side
MAX_PIXELS_HELD = 600_000_000  # by all decoders in reference frames: 0.9 GB at 1.5 bytes a pixel
FRAMES_HELD = 20  # by one decoder, at most

Turn = tuple[int, int, bool]  # step across, step down, rows and columns swapped


decord.logging.set_level(decord.logging.QUIET)


@dataclass(frozen=True)
class Decoded:
    """Some frames of a track."""

    frames: dict[int, np.ndarray]  # stamp -> uint8 [H, W, 3]
    damaged: int = 0  # packets that could not be decoded


@dataclass(frozen=True)
class Pictures:
    """The wished frames of a file."""

    frames: np.ndarray  # uint8 [T, H, W, 3]
    times_s: np.ndarray  # float64 [T], on the file's clock
    end_s: float  # when the last picture of the part stops being shown
    asked: int  # how many were wished
    damaged: int  # packets met that could not be decoded


@dataclass(frozen=True)
class Shape:
    """How frames come out: as shown, in pixels."""

    width: int
    height: int
    turned: bool = False  # the file says to rotate or mirror them
    max_pixels: int = 0  # refuse to decode larger frames
    source_pixels: int = 0  # of a frame as it is decoded

    def num_bytes(self) -> int:
        """Count the bytes of one frame."""
        return self.width * self.height * 3


def decode_wanted(path: Path, listed: PictureList, wanted: np.ndarray, shape: Shape) -> Decoded:
    """Decode the frames with the wanted stamps, by the way that suits."""
    if not listed.stamped:
        return decode_all(path, wanted, shape)
    if listed.regular and not shape.turned and len(wanted) * DENSE >= len(listed.stamps) > 1:
        decoded = decode_dense(path, listed, wanted, shape)
        if decoded is not None:
            return decoded
    return decode_sparse(path, listed, wanted, shape)


def decode_dense(
    path: Path, listed: PictureList, wanted: np.ndarray, shape: Shape
) -> Decoded | None:
    """Decode with decord; None where it refuses the file or sees other frames in it."""
    places = np.searchsorted(listed.stamps, wanted)
    try:
        reader = decord.VideoReader(
            str(path.absolute()),
            width=shape.width,
            height=shape.height,
            num_threads=CORES,
            fault_tol=1e-9,  # refuse to repeat a good frame in place of a damaged one
        )
        if len(reader) != len(listed.stamps):
            return None
        batch = reader.get_batch(places).asnumpy()
    except (decord.DECORDError, decord.DECORDLimitReachedError):
        return None
    return Decoded(dict(zip(wanted.tolist(), batch, strict=True)))


def decode_sparse(path: Path, listed: PictureList, wanted: np.ndarray, shape: Shape) -> Decoded:
    """Decode with PyAV only the groups of pictures that hold a wanted frame.

    Strictly at first, since a decoder that is not strict hides damage; what that refuses is then
    taken as the decoder can patch it, and counted.
    """
    strict = decode_side_by_side(path, listed.keys, grouped(listed, wanted), shape, strict=True)
    missing = [stamp for stamp in wanted.tolist() if stamp not in strict.frames]
    if not missing:
        return strict
    patched = decode_side_by_side(path, listed.keys, grouped(listed, missing), shape, strict=False)
    return Decoded(strict.frames | patched.frames, max(strict.damaged, patched.damaged))


def grouped(listed: PictureList, wanted: Iterable[int]) -> dict[int, set[int]]:
    """Sort wanted stamps by the keyframe whose group of pictures they are in."""
    keys = sorted(listed.keys)
    groups: dict[int, set[int]] = {}
    for stamp in map(int, wanted):
        groups.setdefault(keys[max(0, bisect_right(keys, stamp) - 1)], set()).add(stamp)
    return groups


def decode_side_by_side(
    path: Path, keys: dict[int, int], groups: dict[int, set[int]], shape: Shape, *, strict: bool
) -> Decoded:
    """Share the groups that hold wanted frames out among several decoders."""
    work = list(groups.items())
    affordable = MAX_PIXELS_HELD // (FRAMES_HELD * max(1, shape.source_pixels))
    workers = max(1, min(CORES, MAX_WORKERS, len(work), affordable))
    cuts = [i * len(work) // workers for i in range(workers + 1)]
    threads = max(1, CORES // workers)

    def decode_share(first: int, last: int) -> Decoded:
        return decode_groups(path, keys, work[first:last], shape, threads, strict)

    with ThreadPoolExecutor(workers) as pool:
        parts = list(pool.map(decode_share, cuts[:-1], cuts[1:]))
    frames = {stamp: frame for part in parts for stamp, frame in part.frames.items()}
    return Decoded(frames, sum(part.damaged for part in parts))


def decode_groups(
    path: Path,
    keys: dict[int, int],
    groups: list[tuple[int, set[int]]],
    shape: Shape,
    threads: int,
    strict: bool,
) -> Decoded:
    """Decode the wanted frames of groups of pictures: (stamp of the keyframe, wanted stamps)."""
    frames: dict[int, np.ndarray] = {}
    damaged = 0
    with open_file(path) as container:
        stream = picture_stream(container, shape.max_pixels)
        codec = stream.codec_context
        if strict:
            codec.options |= {"err_detect": "explode"}
        stream.thread_type = "AUTO" if threads > 1 else "SLICE"
        codec.thread_count = threads
        for key, wanted in groups:
            unsent = set(wanted)
            codec.flush_buffers()
            for packet in packets_from(container, stream, key, keys[key]):
                codec.skip_frame = "DEFAULT" if packet.pts in wanted else "NONREF"
                unsent.discard(packet.pts)
                ready = decode(packet)
                damaged += ready is None
                keep(frames, ready or [], wanted, shape)
                if not unsent:
                    break
            # All that the last wanted frame refers to was sent before it: no need to send more.
            keep(frames, drain(stream), wanted, shape)
    return Decoded(frames, damaged)


def keep(
    frames: dict[int, np.ndarray], ready: list[av.VideoFrame], wanted: set[int], shape: Shape
) -> None:
    """Add to `frames` those of the decoded ones that are wanted."""
    for frame in ready:
        if frame.pts in wanted and frame.pts not in frames:
            frames[frame.pts] = upright(frame, shape)


def packets_from(
    container: InputContainer, stream: av.VideoStream, key: int, decoding_stamp: int
) -> Iterator[av.Packet]:
    """Yield a track's packets from a keyframe on: by a seek where that is sure, else by walking."""
    if is_indexed(container):
        seek(container, stream, float(decoding_stamp * stream.time_base))
    for again in (False, True):
        # Again from the start: the seek went too far, or the walk had passed the keyframe already.
        if again and not seek(container, stream, (container.start_time or 0) / 1e6):
            return
        found = False
        for packet in read_packets(container, stream):
            found = found or packet.pts == key
            if found:
                yield packet
        if found:
            return


def decode_all(path: Path, wanted: np.ndarray, shape: Shape) -> Decoded:
    """Decode every frame of a file and keep those with the wanted ordinals."""
    places = set(wanted.tolist())
    frames: dict[int, np.ndarray] = {}
    with open_file(path) as container:
        stream = picture_stream(container, shape.max_pixels)
        for place, frame in enumerate(play(container, stream)):
            if place in places:
                frames[place] = upright(frame, shape)
            if len(frames) == len(places):
                break
    return Decoded(frames)


def upright(frame: av.VideoFrame, shape: Shape, turn: Turn | None = None) -> np.ndarray:
    """Turn a decoded frame into uint8 [H, W, 3], as the file says it is shown, or as `turn` says.

    Asking a frame for its orientation ties it into a knot that only the collector of garbage
    undoes: who decodes many should ask one of them.
    """
    across, down, swapped = turn or orientation(frame)
    width, height = (shape.height, shape.width) if swapped else (shape.width, shape.height)
    rgb = opaque(frame, width, height)
    rgb = rgb.transpose(1, 0, 2) if swapped else rgb
    return np.ascontiguousarray(rgb[::down, ::across])


def opaque(frame: av.VideoFrame, width: int, height: int) -> np.ndarray:
    """Scale a frame to uint8 [height, width, 3]; what is transparent shows white."""
    # Bicubic, as decord scales: frames of the two ways then differ by about 0.1 of 255.
    if not shows_through(frame):
        return frame.reformat(width, height, "rgb24", interpolation="BICUBIC").to_ndarray()
    rgba = frame.reformat(width, height, "rgba", interpolation="BICUBIC").to_ndarray()
    alpha = rgba[..., 3:].astype(np.uint16)
    return ((rgba[..., :3] * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)


def shows_through(frame: av.VideoFrame) -> bool:
    """Tell whether a frame may be transparent in places."""
    return frame.format.name == "pal8" or any(c.is_alpha for c in frame.format.components)


def orientation(frame: av.VideoFrame) -> Turn:
    """Say how a frame is turned to be shown: (step across, step down, rows and columns swapped)."""
    try:
        side = frame.side_data.get(SideDataType.DISPLAYMATRIX)
    except ValueError:  # PyAV 18 stumbles over kinds of side data newer than itself (EXIF)
        quarters = round((frame.rotation or 0) / 90) % 4  # counter-clockwise
        return ((1, 1, False), (1, -1, True), (-1, -1, False), (-1, 1, True))[quarters]
    if side is None:
        return 1, 1, False
    # Point (x, y) of the frame shows at (a x + c y, b x + d y).
    (a, b), (c, d) = np.frombuffer(bytes(side)[:36], np.int32).reshape(3, 3)[:2, :2].tolist()
    if abs(b) > abs(a):
        return (-1 if c < 0 else 1), (-1 if b < 0 else 1), True
    return (-1 if a < 0 else 1), (-1 if d < 0 else 1), False


def take_pictures(
    path: Path, wish: Wish, shape: Shape, horizon_s: float, max_bytes: int
) -> Pictures:
    """Decode the wished frames of the default picture track; MediaError past `max_bytes`."""
    listed = list_pictures(path, wish, horizon_s)
    listed = listed or list_by_decoding(path, horizon_s, shape.max_pixels)
    if listed is None:
        return Pictures(
            np.zeros((0, shape.height, shape.width, 3), np.uint8), np.zeros(0), 0.0, 0, 1
        )
    wanted = choose(listed, wish)
    if len(wanted) * shape.num_bytes() > max_bytes:
        raise MediaError(
            f"{path.name}: {len(wanted)} frames of {shape.width}x{shape.height} take "
            f"{len(wanted) * shape.num_bytes() / 1e9:.1f} GB, the limit is {max_bytes / 1e9:.1f}: "
            "ask for fewer, or for a smaller size"
        )
    decoded = decode_wanted(path, listed, wanted, shape)
    missing = len(wanted) - len(decoded.frames)
    if missing and listed.stamped and (not decoded.damaged or 2 * missing > len(wanted)):
        # The packets' stamps are not the frames', or the damage is wide: see what comes out.
        listed = list_by_decoding(path, horizon_s, shape.max_pixels) or listed
        wanted = choose(listed, wish)
        decoded = decode_wanted(path, listed, wanted, shape)
    return stack(listed, wanted, decoded, shape)


def stack(listed: PictureList, wanted: np.ndarray, decoded: Decoded, shape: Shape) -> Pictures:
    """Lay the wanted frames that were decoded one after the other."""
    stamps = np.asarray([stamp for stamp in wanted.tolist() if stamp in decoded.frames], np.int64)
    frames = np.empty((len(stamps), shape.height, shape.width, 3), np.uint8)
    for place, stamp in enumerate(stamps.tolist()):
        frames[place] = decoded.frames[stamp]
    times = listed.times_s[np.searchsorted(listed.stamps, stamps)]
    return Pictures(frames, times, listed.end_s, len(wanted), decoded.damaged)


def take_together(
    path: Path, wishes: Sequence[Wish], shape: Shape, horizon_s: float, max_bytes: int
) -> list[Pictures] | None:
    """Decode the wished frames of several parts, in rising order, each group of pictures once.

    They are those of `take_pictures`, bit for bit; None where that cannot be said: of a file that
    is damaged there, that does not stamp its pictures, or that is asked for too much.
    """
    lists = list_together(path, wishes, horizon_s)
    if lists is None:
        return None
    wanted = [choose(listed, wish) for listed, wish in zip(lists, wishes, strict=True)]
    if sum(map(len, wanted)) * shape.num_bytes() > max_bytes:
        return None
    groups: dict[int, set[int]] = {}
    for listed, some in zip(lists, wanted, strict=True):
        for key, stamps in grouped(listed, some).items():
            groups.setdefault(key, set()).update(stamps)
    # A stamp before its keyframe (of an open group), or in two groups: where a list began matters.
    in_groups = [stamp for stamps in groups.values() for stamp in stamps]
    if len(set(in_groups)) < len(in_groups) or any(min(groups[key]) < key for key in groups):
        return None
    keys = {key: dts for listed in lists for key, dts in listed.keys.items()}
    decoded = decode_side_by_side(path, keys, groups, shape, strict=True)
    if decoded.damaged or len(decoded.frames) < len(in_groups):
        return None
    return [stack(listed, some, decoded, shape) for listed, some in zip(lists, wanted, strict=True)]
