"""A part of a file -> H.264 and AAC in a file of its own, on the source's clock.

Every frame and every sample is laid where `load_media` finds it: frame by frame, with flat memory.
"""

import heapq
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer, OutputContainer
from av.video.frame import PictureType
from av.video.reformatter import ColorRange, Colorspace, VideoReformatter

from avchat.container import (
    bears_times,
    clock_origin,
    is_indexed,
    open_file,
    picture_stream,
    play,
    seek,
    sound_stream,
)
from avchat.listing import Wish, list_pictures
from avchat.media import MediaInfo
from avchat.pictures import Shape, Turn, orientation, shows_through, upright

PREROLL_S = 0.2  # of sound, decoded before a part begins, so that its decoder has settled
GAP_S = 0.05  # a stamp so far from where the last sample ended is a gap; less is jitter
CLOCK = Fraction(1, 90_000)  # of encoded pictures: a multiple of the usual rates
AAC_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)
UPRIGHT: Turn = (1, 1, False)
USUAL_FPS = 25.0  # of a track that does not say its rate
JITTER = 0.8  # of the shortest time between two frames: nearer ones are one too many


@dataclass(frozen=True)
class Recipe:
    """How a part is encoded."""

    x264: dict[str, str]
    container: dict[str, str] | None = None  # options of the muxer
    max_side: int = 0  # pixels; larger pictures are scaled down; 0: never
    max_fps: float = 0.0  # frames that come faster are left out; 0: none
    key_s: float = 0.0  # a keyframe at least so often; 0: as x264 likes
    rates: tuple[int, ...] = AAC_RATES  # of the sound that are kept; others become 48 kHz


def encode(
    path: Path,
    info: MediaInfo,
    part: tuple[float, float],
    out: Path,
    recipe: Recipe,
    tell: Callable[[float], None] = lambda done_s: None,
) -> bool:
    """Encode a part, from and to seconds on the file's clock; `tell` hears how far it is.

    False where nothing of it decodes. Raises av.FFmpegError and ValueError where `out` cannot be
    written or hold it.
    """
    with (
        av.open(str(out), "w", options=recipe.container or {}) as target,
        open_file(path) as seen,
        open_file(path) as heard,
    ):
        tracks = []
        video, audio = picture_stream(seen), sound_stream(heard)
        if video is not None:
            track = picture_track(target, info, recipe)
            tracks.append(encoded_pictures(seen, track, info, part, recipe))
        if audio is not None:
            rate = audio.rate if audio.rate in recipe.rates else 48_000
            layout = "mono" if audio.channels == 1 else "stereo"
            track = target.add_stream("aac", rate=rate, layout=layout)
            tracks.append(encoded_sound(heard, track, part, horizon_s(info)))
        target.start_encoding()
        count = 0
        for packet in heapq.merge(*tracks, key=lambda packet: packet.dts * packet.time_base):
            tell(float(packet.dts * packet.time_base))
            target.mux(packet)
            count += 1
    return count > 0


def picture_track(target: OutputContainer, info: MediaInfo, recipe: Recipe) -> av.VideoStream:
    """Add a track of H.264 that every player takes: 8 bit, half the colour resolution, BT.709."""
    fps = min(info.fps or USUAL_FPS, recipe.max_fps or info.fps or USUAL_FPS)
    rate = Fraction(fps).limit_denominator(1001)  # 29.97 is 30000/1001
    track = target.add_stream("libx264", rate=rate, options=recipe.x264)
    side = max(info.width, info.height)
    scale = min(1.0, (recipe.max_side or side) / side)
    track.width, track.height = even(round(info.width * scale)), even(round(info.height * scale))
    codec = track.codec_context
    track.pix_fmt, codec.time_base = "yuv420p", CLOCK
    codec.colorspace, codec.color_range = Colorspace.ITU709, ColorRange.MPEG
    return track


def even(pixels: int) -> int:
    """Round up to an even number: H.264 with half the colour resolution needs it."""
    return max(2, pixels + pixels % 2)


def horizon_s(info: MediaInfo) -> float:
    """Return the time in seconds after which no stamp of a file is believed."""
    return info.duration_s + 1 if info.is_exact and info.duration_s else float("inf")


def encoded_pictures(
    source: InputContainer,
    track: av.VideoStream,
    info: MediaInfo,
    part: tuple[float, float],
    recipe: Recipe,
) -> Iterator[av.Packet]:
    """Yield the encoded pictures that show in a part; the first one from its beginning on."""
    stream = picture_stream(source)
    origin, start = float(clock_origin(source)), part[0]
    if is_indexed(source):
        seek(source, stream, start + origin)
    shape = Shape(track.width, track.height, info.is_turned)
    frames = timed_frames(source, stream, info, origin)
    scaler = VideoReformatter()  # one for all: each makes tables, and threads of its own
    least = JITTER / recipe.max_fps / CLOCK if recipe.max_fps else 1
    last, key = -math.inf, -math.inf
    turn: Turn | None = None
    for shows, frame in within(frames, *part, info.fps or USUAL_FPS):
        stamp = round(max(0.0, shows - start) / CLOCK)
        if stamp < last + least:  # too fast; damaged files also have two at a time
            continue
        turn = turn or (orientation(frame) if info.is_turned else UPRIGHT)
        picture = ready(frame, shape, turn, scaler)
        picture.pts, picture.time_base = stamp, CLOCK
        forced = recipe.key_s and stamp - key >= recipe.key_s / CLOCK
        picture.pict_type = PictureType.I if forced else PictureType.NONE
        last, key = stamp, stamp if forced else key
        yield from track.encode(picture)
    yield from track.encode(None)


def ready(
    frame: av.VideoFrame, shape: Shape, turn: Turn, scaler: VideoReformatter
) -> av.VideoFrame:
    """Make the picture that is encoded: upright, in its size, in one kind of colour."""
    if turn != UPRIGHT or shows_through(frame):
        frame = av.VideoFrame.from_ndarray(upright(frame, shape, turn), "rgb24")
    return scaler.reformat(
        frame,
        shape.width,
        shape.height,
        "yuv420p",
        dst_colorspace="ITU709",
        dst_color_range="MPEG",
        interpolation="BICUBIC",
        threads=1,
    )


def timed_frames(
    source: InputContainer, stream: av.VideoStream, info: MediaInfo, origin: float
) -> Iterator[tuple[float | None, av.VideoFrame]]:
    """Yield frames in the order they show, each with its time; None where nothing says it."""
    horizon = horizon_s(info)
    if bears_times(source, stream):
        for frame in play(source, stream):
            time = time_of(frame, stream, origin)
            if time is None or time <= horizon:  # else damage, which must not end the rest
                yield time, frame
        return
    # AVI stamps are right, but sit on other frames: in order, they belong to the frames in order.
    listed = list_pictures(Path(info.path), Wish(), horizon)
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
    source: InputContainer, track: av.AudioStream, part: tuple[float, float], horizon: float
) -> Iterator[av.Packet]:
    """Yield the encoded sound of a part: every sample at its time, gaps as silence."""
    rate, layout, at = track.rate, track.layout.name, 0
    for wave in laid_out(source, rate, layout, part, horizon):
        frame = av.AudioFrame.from_ndarray(wave, "fltp", layout)
        frame.sample_rate, frame.time_base, frame.pts = rate, Fraction(1, rate), at
        yield from track.encode(frame)
        at += wave.shape[1]
    yield from track.encode(None)


def laid_out(
    source: InputContainer,
    rate: int,
    layout: str,
    part: tuple[float, float],
    horizon: float,
    lost: list[int | None] | None = None,
) -> Iterator[np.ndarray]:
    """Yield the sound of a part, float32 [channels, samples], without a gap or an overlap.

    What a track lacks is silence; what it claims to sound after `horizon` s follows what was
    before. It ends with the track or with the part. `lost` collects the stamps of packets that do
    not decode.
    """
    total, at = math.ceil(min((part[1] - part[0]) * rate, 2.0**62)), 0
    for place, wave in pieces(source, rate, layout, part, horizon, lost):
        place = min(place, total)
        while at < place:  # a gap of hours must not be held at once
            silence = np.zeros((len(wave), min(place - at, rate)), np.float32)
            at += silence.shape[1]
            yield silence
        wave = wave[:, at - place : total - place]
        if wave.shape[1]:
            at += wave.shape[1]
            yield np.ascontiguousarray(wave)


def pieces(
    source: InputContainer,
    rate: int,
    layout: str,
    part: tuple[float, float],
    horizon: float,
    lost: list[int | None] | None,
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield decoded sound with its place in samples from the beginning of the part."""
    stream = sound_stream(source)
    origin, (start, end) = float(clock_origin(source)), part
    if start > PREROLL_S and is_indexed(source):
        seek(source, stream, start - PREROLL_S + origin)
    place = kind = resampler = None
    for frame in play(source, stream, lost):
        if not frame.samples or not frame.sample_rate:
            continue
        at = time_of(frame, stream, origin)
        at = None if at is None or at > horizon else at
        if at is not None and at >= end:
            break
        if kind != (frame.format.name, frame.layout.name, frame.sample_rate):
            kind = (frame.format.name, frame.layout.name, frame.sample_rate)
            resampler = av.AudioResampler("fltp", layout, rate)
        stamped = None if at is None else round((at - start) * rate)
        if place is None or (stamped is not None and abs(stamped - place) > GAP_S * rate):
            place = stamped or 0
        try:
            resampled = resampler.resample(frame)
        except (av.FFmpegError, ValueError):  # a rate or layout that no resampler takes
            kind = None
            continue
        for piece in resampled:
            wave = piece.to_ndarray()
            yield place, wave
            place += wave.shape[1]
