"""The one training loop, over accelerate: every script in train/ describes a run and calls `fit`.

What enters is a module whose forward takes a batch and returns a summed loss, groups of parameters,
and a function from the number of a batch to the batch. The loop divides by the supervised tokens of
the whole optimiser step, over all micro-batches and all ranks: with a mean per micro-batch short
answers would weigh more than long ones, differently for each way of cutting the same step. Batches
are drawn by number, so a resumed run sees exactly what an uninterrupted one would have seen.
"""

import json
import math
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from accelerate import Accelerator
from accelerate.utils import (
    DistributedDataParallelKwargs,
    InitProcessGroupKwargs,
    send_to_device,
    set_seed,
)
from torch import Tensor, nn
from tqdm import tqdm


class TrainingError(Exception):
    """A run that must stop; one line in the user's words."""


class Loss(NamedTuple):
    """The sum over supervised tokens that is trained on, and named values for the log.

    `fit` takes anything with these two names, a chat model's loss too.
    """

    total: Tensor
    logs: dict[str, float]


@dataclass(frozen=True)
class RunConfig:
    """How a run goes. Scripts extend it; it is saved with the run as run.json."""

    output: Path
    """Folder of the run: the model, run.json, metrics.jsonl and checkpoints."""
    steps: int = 1000
    """Optimiser steps."""
    batch: int = 16
    """Clips in a micro-batch of one process."""
    accumulate: int = 1
    """Micro-batches in a step."""
    lr: float = 2e-4
    """Peak learning rate."""
    warmup: float = 0.03
    """Part of the steps in which the learning rate rises."""
    weight_decay: float = 0.0
    clip: float = 1.0
    """Largest norm of the gradient."""
    precision: Literal["bf16", "fp32"] = "bf16"
    seed: int = 0
    save_every: int = 500
    """Steps between checkpoints."""
    log_every: int = 20
    resume: bool = True
    """Go on from the newest checkpoint in output, if there is one."""
    tracker: Literal["none", "tensorboard", "wandb"] = "none"


class Batch(NamedTuple):
    """A micro-batch, tensors or what has `.to(device)`, and the weight of its supervised tokens,
    by which the step's loss is divided.
    """

    data: Any
    weight: float


def fit(
    run: RunConfig,
    model: nn.Module,
    groups: list[dict[str, Any]],
    batch_at: Callable[[int], Batch],
    *,
    every: dict[int, Callable[[int], None]] | None = None,
) -> bool:
    """Train `model` for `run.steps` steps; stop early and cleanly at Ctrl-C, to be resumed by
    the same command.

    Args:
        groups: parameter groups for AdamW; "lr" is a factor on `run.lr`.
        batch_at: gives micro-batch number k; numbers are dealt out over ranks, micro-batches and
        steps. every: functions of the step that are called on the main process every so many steps.

    Returns:
        Whether the run is finished (False: it was stopped).

    Raises:
        TrainingError: the loss is no longer finite, or the checkpoint is of another run.
    """
    accelerator = _accelerator(run)
    set_seed(run.seed)
    factors = [group.pop("lr", 1.0) for group in groups]
    optimizer = torch.optim.AdamW(
        groups, lr=run.lr, betas=(0.9, 0.98), weight_decay=run.weight_decay
    )
    model, optimizer = accelerator.prepare(model, optimizer)
    start = _resume(run, accelerator) if run.resume else 0
    log = _Log(run, accelerator, start)
    numbers = _numbers(run, accelerator, start)
    with _stop_signal() as stopped, ThreadPoolExecutor(1) as pool:
        ahead: Future = pool.submit(_draw, batch_at, next(numbers))
        for step in range(start, run.steps):
            batches = ahead.result()
            ahead = pool.submit(_draw, batch_at, next(numbers))
            lr = run.lr * schedule(step, run.steps, run.warmup)
            for group, factor in zip(optimizer.param_groups, factors, strict=True):
                group["lr"] = lr * factor
            log.write(step + 1, lr, *_step(run, accelerator, model, optimizer, batches))
            stop = _anywhere(accelerator, stopped())
            if stop or (step + 1) % run.save_every == 0 or step + 1 == run.steps:
                save_checkpoint(run, accelerator, step + 1)
            if stop:
                log.close()
                return step + 1 == run.steps
            for period, call in (every or {}).items():
                if (step + 1) % period == 0 and accelerator.is_main_process:
                    call(step + 1)
    log.close()
    accelerator.end_training()
    return True


def schedule(step: int, steps: int, warmup: float) -> float:
    """Return the factor on the learning rate: linear warm-up, then a half cosine to 0."""
    rising = max(1, round(steps * warmup))
    if step < rising:
        return (step + 1) / rising
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising)))


def _accelerator(run: RunConfig) -> Accelerator:
    handlers: list[Any] = [DistributedDataParallelKwargs(find_unused_parameters=True)]
    # On CPUs several processes need to be told of gloo; one process must not be.
    if not torch.cuda.is_available() and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        handlers.append(InitProcessGroupKwargs(backend="gloo"))
    accelerator = Accelerator(
        mixed_precision="bf16" if run.precision == "bf16" else "no",
        gradient_accumulation_steps=run.accumulate,
        log_with=None if run.tracker == "none" else run.tracker,
        project_dir=str(run.output),
        kwargs_handlers=handlers,
    )
    if accelerator.state.deepspeed_plugin is not None:
        # DeepSpeed asks for it, and finds no loader to read it from: batches are drawn by number.
        settings = accelerator.state.deepspeed_plugin.deepspeed_config
        settings["train_micro_batch_size_per_gpu"] = run.batch
    return accelerator


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
) -> tuple[float, float, dict[str, float]]:
    """Take one optimiser step; return the loss per token over all ranks, the gradient's norm
    and the logs.
    """
    local = torch.tensor(float(sum(b.weight for b in batches)), device=accelerator.device)
    weight = accelerator.reduce(local, "sum").clamp(min=1.0)
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
    return mean, norm, logs


def save_checkpoint(run: RunConfig, accelerator: Accelerator, step: int) -> None:
    """Save all that a resumed run needs; the two newest checkpoints are kept, a torn one is
    never taken.
    """
    folder = run.output / "checkpoints"
    torn, whole = folder / f"torn-{step:08d}", folder / f"step-{step:08d}"
    if whole.exists():
        return
    accelerator.save_state(str(torn))
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        (torn / "run.json").write_text(json.dumps(_describe(run, accelerator, step)))
        torn.rename(whole)
        for old in sorted(folder.glob("step-*"))[:-2]:
            shutil.rmtree(old)
    accelerator.wait_for_everyone()


def _describe(run: RunConfig, accelerator: Accelerator, step: int) -> dict[str, Any]:
    settings = {k: str(v) if isinstance(v, Path) else v for k, v in asdict(run).items()}
    return {"step": step, "processes": accelerator.num_processes, **settings}


def _resume(run: RunConfig, accelerator: Accelerator) -> int:
    """Load the newest checkpoint; return the step to go on from, 0 when there is none."""
    saved = sorted((run.output / "checkpoints").glob("step-*"))
    if not saved:
        return 0
    then = json.loads((saved[-1] / "run.json").read_text())
    now = _describe(run, accelerator, then["step"])
    free = ("output", "save_every", "log_every", "resume", "tracker")
    changed = [
        k
        for k in now
        if k not in free and json.dumps(now[k], default=str) != json.dumps(then.get(k))
    ]
    if changed:
        raise TrainingError(
            f"{saved[-1]} was made with other settings ({', '.join(changed)}): "
            "give another --output, or --no-resume"
        )
    accelerator.load_state(str(saved[-1]))
    accelerator.print(f"resumed after step {then['step']}", file=sys.stderr)
    return int(then["step"])


def _anywhere(accelerator: Accelerator, flag: bool) -> bool:
    """Tell every rank whether any rank was asked to stop."""
    return bool(accelerator.reduce(torch.tensor(float(flag), device=accelerator.device), "sum") > 0)


@contextmanager
def _stop_signal() -> Iterator[Callable[[], bool]]:
    """Turn the first Ctrl-C or SIGTERM into a flag; the second ends the program as usual."""
    asked: list[int] = []

    def ask(number: int, frame: Any) -> None:
        asked.append(number)
        signal.signal(number, before[number])

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Log:
    """A bar with the time left on a terminal, lines elsewhere, and metrics.jsonl in the run's
    folder.
    """

    def __init__(self, run: RunConfig, accelerator: Accelerator, start: int) -> None:
        self.run, self.accelerator, self.main = run, accelerator, accelerator.is_main_process
        self.began, self.start = time.monotonic(), start
        if not self.main:
            return
        run.output.mkdir(parents=True, exist_ok=True)
        (run.output / "run.json").write_text(
            json.dumps(_describe(run, accelerator, start), indent=2) + "\n"
        )
        self.file = (run.output / "metrics.jsonl").open("a")
        self.bar = tqdm(
            total=run.steps, initial=start, disable=not sys.stderr.isatty(), unit="step"
        )
        if run.tracker != "none":
            accelerator.init_trackers("avchat", _describe(run, accelerator, start))

    def write(self, step: int, lr: float, loss: float, norm: float, logs: dict[str, float]) -> None:
        """Log one step, every `log_every` steps."""
        if not self.main:
            return
        self.bar.update()
        if step % self.run.log_every and step != self.run.steps:
            return
        spent = time.monotonic() - self.began
        left = spent / (step - self.start) * (self.run.steps - step)
        row = {"step": step, "loss": loss, "norm": norm, "lr": lr, "minutes": spent / 60, **logs}
        print(json.dumps({k: round(v, 5) for k, v in row.items()}), file=self.file, flush=True)
        values = " ".join(f"{k} {v:.3f}" for k, v in {"loss": loss, "norm": norm, **logs}.items())
        self.bar.set_postfix_str(values)
        if self.bar.disable:
            print(
                f"step {step}/{self.run.steps} {values} | {left / 60:.1f} min left", file=sys.stderr
            )
        self.accelerator.log({"loss": loss, "norm": norm, "lr": lr, **logs}, step=step)

    def close(self) -> None:
        """Close the file and the bar."""
        if self.main:
            self.file.close()
            self.bar.close()
