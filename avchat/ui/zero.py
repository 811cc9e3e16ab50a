"""ZeroGPU of Hugging Face Spaces: what computes runs in forks that hold a GPU for one call.

There the models lie on a GPU that this process never has. `run` alone computes, in a fork that has
one: what goes in and comes out is pickled, so it is numbers and arrays, never a tensor of the GPU.
Keys and values end with the call, so that each answer begins with the whole conversation anew; what
was encoded of a clip comes back, pooled, and is kept. Elsewhere nothing of this is used: `reach`.

`spaces` must be imported before torch touches CUDA: app.py does, first of all.
"""

import math
import os
import re
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import dataclass, fields
from threading import Event, Lock
from time import perf_counter
from typing import Any

import gradio as gr
import numpy as np
import torch
from torch import Tensor

from avchat.chat import Conversation
from avchat.decoding import Said, Thread, decode, picker
from avchat.encoders import Features, Sense
from avchat.evidence import Evidence, weigh
from avchat.heads import Head, Vectors
from avchat.media import SAMPLE_RATE, Media
from avchat.model import AVChat
from avchat.projectors import PooledFeatures
from avchat.transcripts import Line, Transcriber, TranscriptError
from avchat.ui.visitors import Refused

try:
    from spaces import GPU
except ImportError:  # not on a Space
    GPU = None

ON = GPU is not None and os.environ.get("SPACES_ZERO_GPU", "").lower() in ("1", "t", "true")
if ON:  # else tokenizers warns at each fork
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

# Seconds of a GPU that a call asks for: a visitor's quota must hold them, so they are few, and a
# call that takes longer is ended. None of these was measured there: our choice, generous.
START_S = 10.0  # weights are brought to the GPU
LONGEST_S = 120
FRAME_S, SOUND_S, TOKEN_S, PROMPT_S, TEXT_S, TRANSCRIPT_S = 0.05, 0.02, 0.05, 0.002, 0.05, 0.2

Ids = Sequence[int]
Packed = dict[str, Any]


@dataclass
class Loaded:
    """The models, as this process has them and its forks inherit them."""

    model: AVChat | None = None
    head: Head | None = None
    transcriber: Transcriber | None = None


LOADED = Loaded()


@dataclass(frozen=True)
class View:
    """What a thread of a conversation is made of."""

    parts: tuple[Packed, ...]
    lines: tuple[Line, ...] | None
    system: str

    def thread(self, model: AVChat) -> Thread:
        """Make the thread anew, on the model's device."""
        parts = [unpacked(part).to(model.device) for part in self.parts]
        thread = Thread(model, parts, self.lines, self.system)
        thread.static = False  # a captured graph pays over many answers, and ends with the call
        return thread


@dataclass(frozen=True)
class Asked:
    """A question as the model gets it: ids of the whole conversation, and how tokens are taken."""

    view: View
    sense: Sense
    prompt: tuple[int, ...]
    num_question: int
    room: int
    sampling: tuple[float, float, int | None]  # temperature, top_p, seed


def clips_seconds(media: Sequence[Media]) -> float:
    """Estimate the time of encoding clips, or of embedding windows."""
    frames = sum(len(one.frames) for one in media)
    return FRAME_S * frames + SOUND_S * sum(len(one.waveform) for one in media) / SAMPLE_RATE


def say_seconds(asked: Asked) -> float:
    """Estimate the time of an answer."""
    return PROMPT_S * len(asked.prompt) + TOKEN_S * asked.room


def weigh_seconds(views: dict[Sense, View], *_: Any) -> float:
    """Estimate the time of weighing an answer: at most the whole context for each view."""
    return PROMPT_S * len(views) * (LOADED.model.context if LOADED.model else 0)


def encode(media: Sequence[Media]) -> Iterator[Packed]:
    """Encode clips; what comes back is pooled: where the projectors pool, a fraction."""
    with torch.inference_mode():
        yield from [packed(clip) for clip in LOADED.model.pool(LOADED.model.encode(media))]


def say(asked: Asked) -> Iterator[int | None]:
    """Answer token by token; None where the model itself ended the answer."""
    thread = asked.view.thread(LOADED.model)
    said = Said(thread, asked.sense, list(asked.prompt), asked.num_question, asked.room)
    yield from decode(said, picker(*asked.sampling), None)
    if said.ended:
        yield None


def weigh_answer(views: dict[Sense, View], sense: Sense, *ids: Ids) -> Iterator[Evidence]:
    """Weigh an answer, as `evidence.weigh`."""
    threads = {name: view.thread(LOADED.model) for name, view in views.items()}
    yield weigh(threads, sense, *ids)


def embed_clips(media: Sequence[Media]) -> Iterator[list[Vectors]]:
    """Give decoded windows the lookup head's vectors."""
    yield LOADED.head.clips(media)


def embed_texts(texts: Sequence[str]) -> Iterator[np.ndarray]:
    """Give texts the lookup head's vectors, float32 [N, D]."""
    yield LOADED.head.texts(texts)


def transcribe(waveform: np.ndarray, start_s: float) -> Iterator[list[Line]]:
    """Write down what is said."""
    yield LOADED.transcriber.lines(waveform, start_s)


# What a GPU does, each with the seconds that it takes once the weights are there.
WORK: dict[str, tuple[Callable[..., Iterator], Callable[..., float]]] = {
    "encode": (encode, clips_seconds),
    "say": (say, say_seconds),
    "weigh": (weigh_answer, weigh_seconds),
    "clips": (embed_clips, clips_seconds),
    "texts": (embed_texts, lambda texts: TEXT_S * len(texts)),
    "transcribe": (transcribe, lambda wave, _: TRANSCRIPT_S * len(wave) / SAMPLE_RATE),
}


def seconds(kind: str, *args: Any) -> int:
    """Say for how many seconds a piece of work asks for a GPU."""
    return math.ceil(min(START_S + WORK[kind][1](*args), LONGEST_S))


def run(kind: str, *args: Any) -> Iterator[Any]:
    """Do a piece of work on a GPU; yield what comes of it.

    One function for all: a fork that is kept for its next call has the weights there already.
    """
    torch.set_num_threads(1)  # a pool of threads does not survive a fork
    yield from WORK[kind][0](*args)


if GPU is not None:
    run = GPU(duration=seconds)(run)


def packed(clip: PooledFeatures) -> Packed:
    """Make arrays of tensors: they are pickled as bytes, without memory that processes share."""
    values = {field.name: vars(clip)[field.name] for field in fields(clip)}
    return {k: array_of(v) if isinstance(v, Tensor) else v for k, v in values.items()}


def array_of(tensor: Tensor) -> np.ndarray | tuple[np.ndarray]:
    """Copy a tensor to an array; one of bf16, which numpy lacks, as its bits in a tuple."""
    tensor = tensor.detach().cpu().contiguous()
    return (tensor.view(torch.int16).numpy(),) if tensor.dtype == torch.bfloat16 else tensor.numpy()


def unpacked(clip: Packed) -> PooledFeatures:
    """Undo `packed`, on the CPU."""
    bits = {"visual", "audio", "audio_alone"}
    return PooledFeatures(**{k: tensor_of(v) if k in bits else v for k, v in clip.items()})


def tensor_of(array: np.ndarray | tuple[np.ndarray] | None) -> Tensor | None:
    """Undo `array_of`."""
    if isinstance(array, tuple):
        return torch.from_numpy(array[0]).view(torch.bfloat16)
    return None if array is None else torch.from_numpy(array)


class ZeroConversation(Conversation):
    """A conversation whose model answers in forks that hold the GPU."""

    def __init__(
        self,
        model: AVChat,
        media: Media | Sequence[Media],
        media_s: float = 0.0,
        transcript: Transcriber | None = None,
        *,
        features: list[PooledFeatures] | None = None,
        system: str = "",
    ) -> None:
        """Encode what is not encoded yet; as `Conversation`."""
        began = perf_counter()
        parts = [media] if isinstance(media, Media) else list(media)
        features = features or encoded(parts)
        super().__init__(model, media, transcript=transcript, features=features, system=system)
        self._spent = media_s, perf_counter() - began
        self._sampling: tuple[float, float, int | None] = (0.0, 1.0, None)

    def ask(
        self,
        text: str,
        sense: Sense = "both",
        *,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int | None = None,
        **options: Any,
    ) -> Iterator[str]:
        """Answer a question, as `Conversation.ask`."""
        self._sampling = sampling = temperature, top_p, seed
        names = ("temperature", "top_p", "seed")
        return super().ask(text, sense, **dict(zip(names, sampling, strict=True)), **options)

    def _say(
        self, said: Said, pick: Callable[[Tensor], int], stop: Event | None
    ) -> Generator[int, None, None]:
        view, prompt = self._view(said.thread), tuple(said.prompt)
        asked = Asked(view, said.sense, prompt, said.num_question, said.room, self._sampling)
        with in_words(), closing(run("say", asked)) as tokens:
            for token in tokens:
                if stop is not None and stop.is_set():
                    return
                if token is None:
                    said.ended = True
                    return
                said.ids.append(token)
                yield token

    def _weigh(self, threads: dict[Sense, Thread], sense: Sense, *ids: Ids) -> Evidence:
        with in_words():
            views = {name: self._view(thread) for name, thread in threads.items()}
            [found] = run("weigh", views, sense, *ids)
        return found

    def _view(self, thread: Thread) -> View:
        lines = None if thread.lines is None else tuple(thread.lines)
        return View(tuple(packed(part) for part in thread.parts), lines, self.system)


class ZeroTranscriber(Transcriber):
    """A Whisper that listens in forks that hold the GPU."""

    def lines(self, waveform: np.ndarray, start_s: float = 0.0) -> list[Line]:
        """Write down what is said in a part, as `Transcriber.lines`."""
        with in_words():
            [lines] = run("transcribe", waveform, start_s)
        return lines


@contextmanager
def in_words() -> Iterator[None]:
    """Say what ZeroGPU refuses, as a quota that is used up, as any other refusal."""
    try:
        yield
    except gr.Error as error:
        raise Refused(re.sub(r"<[^>]*>", "", str(error.message))) from error


def encoded(media: Sequence[Media]) -> list[PooledFeatures]:
    """Encode clips on the GPU; return what is kept of them, on the CPU."""
    with in_words():
        return [unpacked(clip) for clip in run("encode", media)]


def looked_at(media: Sequence[Media]) -> list[Vectors]:
    """Embed windows on the GPU."""
    with in_words():
        [vectors] = run("clips", media)
    return vectors


def read(texts: Sequence[str]) -> np.ndarray:
    """Embed texts on the GPU."""
    with in_words():
        [vectors] = run("texts", texts)
    return vectors


@dataclass(frozen=True)
class Reach:
    """How the page reaches its models, here or on ZeroGPU."""

    begin: Callable[..., Conversation]  # a conversation
    encode: Callable[[Sequence[Media]], Sequence[Features | PooledFeatures]]
    clips: Callable[[Sequence[Media]], list[Vectors]] | None  # of the lookup head
    texts: Callable[[Sequence[str]], np.ndarray] | None
    transcriber: Transcriber | None
    turn: AbstractContextManager  # held by whoever computes: here a lock


def reach(model: AVChat, head: Head | None, transcriber: Transcriber | None) -> Reach:
    """Say how models are reached. On ZeroGPU each call waits for a GPU of its own, so nobody waits
    for a turn here.
    """
    if not ON:
        looks, reads = (None, None) if head is None else (head.clips, head.texts)
        return Reach(Conversation, model.encode, looks, reads, transcriber, Lock())
    LOADED.model, LOADED.head = model, head
    try:
        LOADED.transcriber = None if transcriber is None else transcriber.load()
    except TranscriptError:  # to be heard of now: a fork would fetch it again each time
        LOADED.transcriber = None
    listener = None if LOADED.transcriber is None else ZeroTranscriber(LOADED.transcriber.name)
    looks, reads = (None, None) if head is None else (looked_at, read)
    return Reach(ZeroConversation, encoded, looks, reads, listener, nullcontext())
