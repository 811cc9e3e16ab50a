"""A long file and a question -> the windows that the language model sees.

A model looks at so many frames of a clip, however long it is: of an hour it would see one every few
minutes. Here a lookup head embeds the whole file window by window, once; for each question the
windows that it ranks highest are decoded again at the model's own rate and become the parts of a
conversation, in their order, with their times.
"""

from collections.abc import Callable, Iterator
from copy import copy
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from avchat.chat import Conversation, Excerpt, Receipt
from avchat.encoders import Sense
from avchat.evidence import Evidence
from avchat.heads import Head, Vectors
from avchat.media import Media, MediaError, MediaInfo, probe
from avchat.model import AVChat
from avchat.parts import load_parts
from avchat.prompt import PromptError, Turn
from avchat.spoken import SPARE
from avchat.transcripts import Transcriber
from avchat.windows import Window, cut_windows

SPARSE_S = 4.0  # seconds between two frames from which on a file counts as long: our choice
MOST = 4  # windows, however many would fit: our choice
TOGETHER = 8  # windows decoded by one process and embedded at once
SPEECH = 0.25  # of the context is left to a transcript, where one is wanted: our choice


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
        head: Head,
        path: str | Path,
        *,
        window_s: float | None = None,
        most: int = MOST,
        isolate: bool = False,
        progress: Callable[[int, int], None] | None = None,
        transcript: Transcriber | None = None,
        begin: Callable[..., Conversation] = Conversation,
    ) -> None:
        """Embed a file window by window; those that cannot be decoded are left out with a warning.

        Args: window_s: None: what the head knows best; progress: is told how many windows of how
        many are done; transcript: writes down what is said in the windows that are chosen, see
        `Conversation`; begin: begins a conversation about parts, with its arguments. Raises
        MediaError where nothing can be decoded.
        """
        self.model, self.head, self.path = model, head, Path(path)
        self.transcriber, self.begin = transcript, begin
        self.most, self.isolate = most, isolate
        self.excerpts: tuple[Excerpt, ...] = ()
        began = perf_counter()
        info = probe(path, isolate=isolate)
        length_s = head.window_s if window_s is None else window_s
        cut = cut_windows(path, info, length_s=length_s, overlap_s=0.0, isolate=isolate)
        # the last one reaches back over the one before it: here nothing must be seen twice
        ends = [0.0, *(window.end_s for window in cut)]
        cut = [
            Window(max(window.start_s, end), window.end_s)
            for window, end in zip(cut, ends, strict=False)
        ]
        self.windows: list[Window] = []
        self.vectors: list[Vectors] = []
        faults: list[MediaError] = []
        for first in range(0, len(cut), TOGETHER):
            some = cut[first : first + TOGETHER]
            media = self._decode(some, head.frames, head.size)
            half = first + len(some) // 2  # of the work is done when they are decoded
            for k in range(first, half) if progress else ():
                progress(k + 1, len(cut))
            kept = [(w, m) for w, m in zip(some, media, strict=True) if isinstance(m, Media)]
            faults += [m for m in media if isinstance(m, MediaError)]
            self.windows += [window for window, _ in kept]
            self.vectors += head.clips([m for _, m in kept]) if kept else []
            for k in range(half, first + len(some)) if progress else ():
                progress(k + 1, len(cut))
        if not self.windows:
            raise faults[0]
        parts = f"{len(faults)} of {len(cut)} parts could not be decoded"
        self.warnings = (f"{parts}: {faults[0]}",) if faults else ()
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
            parts = self._look(chosen)
            took = self._spent_s + perf_counter() - began
            fresh = self.begin(self.model, parts, media_s=took, transcript=self.transcriber)
            self._spent_s = 0.0
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
        if told is None:
            return None
        warnings = (*self.warnings, *told.warnings)
        return replace(told, excerpts=self.excerpts, warnings=warnings)

    def evidence(self, turn: int = -1) -> Evidence:
        """Weigh an answer about the parts now in view, as `Conversation.evidence` does."""
        if self._talk is None:
            raise PromptError("there is no answer yet")
        return self._talk.evidence(turn)

    def fork(self) -> "LongConversation":
        """Begin another conversation that has said the same so far; what is embedded is shared."""
        twin = copy(self)
        twin._talk = None if self._talk is None else self._talk.fork()
        return twin

    def after(self, other: Conversation) -> "LongConversation":
        """Go on from the questions and answers of another conversation about this file."""
        self._talk = other.fork() if self._talk is None else self._talk.after(other)
        return self

    def rewind(self, turns: int) -> None:
        """Go back to what was said in the first turns."""
        if self._talk is not None:
            self._talk.rewind(turns)

    def rest(self) -> None:
        """Let go of the keys and values."""
        if self._talk is not None:
            self._talk.rest()

    @property
    def turns(self) -> int:
        """Count the answers so far."""
        return 0 if self._talk is None else self._talk.turns

    @property
    def now(self) -> Conversation | None:
        """Return the conversation about the parts now in view; None before the first question."""
        return self._talk

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
            [media] = self._look([0])
            slots = self.model.plan(self.model.prepare(media))
            self._each = len(self.model.prompt.media_prefix(slots).ids)
        spare = SPARE + (SPEECH if self.transcriber is not None else 0.0)
        room = (1 - spare) * self.model.context - said - asked
        return max(1, min(self.most, int(room // self._each)))

    def _look(self, numbers: list[int]) -> list[Media]:
        """Decode windows at the model's own rate; MediaError where one cannot be."""
        wanted = [self.windows[k] for k in numbers]
        media = self._decode(wanted, self.model.config.frames, None)
        for part in media:
            if isinstance(part, MediaError):
                raise part
        return media

    def _decode(
        self, windows: list[Window], frames: int, size: int | None
    ) -> list[Media | MediaError]:
        return load_parts(self.path, windows, frames=frames, size=size, isolate=self.isolate)
