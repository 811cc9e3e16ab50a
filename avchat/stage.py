"""One stage of training on the user's own manifests, from their lines to a saved model.

What pretrain.py and finetune.py share: they differ in what is trained.
"""

import hashlib
import math
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from avchat.bases import given_ears, rebased
from avchat.batches import Batches, Layout
from avchat.card import run_card
from avchat.clip_source import Cached, Decoded
from avchat.collate import Batch as Rows
from avchat.config import PRESETS, ModelError
from avchat.data import DataError, Sample, read_manifest
from avchat.data_rows import wrong_root
from avchat.encoders import Inputs, encode
from avchat.features import FeatureCache, part_of
from avchat.language import Bits
from avchat.model import AVChat, Loss
from avchat.run_config import RunConfig
from avchat.run_log import read_record
from avchat.trainable import Trainable, choose, lines, table
from avchat.training import (
    Batch,
    Validation,
    check_settings,
    fit,
    micro_batch,
    own_device,
    rank_and_world,
)
from avchat.weights import own_weights

EVERYTHING = sys.maxsize
WAIT_S = 1.0


@dataclass(frozen=True)
class StageConfig(RunConfig):
    """A run on manifests."""

    llm: str = ""
    """With --init timeline: another causal language model (a Hub id or a folder); its own chat
    template is used."""
    vision: str = ""
    """With --init timeline: another SigLIP, or a SigLIP 2 of a fixed size."""
    whisper: str = ""
    """With --init timeline, or a model that was never taught to hear: a Whisper, by its name, a Hub
    id, a folder or a .pt file."""
    data: tuple[Path, ...] = ()
    """Manifests (JSON lines) of clips with questions and answers, or with captions."""
    validation: tuple[Path, ...] = ()
    """Manifests of what is not trained on: the model that answers them best is kept in best/."""
    steps: int = 0
    """Optimiser steps; 0: as many as --epochs take."""
    epochs: float = 3.0
    """How often each sample is trained on."""
    batch: int = 8
    """Rows of an optimiser step, shared out evenly over all processes: one command learns the same
    on one and on many."""
    save_every: int = 200
    """Steps between checkpoints."""
    log_every: int = 10
    cache: Path | None = None
    """Folder of frozen features (see train/cache.py); what it lacks is computed first."""
    pack: int = 0
    """Tokens of a row that holds several samples, which do not see each other; 0: one a row."""
    sound_only: float = 0.0
    """How often a sample of both senses is trained with its sound alone."""
    picture_only: float = 0.0
    """How often it is trained with its picture alone."""
    skip_bad: bool = False
    """Leave out samples that cannot be used, and list them in run.json, instead of stopping."""
    workers: int = 2
    """Processes or threads that decode clips."""
    checkpointing: bool = False
    """Compute the language model's layers again in the backward pass: slower, far less memory."""
    compile: bool = False
    """Compile the language model (torch.compile)."""


def begin(run: StageConfig, name: str, bits: Bits | None = None) -> AVChat:
    """Load what a run begins with, to be trained: a model, or a preset, on other bases if the run
    names some. Adapters come later (see `choose`).

    Raises:
        ModelError: it cannot be had.
    """
    device = own_device()
    ears = "" if name in PRESETS or run.llm or run.vision else run.whisper
    if ears or not (run.llm or run.vision or run.whisper):
        how = {"device": device, "bits": bits, "trainable": True, "adapters": False}
        model = AVChat.from_pretrained(name, **how)
        if ears:
            model.config = given_ears(name, model.config, ears)
        return model
    try:
        config = rebased(name, llm=run.llm, vision=run.vision, whisper=run.whisper)
        dtype = torch.float32 if torch.device(device).type == "cpu" else torch.bfloat16
        return AVChat.from_config(config, dtype=dtype, bits=bits, lora=False).to(device)
    except OSError as error:
        reason = str(error).splitlines()[0]
        raise ModelError(f"{name}: a part could not be loaded ({reason})") from error


class Answerer(nn.Module):
    """The parts of a chat model that a run moves, cuts and saves; frozen encoders stay outside."""

    def __init__(self, model: AVChat, encoders_learn: bool) -> None:
        super().__init__()
        self.__dict__["chat"] = model  # past nn.Module, which would count all of its weights in
        parts = [model.visual_projector, model.audio_projector, model.language]
        self.encoders = nn.ModuleList([model.vision, model.audio] if encoders_learn else [])
        self.parts = nn.ModuleList(parts)
        spec = model.spec
        self.ghost = Inputs(
            pixels=torch.zeros(1, 3, spec.image_size, spec.image_size),
            mels=torch.zeros(1, spec.num_mels, 2 * spec.window_states),
            num_states=1,
            frame_times_s=(0.0,),
            start_s=0.0,
            duration_s=1.0,
        )

    def forward(self, rows: Rows) -> Loss:
        """Compute the loss of a batch.

        With encoders that learn, one blank frame and one window of silence go through them too:
        ranks must use the same weights in the same order, and some have no picture or no sound.
        """
        if not len(self.encoders):
            return self.chat(rows)
        clips = [*rows.clips, self.ghost.to(self.chat.device)]
        *features, ghost = encode(clips, *self.encoders, chunk=EVERYTHING)
        loss = self.chat(replace(rows, clips=features))
        nothing = 0.0 * (ghost.visual.sum() + ghost.audio.sum())
        return loss._replace(total=loss.total + nothing)


def train(run: StageConfig, model: AVChat, trainable: Trainable) -> bool:
    """Train a model on manifests and save it; say whether the run is finished.

    Raises:
        DataError, ConfigError, TrainingError: one line in the user's words.
    """
    check_settings(run)
    _check(run)
    groups = choose(model, trainable)
    trained = table(model, groups)
    micro, rank = micro_batch(run), rank_and_world()[0]
    if rank == 0:
        print("\n".join(lines(trained)), file=sys.stderr)
    learn = trainable.vision_lr > 0 or trainable.audio_lr > 0
    if learn and run.cache:
        raise DataError("--cache keeps features of frozen encoders: leave it out, or freeze them")
    samples, held_out = _read(run.data), _read(run.validation)
    with _stoppable():
        source = _source(run, model, [*samples, *held_out], learn)
    layout = Layout(
        group=run.batch,
        pack=run.pack,
        sound_only=run.sound_only,
        picture_only=run.picture_only,
        seed=run.seed,
    )
    deck = Batches(model, samples, source, layout, skip_bad=run.skip_bad)
    _check_senses(trainable, deck)
    unseen = None
    if held_out:
        fixed = Layout(pack=run.pack, shuffle=False)
        unseen = Batches(model, held_out, source, fixed, skip_bad=run.skip_bad)
    if run.checkpointing:
        model.language.gradient_checkpointing_enable({"use_reentrant": False})
    if run.compile:
        model.language.compile()
    run = replace(run, steps=run.steps or deck.steps(run.epochs))
    names = _names([*run.data, *run.validation])
    facts = {
        "stage": type(run).__name__.lower(),
        "data": _hashes([*run.data, *run.validation]),
        "manifests": {
            "training": _contents(names[: len(run.data)], deck.samples),
            "validation": _contents(names[len(run.data) :], unseen.samples if unseen else []),
        },
        "trained": trained,
    }

    def described() -> dict[str, Any]:
        skipped = {**deck.skipped, **(unseen.skipped if unseen else {})}
        return {**facts, "skipped": skipped}

    def save(folder: Path) -> None:
        record = read_record(run.output)
        card = run_card(model.config, record, place=folder, before=model.card)
        model.save_pretrained(folder, card=card)

    finished = fit(
        run,
        Answerer(model, learn),
        [{k: v for k, v in group.items() if k != "part"} for group in groups],
        _numbered(deck, micro),
        save=save,
        validation=unseen and Validation(-(-len(unseen) // micro), _numbered(unseen, micro)),
        facts=described,
        model_bytes=saved_bytes(model),
    )
    if rank == 0 and deck.skipped:
        print(f"note: {len(deck.skipped)} samples left out, listed in run.json", file=sys.stderr)
    return finished


def saved_bytes(model: AVChat) -> int:
    """Measure what a model's folder will hold: its own weights, and trained adapters."""
    adapters = [p for n, p in model.named_parameters() if ".lora_" in n and p.requires_grad]
    return sum(weight.nbytes for weight in [*own_weights(model).values(), *adapters])


def _numbered(deck: Batches, size: int) -> Callable[[int], Batch]:
    def at(number: int) -> Batch:
        rows, counts = deck.at(number, size)
        return Batch(rows, rows.supervised, counts)

    return at


def _check(run: StageConfig) -> None:
    """Find settings that cannot be meant."""
    shares = run.sound_only, run.picture_only
    if not (0 <= shares[0] <= 1 and 0 <= shares[1] <= 1 and sum(shares) <= 1):
        raise DataError("--sound-only and --picture-only must be parts, together at most 1")
    if not 0 < run.epochs < math.inf and not run.steps:
        raise DataError(f"--epochs must be above 0, not {run.epochs:g}")
    if run.workers < 1:
        raise DataError(f"--workers must be at least 1, not {run.workers}")
    if min(run.pack, run.steps) < 0:
        raise DataError("--pack and --steps must not be below 0")
    both = {path.resolve() for path in run.data} & {path.resolve() for path in run.validation}
    for path in both:
        raise DataError(f"{path}: is trained and validated on")
    if len({path.resolve() for path in run.data}) < len(run.data):
        raise DataError("a manifest is named twice in --data")


def _check_senses(trainable: Trainable, deck: Batches) -> None:
    """Raise DataError where projectors alone are trained, and no sample has what they read."""
    learn = {"sound": trainable.audio_projector, "picture": trainable.visual_projector}
    wanted = {sense for sense, mode in learn.items() if mode != "frozen"}
    if trainable.language == "frozen" and wanted and not wanted & deck.senses():
        raise DataError(f"no sample has a {' or a '.join(sorted(wanted))} to learn from")


def _read(paths: Sequence[Path]) -> list[Sample]:
    """Read manifests as one; DataError where two samples of one have one id.

    Samples of two manifests that have one id, as the numbers of their lines, are told apart by
    the names of the files.
    """
    samples: list[Sample] = []
    for name, path in zip(_names(paths), paths, strict=True):
        before, mine = {sample.id for sample in samples}, set()
        for sample in read_manifest(path):
            if sample.id in mine:
                raise DataError(f"{path}: two samples have the id {sample.id}")
            mine.add(sample.id)
            own = f"{name}: {sample.id}" if sample.id in before else sample.id
            samples.append(replace(sample, id=own))
    return samples


@contextmanager
def _stoppable() -> Iterator[None]:
    """Let SIGTERM end what is under way as Ctrl-C does: what is computed is kept."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _source(
    run: StageConfig, model: AVChat, samples: list[Sample], learn: bool
) -> Cached | Decoded:
    """Open the cache and compute what it lacks, each rank its share; or look at the files."""
    rank, world = rank_and_world()
    parts = [part_of(sample) for sample in samples if sample.media is not None]
    with tqdm(unit="clip", file=sys.stderr, disable=None if rank == 0 else True) as bar:

        def tell(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        if run.cache is None:
            _find_root(run, {part.path for part in parts})
            bar.set_description("looking at clips")
            decoded = Decoded(model, run.workers, learn)
            decoded.look(samples, tell)
            return decoded
        cache = FeatureCache(run.cache, model)
        bar.set_description("computing features")
        if missing := cache.missing(parts):
            _find_root(run, {part.path for part in missing})
            cache.fill(parts, workers=run.workers, share=(rank, world), progress=tell)
        while world > 1 and cache.missing(parts):  # what the other ranks compute
            time.sleep(WAIT_S)
            cache.reload()
        return Cached(cache)


def _find_root(run: StageConfig, wanted: set[Path]) -> None:
    """Raise DataError, with the place, where a manifest's paths are relative to somewhere else."""
    lost = {path for path in wanted if not path.is_file()}
    for manifest in (*run.data, *run.validation) if lost else ():
        mine = {sample.media for sample in read_manifest(manifest)} & lost
        if mine and (hint := wrong_root(manifest, mine)):
            raise DataError(f"{manifest}: {hint}")


def _hashes(paths: Sequence[Path]) -> dict[str, str]:
    """Name what is in manifests."""
    return {
        name: hashlib.sha256(path.read_bytes()).hexdigest()
        for name, path in zip(_names(paths), paths, strict=True)
    }


def _names(paths: Sequence[Path]) -> list[str]:
    """Name manifests by their files, or by their paths where two files are called the same."""
    names = [path.name for path in paths]
    return names if len(set(names)) == len(names) else [str(path) for path in paths]


def _contents(names: Sequence[str], samples: Sequence[Sample]) -> dict[str, Any]:
    """Tell which manifests there are, and count what is in them."""
    clips = {part_of(sample) for sample in samples if sample.media is not None}
    text_only = sum(sample.media is None for sample in samples)
    return {"files": names, "samples": len(samples), "clips": len(clips), "text_only": text_only}
