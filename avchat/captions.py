"""What a lookup head learns from: captioned clips, of the world or of the user's own, as batches by
number.

A caption manifest is JSON lines, one captioned clip a line:
    {"id": "a", "media": "clips/a.mp4", "start": 1.5, "end": 9, "caption": "a dog barks",
     "of": "both"}
`media` is relative to the manifest; `start`, `end` (seconds) and `of` (what the caption speaks of:
both, picture or sound; both when left out) may be missing.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from avchat.data import DataError, check_fields, check_part, clip_path, read_lines
from avchat.encoders import Features
from avchat.media import Media, MediaError, load_media
from avchat.model import AVChat
from avchat.patches import FRAMES, SIDE, PixelClip, pixel_clip
from avchat.pool import Pool, retimed
from avchat.vlsa import VLSA, CaptionedClips
from avchat.world.captions import caption
from avchat.world.lessons import draw_lesson

ABOUT = ("both", "picture", "sound")
# How often a caption of the world speaks of both, of the picture alone, of the sound alone: people
# search by either.
ABOUT_OFTEN = (0.6, 0.2, 0.2)


@dataclass(frozen=True)
class CaptionedFile:
    """A clip of the user's with its caption."""

    id: str
    media: Path
    caption: str
    of: str = "both"
    start_s: float | None = None
    end_s: float | None = None


def captioned(
    model: VLSA, clips: Sequence[Features] | Sequence[PixelClip], texts: list[str], of: list[str]
) -> CaptionedClips:
    """Join clips and their captions to a batch."""
    ids, words = model.tokenize(texts)
    return CaptionedClips(
        clips=list(clips),
        ids=ids,
        words=words,
        of_picture=torch.tensor([x != "sound" for x in of]),
        of_sound=torch.tensor([x != "picture" for x in of]),
        same=torch.tensor([zlib.crc32(text.strip().lower().encode()) for text in texts]),
    )


def world_batch(
    model: VLSA, pool: Pool, number: int, count: int, stills: float = 0.0
) -> CaptionedClips:
    """Make batch `number` of `count` clips of the world; each visit of a clip has another caption.

    Args: stills: part of the clips that keep one frame alone.
    """
    drawn, texts, of = [], [], []
    for k in range(number * count, (number + 1) * count):
        visit, clip = divmod(k, pool.size)
        lesson = draw_lesson(pool.seed, clip, turns=0, sentences=0, strangers=False)
        rng = np.random.default_rng([15, pool.seed, clip, visit])
        of.append(str(rng.choice(ABOUT, p=ABOUT_OFTEN)))
        texts.append(caption(lesson.scene, rng, of[-1]).text)
        drawn.append((clip, lesson))
    clips = [retimed(clip, 1, 0.0) for clip in pool.features(drawn)]
    rng = np.random.default_rng([16, pool.seed, number])
    for k, clip in enumerate(clips):
        if rng.random() < stills and clip.visual is not None:
            frame = int(rng.integers(len(clip.visual)))
            time_s = clip.frame_times_s[frame]
            clips[k] = replace(clip, visual=clip.visual[frame][None], frame_times_s=(time_s,))
    return captioned(model, clips, texts, of)


def read_captions(path: Path) -> list[CaptionedFile]:
    """Read a caption manifest; DataError names the file and the line that cannot be used."""
    found = [captioned_file(path, *numbered) for numbered in read_lines(path)]
    if len(found) < 2:
        raise DataError(f"{path}: {len(found)} captions; matching needs at least two")
    return found


def captioned_file(path: Path, number: int, row: dict[str, Any]) -> CaptionedFile:
    """Make a captioned file of one line of a manifest; DataError says what is wrong with it."""
    where = f"{path}, line {number}"
    if "media" not in row:
        raise DataError(f"{where}: needs media, a path")
    check_part(where, row)
    check_fields(where, row)
    if not isinstance(row.get("caption"), str) or not row["caption"].strip():
        raise DataError(f"{where}: needs a caption, a text")
    if row.get("of", "both") not in ABOUT:
        raise DataError(f"{where}: of must be one of {', '.join(ABOUT)}, not {row['of']!r}")
    return CaptionedFile(
        id=str(row.get("id", number)),
        media=clip_path(path.parent, row["media"]),
        caption=row["caption"],
        of=row.get("of", "both"),
        start_s=row.get("start"),
        end_s=row.get("end"),
    )


def file_batch(
    model: VLSA,
    chat: AVChat | None,
    files: list[CaptionedFile],
    size: int,
    seed: int,
    number: int,
    stills: float = 0.0,
) -> CaptionedClips:
    """Make batch `number` of the user's clips: each epoch is a fresh shuffle.

    Args:
        chat: the model whose encoders see and hear; None where patches are pixels.
        stills: part of the clips that keep one frame alone.
    """
    chosen = []
    for position in range(number * size, (number + 1) * size):
        epoch, index = divmod(position, len(files))
        chosen.append(files[np.random.default_rng([seed, epoch]).permutation(len(files))[index]])
    rng = np.random.default_rng([16, seed, number])
    frames, side = (FRAMES, SIDE) if chat is None else (chat.config.frames, None)
    clips = []
    for file in chosen:
        media = _load(file, frames, side)
        if rng.random() < stills and len(media.frames):
            kept = [int(rng.integers(len(media.frames)))]
            times = media.frame_times_s[kept]
            media = replace(media, frames=media.frames[kept], frame_times_s=times)
        clips.append(pixel_clip(media) if chat is None else chat.prepare(media))
    return captioned(model, clips, [x.caption for x in chosen], [x.of for x in chosen])


def _load(file: CaptionedFile, frames: int, size: int | None) -> Media:
    try:
        return load_media(file.media, frames=frames, size=size, start=file.start_s, end=file.end_s)
    except MediaError as error:
        raise DataError(f"sample {file.id}: {error}") from error
