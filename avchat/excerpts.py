"""A long file and a question -> the windows that the language model sees.

A model looks at so many frames of a clip, however long it is: of an hour it would see one every few
minutes. Here a lookup head embeds the whole file window by window, once; for each question the
windows that it ranks highest are decoded again at the model's own rate and become the parts of a
conversation, in their order, with their times.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from avchat.chat import Conversation, Excerpt, Receipt
from avchat.encoders import Sense
from avchat.heads import Vectors, VlsaHead
from avchat.media import Media, MediaInfo, load_media, probe
from avchat.model import AVChat
from avchat.prompt import Turn
from avchat.windows import Window, cut_windows

SPARSE_S = 4.0  # seconds between two frames from which on a file counts as long: our choice
MOST = 4  # windows, however many would fit: our choice
SPARE = 0.25  # of the context is left to questions and answers


def is_long(info: MediaInfo, model: AVChat) -> bool:
    """Tell whether a model would look at a file too sparsely."""
    return not info.is_still and info.duration_s > SPARSE_S * model.config.frames


class LongConversation:
    """Questions and answers about a file that is too long to be looked at whole.

    After each answer `receipt` says what it rests on, and which windows that was.
    """

    def __init__(
        self,
        model: AVChat,
        head: VlsaHead,
        path: str | Path,
        *,
        window_s: float = 8.0,
        most: int = MOST,
        isolate: bool = False,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        """Embed a file window by window.

        Args: progress: is told how many windows of how many are embedded. Raises MediaError.
        """
        self.model, self.head, self.path = model, head, Path(path)
        self.most, self.isolate = most, isolate
        self.excerpts: tuple[Excerpt, ...] = ()
        began = perf_counter()
        info = probe(path, isolate=isolate)
        cut = cut_windows(path, info, length_s=window_s, overlap_s=0.0, isolate=isolate)
        # the last one reaches back over the one before it: here nothing must be seen twice
        ends = [0.0, *(window.end_s for window in cut)]
        self.windows = [
            Window(max(window.start_s, end), window.end_s)
            for window, end in zip(cut, ends, strict=False)
        ]
        self.vectors: list[Vectors] = []
        for k, window in enumerate(self.windows):
            self.vectors += head.clips([self._decode(window, head.frames, head.size)])
            if progress:
                progress(k + 1, len(self.windows))
        self._spent_s = perf_counter() - began  # until the first answer takes it over
        self._talk: Conversation | None = None
        self._shown: list[int] = []
        self._each: int | None = None  # tokens of a window

    def ask(self, text: str, sense: Sense = "both", **options: Any) -> Iterator[str]:
        """Answer a question, piece by piece, as `Conversation.ask` does."""
        turn = self.model.prompt.turn(Turn(text))  # an empty question is refused before any work
        scores = self.scores(text, sense)
        chosen = sorted(np.argsort(-scores, kind="stable")[: self._room(len(turn.ids))].tolist())
        if self._talk is None or chosen != self._shown:
            began = perf_counter()
            parts = [self._decode(self.windows[k], self.model.config.frames, None) for k in chosen]
            took = self._spent_s + perf_counter() - began
            fresh, self._spent_s = Conversation(self.model, parts, media_s=took), 0.0
            self._talk = fresh if self._talk is None else fresh.after(self._talk)
            self._shown = chosen
        self.excerpts = tuple(
            Excerpt(self.windows[k].start_s, self.windows[k].end_s, float(scores[k]))
            for k in chosen
        )
        return self._talk.ask(text, sense, **options)

    @property
    def receipt(self) -> Receipt | None:
        """Return what the last answer rests on."""
        told = None if self._talk is None else self._talk.receipt
        return None if told is None else replace(told, excerpts=self.excerpts)

    def scores(self, text: str, sense: Sense = "both") -> np.ndarray:
        """Score each window by its likeness to a text, -1..1; -1 where the sense is absent."""
        query = self.head.texts([text])[0]
        name = sense if sense in ("picture", "sound") else "both"
        found = [getattr(vectors, name) for vectors in self.vectors]
        return np.array([-1.0 if vector is None else float(vector @ query) for vector in found])

    def _room(self, asked: int) -> int:
        """Count the windows that fit the context beside the talk so far and the question."""
        said = 0 if self._talk is None else self._talk.num_said
        if self._each is None:
            media = self._decode(self.windows[0], self.model.config.frames, None)
            slots = self.model.plan(self.model.prepare(media))
            self._each = len(self.model.prompt.media_prefix(slots).ids)
        room = (1 - SPARE) * self.model.context - said - asked
        return max(1, min(self.most, int(room // self._each)))

    def _decode(self, window: Window, frames: int, size: int | None) -> Media:
        return load_media(
            self.path,
            frames=frames,
            size=size,
            start=window.start_s,
            end=window.end_s,
            isolate=self.isolate,
        )
