"""Any file that people have -> what was seen and what was heard, with times.

    media = load_media("clip.mp4", frames=16, size=384)

Sound and pictures are decoded side by side, by `sound` and `pictures`, which say how.

Shapes: T frames, H, W pixels, S samples.
"""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from av import VideoStream
from av.container import InputContainer

from avchat import isolation
from avchat.container import (
    MediaError,
    check_ordinary,
    decode,
    is_length_exact,
    is_still,
    length_s,
    open_file,
    picture_stream,
    read_packets,
    sound_stream,
)
from avchat.listing import Wish
from avchat.pictures import Pictures, Shape, orientation, take_pictures, take_together
from avchat.sound import SAMPLE_RATE, Sound, read_sound

__all__ = ["SAMPLE_RATE", "Limits", "Media", "MediaError", "MediaInfo", "load_media", "probe"]

SERVE = "avchat.media:serve"  # what a process of its own runs
SHORT_S = 0.25  # the tracks of a sound file end up to this much before the length in its header
ASPECTS = (1 / 8, 8)  # sample aspects that are believed
TRIAL_PACKETS = 100  # looked at for a first picture that decodes, which says how it is turned


@dataclass(frozen=True)
class Limits:
    """How much a file may ask for before it is refused."""

    max_duration_s: float = 4 * 3600.0
    max_pixels: int = 100_000_000  # of one frame: above any film and most cameras
    max_file_bytes: int = 16 * 1024**3
    max_decoded_bytes: int = 2 * 1024**3  # frames as they come out, and sound


@dataclass(frozen=True)
class MediaInfo:
    """What a file says about itself; width and height are as shown, in square pixels."""

    path: str
    duration_s: float  # 0 for a still picture, and where the file does not say
    has_video: bool
    has_audio: bool
    width: int = 0
    height: int = 0
    fps: float = 0.0  # on average
    video_codec: str = ""
    audio_codec: str = ""
    sample_rate: int = 0
    is_still: bool = False
    is_turned: bool = False  # the file says to rotate or mirror its pictures
    is_exact: bool = True  # duration_s is written in the file, not guessed from its bit rate


@dataclass(frozen=True)
class Media:
    """What was seen and heard in the part that was taken."""

    frames: np.ndarray  # uint8 [T, H, W, 3]; T = 0 without a picture
    frame_times_s: np.ndarray  # float64 [T], when each begins to show, on the file's clock
    waveform: np.ndarray  # float32 [S], mono 16 kHz; sample 0 sounds at start_s
    start_s: float  # the part that was taken, on the file's clock
    duration_s: float
    has_video: bool  # a missing track is a state, not an error
    has_audio: bool
    warnings: tuple[str, ...] = ()


def probe(
    path: str | Path,
    *,
    limits: Limits = Limits(),
    isolate: bool = False,
    timeout_s: float = 60,
) -> MediaInfo:
    """Say what is in a file, decoding one picture at most; raise MediaError past a limit too."""
    path = Path(path)
    if isolate:
        reply, _ = call_isolated("probe", path, limits, timeout_s)
        return MediaInfo(**reply)
    check_ordinary(path)
    check_limit(path, "size", "bytes", path.stat().st_size, limits.max_file_bytes)
    with open_file(path) as container:
        video, audio = picture_stream(container, limits.max_pixels), sound_stream(container)
        if video is None and audio is None:
            raise MediaError(f"{path.name}: no video, sound or picture in this file")
        still = is_still(container)
        info = MediaInfo(
            str(path),
            0.0 if still else length_s(container, path),
            video is not None,
            audio is not None,
            audio_codec=audio.codec_context.name if audio else "",
            sample_rate=audio.rate if audio else 0,
            is_still=still,
            is_exact=is_length_exact(container, path),
        )
        check_limit(path, "length", "s", info.duration_s, limits.max_duration_s)
        if video is not None:
            pixels = video.width * video.height
            check_limit(path, "frame", "pixels", pixels, limits.max_pixels)
            info = replace(info, **look(container, video))
            check_limit(path, "frame", "pixels", info.width * info.height, limits.max_pixels)
    return info


def look(container: InputContainer, video: VideoStream) -> dict:
    """Describe a picture track for MediaInfo, from its header and the first frame that decodes."""
    width, height = max(1, video.width), max(1, video.height)
    aspect = float(video.sample_aspect_ratio or 1)
    if ASPECTS[0] <= aspect <= ASPECTS[1]:
        width = max(1, round(width * aspect))
    turn = (1, 1, False)
    for number, packet in enumerate(read_packets(container, video)):
        shown = decode(packet)
        if shown or number == TRIAL_PACKETS:
            turn = orientation(shown[0]) if shown else turn
            break
    width, height = (height, width) if turn[2] else (width, height)
    return {
        "width": width,
        "height": height,
        "fps": float(video.average_rate or 0),
        "video_codec": video.codec_context.name,
        "is_turned": turn != (1, 1, False),
    }


def check_limit(path: Path, what: str, unit: str, value: float, limit: float) -> None:
    """Raise MediaError where a file asks for more than is allowed."""
    if value > limit:
        raise MediaError(
            f"{path.name}: its {what} of {value:,.0f} {unit} is over the limit of {limit:,.0f}"
        )


def load_media(
    path: str | Path,
    *,
    frames: int = 16,
    fps: float | None = None,
    start: float | None = None,
    end: float | None = None,
    size: int | tuple[int, int] | None = None,
    keyframes: bool = False,
    sound: bool = True,
    limits: Limits = Limits(),
    isolate: bool = False,
    timeout_s: float = 60,
) -> Media:
    """Decode frames and sound of a file, or of its part from `start` to `end` seconds.

    `frames` are those shown at the centres of so many equal parts of what the picture track shows;
    with `fps`, instead, those shown every 1/fps seconds from the start. A frame that would be taken
    twice is taken once, so a still picture or a slow track yields fewer. `keyframes` takes the
    nearest keyframes instead: many times as fast, for a first look; their true times say which.
    `frames=0` and `sound=False` leave a track alone. `size` scales frames while they are decoded,
    to a square or to (width, height), without keeping proportions, as SigLIP takes them; without it
    they come as shown: upright, in square pixels.

    `isolate` decodes in a process of its own, for files of strangers: what crashes it, or takes
    longer than `timeout_s`, is a MediaError. So is every other fault of the file, except those that
    leave something to use: they are in `warnings`.
    """
    path = Path(path)
    if frames < 0 or (fps is not None and fps <= 0):
        raise ValueError(f"frames={frames}, fps={fps}: frames must not be negative, fps positive")
    shape = None if size is None else (size, size) if isinstance(size, int) else tuple(size)
    if shape is not None and min(shape) < 1:
        raise ValueError(f"size={size}: must be at least 1")
    wish = Wish(frames, fps, start, end, keyframes)
    if isolate:
        more = {"wish": asdict(wish), "size": shape, "sound": sound}
        reply, arrays = call_isolated("load", path, limits, timeout_s, **more)
        return Media(*arrays, **reply | {"warnings": tuple(reply["warnings"])})
    return decode_file(path, wish, shape, sound, limits)


def decode_file(
    path: Path, wish: Wish, size: tuple[int, int] | None, sound: bool, limits: Limits
) -> Media:
    """Decode both tracks side by side and say what is missing."""
    info = probe(path, limits=limits)
    wish = fit(wish, info)
    shape, horizon_s = shape_of(info, size, limits), horizon_of(info, limits)
    begin = wish.start or 0.0
    with ThreadPoolExecutor(1) as side:
        listening = sound and info.has_audio
        hearing = listening and side.submit(
            read_sound, path, begin, wish.end, horizon_s, limits.max_duration_s
        )
        looking = info.has_video and wish.frames > 0
        seen = looking and take_pictures(path, wish, shape, horizon_s, limits.max_decoded_bytes)
        heard = hearing and hearing.result()
    if seen and not info.duration_s:  # a file that does not say its length has been read to its end
        check_limit(path, "length", "s", seen.end_s, limits.max_duration_s)
    return put_together(path, info, wish, seen or None, heard or None)


def decode_together(
    path: Path, wishes: Sequence[Wish], size: tuple[int, int] | None, sound: bool, limits: Limits
) -> list[Media]:
    """Decode several parts of a file, in rising order, with one look at its pictures if possible.

    They are what `decode_file` makes of each, bit for bit; a MediaError is of any of them. The
    sound of each part is decoded by itself: what a decoder makes of a packet may depend on all that
    it was given before.
    """
    info = probe(path, limits=limits)
    if info.is_still or not info.duration_s:
        return [decode_file(path, wish, size, sound, limits) for wish in wishes]
    wishes = [fit(wish, info) for wish in wishes]
    shape, horizon_s = shape_of(info, size, limits), horizon_of(info, limits)

    def hear(wish: Wish) -> Sound:
        return read_sound(path, wish.start or 0.0, wish.end, horizon_s, limits.max_duration_s)

    def see(wish: Wish) -> Pictures:
        return take_pictures(path, wish, shape, horizon_s, limits.max_decoded_bytes)

    heard: Iterable[Sound | None] = [None] * len(wishes)
    seen: Iterable[Pictures | None] = heard
    with ThreadPoolExecutor(1) as side:
        if sound and info.has_audio:
            heard = side.map(hear, wishes)
        if info.has_video and wishes[0].frames > 0:
            most = limits.max_decoded_bytes
            seen = take_together(path, wishes, shape, horizon_s, most) or map(see, wishes)
        parts = list(zip(wishes, seen, heard, strict=True))
    return [put_together(path, info, *part) for part in parts]


def shape_of(info: MediaInfo, size: tuple[int, int] | None, limits: Limits) -> Shape:
    """Say how a file's frames are to come out."""
    width, height = size or (info.width, info.height)
    return Shape(width, height, info.is_turned, limits.max_pixels, info.width * info.height)


def horizon_of(info: MediaInfo, limits: Limits) -> float:
    """Return the time in seconds after which no stamp of a file is believed."""
    # a length that was guessed too short must not make true stamps look like damage
    known_s = info.duration_s if info.is_exact else 0.0
    return (known_s or limits.max_duration_s) + 1


def fit(wish: Wish, info: MediaInfo) -> Wish:
    """Check the wished part against the file; raise MediaError where they do not meet."""
    name = Path(info.path).name
    if info.is_still:
        return replace(wish, frames=min(wish.frames, 1), fps=None, start=None, end=None)
    start, end = wish.start or 0.0, wish.end
    if start < 0 or (end is not None and end <= start):
        raise MediaError(f"{name}: cannot take the part from {start:g} s to {end or 0:g} s")
    if info.is_exact and info.duration_s and start >= info.duration_s:
        raise MediaError(
            f"{name}: cannot start at {start:g} s, the file is {info.duration_s:.1f} s long"
        )
    return wish


def put_together(
    path: Path, info: MediaInfo, wish: Wish, seen: Pictures | None, heard: Sound | None
) -> Media:
    """Make a Media of what was decoded; raise MediaError where nothing was."""
    start = wish.start or 0.0
    ends = [start]
    if seen is not None:
        ends.append(seen.end_s)
    if heard is not None:
        ends.append(start + len(heard.waveform) / SAMPLE_RATE)
    reached = max(ends) if wish.end is None else min(max(ends), wish.end)
    whole = info.duration_s if wish.end is None else min(info.duration_s, wish.end)
    if seen is None and heard is None:
        reached = whole
    elif not (seen and len(seen.frames)) and not (heard and len(heard.waveform)):
        part = "" if wish.start is None and wish.end is None else " from this part"
        raise MediaError(f"{path.name}: no picture and no sound could be decoded{part}")
    return Media(
        seen.frames if seen else np.zeros((0, 1, 1, 3), np.uint8),
        seen.times_s if seen else np.zeros(0),
        heard.waveform if heard else np.zeros(0, np.float32),
        start,
        0.0 if info.is_still else reached - start,
        info.has_video and (seen is None or len(seen.frames) > 0),
        info.has_audio and (heard is None or len(heard.waveform) > 0),
        tuple(complaints(info, reached - start, whole - start, seen, heard)),
    )


def complaints(
    info: MediaInfo, taken_s: float, whole_s: float, seen: Pictures | None, heard: Sound | None
) -> Iterator[str]:
    """Say what of a file could not be used."""
    if info.is_exact and not info.is_still and whole_s - taken_s > SHORT_S:
        yield f"decoded {taken_s:.1f} s of {whole_s:.1f} s: the file is cut short or damaged"
    if seen is not None and (seen.damaged or len(seen.frames) < seen.asked):
        yield (
            f"the picture is damaged: decoded {len(seen.frames)} of {seen.asked} frames, "
            f"met {seen.damaged} errors on the way"
        )
    elif seen is not None and not len(seen.frames):
        yield "there is a picture track, but nothing of it in this part"
    if heard is not None and heard.damaged:
        yield f"the sound is damaged: decoded {heard.heard_s:.1f} s of {taken_s:.1f} s"
    elif heard is not None and not len(heard.waveform):
        yield "there is a sound track, but nothing of it in this part"


def call_isolated(
    what: str, path: Path, limits: Limits, timeout_s: float, **more
) -> isolation.Reply:
    """Ask a process of its own to probe or load a file; its MediaError is raised here."""
    request = {"what": what, "path": str(path), "limits": asdict(limits), **more}
    try:
        reply, arrays = isolation.call(
            SERVE,
            request,
            timeout_s=timeout_s,
            max_bytes=limits.max_decoded_bytes,
        )
    except isolation.WorkerError as error:
        raise MediaError(f"{path.name}: decoding {error}") from error
    if "error" in reply:
        raise MediaError(reply["error"])
    return reply, arrays


def serve(request: dict) -> isolation.Reply:
    """Answer `call_isolated`, in the process of its own."""
    path, limits = Path(request["path"]), Limits(**request["limits"])
    try:
        if request["what"] == "probe":
            return asdict(probe(path, limits=limits)), []
        wish = Wish(**request["wish"])
        media = decode_file(path, wish, request["size"], request["sound"], limits)
    except MediaError as error:
        return {"error": str(error)}, []
    fields = {name: value for name, value in vars(media).items() if name not in ARRAYS}
    return fields, [vars(media)[name] for name in ARRAYS]


ARRAYS = ("frames", "frame_times_s", "waveform")
