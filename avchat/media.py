"""Any file that people have -> what was seen and what was heard, with times.

    media = load_media("clip.mp4", frames=16, size=384)

Shapes: T frames, H, W pixels, S samples.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from avchat.decoding import (
    CLOCK_SLACK_S,
    SAMPLE_RATE,
    MediaError,
    PictureList,
    clock_origin,
    decode_pictures,
    list_pictures,
    open_file,
    picture_stream,
    play_pictures,
    read_sound,
    sound_stream,
    upright,
)

__all__ = ["SAMPLE_RATE", "Limits", "Media", "MediaError", "MediaInfo", "load_media", "probe"]


@dataclass(frozen=True)
class Limits:
    """How much a file may ask for before it is refused."""

    max_duration_s: float = 4 * 3600
    max_pixels: int = 8192 * 8192  # of one frame
    max_file_bytes: int = 8 * 1024**3
    max_decoded_bytes: int = 2 * 1024**3  # frames and sound together


@dataclass(frozen=True)
class MediaInfo:
    """What a file says about itself; sizes are as shown (upright, square pixels)."""

    path: str
    duration_s: float
    has_video: bool
    has_audio: bool
    width: int = 0
    height: int = 0
    fps: float = 0.0
    video_codec: str = ""
    audio_codec: str = ""
    sample_rate: int = 0


@dataclass(frozen=True)
class Media:
    """What was seen and heard in the part that was taken."""

    frames: np.ndarray  # uint8 [T, H, W, 3]; T = 0 without a picture
    frame_times_s: np.ndarray  # float64 [T], presentation times on the file's clock
    waveform: np.ndarray  # float32 [S], mono 16 kHz; sample 0 sounds at start_s; empty without a sound track
    start_s: float
    duration_s: float
    has_video: bool
    has_audio: bool
    warnings: tuple[str, ...] = ()


def probe(path: str | Path, *, limits: Limits = Limits()) -> MediaInfo:
    """Say what is in a file without decoding more than its first frame; raise MediaError."""
    path = Path(path)
    with open_file(path) as container:
        video, audio = picture_stream(container), sound_stream(container)
        if video is None and audio is None:
            raise MediaError(f"{path.name}: no video or audio stream in this file")
        info = {
            "path": str(path),
            "duration_s": (container.duration or 0) / 1e6,
            "has_video": video is not None,
            "has_audio": audio is not None,
        }
        if audio is not None:
            info |= {"audio_codec": audio.codec_context.name, "sample_rate": audio.rate}
        if video is not None:
            width, height = video.width, video.height
            aspect = video.sample_aspect_ratio
            width = round(width * aspect) if aspect else width
            frame = next(container.decode(video), None)
            if frame is not None and round((frame.rotation or 0) / 90) % 2:
                width, height = height, width
            info |= {
                "width": width,
                "height": height,
                "fps": float(video.average_rate or 0),
                "video_codec": video.codec_context.name,
            }
        return MediaInfo(**info)


def load_media(
    path: str | Path,
    *,
    frames: int = 16,
    fps: float | None = None,
    start: float | None = None,
    end: float | None = None,
    size: int | tuple[int, int] | None = None,
    keyframes: bool = False,
    limits: Limits = Limits(),
    isolate: bool = False,
    timeout_s: float = 60,
) -> Media:
    """Decode frames and sound of a file, or of its part from `start` to `end` seconds."""
    path = Path(path)
    info = probe(path, limits=limits)
    begin = start or 0.0
    with ThreadPoolExecutor(1) as side:
        sound = side.submit(read_sound, path, begin, end) if info.has_audio else None
        pictures = (
            _pictures(path, info, frames, fps, start, end, size, keyframes)
            if info.has_video
            else None
        )
        waveform = sound.result() if sound else np.zeros(0, np.float32)
    stack, times = pictures if pictures else (np.zeros((0, 1, 1, 3), np.uint8), np.zeros(0))
    stop = info.duration_s if end is None else min(end, info.duration_s)
    return Media(
        stack, times, waveform, begin, stop - begin, bool(len(times)), bool(len(waveform))
    )


def _pictures(path, info, frames, fps, start, end, size, keyframes):
    width, height = (info.width, info.height) if size is None else _pair(size)
    listed = list_pictures(path, start, end)
    if listed is None:
        shown = [(time, upright(frame, width, height)) for time, frame in play_pictures(path)]
        step = max(1, len(shown) // frames)
        shown = shown[::step][:frames]
        return np.stack([f for _, f in shown]), np.asarray([t for t, _ in shown])
    stamps = choose(listed, frames, fps, start, end, keyframes)
    decoded = decode_pictures(path, listed, stamps.tolist(), width, height)
    stamps = np.asarray([s for s in stamps.tolist() if s in decoded])
    return np.stack([decoded[s] for s in stamps.tolist()]), listed.seconds(stamps)


def _pair(size: int | tuple[int, int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else size


def choose(
    listed: PictureList,
    frames: int,
    fps: float | None,
    start: float | None,
    end: float | None,
    keyframes: bool,
) -> np.ndarray:
    """Pick the stamps of the wanted frames, int64 [T], rising, none twice."""
    times = listed.seconds(listed.pts)
    first = max(times[0], start or 0.0)
    last = min(listed.seconds(listed.end_pts), end or np.inf)
    if fps:
        targets = np.arange(first, last, 1 / fps)
    else:
        targets = first + (np.arange(frames) + 0.5) * (last - first) / frames
    if keyframes:
        keys = listed.seconds(listed.keys)
        return np.unique(listed.keys[np.abs(keys[None] - targets[:, None]).argmin(1)])
    shown = np.searchsorted(times, targets + CLOCK_SLACK_S, side="right") - 1
    return np.unique(listed.pts[np.maximum(shown, 0)])
