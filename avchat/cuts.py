"""A part of a file -> a file of its own: copied from the keyframe before, or encoded exactly.

A copy keeps every bit and takes no time, but begins where a decoder can begin. An exact cut is
encoded anew, H.264 and AAC. In both, picture and sound keep their place to each other.
"""

import heapq
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer, OutputContainer

from avchat.container import (
    bears_times,
    clock_origin,
    is_indexed,
    open_file,
    picture_stream,
    play,
    read_packets,
    seek,
    sound_stream,
)
from avchat.export import ExportError, fresh
from avchat.listing import PictureList, Wish, list_pictures
from avchat.media import MediaInfo, probe
from avchat.pictures import Shape, upright

SEEK_BACK_S = 2.0  # packets of the sound lie so much before those of the picture, or less
PREROLL_S = 0.2  # of sound, decoded before a part begins, so that its decoder has settled
GAP_S = 0.05  # a stamp so far from where the last sample ended is a gap; less is jitter
CLOCK = Fraction(1, 90_000)  # of encoded pictures: a multiple of the usual rates
AAC_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)
X264 = {"crf": "18", "preset": "veryfast"}


@dataclass(frozen=True)
class Cut:
    """What was really cut, in seconds on the source's clock."""

    path: str
    start: float
    end: float
    copied: bool  # False: encoded anew


def cut(
    path: str | Path,
    start: float,
    end: float,
    out: str | Path,
    *,
    exact: bool = False,
    overwrite: bool = False,
) -> Cut:
    """Cut a file from `start` to `end` seconds into `out`, whose ending names the container.

    Without `exact` the packets are copied, from the last keyframe not after `start`; where that
    container cannot hold them, or the source does not say when they show, they are encoded.
    Raises ExportError for a part that is not there or an `out` that cannot be written, MediaError
    for a source that cannot be used.
    """
    path, out = Path(path), Path(out)
    info = probe(path)
    if info.is_still:
        raise ExportError(f"{path.name}: a still picture has no parts")
    if not 0 <= start < end:
        raise ExportError(f"{path.name}: cannot cut from {start:g} s to {end:g} s")
    if info.is_exact and info.duration_s:
        if start >= info.duration_s:
            long = f"the file is {info.duration_s:.1f} s long"
            raise ExportError(f"{path.name}: no part from {start:g} s on, {long}")
        end = min(end, info.duration_s)
    with fresh(out, overwrite, path) as unfinished:
        try:
            done = None if exact else try_copy(path, info, start, end, unfinished)
            done = done or encode(path, info, start, end, unfinished)
        except (av.FFmpegError, ValueError) as error:
            raise ExportError(f"{out}: cannot be written: {error}") from error
    return Cut(str(out), *done)


def try_copy(
    path: Path, info: MediaInfo, start: float, end: float, out: Path
) -> tuple[float, float, bool] | None:
    """Copy packets; None also where the container refuses them when it sees them."""
    try:
        return copy(path, info, start, end, out)
    except (av.FFmpegError, ValueError):
        return None


def copy(
    path: Path, info: MediaInfo, start: float, end: float, out: Path
) -> tuple[float, float, bool] | None:
    """Copy packets; None where that cannot be done."""
    key_s = start
    if info.has_video:
        listed = list_pictures(path, Wish(start=start, end=end), end)
        if listed is None or not listed.stamped:
            return None
        key_s = keyframe_before(listed, start)
    with open_file(path) as source, av.open(str(out), "w") as target:
        video, audio = picture_stream(source), sound_stream(source)
        sources = [stream for stream in (video, audio) if stream is not None]
        if out.suffix != path.suffix and not all(holds(target, one) for one in sources):
            return None
        tracks = {one.index: target.add_stream_from_template(one) for one in sources}
        origin = float(clock_origin(source))
        if is_indexed(source) and key_s > SEEK_BACK_S:
            seek(source, sources[0], key_s + origin - SEEK_BACK_S)
        first, last = key_s, key_s
        for packet, shows, lasts in chosen(source, sources, key_s, end, origin):
            base = packet.time_base
            shift = round((key_s + origin) / base)
            packet.pts, packet.dts = packet.pts - shift, packet.dts - shift
            packet.stream = tracks[packet.stream.index]
            target.mux(packet)
            last = max(last, shows + lasts)
    return (first, last, True) if last > first else None


def holds(target: OutputContainer, stream: av.stream.Stream) -> bool:
    """Tell whether a container is made for a codec: some take any, and no player plays it."""
    return stream.codec_context.codec.canonical_name in target.supported_codecs


def keyframe_before(listed: PictureList, start: float) -> float:
    """Return when the last keyframe not after `start` shows; the first one where none is."""
    stamps = np.sort(np.fromiter(listed.keys, np.int64))
    stamps = stamps[np.isin(stamps, listed.stamps)]
    times = listed.times_s[np.searchsorted(listed.stamps, stamps)]
    before = times[times <= start + 1e-6]
    return float(before[-1] if len(before) else times[0])


def chosen(
    source: InputContainer, sources: list, key_s: float, end: float, origin: float
) -> Iterator[tuple[av.Packet, float, float]]:
    """Yield the packets of a part with when they show and for how long, in seconds.

    Pictures that show before the keyframe refer to what is not copied: left out. Of those that
    show after the end, the ones are kept that are needed by others before it.
    """
    waiting: list[tuple[av.Packet, float, float]] = []
    over: set[int] = set()
    begun = False
    for packet in read_packets(source, sources):
        index, picture = packet.stream.index, packet.stream.type == "video"
        if index in over:
            continue
        if packet.pts is None:
            raise ValueError("when this packet shows is not known")
        shows = float(packet.pts * packet.time_base) - origin
        lasts = float((packet.duration or 0) * packet.time_base)
        if shows < key_s - 1e-6:
            continue
        if packet.dts is None:  # Matroska's first ones after a seek: those before the keyframe
            raise ValueError("when this packet is decoded is not known")
        if float(packet.dts * packet.time_base) - origin >= end:
            over.add(index)
            if len(over) == len(sources):
                return
            continue
        if picture and not begun and not packet.is_keyframe:
            continue
        begun = begun or picture
        if picture and shows >= end - 1e-6:
            waiting.append((packet, shows, lasts))
            continue
        if picture:
            yield from waiting
            waiting = []
        yield packet, shows, lasts


def encode(
    path: Path, info: MediaInfo, start: float, end: float, out: Path
) -> tuple[float, float, bool]:
    """Encode a part anew, frame by frame and sample by sample."""
    with (
        av.open(str(out), "w") as target,
        open_file(path) as seen,
        open_file(path) as heard,
    ):
        tracks = []
        video, audio = picture_stream(seen), sound_stream(heard)
        if video is not None:
            rate = Fraction(info.fps or 25).limit_denominator(1001)  # 29.97 is 30000/1001
            track = target.add_stream("libx264", rate=rate, options=X264)
            track.width, track.height = even(info.width), even(info.height)
            track.pix_fmt, track.codec_context.time_base = "yuv420p", CLOCK
            tracks.append(encoded_pictures(seen, track, info, start, end))
        if audio is not None:
            rate = audio.rate if audio.rate in AAC_RATES else 48_000
            layout = "mono" if audio.channels == 1 else "stereo"
            track = target.add_stream("aac", rate=rate, layout=layout)
            tracks.append(encoded_sound(heard, track, start, end))
        target.start_encoding()
        count = 0
        for packet in heapq.merge(*tracks, key=lambda packet: packet.dts * packet.time_base):
            target.mux(packet)
            count += 1
    if not count:
        raise ExportError(f"{path.name}: nothing decodes from {start:g} s to {end:g} s")
    return start, end, False


def even(pixels: int) -> int:
    """Round up to an even number: H.264 with half the colour resolution needs it."""
    return max(2, pixels + pixels % 2)


def encoded_pictures(
    source: InputContainer, track: av.VideoStream, info: MediaInfo, start: float, end: float
) -> Iterator[av.Packet]:
    """Yield the encoded pictures that show from `start` to `end`; the first one from 0 on."""
    stream = picture_stream(source)
    origin = float(clock_origin(source))
    if is_indexed(source):
        seek(source, stream, start + origin)
    shape = Shape(track.width, track.height, info.is_turned)
    frames = timed_frames(source, stream, info, origin)
    last = -1
    for shows, frame in within(frames, start, end, info.fps or 25.0):
        picture = av.VideoFrame.from_ndarray(upright(frame, shape), "rgb24")
        picture.pts = round(max(0.0, shows - start) / CLOCK)
        picture.time_base = CLOCK
        if picture.pts > last:  # damaged files have two at a time
            last = picture.pts
            yield from track.encode(picture)
    yield from track.encode(None)


def timed_frames(
    source: InputContainer, stream: av.VideoStream, info: MediaInfo, origin: float
) -> Iterator[tuple[float | None, av.VideoFrame]]:
    """Yield frames in the order they show, each with its time; None where nothing says it."""
    if bears_times(source, stream):
        yield from ((time_of(frame, stream, origin), frame) for frame in play(source, stream))
        return
    # AVI stamps are right, but sit on other frames: in order, they belong to the frames in order.
    listed = list_pictures(Path(info.path), Wish(), info.duration_s + 1)
    times = iter([] if listed is None else listed.times_s.tolist())
    for frame in play(source, stream):
        yield next(times, None), frame


def time_of(
    frame: av.VideoFrame | av.AudioFrame, stream: av.stream.Stream, origin: float
) -> float | None:
    """Return when a frame begins, on the file's clock; None where it does not say.

    Not by `frame.time`: the last frames, which a decoder still holds at the end, lack the base.
    """
    return None if frame.pts is None else float(frame.pts * stream.time_base) - origin


def within(
    frames: Iterator[tuple[float | None, av.VideoFrame]], start: float, end: float, fps: float
) -> Iterator[tuple[float, av.VideoFrame]]:
    """Yield the frames that show in a part, with when they begin; the first may begin before it."""
    before: tuple[float, av.VideoFrame] | None = None
    at = -1 / fps
    for time, frame in frames:
        at = at + 1 / fps if time is None else time
        if at >= end - 1e-6:
            break
        if at > start + 1e-6 and before is not None:
            yield before
        before = (at, frame) if at <= start + 1e-6 else None
        if before is None:
            yield at, frame
    if before is not None:
        yield before


def encoded_sound(
    source: InputContainer, track: av.AudioStream, start: float, end: float
) -> Iterator[av.Packet]:
    """Yield the encoded sound of a part: every sample at its time, gaps as silence."""
    rate, mono = track.rate, track.layout.name == "mono"
    total, at = round((end - start) * rate), 0
    for place, wave in pieces(source, rate, track.layout.name, start, end):
        silence = np.zeros((len(wave), max(0, min(place, total) - at)), np.float32)
        wave = np.concatenate([silence, wave[:, max(0, at - place) :]], axis=1)[:, : total - at]
        if wave.shape[1]:
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(wave), "fltp", LAYOUT[mono])
            frame.sample_rate, frame.time_base, frame.pts = rate, Fraction(1, rate), at
            yield from track.encode(frame)
            at += wave.shape[1]
    yield from track.encode(None)


LAYOUT = {True: "mono", False: "stereo"}


def pieces(
    source: InputContainer, rate: int, layout: str, start: float, end: float
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield decoded sound, float32 [channels, samples], with its place in samples from `start`."""
    stream = sound_stream(source)
    origin = float(clock_origin(source))
    if start > PREROLL_S and is_indexed(source):
        seek(source, stream, start - PREROLL_S + origin)
    resampler, place = av.AudioResampler("fltp", layout, rate), None
    for frame in play(source, stream):
        if not frame.samples or not frame.sample_rate:
            continue
        at = time_of(frame, stream, origin)
        if at is not None and at >= end:
            break
        stamped = None if at is None else round((at - start) * rate)
        if place is None or (stamped is not None and abs(stamped - place) > GAP_S * rate):
            place = stamped or 0
        for piece in resampler.resample(frame):
            wave = piece.to_ndarray()
            yield place, wave
            place += wave.shape[1]
