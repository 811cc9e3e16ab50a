"""A lookup head as a model of mteb, which measures it with metrics that are not ours.

    import mteb
    from avchat.evaluation.mteb_model import HeadEncoder

    tasks = mteb.get_tasks(tasks=["AudioCapsAVVA2TRetrieval"])
    mteb.evaluate(HeadEncoder("runs/mine/vlsa"), tasks)

Clips and sounds are decoded by us, from the bytes that a dataset holds: torchcodec is not needed.
What a task calls video is the picture alone; where it gives a sound beside it, both are embedded
together. Long files are looked at in windows, as in a library.
"""

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Audio, Dataset, Video
from mteb.models.model_meta import ModelMeta
from PIL import Image

from avchat.evaluation.items import EvalError
from avchat.evaluation.lmms_media import still
from avchat.heads import Head, load_head
from avchat.library_query import PARTS, file_vectors, mean_direction, windows_of
from avchat.media import Media, MediaError
from avchat.parts import load_parts

MEDIA = {"video": Video(decode=False), "audio": Audio(decode=False)}


class HeadEncoder:
    """mteb's EncoderProtocol over a head."""

    def __init__(
        self,
        model_name: str = "tiny",
        revision: str | None = None,
        *,
        device: str | None = None,
        **kwargs: Any,
    ) -> None:
        """Load a head. Args: model_name: as in `avchat index --head`."""
        self.head = load_head(model_name)
        self.mteb_model_meta = ModelMeta.create_empty(
            {
                "name": f"avchat/{Path(model_name).name}",
                "revision": self.head.fingerprint,
                "modalities": ["text", "image", "video", *(["audio"] if self.head.hears else [])],
                "similarity_fn_name": "cosine",
                "framework": ["PyTorch"],
            }
        )

    def encode(self, inputs: Any, **kwargs: Any) -> np.ndarray:
        """Embed the rows of a task's data set, float32 [rows, D] of unit length.

        Raises:
            EvalError: a row is neither a text nor media, or lacks what is asked for.
            MediaError: a file cannot be decoded.
        """
        rows = undecoded(inputs.dataset)
        kinds = {"text", "image", "audio", "video"} & set(rows.column_names)
        if kinds == {"text"}:
            return self.head.texts(list(rows["text"]))
        if not kinds or "text" in kinds:
            raise EvalError(f"a head embeds texts or media, not {sorted(kinds) or 'nothing'}")
        return np.stack([vector(self.head, row, k) for k, row in enumerate(rows)])

    def similarity(self, embeddings1: Any, embeddings2: Any) -> torch.Tensor:
        """Compare all with all by cosine, [N, M]: vectors are of unit length."""
        return torch.as_tensor(embeddings1) @ torch.as_tensor(embeddings2).T

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> torch.Tensor:
        """Compare each with its partner by cosine, [N]."""
        return (torch.as_tensor(embeddings1) * torch.as_tensor(embeddings2)).sum(-1)


def undecoded(rows: Dataset) -> Dataset:
    """Keep media as bytes and paths."""
    for name, feature in MEDIA.items():
        if isinstance(rows.features.get(name), Audio | Video):
            rows = rows.cast_column(name, feature)
    return rows


def vector(head: Head, row: Mapping[str, Any], number: int) -> np.ndarray:
    """Embed a row's media, float32 [D]: its picture, its sound, or both together."""
    if isinstance(row.get("image"), Image.Image):
        shown = still([np.asarray(row["image"].convert("RGB"))])
        return head.clips([shown])[0].picture
    with ExitStack() as files:
        video, audio = (_file(row.get(name), files) for name in ("video", "audio"))
        try:
            if video is None or audio is None:
                found = file_vectors(head, video or audio)
                wanted = found.sound if video is None else found.picture
            else:
                wanted = mean_direction(
                    [one.both for one in head.clips(_joined(head, video, audio))]
                )
        except MediaError as error:
            raise MediaError(f"row {number}: {error}") from error
    if wanted is None:
        raise EvalError(f"row {number}: there is no {'sound' if video is None else 'picture'}")
    return wanted


def _file(value: Any, files: ExitStack) -> Path | None:
    """Give a path to a row's file; its bytes are written to one for as long as they are needed."""
    if value is None:
        return None
    if value["bytes"] is None:
        return Path(value["path"])
    suffix = Path(value["path"] or "").suffix
    file = files.enter_context(tempfile.NamedTemporaryFile(suffix=suffix))
    file.write(value["bytes"])
    file.flush()
    return Path(file.name)


def _joined(head: Head, video: Path, audio: Path) -> list[Media]:
    """Look at a few windows, evenly spread, with the pictures of one file and the sound of the
    other.
    """
    windows = windows_of(video, head.window_s, None, None)
    places = np.linspace(0, len(windows) - 1, min(len(windows), PARTS)).round().astype(int)
    chosen = [windows[place] for place in places]
    look = {"size": head.size, "isolate": True}
    seen = load_parts(video, chosen, frames=head.frames, sound=False, **look)
    heard = load_parts(audio, chosen, frames=0, **look)
    joined = list(_pairs(seen, heard))
    if not joined:
        raise next(one for one in (*seen, *heard) if isinstance(one, MediaError))
    return joined


def _pairs(seen: list[Media | MediaError], heard: list[Media | MediaError]) -> Iterator[Media]:
    for picture, sound in zip(seen, heard, strict=True):
        if isinstance(picture, Media) and isinstance(sound, Media):
            yield replace(picture, waveform=sound.waveform, has_audio=sound.has_audio)
