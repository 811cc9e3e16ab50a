"""Questions on many files -> answers, in their order: decoding, encoding, answering side by side.

Threads decode (in processes of their own, several short files in each) and prepare what the
encoders want, a few chunks ahead of the caller's thread. It encodes a chunk's files together,
and answers the chunk's questions together. Lines on the same file within a chunk, or in the
next, share what was decoded and encoded. Only the chunks in flight are in memory.
"""

import hashlib
import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from avchat.batch import decode_together
from avchat.batch_lines import Line
from avchat.batch_media import Part, in_orders, load_order
from avchat.chat import Conversation, Timing
from avchat.decoding import Said, picker
from avchat.encoders import Inputs
from avchat.input_error import in_one_line
from avchat.media import Media, MediaError
from avchat.model import AVChat
from avchat.prompt import PromptError
from avchat.saved import fingerprint
from avchat.transcripts import Transcriber

FIRST_CLIPS, CLIPS = 8, 32  # files of the first chunk, which all wait for, and of later ones
CLIP_BYTES = 512 * 1024**2  # of a chunk's files, as the encoders take them
LINES = 64  # of a chunk
ROWS, TOKENS = 64, 8192  # said together: phi-2 keeps 2.7 GB of keys and values for so many in bf16
AHEAD = 2  # chunks that are decoded before they are asked for
SMALL = 4_000_000  # numbers of a weight that tells models apart
SAMPLED = 65_536  # numbers, at least, that stand for a larger one
SMALL_MODEL = 100_000_000  # numbers of a model's weights

Ready = tuple[Inputs, Media]
Talks = dict[Part, Conversation | str]  # by part: its conversation, or why there is none


@dataclass(frozen=True)
class Asking:
    """How all questions of a run are asked; `sense` where a line names none."""

    sense: str = "both"
    frames: int | None = None
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    max_new_tokens: int = 256
    whisper: str | None = None  # by its name, where transcripts stand in the prompts


@dataclass(frozen=True)
class Chunk:
    """Answers to lines that follow one another, and how many files were decoded for them."""

    rows: list[dict[str, Any]]
    clips: int


def settings_of(model: AVChat, asking: Asking) -> dict[str, Any]:
    """Name what answers hang on: how they are asked, and the model by its name and weights.

    Weights of up to 4 million numbers count whole (norms, biases, adapters, small projectors), of
    larger ones 65,536 numbers that lie evenly in them: our choice, since reading billions would
    take as long as many answers, and training moves all of a weight.
    """
    seen = {
        name: weight if weight.numel() <= SMALL else _sampled(weight)
        for name, weight in model.named_parameters()
        if not weight.is_meta
    }
    return {"model": model.config.name, "weights": fingerprint(seen), **vars(asking)}


def _sampled(weight: torch.Tensor) -> torch.Tensor:
    """Take numbers of a weight that lie evenly in it."""
    return weight.detach().reshape(-1)[:: weight.numel() // SAMPLED]


def whisper_key(name: str) -> str:
    """Name what transcribes so that another file in its place is told from it."""
    if not Path(name).is_file():
        return name
    digest = hashlib.sha256()
    with Path(name).open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return f"{name}, sha256 {digest.hexdigest()[:16]}"


def answer_lines(
    model: AVChat, lines: Iterator[Line], asking: Asking, transcriber: Transcriber | None = None
) -> Iterator[Chunk]:
    """Yield the answers to lines, chunk by chunk in their order: rows of plain data.

    A row has the line's fields and either the answer with its receipt, or `error`, one line.

    Args: transcriber: what writes down what is said, for the prompts.
    """
    workers = os.cpu_count() or 1
    talks: Talks = {}
    with ThreadPoolExecutor(workers) as pool:
        flying: deque[tuple[list[Line], list[tuple[list[Part], Future]]]] = deque()
        chunks, last = _chunks(lines, _clips_at_once(model, asking)), set[Part]()
        try:
            while True:
                while len(flying) <= AHEAD and (chunk := next(chunks, None)):
                    parts = list(dict.fromkeys(line.part for line in chunk))
                    fresh = [part for part in parts if part not in last]
                    orders = [
                        (order, pool.submit(_load, model, order, asking))
                        for order in in_orders(fresh)
                    ]
                    flying.append((chunk, orders))
                    last = set(parts)
                if not flying:
                    return
                chunk, orders = flying.popleft()
                needed = {line.part for line in chunk}
                talks = {part: talk for part, talk in talks.items() if part in needed}
                talks |= _open(model, orders, transcriber)
                clips = sum(len(order) for order, _ in orders)
                yield Chunk(_answer(model, chunk, talks, asking), clips)
        finally:
            for _, orders in flying:
                for _, future in orders:
                    future.cancel()


def leave_a_core(model: AVChat) -> None:
    """Give PyTorch a core less than there are, where a model is small: decoders need the cores,
    and the threads of small networks wait for each other. A large model waits for no decoder.
    """
    if sum(weight.numel() for weight in model.parameters()) < SMALL_MODEL:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) - 1))


def _clips_at_once(model: AVChat, asking: Asking) -> int:
    """Say how many files a chunk may have, by the bytes of their frames in fp32."""
    frames = asking.frames or model.config.frames
    return min(CLIPS, max(1, CLIP_BYTES // (frames * 3 * model.spec.image_size**2 * 4)))


def _chunks(lines: Iterator[Line], clips: int) -> Iterator[list[Line]]:
    """Cut lines in chunks of so many different files at most; the first ones are smaller."""
    chunk: list[Line] = []
    parts: set[Part] = set()
    most = min(FIRST_CLIPS, clips)
    for line in lines:
        if len(chunk) == LINES or len(parts | {line.part}) > most:
            yield chunk
            chunk, parts = [], set()
            most = min(2 * most, clips)
        chunk.append(line)
        parts.add(line.part)
    if chunk:
        yield chunk


def _load(model: AVChat, order: list[Part], asking: Asking) -> list[Ready | MediaError]:
    """Decode parts and make them ready for the encoders; of their pictures no more is kept."""
    loaded: list[Ready | MediaError] = []
    media = load_order(order, asking.frames or model.config.frames)
    for clip in media:
        if isinstance(clip, Media):
            loaded.append((model.prepare(clip), replace(clip, frames=clip.frames[:0].copy())))
        else:
            loaded.append(clip)
    return loaded


def _open(
    model: AVChat, orders: list[tuple[list[Part], Future]], transcriber: Transcriber | None
) -> Talks:
    """Encode the files of a chunk together; begin a conversation on each, or say why not."""
    loaded = {}
    for order, future in orders:
        loaded |= zip(order, future.result(), strict=True)
    talks: Talks = {part: str(found) for part, found in loaded.items() if _failed(found)}
    ready = {part: found for part, found in loaded.items() if not _failed(found)}
    with torch.inference_mode():
        features = model.encode([inputs for inputs, _ in ready.values()])
    for (part, (_, media)), encoded in zip(ready.items(), features, strict=True):
        try:
            talks[part] = Conversation(model, media, transcript=transcriber, features=[encoded])
        except PromptError as error:
            talks[part] = str(error)
    return talks


def _failed(found: Ready | MediaError) -> bool:
    return isinstance(found, MediaError)


def _answer(model: AVChat, chunk: list[Line], talks: Talks, asking: Asking) -> list[dict]:
    """Answer the lines of a chunk."""
    rows: list[dict] = []
    asked: list[tuple[int, Conversation, Said]] = []
    for number, line in enumerate(chunk):
        rows.append(dict(line.given))
        talk = talks[line.part]
        if isinstance(talk, str):
            rows[-1]["error"] = " ".join(talk.split())
            continue
        try:
            sense = line.sense or asking.sense
            said = talk.question(line.question, sense, asking.max_new_tokens)
        except PromptError as error:
            rows[-1]["error"] = in_one_line(error).removeprefix("error: ")
            continue
        asked.append((number, talk, said))
    for some in _in_batches([said for _, _, said in asked]):
        picks = None
        if asking.temperature:
            drawn = asking.temperature, asking.top_p, asking.seed
            picks = [picker(*drawn) for _ in some]  # of each its own: as if it were alone
        decode_together(some, picks=picks)
    for number, talk, said in asked:
        receipt = talk.receipt_of(said, Timing(0.0, 0.0, 0.0, 0.0)).to_dict()
        rows[number] |= {key: value for key, value in receipt.items() if key != "timing"}
    return rows


def _in_batches(said: Sequence[Said]) -> Iterator[list[Said]]:
    """Cut questions so that one batch holds few enough tokens, counted with their padding."""
    some: list[Said] = []
    for row in said:
        widest = max(len(one.prompt) for one in [*some, row])
        if some and (len(some) == ROWS or widest * (len(some) + 1) > TOKENS):
            yield some
            some = []
        some.append(row)
    if some:
        yield some
