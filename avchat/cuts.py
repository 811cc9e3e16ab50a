"""A part of a file -> a file of its own: copied from the keyframe before, or encoded exactly.

A copy keeps every bit and takes no time, but begins where a decoder can begin. An exact cut is
encoded anew, H.264 and AAC. In both, picture and sound keep their place to each other.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Event

import av
import numpy as np
from av.container import InputContainer, OutputContainer

from avchat import isolation
from avchat.container import (
    MediaError,
    clock_origin,
    is_indexed,
    open_file,
    picture_stream,
    read_packets,
    seek,
    sound_stream,
)
from avchat.encoding import Recipe, encode
from avchat.listing import PictureList, Wish, list_pictures
from avchat.media import MediaInfo, probe
from avchat.writing import ExportError, fresh

SEEK_BACK_S = 2.0  # packets of the sound lie so much before those of the picture, or less
SERVE = "avchat.cuts:serve"  # what a process of its own runs
MAX_BYTES = 1 << 28  # of decoded pictures and sound held at a time, beside libav's own
EXACT = Recipe({"crf": "18", "preset": "veryfast"})


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
    end = check_part(path, info, start, end)
    with fresh(out, overwrite, path) as unfinished:
        try:
            done = cut_to(path, info, (start, end), unfinished, exact)
        except (av.FFmpegError, ValueError) as error:
            raise ExportError(f"{out}: cannot be written: {reason(error)}") from error
    return Cut(str(out), *done)


def cut_isolated(
    path: str | Path,
    start: float,
    end: float,
    out: str | Path,
    *,
    exact: bool = False,
    overwrite: bool = False,
    timeout_s: float = 600,
    progress: isolation.Progress | None = None,
    stop: Event | None = None,
) -> Cut | None:
    """Cut as `cut` does, but in a process of its own, for files of strangers.

    `progress` hears how many seconds of how many are done, of what is encoded; `stop` ends it: then
    there is no file, and None is returned. What crashes the process, or takes longer than
    `timeout_s`, is a MediaError.
    """
    path, out = Path(path), Path(out)
    info = probe(path, isolate=True, timeout_s=timeout_s)
    end = check_part(path, info, start, end)
    request = {"path": str(path), "info": asdict(info), "part": (start, end), "exact": exact}
    watch = {"timeout_s": timeout_s, "progress": progress, "stop": stop}
    try:
        with fresh(out, overwrite, path) as unfinished:
            request |= {"out": str(unfinished), "name": str(out)}
            reply, _ = isolation.call(SERVE, request, max_bytes=MAX_BYTES, **watch)
            if "media_error" in reply:
                raise MediaError(reply["media_error"])
            if "export_error" in reply:
                raise ExportError(reply["export_error"])
    except isolation.Stopped:
        return None
    except isolation.WorkerError as error:
        raise MediaError(f"{path.name}: cutting {error}") from error
    return Cut(str(out), *reply["done"])


def serve(request: dict) -> isolation.Reply:
    """Answer `cut_isolated`, in the process of its own."""
    info, part = MediaInfo(**request["info"]), tuple(request["part"])
    files = Path(request["path"]), Path(request["out"])
    try:
        done = cut_to(files[0], info, part, files[1], request["exact"])
    except MediaError as error:
        return {"media_error": str(error)}, []
    except ExportError as error:
        return {"export_error": str(error)}, []
    except (av.FFmpegError, ValueError) as error:
        return {"export_error": f"{request['name']}: cannot be written: {reason(error)}"}, []
    return {"done": done}, []


def reason(error: av.FFmpegError | ValueError) -> str:
    """Say why a file cannot be written; libav's own line names an unfinished file."""
    said = error.strerror if isinstance(error, av.FFmpegError) else None
    return said or str(error)


def check_part(path: Path, info: MediaInfo, start: float, end: float) -> float:
    """Return where a part really ends; ExportError for one that is not there."""
    if info.is_still:
        raise ExportError(f"{path.name}: a still picture has no parts")
    if not 0 <= start < end:
        raise ExportError(f"{path.name}: cannot cut from {start:g} s to {end:g} s")
    if info.is_exact and info.duration_s:
        if start >= info.duration_s:
            long = f"the file is {info.duration_s:.1f} s long"
            raise ExportError(f"{path.name}: no part from {start:g} s on, {long}")
        end = min(end, info.duration_s)
    return end


def cut_to(
    path: Path, info: MediaInfo, part: tuple[float, float], out: Path, exact: bool
) -> tuple[float, float, bool]:
    """Copy a part, or encode it where it is to be exact or cannot be copied."""
    done = None if exact else try_copy(path, info, *part, out)
    if done is None:
        tell = isolation.Teller(part[1] - part[0])
        if not encode(path, info, part, out, EXACT, tell.say):
            raise ExportError(f"{path.name}: nothing decodes from {part[0]:g} s to {part[1]:g} s")
    return done or (*part, False)


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
