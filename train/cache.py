"""Compute once what the frozen encoders give: train/finetune.py then takes `--cache DIR`.

    python train/cache.py --data clips.jsonl --init timeline --output runs/features --dry-run
    accelerate launch train/cache.py --data clips.jsonl --init timeline --output runs/features

Stopped or killed, the same command goes on. Any number of processes, on any number of machines that
share the folder, fill it together: each takes its share by RANK and WORLD_SIZE, which `accelerate
launch` and torchrun set. The folder holds for one pair of encoders and one way of sampling and
pooling; for others it is refused. The language model is neither needed nor loaded.
"""

import os
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

import torch
from torch import distributed
from tqdm import tqdm

from avchat.bases import given_ears, rebased
from avchat.checkpoints import read_checkpoint
from avchat.config import PRESETS, ModelError
from avchat.data import DataError, read_manifest
from avchat.features import CACHE_FILE, CHUNK, FeatureCache, Part, part_of, prepared, stored
from avchat.language import load_tokenizer
from avchat.media import MediaError
from avchat.model import AVChat
from avchat.saved import ASSETS, TOKENIZER_FOLDER, find_checkpoint, is_unbundled
from avchat.script import run_script
from avchat.training import rank_and_world

SAMPLE = 3  # clips that an estimate looks at, from all over the manifest


@dataclass(frozen=True)
class Cache:
    """Features of frozen encoders, computed once."""

    output: Path
    """Folder of the features."""
    data: tuple[Path, ...] = ()
    """Manifests (JSON lines) of clips with questions and answers."""
    init: str = ""
    """Model whose encoders are used: preset, folder or Hub id (default: timeline)."""
    vision: str = ""
    """With --init timeline: another SigLIP, or a SigLIP 2 of a fixed size."""
    whisper: str = ""
    """With --init timeline: another Whisper, by its name, a Hub id, a folder or a .pt file."""
    tiny: bool = False
    """Use the bundled tiny model."""
    dry_run: bool = False
    """Write nothing: say how many clips, and about how much space and time they take."""
    full: bool = False
    """Keep the encoders' own precision; else fp16, half of it for fp32."""
    workers: int = os.cpu_count() or 1
    """Files that are decoded at once, ahead of the encoders."""
    retry: bool = False
    """Try again what could not be read."""


class Estimate(NamedTuple):
    """What a clip takes, on average over a sample."""

    bytes: float
    unpooled_bytes: float  # of all patches and states, in the same precision
    seconds: float


def encoders_of(name: str, vision: str = "", whisper: str = "") -> AVChat:
    """Load a model's encoders, or a preset's with others in their place; beside them stands a small
    language model that nobody asks.
    """
    rank = int(os.environ.get("LOCAL_RANK", "0"))
    device = torch.device(f"cuda:{rank}" if torch.cuda.is_available() else "cpu")
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16  # as from_pretrained does
    try:
        folder = None if is_unbundled(name) else find_checkpoint(name)
        found = None if folder is None else read_checkpoint(folder)
        config = PRESETS[name] if found is None else found.config
        if whisper and not vision and name not in PRESETS:
            config = given_ears(name, config, whisper)
        elif vision or whisper:
            config = rebased(name, vision=vision, whisper=whisper)
        tokenizer = load_tokenizer(ASSETS / "tiny" / TOKENIZER_FOLDER)
        small = replace(config, language=PRESETS["tiny"].language)
        model = AVChat.from_config(small, tokenizer, dtype=dtype)
    except OSError as error:
        reason = str(error).splitlines()[0]
        raise ModelError(f"{name}: a part could not be loaded ({reason})") from error
    model.learn_to_hear()  # a run that trains the audio projector must find the sound here
    weights = {} if found is None else found.weights()
    parts = ("vision.", config.vision, model.vision), ("audio.", config.audio, model.audio)
    for prefix, base, network in parts:
        own = {n.removeprefix(prefix): w for n, w in weights.items() if n.startswith(prefix)}
        try:  # encoders of the Hub are in a checkpoint only where they were trained
            network.load_state_dict(own, strict=base.hub is None)
        except RuntimeError as error:
            reason = " ".join(str(error).split())
            raise ModelError(f"{folder}: does not fit its configuration ({reason})") from error
    return model.to(device).eval()


@torch.inference_mode()
def estimate(model: AVChat, parts: Sequence[Part], run: Cache) -> Estimate:
    """Encode some parts and measure; DataError where none of them can be read."""
    rows, reasons = [], []
    for part in parts[:: max(1, len(parts) // SAMPLE)][:SAMPLE]:
        began = time.perf_counter()
        try:
            inputs = prepared(model, part)
        except MediaError as error:
            reasons.append(str(error))
            continue
        decoded = time.perf_counter()
        [clip] = model.encode([inputs], chunk=CHUNK)
        held = stored(model.pool([clip])[0], not run.full, part.path)
        encoded_s, decode_s = time.perf_counter() - decoded, decoded - began
        tensors = [x for x in (clip.visual, clip.audio) if x is not None]
        unpooled = sum(x.numel() * (x.element_size() if run.full else 2) for x in tensors)
        decode_s /= max(1, min(run.workers, os.cpu_count() or 1))
        # beside a GPU decoding goes on while it computes; on the CPU both want the same cores
        seconds = decode_s + encoded_s if model.device.type == "cpu" else max(decode_s, encoded_s)
        rows.append((sum(x.nbytes for x in held.values()), unpooled, seconds))
    if not rows:
        raise DataError(reasons[0])
    return Estimate(*(sum(column) / len(rows) for column in zip(*rows, strict=True)))


def dry_run(model: AVChat, parts: list[Part], run: Cache, world: int) -> None:
    """Say what the run would take."""
    missing = parts
    if (run.output / CACHE_FILE).exists():
        missing = FeatureCache(run.output, model, half=not run.full).missing(parts)
    print(f"{len(parts)} clips, {len(parts) - len(missing)} of them done, {len(missing)} to do")
    if missing:
        one = estimate(model, missing, run)
        count = len(missing)
        print(f"about {in_bytes(one.bytes * count)} ({in_bytes(one.bytes)} a clip);")
        print(f"  not pooled it would be {in_bytes(one.unpooled_bytes * count)}")
        print(f"about {in_time(one.seconds * count / world)} with {world} of {run.workers} workers")
        print(f"free in {run.output}: {in_bytes(free_bytes(run.output))}")


def check_space(model: AVChat, missing: list[Part], run: Cache) -> None:
    """Raise DataError where the folder cannot be written or what is to come does not fit in."""
    try:
        probe = run.output / f"probe-{os.getpid()}.torn"
        probe.write_bytes(b"x")
        probe.unlink()
    except OSError as error:
        raise DataError(f"{run.output}: cannot be written ({error.strerror})") from error
    free = free_bytes(run.output)
    if len(missing) * most_bytes(model, run.full) > free:
        need = len(missing) * estimate(model, missing, run).bytes
        if need > free:
            raise DataError(
                f"{run.output}: about {in_bytes(need)} are needed, {in_bytes(free)} are free"
            )


def most_bytes(model: AVChat, full: bool) -> int:
    """Bound the bytes of one clip's features, without looking at any."""
    config, frames = model.config.projector, model.config.frames
    visual, audio = (
        x.mlp.mlp[0].in_features for x in (model.visual_projector, model.audio_projector)
    )
    if config.layout == "pooled":
        values = (frames + model.vision.num_patches) * visual + config.audio_tokens * audio
    else:
        values = frames * (config.grid**2 * visual + 2 * config.audio_tokens * audio)
    return values * (4 if full else 2)


def free_bytes(folder: Path) -> int:
    """Return the free space where a folder is or would be."""
    there = next(x for x in (folder, *folder.absolute().parents) if x.exists())
    return shutil.disk_usage(there).free


def in_bytes(count: float) -> str:
    """Write a number of bytes for reading."""
    for unit, size in (("GB", 1e9), ("MB", 1e6)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count / 1e3:.1f} kB"


def in_time(seconds: float) -> str:
    """Write a duration for reading."""
    hours, minutes = divmod(round(seconds / 60), 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"


def fill(cache: FeatureCache, missing: list[Part], run: Cache, share: tuple[int, int]) -> None:
    """Compute what is missing, under a bar."""
    terminal = sys.stderr.isatty()
    with tqdm(
        unit="clip",
        file=sys.stderr,
        disable=share[0] > 0 or not missing,
        mininterval=0.1 if terminal else 30,
    ) as bar:

        def tell(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        cache.fill(missing, workers=run.workers, share=share, progress=tell)


def main(run: Cache) -> int:
    """Fill the folder; return the exit code."""
    if not run.data:
        raise DataError("give --data, a manifest of clips with questions and answers")
    samples = [sample for path in run.data for sample in read_manifest(path)]
    parts = list(dict.fromkeys(part_of(s) for s in samples if s.media is not None))
    rank, world = rank_and_world()
    name = run.init or ("tiny" if run.tiny else "timeline")
    model = encoders_of(name, run.vision, run.whisper)
    if run.dry_run:
        if rank == 0:
            dry_run(model, parts, run, world)
        return 0
    cache = FeatureCache(run.output, model, half=not run.full)
    missing = cache.missing(parts)
    if run.retry:
        missing += [part for part in parts if cache.fault(part) is not None]
    check_space(model, missing, run)
    fill(cache, missing, run, (rank, world))
    wait_for_all(world)
    return report(FeatureCache(run.output, model, half=not run.full), parts) if rank == 0 else 0


def wait_for_all(world: int) -> None:
    """Wait for the other ranks: a launcher stops them all when the first ends with a fault."""
    if world > 1 and "MASTER_ADDR" in os.environ:
        distributed.init_process_group("gloo", timeout=timedelta(days=30))
        distributed.barrier()
        distributed.destroy_process_group()


def report(cache: FeatureCache, parts: list[Part]) -> int:
    """Say what there is now and what could not be read; return the exit code."""
    faults = {part: reason for part in parts if (reason := cache.fault(part)) is not None}
    for part, reason in faults.items():
        print(f"fault: {part.path.parent / reason}", file=sys.stderr)
    size = sum(path.stat().st_size for path in cache.folder.glob("shard-*.safetensors"))
    count = len(parts) - len(cache.missing(parts)) - len(faults)
    print(f"{count} of {len(parts)} clips in {cache.folder}, {in_bytes(size)}")
    if not faults:
        return 0
    print(f"error: {len(faults)} of {len(parts)} clips could not be read", file=sys.stderr)
    return 2


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    run_script(main, Cache, __doc__)
