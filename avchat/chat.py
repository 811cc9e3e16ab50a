"""Conversations about a clip: media are encoded once, and a turn computes only its own tokens.

Enters: a file and questions. Leaves: text, piece by piece, and after each answer a receipt that
says what was seen, what was heard and what it cost.
"""

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Event
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import Tensor

from avchat.decoding import Said, Thread, decode, picker
from avchat.encoders import SENSES, STATES_HZ, Features, Sense
from avchat.media import Media, load_media
from avchat.model import AVChat
from avchat.prompt import PromptError, Turn, check_budget

SILENCE = 1e-4  # peak of a sound track, of 1.0, below which nothing can be heard


@dataclass(frozen=True)
class Seen:
    """What was seen for an answer."""

    frames: int
    seconds: float


@dataclass(frozen=True)
class Heard:
    """What was heard for an answer; `track`: whether the file has a sound track."""

    seconds: float
    track: bool


@dataclass(frozen=True)
class TokenCounts:
    """Tokens in the sequence: media, all text of the conversation so far, this answer."""

    visual: int
    audio: int
    text: int
    answer: int


@dataclass(frozen=True)
class Timing:
    """Seconds that an answer took. Decoding and encoding the file are in its first answer's."""

    media_s: float
    encode_s: float
    first_token_s: float  # since the question
    total_s: float


@dataclass(frozen=True)
class Excerpt:
    """A window of a long file that was chosen for a question: seconds, likeness to the question."""

    start: float
    end: float
    score: float


@dataclass(frozen=True)
class Receipt:
    """What an answer rests on; `excerpts` only where windows of a long file were chosen."""

    answer: str
    model: str
    seen: Seen
    heard: Heard
    tokens: TokenCounts
    timing: Timing
    warnings: tuple[str, ...]
    excerpts: tuple[Excerpt, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, as `avchat chat --json` prints it; `excerpts` where there are any."""
        data = {**asdict(self), "warnings": list(self.warnings)}
        if not data.pop("excerpts"):
            return data
        return {**data, "excerpts": [asdict(excerpt) for excerpt in self.excerpts]}


class Conversation:
    """Questions and answers about one clip.

    After each answer `receipt` says what it rests on. Turns asked under different senses are one
    conversation: each sense sees all earlier questions and answers.
    """

    def __init__(
        self,
        model: AVChat,
        media: Media | Sequence[Media],
        media_s: float = 0.0,
        *,
        features: list[Features] | None = None,
    ) -> None:
        """Encode a decoded clip, or some parts of a file in their order; PromptError when the
        tokens do not fit the model's context. Args: features: what was encoded of them already.
        """
        start = perf_counter()
        self.model = model
        self.media = (media,) if isinstance(media, Media) else tuple(media)
        self.receipt: Receipt | None = None
        inputs = features or [model.prepare(part) for part in self.media]
        slots = [slot for part in inputs for slot in model.plan(part)]
        check_budget(model.prompt.media_prefix(slots).ids, model.context, question=False)
        with torch.inference_mode():
            self.features = features or model.encode(inputs)
        self._spent = (media_s, perf_counter() - start)  # until the first answer takes it over
        self._turns: list[tuple[int, ...]] = []  # ids of each question with its answer
        self._threads: dict[Sense, Thread] = {}
        self._running: Generator[str, None, None] | None = None

    @classmethod
    def open(
        cls,
        model: AVChat,
        path: str | Path,
        *,
        frames: int | None = None,
        start: float | None = None,
        end: float | None = None,
        isolate: bool = False,
    ) -> "Conversation":
        """Decode a file, or its part from `start` to `end` seconds, and encode it.

        Args: frames: None for as many as the model was trained with; isolate: decode in a worker
        process, which a damaged file cannot take down with it.
        """
        began = perf_counter()
        media = load_media(
            path, frames=frames or model.config.frames, start=start, end=end, isolate=isolate
        )
        return cls(model, media, media_s=perf_counter() - began)

    def ask(
        self,
        text: str,
        sense: Sense = "both",
        *,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int | None = None,
        max_new_tokens: int = 64,
        stop: Event | None = None,
    ) -> Iterator[str]:
        """Answer a question, piece by piece. PromptError, at once, says why it cannot be asked.

        Args: sense: what the model may use; temperature: 0 takes the likeliest token; top_p: sample
        from the likeliest tokens that hold this much probability; stop: set it to end the answer.
        What was said until then stays in the conversation.
        """
        pick = picker(temperature, top_p, seed)
        self._running = self._stream(self.question(text, sense, max_new_tokens), pick, stop)
        return self._running

    def question(self, text: str, sense: Sense = "both", max_new_tokens: int = 64) -> Said:
        """Lay out a question, before the first word of its answer; PromptError as in `ask`."""
        if sense not in SENSES:
            raise PromptError(f"no sense called {sense}: it is one of {', '.join(SENSES)}")
        if max_new_tokens < 1:
            raise PromptError(f"max_new_tokens must be at least 1, not {max_new_tokens}")
        if self._running is not None:
            self._running.close()  # an answer that nobody read to its end
        question = self.model.prompt.turn(Turn(text), first=not self._turns).ids
        if sense not in self._threads:
            parts = [part.only(sense) for part in self.features]
            self._threads[sense] = Thread(self.model, parts)
        thread = self._threads[sense]
        ids = [*thread.prefix, *(token for turn in self._turns for token in turn), *question]
        check_budget(ids, self.model.context)
        room = min(max_new_tokens, self.model.context - len(ids))
        return Said(thread, sense, ids, len(question), room)

    def after(self, other: "Conversation") -> "Conversation":
        """Go on from the questions and answers of a conversation about other parts."""
        self._turns = list(other._turns)
        return self

    @property
    def num_said(self) -> int:
        """Count the tokens of all questions and answers so far."""
        return sum(map(len, self._turns))

    def _stream(
        self, said: "Said", pick: Callable[[Tensor], int], stop: Event | None
    ) -> Generator[str, None, None]:
        """Stream one answer; then put the turn in the conversation and write the receipt."""
        began, sent, first_token_s = perf_counter(), "", None
        # it comes back whole; after a failure the next question builds it anew
        self._threads.pop(said.sense, None)
        failed = True
        try:
            for _ in decode(said, pick, stop):
                first_token_s = first_token_s or perf_counter() - began
                text = said.text()
                if text.endswith("\ufffd"):  # half of a character of several bytes
                    continue
                piece, sent = text[len(sent) :], text
                if piece:
                    yield piece
            if said.text() != sent:
                yield said.text()[len(sent) :]
            failed = False
        except GeneratorExit:  # the reader left: as if stopped
            failed = False
            raise
        finally:
            if not failed:
                took = perf_counter() - began
                timing = Timing(*self._spent, first_token_s or took, sum(self._spent) + took)
                self.receipt = self.receipt_of(said, timing)
                self._commit(said)

    def _commit(self, said: "Said") -> None:
        """Put a turn in the conversation. One that was stopped before its first word never was."""
        self._spent = (0.0, 0.0)
        if said.ids or said.ended:
            question = said.prompt[len(said.prompt) - said.num_question :]
            self._turns.append((*question, *said.ids, self.model.tokenizer.eos_token_id))
            self._threads[said.sense] = said.thread

    def receipt_of(self, said: "Said", timing: Timing) -> Receipt:
        """Write down what an answer rests on."""
        parts, slots = said.thread.parts, said.thread.slots
        visual, audio = sum(slot.visual for slot in slots), sum(slot.audio for slot in slots)
        frames = sum(len(part.frame_times_s) for part in parts)
        seen_s = sum(part.duration_s for part in parts if part.frame_times_s)
        heard_s = sum(part.num_states for part in parts) / STATES_HZ
        return Receipt(
            answer=said.text().strip(),
            model=self.model.config.name,
            seen=Seen(frames, round(seen_s, 3)),
            heard=Heard(round(heard_s, 3), any(part.has_audio for part in self.media)),
            tokens=TokenCounts(visual, audio, len(said.prompt) - visual - audio, len(said.ids)),
            timing=timing,
            warnings=tuple(self._warnings(said)),
        )

    def _warnings(self, said: "Said") -> Iterator[str]:
        """Say in words what was asked for and could not be used."""
        yield from dict.fromkeys(warning for part in self.media for warning in part.warnings)
        has_video = any(part.has_video for part in self.media)
        has_audio = any(part.has_audio for part in self.media)
        looked, listened = said.sense in ("both", "picture"), said.sense in ("both", "sound")
        seen, heard = looked and has_video, listened and has_audio
        if looked and not seen:
            yield "this file has no picture: nothing was seen"
        if listened and not heard:
            yield "this file has no sound track: nothing was heard"
        if heard and max(map(_peak, self.media)) < SILENCE:
            yield "the sound track of this part is silent"
        if not looked and has_video:
            yield "the picture was switched off for this question"
        if not listened and has_audio:
            yield "the sound was switched off for this question"
        if not seen and not heard:
            yield "nothing was seen or heard: the answer is a guess from the question alone"
        if not said.ended and len(said.ids) == said.room:
            yield f"the answer was cut after {said.room} tokens"
        if self.model.config.notice:
            yield self.model.config.notice


def _peak(media: Media) -> float:
    return float(np.abs(media.waveform).max(initial=0.0))
