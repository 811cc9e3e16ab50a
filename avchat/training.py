"""The one training loop, over accelerate: every script in train/ describes a run and calls `fit`.

What enters is a module whose forward takes a batch and returns a summed loss, groups of parameters,
and a function from the number of a batch to the batch. The loop divides by the supervised tokens of
the whole optimiser step, over all micro-batches and all ranks: with a mean per micro-batch short
answers would weigh more than long ones, differently for each way of cutting the same step. Batches
are drawn by number, so a resumed run sees exactly what an uninterrupted one would have seen.
"""

import math
import os
import signal
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from accelerate.utils import (
    DistributedDataParallelKwargs,
    DistributedType,
    GradientAccumulationPlugin,
    InitProcessGroupKwargs,
    send_to_device,
    set_seed,
)
from torch import Tensor, nn

from avchat.language import adamw_8bit
from avchat.run_config import RunConfig
from avchat.run_log import Counts, RunLog, tracker_at_hand
from avchat.run_state import Best, RunState, TrainingError, check_room

if not (torch.cuda.is_available() or torch.backends.mps.is_available()):
    # before anything imports DeepSpeed, which would look for a GPU and complain that there is none
    os.environ.setdefault("DS_ACCELERATOR", "cpu")


COUNTS = ("batch", "accumulate", "keep", "save_every", "log_every", "validate_every")


class Loss(NamedTuple):
    """The sum over supervised tokens that is trained on, and named values for the log.

    `fit` takes anything with these two names, a chat model's loss too.
    """

    total: Tensor
    logs: dict[str, float]


class Batch(NamedTuple):
    """A micro-batch, tensors or what has `.to(device)`, and the weight of its supervised tokens,
    by which the step's loss is divided.
    """

    data: Any
    weight: float
    counts: Counts = Counts()


class Validation(NamedTuple):
    """What a run is validated on: so many batches, each by its number."""

    batches: int
    batch_at: Callable[[int], Batch]


def fit(
    run: RunConfig,
    model: nn.Module,
    groups: list[dict[str, Any]],
    batch_at: Callable[[int], Batch],
    *,
    save: Callable[[Path], None],
    validation: Validation | None = None,
    facts: Callable[[], dict[str, Any]] = dict,
    model_bytes: int = 0,
) -> bool:
    """Train `model` for `run.steps` steps; stop early and cleanly at Ctrl-C or SIGTERM, to be
    resumed by the same command.

    Args:
        groups: parameter groups for AdamW, each with its peak "lr" where it is not `run.lr`.
        batch_at: gives micro-batch number k; numbers are dealt out over ranks, micro-batches and
        steps. save: writes the model into a folder: output/model at the end, output/best whenever
        the loss of validation is the lowest so far, and one in each checkpoint. facts: what else
        run.json says; what stands under "data" must not change when a run is resumed. model_bytes:
        of a saved model, where it holds more than what is trained.

    Returns:
        Whether the run is finished (False: it was stopped).

    Raises:
        TrainingError: the loss is no longer finite, the checkpoint is of another run, or the
        folder cannot hold what will be written.
    """
    check_settings(run)
    check_room(run.output, model, run.keep, model_bytes)
    accelerator = _accelerator(run)
    set_seed(run.seed)
    peaks = [group.setdefault("lr", run.lr) for group in groups]
    model, optimizer = accelerator.prepare(model, _optimizer(run, groups))
    state = RunState(run, accelerator, model, save, facts().get("data"))
    start = state.resume() if run.resume else state.begin_anew()
    log = RunLog(run, accelerator, start, state.counts, state.best, facts)
    numbers = _numbers(run, accelerator, start)
    model.train()
    with _stop_signal() as stopped, ThreadPoolExecutor(1) as pool:
        ahead: Future = pool.submit(_draw, batch_at, next(numbers))
        for step in range(start, run.steps):
            batches, last = ahead.result(), step + 1 == run.steps
            if not last:
                ahead = pool.submit(_draw, batch_at, next(numbers))
            factor = schedule(step, run.steps, run.warmup)
            for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                group["lr"] = peak * factor
            taken = _step(run, accelerator, model, optimizer, batches)
            log.write(step + 1, run.lr * factor, *taken)
            if validation and ((step + 1) % run.validate_every == 0 or last):
                loss = validate(accelerator, model, validation)
                log.validated(step + 1, loss)
                state.offer(Best(step + 1, loss))
                log.best = state.best
            stop = _anywhere(accelerator, stopped())
            if stop or (step + 1) % run.save_every == 0 or last:
                state.save(step + 1, log.counts)
            if stop and not last:
                break
        else:
            step = run.steps
            state.save_model(run.output / "model")
    finished = step == run.steps
    log.close()
    if not finished:
        accelerator.print(
            f"stopped after step {step + 1} of {run.steps}; the same command goes on from there",
            file=sys.stderr,
        )
    accelerator.end_training()
    return finished


def check_settings(run: RunConfig) -> None:
    """Raise TrainingError for settings that no run can have."""
    if not (0 < run.lr < math.inf and 0 < run.clip and 0 <= run.weight_decay < math.inf):
        raise TrainingError("--lr and --clip must be above 0, --weight-decay 0 or above")
    if not 0 <= run.warmup <= 1:
        raise TrainingError(f"--warmup must be a part of the steps, 0 to 1, not {run.warmup:g}")
    for name, least in (("seed", 0), *((name, 1) for name in COUNTS)):
        if getattr(run, name) < least:
            flag = name.replace("_", "-")
            raise TrainingError(f"--{flag} must be at least {least}, not {getattr(run, name)}")


def rank_and_world() -> tuple[int, int]:
    """Tell the number of this process and how many there are, before accelerate has begun."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def micro_batch(run: RunConfig) -> int:
    """Return the rows of one micro-batch; TrainingError where `run.batch` cannot be shared out."""
    world = rank_and_world()[1]
    if run.batch % (world * run.accumulate):
        raise TrainingError(
            f"--batch {run.batch} cannot be shared out evenly over {world} processes x "
            f"{run.accumulate} micro-batches: give a multiple of {world * run.accumulate}"
        )
    return run.batch // (world * run.accumulate)


def own_device() -> str:
    """Name the device of this process: without it every process would load onto the first GPU."""
    local = os.environ.get("LOCAL_RANK", "0")
    return f"cuda:{local}" if torch.cuda.is_available() else "cpu"


def schedule(step: int, steps: int, warmup: float) -> float:
    """Return the factor on the learning rate: linear warm-up, then a half cosine to 0."""
    rising = max(1, round(steps * warmup))
    if step < rising:
        return (step + 1) / rising
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising)))


def validate(accelerator: Accelerator, model: nn.Module, validation: Validation) -> float:
    """Compute the loss per token over the batches of a validation, shared out over the ranks.

    Every rank runs the model as often as the others: under ZeRO-3 each run is a collective.
    """
    sums = torch.zeros(2, device=accelerator.device)
    model.eval()
    with torch.no_grad():
        for first in range(0, validation.batches, accelerator.num_processes):
            number = first + accelerator.process_index
            batch = validation.batch_at(min(number, validation.batches - 1))
            loss = model(send_to_device(batch.data, accelerator.device))
            if number < validation.batches:
                sums += torch.tensor([float(loss.total), batch.weight], device=sums.device)
    model.train()
    total, weight = accelerator.reduce(sums, "sum").tolist()
    return total / max(weight, 1.0)


def _accelerator(run: RunConfig) -> Accelerator:
    handlers: list[Any] = [DistributedDataParallelKwargs(find_unused_parameters=True)]
    # On CPUs several processes need to be told of gloo, and that they are on CPUs: else accelerate
    # opens the group and synchronises nothing, without a word. DeepSpeed wants it the other way.
    several = not torch.cuda.is_available() and rank_and_world()[1] > 1
    if several:
        handlers.append(InitProcessGroupKwargs(backend="gloo"))
    sharded = os.environ.get("ACCELERATE_USE_DEEPSPEED") == "true"
    by_itself = run.precision == "auto" and torch.cuda.is_available()
    accelerator = Accelerator(
        cpu=several and not sharded,
        mixed_precision="bf16" if run.precision == "bf16" or by_itself else "no",
        # not by number: `accelerate launch` sets a variable of the environment that would win
        gradient_accumulation_plugin=GradientAccumulationPlugin(
            num_steps=run.accumulate, sync_with_dataloader=False
        ),
        kwargs_handlers=handlers,
        log_with=tracker_at_hand(run.tracker),
        project_dir=str(run.output),
    )
    assert accelerator.num_processes == 1 or accelerator.distributed_type != DistributedType.NO
    if accelerator.state.deepspeed_plugin is not None:
        settings = accelerator.state.deepspeed_plugin.deepspeed_config
        settings["bf16"] = {"enabled": accelerator.mixed_precision == "bf16"}
        # DeepSpeed asks for it, and finds no loader to read it from: batches are drawn by number.
        settings["train_micro_batch_size_per_gpu"] = micro_batch(run)
        settings["gradient_accumulation_steps"] = run.accumulate
        settings["gradient_clipping"] = run.clip
        settings["zero_force_ds_cpu_optimizer"] = False  # our AdamW, offloaded or not
    return accelerator


def _optimizer(run: RunConfig, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    settings = {"lr": run.lr, "betas": (0.9, 0.98), "weight_decay": run.weight_decay}
    if run.optimizer == "8bit":
        return adamw_8bit(groups, **settings)
    return torch.optim.AdamW(groups, fused=run.optimizer == "fused" or None, **settings)


def _numbers(run: RunConfig, accelerator: Accelerator, start: int) -> Iterator[list[int]]:
    """Yield for each step the numbers of this rank's micro-batches."""
    step = start
    while True:
        first = step * run.accumulate * accelerator.num_processes
        yield [
            first + a * accelerator.num_processes + accelerator.process_index
            for a in range(run.accumulate)
        ]
        step += 1


def _draw(batch_at: Callable[[int], Batch], numbers: list[int]) -> list[Batch]:
    return [batch_at(k) for k in numbers]


def _step(
    run: RunConfig, accelerator: Accelerator, model: nn.Module, optimizer: Any, batches: list[Batch]
) -> tuple[float, float, dict[str, float], Counts]:
    """Take one optimiser step; return the loss per token over all ranks, the gradient's norm,
    the logs, and what was trained on, over all ranks.
    """
    local = [sum(b.weight for b in batches), *Counts.total(b.counts for b in batches)]
    sums = accelerator.reduce(torch.tensor(local, device=accelerator.device), "sum")
    weight = sums[0].clamp(min=1.0)
    # accelerate divides by the micro-batches and DDP by the ranks: both are multiplied back.
    scale = accelerator.num_processes * run.accumulate / weight
    total, logs, norm = 0.0, {}, 0.0
    for batch in batches:
        with accelerator.accumulate(model):
            loss = model(send_to_device(batch.data, accelerator.device))
            accelerator.backward(loss.total * scale)
            if accelerator.sync_gradients:
                found = accelerator.clip_grad_norm_(model.parameters(), run.clip)
                norm = float(found) if found is not None else math.nan
            optimizer.step()
            optimizer.zero_grad()
        total += float(loss.total.detach())
        logs = loss.logs
    mean = float(accelerator.reduce(torch.tensor(total, device=accelerator.device), "sum") / weight)
    if not math.isfinite(mean):
        raise TrainingError(f"the loss is {mean}: lower lr, or train in fp32")
    return mean, norm, logs, Counts(*(int(value) for value in sums[1:].tolist()))


def _anywhere(accelerator: Accelerator, flag: bool) -> bool:
    """Tell every rank whether any rank was asked to stop."""
    return bool(accelerator.reduce(torch.tensor(float(flag), device=accelerator.device), "sum") > 0)


@contextmanager
def _stop_signal() -> Iterator[Callable[[], bool]]:
    """Turn the first Ctrl-C or SIGTERM into a flag; the second ends the program as usual.

    `accelerate launch` dies of a SIGTERM without passing it on: a launcher that is gone says stop.
    """
    asked: list[int] = []
    launcher = os.getppid() if "ACCELERATE_MIXED_PRECISION" in os.environ else None

    def ask(number: int, frame: Any) -> None:
        asked.append(number)
        signal.signal(number, before[number])

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(asked) or launcher not in (None, os.getppid())
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
