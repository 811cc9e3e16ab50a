"""Words one after another: a conversation as the language model holds it, and what it says next.

Enters: token ids and encoded media. Leaves: logits of the next token, computed from the keys and
values that are kept, and tokens picked from them.

Legend: V vocabulary, H heads, D width of a head.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from threading import Event

import torch
from torch import Tensor
from transformers import DynamicCache

from avchat.encoders import Features, Sense
from avchat.model import AVChat
from avchat.prompt import PromptError
from avchat.static_decoding import StaticSteps, steps_for, suits
from avchat.transcripts import Line


class Thread:
    """The conversation as the model holds it under one sense: ids and their keys and values."""

    def __init__(
        self,
        model: AVChat,
        parts: list[Features],
        lines: Sequence[Line] | None = None,
        system: str = "",
    ) -> None:
        """Args: lines: of the transcript, as they are given to the model; None without one;
        system: see `Prompt.media_prefix`.
        """
        self.model, self.parts, self.lines = model, parts, lines
        self.slots = [slot for part in parts for slot in model.plan(part)]
        self.prefix = model.prompt.media_prefix(self.slots, lines, system).ids
        self.ids: list[int] = []
        self.cache = DynamicCache()
        self.static = suits(model)
        self.steps: StaticSteps | None = None  # that hold keys and values which the cache lacks

    @torch.inference_mode()
    def feed(self, ids: Sequence[int]) -> Tensor:
        """Append tokens; return the logits [V] of what comes next."""
        if self.static and self.ids and len(ids) == 1:
            return self._step(ids[0])
        self.settle()
        row = torch.tensor([ids], device=self.model.device)
        media = self.model.project(self.parts) if min(ids) < 0 else []
        logits = self.model.language(
            inputs_embeds=self.model.embed(row, media),
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits
        self.ids += ids
        return self.model.sayable(logits[0, -1]).float()

    def _step(self, token: int) -> Tensor:
        """Append one token by the model's static buffers; logits as from `feed`."""
        steps = steps_for(self.model, len(self.ids))
        if steps is not self.steps:
            self.settle()
            self.steps = steps
        logits = steps.step(self.cache, token)
        self.ids.append(token)
        return self.model.sayable(logits)

    @torch.inference_mode()
    def settle(self) -> None:
        """Bring all keys and values into the cache."""
        if self.steps is not None:
            self.steps.give_back(self.cache)
            self.steps = None

    @torch.inference_mode()
    def cut(self, length: int) -> None:
        """Forget all but the first tokens, and their keys and values."""
        if length < len(self.ids):
            self.settle()
            cache = DynamicCache()  # `crop` means one thing in one release, another in the next
            for number, (keys, values) in enumerate(self.kept(length)):
                cache.update(keys, values, number)
            self.cache = cache
            del self.ids[length:]

    def kept(self, length: int) -> list[tuple[Tensor, Tensor]]:
        """Return each layer's keys and values [1, H, length, D] of the first tokens."""
        layers = self.cache.layers
        return [(layer.keys[..., :length, :], layer.values[..., :length, :]) for layer in layers]


@dataclass(frozen=True)
class Spoken:
    """A turn that is over: ids of the question, and of the answer with its end."""

    question: tuple[int, ...]
    answer: tuple[int, ...]
    sense: Sense

    @property
    def ids(self) -> tuple[int, ...]:
        """Return the turn as later turns see it."""
        return self.question + self.answer


@dataclass
class Said:
    """An answer while it is being said."""

    thread: Thread
    sense: Sense
    prompt: list[int]
    num_question: int  # tokens at the end of the prompt that are the question
    room: int  # tokens the answer may have
    ids: list[int] = field(default_factory=list)
    ended: bool = False  # by the model itself

    def text(self) -> str:
        """Return what was said so far."""
        tokenizer = self.thread.model.tokenizer
        return tokenizer.decode(self.ids, skip_special_tokens=True).lstrip()


def decode(said: Said, pick: Callable[[Tensor], int], stop: Event | None) -> Iterator[int]:
    """Say one token after another, each computed from the kept keys and values."""
    pending = said.prompt[len(said.thread.ids) :]
    stops = said.thread.model.prompt.stops
    try:
        while len(said.ids) < said.room and not (stop is not None and stop.is_set()):
            token = pick(said.thread.feed(pending))
            if stops(token):
                said.ended = True
                return
            said.ids.append(token)
            pending = [token]
            yield token
    finally:
        said.thread.settle()


def picker(temperature: float, top_p: float, seed: int | None) -> Callable[[Tensor], int]:
    """Choose how a token is taken from logits [V]."""
    if temperature < 0:
        raise PromptError(f"temperature must not be negative: {temperature}")
    if not 0 < top_p <= 1:
        raise PromptError(f"top_p must be above 0 and at most 1, not {top_p}")
    if temperature == 0:
        return lambda logits: int(logits.argmax())
    generator = torch.Generator()  # on the CPU: a seed gives the same answer on every device
    if seed is None:
        generator.seed()
    else:
        generator.manual_seed(seed)

    def sample(logits: Tensor) -> int:
        chances, order = (logits.cpu() / temperature).softmax(-1).sort(descending=True)
        before = chances.cumsum(-1) - chances  # zero for the likeliest token, which always stays
        kept = chances * (before < top_p)
        return int(order[torch.multinomial(kept, 1, generator=generator)])

    return sample
