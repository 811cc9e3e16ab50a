"""What does the cache of features save in training? `python eval/speed.py train`.

Two ways to train on the same clips, in one run, from the same weights, through the same forward,
backward and step:
- as it goes: each epoch decodes and encodes the clips again, as trainers with frozen encoders do;
- cached: the features are computed once (`avchat.features`), then read.
Encoders have the sizes of SigLIP base and Whisper base and random weights, which take the same
time. Decoding is not overlapped with the rest in the first way; so the ratio is also given as if
decoding took no time at all.
"""

import json
import math
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from indexing_speed import SHARED, IndexSpeed, gather
from torch import nn
from tqdm import tqdm

from avchat.collate import collate
from avchat.config import TIMELINE, AudioConfig, Config, LanguageConfig, LoraConfig, VisionConfig
from avchat.features import FeatureCache, Part
from avchat.language import load_tokenizer
from avchat.media import Media, MediaError, load_media
from avchat.model import AVChat
from avchat.prompt import Turn
from avchat.saved import ASSETS, TOKENIZER_FOLDER

TURNS = [Turn("what is seen, and what makes the sound?", "a red circle bounces, and a drum beats.")]
CLOSE = 0.01  # by so much, relatively, may the last loss differ: half precision, then steps


@dataclass(frozen=True)
class TrainSpeed:
    """Time of an epoch with features from the cache, against one that encodes as it goes."""

    media: Path = SHARED
    """Folder of the clips that are repeated; clips of the world where it is absent."""
    files: int = 16
    frames: int = TIMELINE.frames
    """Frames of a clip."""
    batch: int = 4
    epochs: int = 2
    """Epochs with the cache; the last one counts."""
    workers: int = 2
    """Files that are decoded at once."""
    vision: tuple[int, int, int] = (768, 12, 224)
    """SigLIP's width, layers and picture side (base: 768 12 224)."""
    audio: tuple[int, int] = (512, 6)
    """Whisper's width and layers (base: 512 6)."""
    language: tuple[int, int] = (512, 8)
    """The language model's width and layers."""
    lora: bool = False
    """Train adapters instead of the whole language model."""
    json: bool = False
    """Print one JSON object instead of words."""


class Clock:
    """Seconds by part."""

    def __init__(self) -> None:
        """Begin with none."""
        self.parts: dict[str, float] = {}

    @contextmanager
    def of(self, part: str) -> Iterator[None]:
        """Add the time of a block to a part."""
        began = time.perf_counter()
        yield
        self.parts[part] = self.parts.get(part, 0.0) + time.perf_counter() - began

    @property
    def total_s(self) -> float:
        """Add all up."""
        return sum(self.parts.values())


def config_of(args: TrainSpeed) -> Config:
    """Describe a model with random weights of the sizes asked for."""
    width, layers, side = args.vision
    state, audio_layers = args.audio
    hidden, depth = args.language
    return Config(
        name="speed",
        frames=args.frames,
        vision=VisionConfig(
            inline={
                "hidden_size": width,
                "num_hidden_layers": layers,
                "num_attention_heads": width // 64,
                "intermediate_size": 4 * width,
                "image_size": side,
                "patch_size": 16,
                "vision_use_head": False,
            }
        ),
        audio=AudioConfig(
            inline={
                "n_mels": 80,
                "n_ctx": 1500,
                "n_state": state,
                "n_head": state // 64,
                "n_layer": audio_layers,
            }
        ),
        language=LanguageConfig(
            inline={
                "model_type": "phi",
                "vocab_size": 768,
                "hidden_size": hidden,
                "num_hidden_layers": depth,
                "num_attention_heads": hidden // 64,
                "intermediate_size": 4 * hidden,
                "max_position_embeddings": 2048,
            },
            lora=LoraConfig() if args.lora else None,
        ),
        projector=replace(TIMELINE.projector, grid=3),
        prompt=TIMELINE.prompt,
    )


def build(args: TrainSpeed) -> AVChat:
    """Build the model, its encoders frozen: the same weights at each call."""
    torch.manual_seed(0)
    model = AVChat.from_config(config_of(args), load_tokenizer(ASSETS / "tiny" / TOKENIZER_FOLDER))
    model.vision.requires_grad_(False)
    model.audio.requires_grad_(False)
    return model


def main(args: TrainSpeed) -> None:
    """Train both ways and print times and their ratio."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths = gather(IndexSpeed(media=args.media, files=args.files), folder)
        model = build(args)
        parts = readable(model, [Part(path, None, None) for path in paths])
        plain, last = epoch(args, parts, Clock(), lambda clock: as_it_goes(args, clock))
        began = time.perf_counter()
        cache = FeatureCache(folder / "features", model)
        cache.fill(parts, workers=args.workers, progress=lambda done, total: None)
        fill_s = time.perf_counter() - began
        held = sum(path.stat().st_size for path in cache.folder.iterdir())
        clocks, close = cached(args, parts, cache)
    assert math.isclose(last, close, rel_tol=CLOSE), f"the same training: {last} and {close}"
    result = {
        "clips": len(parts),
        "frames": args.frames,
        "encoder_weights": count(model.vision) + count(model.audio),
        "language_weights": count(model.language),
        "trained": "projectors and " + ("adapters" if args.lora else "language model"),
        "threads": torch.get_num_threads(),
        "as_it_goes_s": plain.parts,
        "cached_s": clocks[-1].parts,
        "fill_s": fill_s,
        "cache_bytes": held,
        **compare(plain, clocks[-1], fill_s),
        "last_loss": [last, close],
    }
    print(json.dumps(result) if args.json else in_words(result))


def compare(plain: Clock, cached: Clock, fill_s: float) -> dict[str, float]:
    """Work out the ratios, and after how many epochs the cache has paid for itself."""
    saved = plain.total_s - cached.total_s
    return {
        "ratio": plain.total_s / cached.total_s,
        "ratio_without_decoding": (plain.total_s - plain.parts["decode"]) / cached.total_s,
        "pays_after_epochs": math.ceil(fill_s / saved) if saved > 0 else math.inf,
    }


def count(network: nn.Module) -> int:
    """Count the weights of a network."""
    return sum(weight.numel() for weight in network.parameters())


def readable(model: AVChat, parts: list[Part]) -> list[Part]:
    """Leave out what cannot be read, and warm everything up with the first clip."""
    kept = []
    for part in tqdm(parts, desc="looking at clips", disable=not sys.stderr.isatty()):
        try:
            media = decode(model, part)
        except MediaError:
            continue
        if not kept:
            model.encode([media])
        kept.append(part)
    return kept


def decode(model: AVChat, part: Part) -> Media:
    """Decode a clip as training does."""
    return load_media(part.path, frames=model.config.frames, size=None)


Source = Callable[[list[Part]], list]


def as_it_goes(args: TrainSpeed, clock: Clock) -> tuple[AVChat, Source]:
    """Give a model, and a source of clips that decodes and encodes them."""
    model = build(args)

    def clips(parts: list[Part]) -> list:
        with clock.of("decode"), ThreadPoolExecutor(args.workers) as pool:
            found = list(pool.map(lambda part: model.prepare(decode(model, part)), parts))
        with clock.of("encode"), torch.no_grad():
            return model.pool(model.encode(found))

    return model, clips


def cached(args: TrainSpeed, parts: list[Part], cache: FeatureCache) -> tuple[list[Clock], float]:
    """Train some epochs from the cache: their times, and the first one's last loss."""
    clocks = [Clock() for _ in range(args.epochs)]
    losses = []
    for clock in clocks:

        def clips(some: list[Part], clock: Clock = clock) -> list:
            with clock.of("read"):
                return [cache[part] for part in some]

        losses.append(epoch(args, parts, clock, lambda _, clips=clips: (build(args), clips))[1])
    return clocks, losses[0]


def epoch(
    args: TrainSpeed,
    parts: list[Part],
    clock: Clock,
    begin: Callable[[Clock], tuple[AVChat, Source]],
) -> tuple[Clock, float]:
    """Train one epoch: its times, and the loss of its last batch."""
    model, clips_of = begin(clock)
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4)
    value = math.nan
    model.language.eval()  # no dropout of adapters: both ways must see the same
    shown = tqdm(range(0, len(parts), args.batch), disable=not sys.stderr.isatty())
    for first in shown:
        clips = clips_of(parts[first : first + args.batch])
        with clock.of("language model"):
            rows = [model.prompt.build(model.plan(clip), TURNS) for clip in clips]
            loss = model(collate(rows, clips))
            (loss.total / loss.weight).backward()
            optimizer.step()
            optimizer.zero_grad()
            value = float(loss.total.detach() / loss.weight)
    return clock, value


def in_words(result: dict) -> str:
    """Lay the result out for reading."""
    ways = {"as it goes": result["as_it_goes_s"], "cached": result["cached_s"]}
    lines = [
        f"{result['clips']} clips of {result['frames']} frames, "
        f"{result['encoder_weights'] / 1e6:.0f} M weights of encoders, "
        f"{result['language_weights'] / 1e6:.0f} M of the language model, "
        f"{result['threads']} threads; trained: {result['trained']}",
        *(
            f"  {name:12}{sum(parts.values()):8.1f} s an epoch: "
            + ", ".join(f"{part} {seconds:.2f}" for part, seconds in parts.items())
            for name, parts in ways.items()
        ),
        f"  computing the cache {result['fill_s']:.1f} s, {result['cache_bytes'] / 1e6:.1f} MB",
        f"  {result['ratio']:.1f} times as fast from the second epoch on "
        f"({result['ratio_without_decoding']:.1f} times if decoding took no time)",
        f"  the cache has paid for itself after {result['pays_after_epochs']} epochs",
    ]
    return "\n".join(lines)
