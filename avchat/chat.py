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

import torch
from torch import Tensor

from avchat.decoding import Said, Spoken, Thread, decode, picker
from avchat.encoders import SENSES, STATES_HZ, Features, Sense
from avchat.evidence import Evidence, conditions, weigh
from avchat.media import Media, load_media
from avchat.model import AVChat
from avchat.prompt import PromptError, Turn, check_budget
from avchat.spoken import fitting, seconds, spoken
from avchat.transcripts import Line, Transcriber, audible, vtt


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
    """What an answer rests on; `excerpts` only where windows of a long file were chosen,
    `transcript` (WebVTT, whole) only where one was asked for and the sound was used.
    """

    answer: str
    model: str
    seen: Seen
    heard: Heard
    tokens: TokenCounts
    timing: Timing
    warnings: tuple[str, ...]
    excerpts: tuple[Excerpt, ...] = ()
    transcript: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, as `avchat chat --json` prints it; the last fields where they are."""
        data = {**asdict(self), "warnings": list(self.warnings)}
        excerpts, transcript = list(data.pop("excerpts")), data.pop("transcript")
        data |= {"excerpts": excerpts} if excerpts else {}
        return data | ({} if transcript is None else {"transcript": transcript})


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
        transcript: Transcriber | None = None,
        *,
        features: list[Features] | None = None,
        system: str = "",
    ) -> None:
        """Encode a decoded clip, or some parts of a file in their order; PromptError when the
        tokens do not fit the model's context.

        Args: transcript: what writes down what is said, for the prompt: `model.transcriber`, or
        another Whisper; None: the model hears by its own audio tokens alone; features: what was
        encoded of the parts already; system: what the model is to know or heed, in plain text.
        """
        start = perf_counter()
        self.model, self.transcriber, self.system = model, transcript, system
        self.media = (media,) if isinstance(media, Media) else tuple(media)
        self.receipt: Receipt | None = None
        inputs = features or [model.prepare(part) for part in self.media]
        slots = [slot for part in inputs for slot in model.plan(part)]
        prefix = model.prompt.media_prefix(slots, system=system).ids
        check_budget(prefix, model.context, question=False)
        with torch.inference_mode():
            self.features = features or model.encode(inputs)
        self._spent = (media_s, perf_counter() - start)  # until the first answer takes it over
        self._lines: tuple[Line, ...] | None = None  # all of the transcript, once it is there
        self._turns: list[Spoken] = []
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
        transcript: Transcriber | None = None,
    ) -> "Conversation":
        """Decode a file, or its part from `start` to `end` seconds, and encode it.

        Args: frames: None for as many as the model was trained with; isolate: decode in a worker
        process, which a damaged file cannot take down with it; transcript: see `Conversation`.
        """
        began = perf_counter()
        media = load_media(
            path, frames=frames or model.config.frames, start=start, end=end, isolate=isolate
        )
        return cls(model, media, media_s=perf_counter() - began, transcript=transcript)

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
        """Answer a question, piece by piece. PromptError, at once, says why it cannot be asked,
        TranscriptError why there is no transcript.

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
        thread = self._thread(sense, self.num_said + len(question))
        self._threads[sense] = thread
        ids = [*thread.prefix, *(token for turn in self._turns for token in turn.ids), *question]
        check_budget(ids, self.model.context)
        room = min(max_new_tokens, self.model.context - len(ids))
        return Said(thread, sense, ids, len(question), room)

    def lines(self, sense: Sense) -> tuple[Line, ...] | None:
        """Return what is said in the clip, written down when first asked for; None where no
        transcript is wanted or the sense has no sound.
        """
        heard = sense in ("both", "sound") and any(part.has_audio for part in self.media)
        if self.transcriber is None or not heard:
            return None
        if self._lines is None:
            began = perf_counter()
            self._lines = spoken(self.media, self.transcriber)
            media_s, encode_s = self._spent
            self._spent = (media_s, encode_s + perf_counter() - began)
        return self._lines

    def _thread(self, sense: Sense, talk: int) -> Thread:
        """Take up the thread of a sense, or begin one; `talk` tokens must fit beside its prefix.

        A transcript gives way to a talk that has outgrown it: what it leaves is computed anew.
        """
        kept = self._threads.get(sense)
        if kept is not None and not (
            kept.lines and len(kept.prefix) + talk + 1 > self.model.context
        ):
            return kept
        parts, lines = [part.only(sense) for part in self.features], self.lines(sense)
        if lines:
            slots = [slot for part in parts for slot in self.model.plan(part)]
            taken = len(self.model.prompt.media_prefix(slots, system=self.system).ids) + talk
            lines = fitting(lines, self.model.prompt, taken, self.model.context)
        return Thread(self.model, parts, lines, self.system)

    def after(self, other: "Conversation") -> "Conversation":
        """Go on from the questions and answers of a conversation about other parts."""
        self._turns = list(other._turns)
        return self

    def fork(self) -> "Conversation":
        """Begin another conversation that has said the same so far; what is encoded is shared."""
        twin = type(self)(
            self.model,
            self.media,
            transcript=self.transcriber,
            features=self.features,
            system=self.system,
        )
        twin._lines = self._lines
        return twin.after(self)

    def rewind(self, turns: int) -> None:
        """Go back to what was said in the first turns; what follows is forgotten."""
        if self._running is not None:
            self._running.close()
        del self._turns[max(turns, 0) :]
        for thread in self._threads.values():
            thread.cut(len(thread.prefix) + self.num_said)

    def rest(self) -> None:
        """Let go of the keys and values: the next question computes them anew."""
        if self._running is not None:
            self._running.close()
        self._threads.clear()

    @property
    def turns(self) -> int:
        """Count the answers so far."""
        return len(self._turns)

    @property
    def num_said(self) -> int:
        """Count the tokens of all questions and answers so far."""
        return sum(len(turn.ids) for turn in self._turns)

    def evidence(self, turn: int = -1) -> Evidence:
        """Weigh what an answer rests on, by taking the sound, the picture and both away from it.

        What is computed for it is kept: later questions under these senses begin sooner.

        Args: turn: 0 for the first answer, -1 for the last. Raises PromptError where there is no
        such answer, or it has no words.
        """
        if self._running is not None:
            self._running.close()
        if not -len(self._turns) <= turn < len(self._turns):
            raise PromptError(f"there is no answer {turn}: there are {len(self._turns)} so far")
        asked = self._turns[turn]
        if len(asked.answer) < 2:
            raise PromptError("the answer is empty: there is nothing to weigh")
        earlier = self._turns[: turn % len(self._turns)]
        before = [token for turn in earlier for token in turn.ids]
        senses = set(conditions(asked.sense).values())
        threads = {sense: self._thread(sense, self.num_said) for sense in senses}
        for sense in senses:  # after a failure the next question builds them anew
            self._threads.pop(sense, None)
        found = self._weigh(threads, asked.sense, before, asked.question, asked.answer[:-1])
        self._threads |= threads
        return found

    def _weigh(self, threads: dict[Sense, Thread], sense: Sense, *ids: Sequence[int]) -> Evidence:
        """Weigh an answer, as `weigh`; in a way of its own as `_say`."""
        return weigh(threads, sense, *ids)

    def _stream(
        self, said: "Said", pick: Callable[[Tensor], int], stop: Event | None
    ) -> Generator[str, None, None]:
        """Stream one answer; then put the turn in the conversation and write the receipt."""
        began, sent, first_token_s = perf_counter(), "", None
        # it comes back whole; after a failure the next question builds it anew
        self._threads.pop(said.sense, None)
        failed = True
        try:
            for _ in self._say(said, pick, stop):
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

    def _say(
        self, said: "Said", pick: Callable[[Tensor], int], stop: Event | None
    ) -> Iterator[int]:
        """Say token after token; what answers on another device does it in a way of its own."""
        return decode(said, pick, stop)

    def _commit(self, said: "Said") -> None:
        """Put a turn in the conversation. One that was stopped before its first word never was."""
        self._spent = (0.0, 0.0)
        if said.ids or said.ended:
            question = tuple(said.prompt[len(said.prompt) - said.num_question :])
            answer = (*said.ids, self.model.prompt.end_id)
            self._turns.append(Spoken(question, answer, said.sense))
            self._threads[said.sense] = said.thread

    def receipt_of(self, said: "Said", timing: Timing) -> Receipt:
        """Write down what an answer rests on."""
        parts, slots = said.thread.parts, said.thread.slots
        visual, audio = sum(slot.visual for slot in slots), sum(slot.audio for slot in slots)
        frames = sum(len(part.frame_times_s) for part in parts)
        seen_s = sum(part.duration_s for part in parts if part.frame_times_s)
        heard_s = sum(part.num_states for part in parts) / STATES_HZ
        lines = self.lines(said.sense)
        return Receipt(
            answer=said.text().strip(),
            model=self.model.config.name,
            seen=Seen(frames, round(seen_s, 3)),
            heard=Heard(round(heard_s, 3), any(part.has_audio for part in self.media)),
            tokens=TokenCounts(visual, audio, len(said.prompt) - visual - audio, len(said.ids)),
            timing=timing,
            warnings=tuple(self._warnings(said)),
            transcript=None if lines is None else vtt(lines),
        )

    def _warnings(self, said: "Said") -> Iterator[str]:
        """Say in words what was asked for and could not be used."""
        yield from dict.fromkeys(warning for part in self.media for warning in part.warnings)
        has_video = any(part.has_video for part in self.media)
        has_audio = any(part.has_audio for part in self.media)
        looked, listened = said.sense in ("both", "picture"), said.sense in ("both", "sound")
        seen = looked and has_video
        heard = listened and has_audio and self.model.config.hears
        if looked and not seen:
            yield "this file has no picture: nothing was seen"
        if listened and not has_audio:
            yield "this file has no sound track: nothing was heard"
        elif listened and not heard:
            told = "it was read as a transcript" if self.transcriber else "--transcript reads it"
            yield f"this model was never taught to hear: the sound was not used ({told})"
        if heard and not any(audible(part.waveform) for part in self.media):
            yield "the sound track of this part is silent"
        lines, given = self.lines(said.sense), said.thread.lines
        if lines and (given is None or len(given) < len(lines)):
            yield (
                "the transcript did not fit the model's context: it was given "
                f"{seconds(given):.1f} of {seconds(lines):.1f} s of speech"
            )
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
