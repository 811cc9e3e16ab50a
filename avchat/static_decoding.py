"""Steps of one token over keys and values that lie in buffers of fixed size: a CUDA graph's steps.

Enters: the cache of a conversation, as the prefix and its turns filled it, and the token that was
taken last. Leaves: logits [V] of the next one. On a GPU a small batch is bound by the launches of a
few hundred kernels a token; a graph launches them all at once, but replays fixed addresses and
shapes: so the step attends over a fixed number of columns and a mask hides those not filled yet.

The buffers belong to the model, not to a conversation: they are captured once for each size. A
conversation's keys and values are copied in before its first step, and what the steps added is
copied back afterwards (phi-2, 1000 tokens: 0.3 GB each way, a fifth of a millisecond on an H200 by
its bandwidth).

No GPU was at hand when this was written: the steps are tested on the CPU, where no graph is
captured; the capture itself was not run.

Legend: V vocabulary, N columns.
"""

import logging
from threading import Lock

import torch
from torch import Tensor, nn
from transformers import DynamicCache, StaticCache
from transformers.cache_utils import DynamicLayer, StaticLayer

from avchat.model import AVChat

DEVICES = {"cuda"}  # where steps are taken so; tests add the CPU
SMALLEST = 512  # columns; doubled while they do not suffice, so that at most half stand empty
WARM_UPS = 2  # runs before a capture, in which libraries choose their kernels
# their frequencies hang on the length: it would be read from the GPU in the middle of a graph
LENGTH_ROPES = {"dynamic", "longrope"}
_MAKING = Lock()  # one thread makes buffers, another finds them made


def suits(model: AVChat) -> bool:
    """Tell whether a model's language model can take its steps so.

    Not: one with layers that see a window or keep no plain keys and values; 8 bit, whose kernels
    wait for the CPU; one that is spread over devices; another attention than SDPA, since the mask
    is made for that.
    """
    if model.device.type not in DEVICES:
        return False
    config = model.language.config
    text = config.get_text_config(decoder=True)
    rope = (getattr(text, "rope_parameters", None) or {}).get("rope_type", "default")
    few = config.to_dict().get("quantization_config") or {}
    layers = StaticCache(config=config, max_cache_len=1).layers
    return (
        all(type(layer) is StaticLayer for layer in layers)
        and rope not in LENGTH_ROPES
        and not few.get("load_in_8bit", False)
        and len(getattr(model.language, "hf_device_map", {})) <= 1
        and text._attn_implementation == "sdpa"
    )


class StaticSteps:
    """Buffers for N columns of one conversation at a time, and the step over them."""

    def __init__(self, language: nn.Module, columns: int) -> None:
        self.language, self.columns = language, columns
        self.weight = address(language)
        device = language.get_input_embeddings().weight.device
        self.cache = StaticCache(config=language.config, max_cache_len=columns)
        self.token = torch.zeros(1, 1, dtype=torch.long, device=device)
        self.place = torch.zeros(1, 1, dtype=torch.long, device=device)
        self.seen = torch.zeros(1, 1, 1, columns, dtype=torch.bool, device=device)
        self.seen[..., 0] = True
        self.owner: DynamicCache | None = None  # whose keys and values are here
        self.length = self.kept = 0  # columns filled; those of them that the owner has, too
        self.lock = Lock()  # conversations may be answered in several threads
        self.graph: torch.cuda.CUDAGraph | None = None
        self.logits = self._forward()  # makes the buffers
        if device.type == "cuda":
            self._capture()

    def _forward(self) -> Tensor:
        """Compute logits [1, 1, V] from the buffers; the cache counts its columns on the device."""
        return self.language(
            inputs_embeds=self.language.get_input_embeddings()(self.token),
            attention_mask=self.seen,  # of four dimensions: taken as it is
            position_ids=self.place,
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits

    def _capture(self) -> None:
        """Capture the step in a graph; without one, it is the same step, launch by launch."""
        self._count(0)
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARM_UPS):
                self._forward()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        try:
            # what other threads do meanwhile (a page answers several people) does not spoil it
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                self.logits = self._forward()
        except RuntimeError as error:  # a kernel that cannot be captured
            reason = str(error).splitlines()[0]
            logging.getLogger(__name__).warning("decoding without a CUDA graph: %s", reason)
            return
        self.graph = graph

    def _count(self, length: int) -> None:
        """Set where each layer writes next; in place, since a graph knows the addresses."""
        for layer in self.cache.layers:
            layer.cumulative_length.fill_(length)

    def step(self, cache: DynamicCache, token: int) -> Tensor:
        """Feed one token to the conversation that a cache holds; return logits [V]."""
        with self.lock:
            if self.owner is not cache:
                self._give_back()
                self._take(cache)
            self.token.fill_(token)
            self.place.fill_(self.length)
            self.seen[..., self.length] = True
            if self.graph is None:
                self.logits = self._forward()
            else:
                self.graph.replay()
            self.length += 1
            return self.logits[0, -1].float().clone()

    def give_back(self, cache: DynamicCache) -> None:
        """Let a conversation have what its steps have added."""
        with self.lock:
            if self.owner is cache:
                self._give_back()

    def _take(self, cache: DynamicCache) -> None:
        """Copy a conversation's keys and values in."""
        self.owner, self.length = cache, cache.get_seq_length()
        self.kept = self.length
        for mine, layer in zip(self.cache.layers, cache.layers, strict=True):
            assert type(layer) is DynamicLayer, f"{type(layer).__name__} is not copied"
            mine.keys[:, :, : self.length] = layer.keys
            mine.values[:, :, : self.length] = layer.values
        self._count(self.length)
        self.seen.fill_(False)
        self.seen[..., : self.length] = True

    def _give_back(self) -> None:
        """Append the columns that the owner lacks to its own cache, and let go of it."""
        if self.owner is not None and self.kept < self.length:
            for mine, layer in zip(self.cache.layers, self.owner.layers, strict=True):
                added = slice(self.kept, self.length)
                layer.keys = torch.cat([layer.keys, mine.keys[:, :, added]], dim=-2)
                layer.values = torch.cat([layer.values, mine.values[:, :, added]], dim=-2)
        self.owner = None


def address(language: nn.Module) -> int:
    """Tell where a language model's weights lie: a graph reads there, wherever they move."""
    return language.get_input_embeddings().weight.data_ptr()


def steps_for(model: AVChat, length: int) -> StaticSteps:
    """Return the model's buffers with room for one column past a length; make them at first."""
    columns = SMALLEST
    while columns <= length:
        columns *= 2
    with _MAKING:
        steps = model.steps.get(columns)
        moved = steps is not None and steps.weight != address(model.language)
        if steps is None or moved or steps.language is not model.language:
            steps = model.steps[columns] = StaticSteps(model.language, columns)
        return steps
