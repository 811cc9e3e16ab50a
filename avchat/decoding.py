"""Packets -> pictures and sound, each at its true time on the file's clock.

The picture track is first listed without decoding (`list_pictures`), so that the wanted frames are known exactly before any work is
done; then only the groups of pictures that hold a wanted frame are decoded, side by side, and within them the decoder skips every
frame that neither is wanted nor is needed by another one.

The file's clock: zero is the earliest start of its tracks, or the zero of the container where a track starts before that.

Shapes: T frames, H, W pixels, S samples.
"""

import os
from bisect import bisect_right
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

SAMPLE_RATE = 16_000  # samples a second: what Whisper was trained on
CLOCK_SLACK_S = 1e-6  # a frame that begins this much after the wanted time counts as shown


class MediaError(Exception):
    """Say in one line, which begins with the file's name, why a file cannot be used."""


@dataclass(frozen=True)
class PictureList:
    """Every picture of one part of a track, in the order they are shown."""

    pts: np.ndarray  # int64 [T], rising, in units of time_base
    keys: np.ndarray  # int64, rising: those that a decoder can begin at
    end_pts: int  # when the last one stops being shown
    time_base: Fraction  # seconds per unit
    origin: Fraction  # seconds: the file's clock at zero

    def seconds(self, pts: np.ndarray | int) -> np.ndarray | float:
        """Turn presentation stamps into float64 seconds on the file's clock."""
        return pts * float(self.time_base) - float(self.origin)


def open_file(path: Path) -> av.container.InputContainer:
    """Open a media file for reading; raise MediaError for anything that is not one."""
    if not path.exists():
        raise MediaError(f"{path.name}: no such file")
    if path.is_dir():
        raise MediaError(f"{path.name}: this is a folder, not a file")
    if path.stat().st_size == 0:
        raise MediaError(f"{path.name}: the file is empty")
    try:
        return av.open(f"file:{path}")
    except (av.FFmpegError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise MediaError(
            f"{path.name}: no video or audio stream could be decoded ({reason})"
        ) from error


def picture_stream(container: av.container.InputContainer) -> av.VideoStream | None:
    """Return the default picture track; cover art in a song is not one."""
    stream = container.streams.best("video")
    if stream is None or stream.codec_context is None:
        return None
    return None if "attached_pic" in str(stream.disposition) else stream


def sound_stream(container: av.container.InputContainer) -> av.AudioStream | None:
    """Return the default sound track."""
    stream = container.streams.best("audio")
    return None if stream is None or stream.codec_context is None else stream


def clock_origin(container: av.container.InputContainer) -> Fraction:
    """Return the stamp, in seconds, that counts as zero."""
    starts = [
        s.start_time * s.time_base
        for s in container.streams
        if s.type in ("video", "audio") and s.start_time is not None
    ]
    return max(Fraction(0), min(starts, default=Fraction(0)))


def list_pictures(path: Path, start: float | None, end: float | None) -> PictureList | None:
    """List the pictures of a part without decoding; None where the file does not stamp them."""
    with open_file(path) as container:
        stream = picture_stream(container)
        origin, base = clock_origin(container), stream.time_base
        if start is not None:
            container.seek(int((Fraction(start) + origin) / base), stream=stream)
        pts, keys, lengths = [], [], []
        for packet in container.demux(stream):
            if packet.size == 0 or packet.is_discard:
                continue
            if packet.pts is None:
                return None
            if end is not None and packet.dts is not None and packet.dts * base - origin > end:
                break
            pts.append(packet.pts)
            lengths.append(packet.duration or 0)
            if packet.is_keyframe:
                keys.append(packet.pts)
    if not pts or not keys:
        return None
    order = np.argsort(pts, kind="stable")
    stamps = np.asarray(pts, np.int64)[order]
    last = lengths[order[-1]] or (int(np.median(np.diff(stamps))) if len(stamps) > 1 else 0)
    return PictureList(
        stamps, np.sort(np.asarray(keys, np.int64)), int(stamps[-1]) + last, base, origin
    )


def upright(frame: av.VideoFrame, width: int, height: int) -> np.ndarray:
    """Turn a decoded frame into uint8 [height, width, 3], rotated as the file says it is shown."""
    turns = round((frame.rotation or 0) / 90) % 4
    if turns % 2:
        width, height = height, width
    rgb = frame.reformat(width, height, "rgb24").to_ndarray()
    return np.ascontiguousarray(np.rot90(rgb, turns)) if turns else rgb


def decode_group(
    path: Path, groups: list[tuple[int, list[int]]], width: int, height: int, threads: int
) -> dict[int, np.ndarray]:
    """Decode the wanted frames of some groups of pictures: (keyframe stamp, wanted stamps)."""
    out: dict[int, np.ndarray] = {}
    with open_file(path) as container:
        stream = picture_stream(container)
        codec = stream.codec_context
        stream.thread_type = "AUTO"
        codec.thread_count = threads
        for key, wanted in groups:
            container.seek(key, stream=stream)
            codec.flush_buffers()
            left = set(wanted)
            for packet in container.demux(stream):
                codec.skip_frame = "DEFAULT" if packet.pts in left else "NONREF"
                for frame in decode_packet(packet):
                    if frame.pts in left:
                        left.discard(frame.pts)
                        out[frame.pts] = upright(frame, width, height)
                if not left:
                    break
    return out


def decode_packet(packet: av.Packet) -> list:
    """Decode one packet; a damaged one yields nothing."""
    try:
        return packet.decode()
    except av.FFmpegError:
        return []


def decode_pictures(
    path: Path, listed: PictureList, wanted: list[int], width: int, height: int
) -> dict[int, np.ndarray]:
    """Decode the frames with the wanted stamps: stamp -> uint8 [height, width, 3]."""
    keys = listed.keys.tolist()
    groups: dict[int, list[int]] = {}
    for stamp in wanted:
        groups.setdefault(keys[max(0, bisect_right(keys, stamp) - 1)], []).append(stamp)
    cores = os.cpu_count() or 1
    workers = max(1, min(cores, len(groups)))
    shares = [list(groups.items())[i::workers] for i in range(workers)]
    threads = max(1, cores // workers)
    with ThreadPoolExecutor(workers) as pool:
        parts = pool.map(lambda share: decode_group(path, share, width, height, threads), shares)
        return {stamp: frame for part in parts for stamp, frame in part.items()}


def play_pictures(path: Path) -> Iterator[tuple[float, av.VideoFrame]]:
    """Decode the whole picture track in order: (seconds on the file's clock, frame)."""
    with open_file(path) as container:
        stream = picture_stream(container)
        origin = float(clock_origin(container))
        stream.thread_type = "AUTO"
        step = 1 / float(stream.average_rate or 25)
        count = 0
        for packet in container.demux(stream):
            for frame in decode_packet(packet):
                yield (count * step if frame.time is None else frame.time - origin), frame
                count += 1


def read_sound(path: Path, start: float, end: float | None) -> np.ndarray:
    """Decode the default sound track: float32 [S] mono at 16 kHz, sample 0 sounding at `start`."""
    chunks: list[tuple[int, np.ndarray]] = []
    with open_file(path) as container:
        stream = sound_stream(container)
        origin = float(clock_origin(container))
        resampler = av.AudioResampler("s16", "mono", SAMPLE_RATE)
        place = None
        for packet in container.demux(stream):
            for frame in decode_packet(packet):
                if place is None:
                    time = 0.0 if frame.time is None else frame.time - origin
                    place = round((time - start) * SAMPLE_RATE)
                for piece in resampler.resample(frame):
                    chunks.append((place, piece.to_ndarray()[0] / np.float32(32768)))
                    place += piece.samples
        for piece in resampler.resample(None) if place is not None else []:
            chunks.append((place, piece.to_ndarray()[0] / np.float32(32768)))
            place += piece.samples
    return lay_out(chunks, None if end is None else round((end - start) * SAMPLE_RATE))


def lay_out(chunks: list[tuple[int, np.ndarray]], length: int | None) -> np.ndarray:
    """Put pieces of sound at their places in one float32 [S], silence between; cut what sticks out."""
    total = max((place + len(piece) for place, piece in chunks), default=0)
    total = max(0, total if length is None else min(length, total))
    wave = np.zeros(total, np.float32)
    for place, piece in chunks:
        first, last = max(0, place), min(total, place + len(piece))
        if first < last:
            wave[first:last] = piece[first - place : last - place]
    return wave
