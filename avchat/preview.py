"""A file -> a copy that browsers play, where they do not play the file itself.

The copy is small (854 pixels on its longer side), quick to seek in, and on the same clock: what
shows at a time in it is what `load_media` says is shown at that time.
"""

from dataclasses import asdict
from pathlib import Path
from threading import Event

import av
from av.container import InputContainer
from PIL import Image

from avchat import isolation
from avchat.container import (
    MediaError,
    clock_origin,
    list_boxes,
    open_file,
    picture_stream,
    sound_stream,
)
from avchat.encoding import Recipe, encode
from avchat.media import Limits, MediaInfo, load_media
from avchat.writing import ExportError, fresh

SERVE = "avchat.preview:serve"  # what a process of its own runs
MAX_BYTES = 1 << 29  # of decoded pictures and sound held at a time, beside libav's own
PICTURE_SIDE = 2048  # pixels
LATE_S = 0.05  # browsers differ in what they make of a clock that begins later; MP3 has 25 ms

# What current Chromium, Firefox and Safari play, by container as libav names it.
MP4 = "mov,mp4,m4a,3gp,3g2,mj2"
ENDINGS = {
    MP4: {".mp4", ".m4v", ".mov", ".m4a"},
    "matroska,webm": {".webm"},
    "wav": {".wav"},
    "mp3": {".mp3"},
    "flac": {".flac"},
    "ogg": {".ogg", ".oga", ".opus"},
}
PICTURES = {MP4: {"h264", "av1"}, "matroska,webm": {"vp8", "vp9", "av1"}}
SOUNDS = {
    MP4: {"aac", "mp3"},
    "matroska,webm": {"opus", "vorbis"},
    "wav": {"pcm_u8", "pcm_s16le", "pcm_s24le", "pcm_f32le"},
    "mp3": {"mp3"},
    "flac": {"flac"},
    "ogg": {"opus", "vorbis", "flac"},
}
PLAIN = {"yuv420p", "yuvj420p"}  # 8 bit
DEEP = {"yuv420p10le"}  # 10 bit: played where the codec is a new one
STILLS = {
    "mjpeg": {".jpg", ".jpeg"},
    "png": {".png"},
    "webp": {".webp"},
    "gif": {".gif"},
}
BROWSER = Recipe(
    {"crf": "24", "preset": "veryfast"},
    {"movflags": "+faststart"},  # a browser reads the index first
    max_side=854,
    max_fps=60.0,
    key_s=2.0,
    rates=(44_100, 48_000),
)


def plays_in_browsers(
    path: str | Path, info: MediaInfo, *, isolate: bool = True, timeout_s: float = 60
) -> bool:
    """Tell whether current browsers show a file as it is, at the times that `load_media` gives.

    Decided from its container, codecs and ending, not by playing it. `info` is what `probe` said.
    Raises MediaError for a file that does not open, or takes longer than `timeout_s`.
    """
    if not isolate:
        return is_playable(Path(path), info)
    reply, _ = call("look", path, info, timeout_s)
    return bool(reply["plays"])


def make_preview(
    path: str | Path,
    info: MediaInfo,
    out: str | Path,
    *,
    progress: isolation.Progress | None = None,
    stop: Event | None = None,
    timeout_s: float = 1800,
) -> Path | None:
    """Write a copy that browsers play and return its path: `out` with .mp4, .m4a or .jpg added.

    The copy is made in a process of its own. `progress` hears how many seconds of how many are
    done (of 0, where the file does not say its length). When `stop` is set, or when anything goes
    wrong, no file is left: then None is returned, or MediaError raised, also for what takes longer
    than `timeout_s`. A copy that is there already is replaced.
    """
    ending = ".jpg" if info.is_still else ".mp4" if info.has_video else ".m4a"
    target = Path(f"{out}{ending}")
    try:
        with fresh(target, overwrite=True, source=Path(path)) as unfinished:
            call("make", path, info, timeout_s, out=unfinished, progress=progress, stop=stop)
    except isolation.Stopped:
        return None
    except ExportError as error:  # its message names a folder of ours
        raise MediaError(f"{Path(path).name}: the copy to play cannot be written") from error
    return target


def call(
    what: str,
    path: str | Path,
    info: MediaInfo,
    timeout_s: float,
    *,
    out: Path | None = None,
    progress: isolation.Progress | None = None,
    stop: Event | None = None,
) -> isolation.Reply:
    """Ask a process of its own; its MediaError is raised here."""
    request = {"what": what, "path": str(path), "info": asdict(info), "out": str(out)}
    watch = {"timeout_s": timeout_s, "progress": progress, "stop": stop}
    try:
        reply, arrays = isolation.call(SERVE, request, max_bytes=MAX_BYTES, **watch)
    except isolation.WorkerError as error:
        raise MediaError(f"{Path(path).name}: preparing it for the player {error}") from error
    if "error" in reply:
        raise MediaError(reply["error"])
    return reply, arrays


def serve(request: dict) -> isolation.Reply:
    """Answer `call`, in the process of its own."""
    path, info = Path(request["path"]), MediaInfo(**request["info"])
    try:
        if request["what"] == "look":
            return {"plays": is_playable(path, info)}, []
        write_copy(path, info, Path(request["out"]))
    except MediaError as error:
        return {"error": str(error)}, []
    return {}, []


def is_playable(path: Path, info: MediaInfo) -> bool:
    """Decide for `plays_in_browsers`, in the process that calls."""
    if info.is_still:
        with open_file(path) as container:
            codec = codec_name(picture_stream(container))
        return path.suffix.lower() in STILLS.get(codec, ())
    if not (info.duration_s and info.is_exact):
        return False  # as browsers record them: they play, but nobody can seek in them
    with open_file(path) as container:
        kind = container.format.name
        return (
            path.suffix.lower() in ENDINGS.get(kind, ())
            and is_whole(path, kind)
            and clock_origin(container) <= LATE_S
            and takes_the_first(container)
            and are_tracks_played(container, kind)
        )


def is_whole(path: Path, kind: str) -> bool:
    """Tell whether a container is what its ending says, and all of it is there."""
    with path.open("rb") as file:
        head = file.read(64)
    if kind == "matroska,webm":
        return b"webm" in head  # else Matroska
    if kind != MP4:
        return True
    boxes = list_boxes(path)
    names = [name for name, _ in boxes]
    inside = all(end <= path.stat().st_size for _, end in boxes)
    return names[:1] == ["ftyp"] and "moov" in names and inside


def takes_the_first(container: InputContainer) -> bool:
    """Tell whether the tracks that we take are the first ones, which browsers take."""
    chosen = (picture_stream(container), sound_stream(container))
    kinds = (container.streams.video, container.streams.audio)
    return all(one is None or one is all_of[0] for one, all_of in zip(chosen, kinds, strict=True))


def are_tracks_played(container: InputContainer, kind: str) -> bool:
    """Tell whether browsers decode both tracks of a container."""
    video, audio = picture_stream(container), sound_stream(container)
    if audio is not None and codec_name(audio) not in SOUNDS[kind]:
        return False
    if video is None:
        return True
    codec = codec_name(video)
    depths = PLAIN if codec in ("h264", "vp8") else PLAIN | DEEP
    return codec in PICTURES.get(kind, ()) and video.codec_context.pix_fmt in depths


def codec_name(stream: av.stream.Stream | None) -> str:
    """Name a track's codec, whichever decoder was chosen for it."""
    return "" if stream is None else stream.codec_context.codec.canonical_name


def write_copy(path: Path, info: MediaInfo, out: Path) -> None:
    """Write the copy for `make_preview`, in the process that calls."""
    if info.is_still:
        write_picture(path, info, out)
        return
    end = info.duration_s if info.is_exact and info.duration_s else Limits().max_duration_s
    tell = isolation.Teller(info.duration_s)
    try:
        done = encode(path, info, (0.0, end), out, BROWSER, tell.say)
    except (av.FFmpegError, ValueError, OSError) as error:
        reason = str(error).partition(":")[0]  # what follows names a folder of ours
        raise MediaError(f"{path.name}: the copy to play cannot be made ({reason})") from error
    if not done:
        raise MediaError(f"{path.name}: no picture and no sound could be decoded")


def write_picture(path: Path, info: MediaInfo, out: Path) -> None:
    """Write a still picture as a JPEG."""
    scale = min(1.0, PICTURE_SIDE / max(info.width, info.height))
    size = max(1, round(info.width * scale)), max(1, round(info.height * scale))
    media = load_media(path, frames=1, size=size, sound=False)
    Image.fromarray(media.frames[0]).save(out, quality=90)
