"""What a task of lmms-eval hands over -> one clip, as it is seen and heard.

Tasks give paths, pictures of PIL, lists of frames, sounds as dicts of `datasets` or as decoders of
torchcodec, one or several. A path is opened by us and its sound comes with it: the harness itself
passes a video on without (WorldSense and Video-MME give the video alone).

Legend: T frames, N samples.
"""

import io
import math
import tempfile
import wave
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from avchat.media import Media, MediaError, load_media

Kind = Literal["image", "video", "audio"]
RATE = 16_000
STILL_S = 1.0  # how long a picture is shown beside others (our choice)
GREY = 127  # around a picture that has another shape than the first one


def media_of(things: Sequence[tuple[Kind, Any]], frames: int) -> Media | None:
    """Make one clip of all that a request brings; None where it brings nothing.

    What has pictures follows one another, and so do sounds that come by themselves; those run
    beside the pictures, in place of the pictures' own sound.

    Raises:
        MediaError: something cannot be read.
    """
    if not things:
        return None
    shown = sum(kind != "audio" for kind, _ in things)
    each = math.ceil(frames / max(1, shown))
    clips = [taken(kind, value, each) for kind, value in things]
    pictures = [clip for clip in clips if clip.has_video]
    alone = [clip for clip in clips if not clip.has_video]
    if len(clips) == 1:
        return clips[0]
    seen = after_one_another(pictures, frames) if pictures else None
    heard = after_one_another(alone, frames) if alone else None
    if seen is None or heard is None:
        return seen or heard
    return replace(
        seen,
        waveform=heard.waveform,
        duration_s=max(seen.duration_s, heard.duration_s),
        has_audio=heard.has_audio,
    )


def taken(kind: Kind, value: Any, frames: int) -> Media:
    """Read one thing; of an audio the sound alone, even where it is a video's file."""
    if isinstance(value, Image.Image):
        return still([np.asarray(value.convert("RGB"))])
    if isinstance(value, list | tuple | np.ndarray):
        return still([np.asarray(_rgb(one)) for one in value], frames)
    if isinstance(value, str | Path):
        return _file(kind, value, frames)
    if isinstance(value, Mapping):
        return _entry(kind, value, frames)
    try:  # torchcodec's AudioDecoder, as `datasets` gives a sound
        samples = value.get_all_samples()
    except AttributeError:
        raise MediaError(f"{type(value).__name__}: is no video, sound or picture") from None
    return _samples(samples.data.mean(0).numpy(), int(samples.sample_rate))


def _file(kind: Kind, path: str | Path, frames: int, **part: float | None) -> Media:
    """Decode a file in a process of its own: it is a stranger's."""
    alone = kind == "audio"
    try:
        found = load_media(path, frames=0 if alone else frames, isolate=True, **part)
    except OSError as error:
        raise MediaError(f"{path}: {error.strerror}") from error
    return replace(found, has_video=found.has_video and not alone)


def _entry(kind: Kind, value: Mapping[str, Any], frames: int) -> Media:
    """Read a dict: samples, bytes, or a path with the seconds of a part."""
    if value.get("array") is not None:
        return _samples(np.asarray(value["array"], np.float32), int(value["sampling_rate"]))
    if value.get("bytes") is not None:
        return _bytes(kind, value["bytes"], Path(str(value.get("path") or "x")).suffix, frames)
    path = next((value[name] for name in ("path", "url", "video") if value.get(name)), None)
    if path is None:
        raise MediaError(f"a {kind} has neither samples, bytes nor a path: {sorted(value)}")
    return _file(kind, path, frames, start=value.get("video_start"), end=value.get("video_end"))


def _bytes(kind: Kind, data: bytes, suffix: str, frames: int) -> Media:
    with tempfile.NamedTemporaryFile(suffix=suffix) as file:
        file.write(data)
        file.flush()
        return _file(kind, file.name, frames)


def _samples(samples: np.ndarray, rate: int) -> Media:
    """Read samples [N] or [channels, N] at any rate, as a file of 16 bits would be."""
    mono = samples.mean(0) if samples.ndim == 2 else samples
    data = io.BytesIO()
    with wave.open(data, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((mono.clip(-1, 1) * 32767).round().astype("<i2").tobytes())
    return _bytes("audio", data.getvalue(), ".wav", 0)


def _rgb(picture: Any) -> Any:
    return picture.convert("RGB") if isinstance(picture, Image.Image) else picture


def still(pictures: Sequence[np.ndarray], frames: int = 1) -> Media:
    """Show pictures [H, W, 3], each for a while; of too many some, evenly."""
    kept = [pictures[k] for k in evenly(len(pictures), max(frames, 1))]
    return Media(
        frames=np.stack(kept),
        frame_times_s=STILL_S * np.arange(len(kept), dtype=float),
        waveform=np.zeros(0, np.float32),
        start_s=0.0,
        duration_s=STILL_S * len(kept) if len(kept) > 1 else 0.0,
        has_video=True,
        has_audio=False,
    )


def evenly(count: int, most: int) -> list[int]:
    """Choose at most `most` of `count`, at the middles of equal parts."""
    most = min(count, most)
    return [int((k + 0.5) * count / most) for k in range(most)]


def after_one_another(clips: Sequence[Media], frames: int) -> Media:
    """Join clips in time, all from zero on, with at most so many frames."""
    if len(clips) == 1:
        return clips[0]
    lengths = [clip.duration_s or STILL_S for clip in clips]
    starts = np.concatenate([[0.0], np.cumsum(lengths)])
    shape = next((clip.frames.shape[1:3] for clip in clips if clip.has_video), (0, 0))
    pictures = [_fitted(one, shape) for clip in clips for one in clip.frames]
    times = [
        start + time - clip.start_s
        for clip, start in zip(clips, starts, strict=False)
        for time in clip.frame_times_s
    ]
    sound = np.zeros(round(starts[-1] * RATE), np.float32)
    for clip, start in zip(clips, starts, strict=False):
        at = round(start * RATE)
        wave_of = clip.waveform[: len(sound) - at]
        sound[at : at + len(wave_of)] = wave_of
    heard = any(clip.has_audio for clip in clips)
    kept = evenly(len(pictures), frames) if pictures else []
    return Media(
        frames=np.stack([pictures[k] for k in kept]) if kept else clips[0].frames,
        frame_times_s=np.array([times[k] for k in kept]),
        waveform=sound if heard else np.zeros(0, np.float32),
        start_s=0.0,
        duration_s=float(starts[-1]),
        has_video=bool(pictures),
        has_audio=heard,
    )


def _fitted(picture: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Bring a picture [H, W, 3] to the shape of the first one, grey at its sides."""
    height, width = picture.shape[:2]
    if (height, width) == tuple(shape):
        return picture
    factor = min(shape[0] / height, shape[1] / width)
    size = max(1, round(width * factor)), max(1, round(height * factor))
    small = np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BICUBIC))
    around = np.full((*shape, 3), GREY, np.uint8)
    top, left = (shape[0] - size[1]) // 2, (shape[1] - size[0]) // 2
    around[top : top + size[1], left : left + size[0]] = small
    return around
