"""What a run tells: a bar with the time left, metrics.jsonl, a tracker's curves, and run.json, the
record of what was run on what and how fast.
"""

import json
import platform
import resource
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TextIO

import torch
from tqdm import tqdm

from avchat.run_config import RunConfig
from avchat.run_state import Best, plain

if TYPE_CHECKING:
    from accelerate import Accelerator

RECORD_FILE, METRICS_FILE = "run.json", "metrics.jsonl"
PACKAGES = ("avchat", "torch", "transformers", "peft", "accelerate", "deepspeed", "bitsandbytes")
TRACKER_PACKAGES = {"tensorboard": "tensorboard", "wandb": "wandb", "trackio": "trackio"}


class Counts(NamedTuple):
    """What a batch holds: samples, their tokens, and the places of its rows, padding included."""

    samples: int = 0
    tokens: int = 0
    places: int = 0

    @classmethod
    def total(cls, counts: "Iterable[Counts]") -> "Counts":
        """Sum counts."""
        return cls(*(sum(column) for column in zip(*counts, strict=True)))


def tracker_at_hand(tracker: str) -> str | None:
    """Name the tracker for accelerate; None, with a note, where its package is not installed."""
    if tracker == "none":
        return None
    if find_spec(TRACKER_PACKAGES[tracker]) is None:
        print(
            f"note: {tracker} is not installed, so there are no curves; {METRICS_FILE} has all of "
            "them",
            file=sys.stderr,
        )
        return None
    return tracker


class RunLog:
    """A bar on a terminal, lines elsewhere; metrics.jsonl, curves and run.json."""

    def __init__(
        self,
        run: RunConfig,
        accelerator: "Accelerator",
        start: int,
        earlier: dict[str, float],
        best: Best | None,
        facts: Callable[[], dict[str, Any]],
    ) -> None:
        """Args: earlier, best: of the run until it was stopped; facts: what else run.json says."""
        self.run, self.accelerator, self.main = run, accelerator, accelerator.is_main_process
        self.facts, self.start, self.step, self.loss = facts, start, start, None
        self.began, self.earlier_s = time.monotonic(), earlier.get("seconds", 0.0)
        self.seen = Counts(*(int(earlier.get(name, 0)) for name in Counts._fields))
        self.best = best
        self.warm_s, self.warm_seen = 0.0, Counts()  # of this start, without its first step
        if not self.main:
            return
        self.file = open_metrics(run.output / METRICS_FILE, start)
        self.bar = tqdm(
            total=run.steps, initial=start, disable=not sys.stderr.isatty(), unit="step"
        )
        self.record()
        if accelerator.log_with:
            flat = {k: str(v) for k, v in plain(asdict(run)).items()}
            accelerator.init_trackers("avchat", flat)

    @property
    def counts(self) -> dict[str, float]:
        """Return what was trained on so far, over all starts of the run."""
        seconds = self.earlier_s + time.monotonic() - self.began
        return {"seconds": round(seconds, 3), **self.seen._asdict()}

    def write(
        self,
        step: int,
        lr: float,
        loss: float,
        norm: float,
        logs: dict[str, float],
        counts: Counts,
    ) -> None:
        """Log one step; a row every `log_every` steps."""
        self.step, self.loss = step, loss
        self.seen = Counts.total([self.seen, counts])
        spent = time.monotonic() - self.began
        if step == self.start + 1:
            self.warm_s = spent  # compiling, opening files: not what the others take
        else:
            self.warm_seen = Counts.total([self.warm_seen, counts])
        if not self.main:
            return
        self.bar.update()
        speed = self.warm_seen.tokens / max(spent - self.warm_s, 1e-9)
        if step % self.run.log_every and step != self.run.steps:
            self.bar.set_postfix_str(f"loss {loss:.3f} {speed:.0f} tokens/s", refresh=False)
            if step % self.run.save_every == 0:
                self.record()  # which the card of the checkpoint quotes
            return
        left = spent / (step - self.start) * (self.run.steps - step)
        row = {"step": step, "loss": loss, "norm": norm, "lr": lr, "minutes": spent / 60, **logs}
        self._row(row | ({"tokens_per_s": speed} if counts.tokens else {}))
        values = " ".join(f"{k} {v:.3f}" for k, v in {"loss": loss, "norm": norm, **logs}.items())
        values += f" {speed:.0f} tokens/s" if counts.tokens else ""
        self.bar.set_postfix_str(values)
        if self.bar.disable:
            print(
                f"step {step}/{self.run.steps} {values} | {left / 60:.1f} min left", file=sys.stderr
            )
        self.accelerator.log({"loss": loss, "norm": norm, "lr": lr, **logs}, step=step)
        self.record()

    def validated(self, step: int, loss: float) -> None:
        """Log the loss of a validation; the record is as new as the best model's card needs it."""
        if self.best is None or loss < self.best.loss:
            self.best = Best(step, loss)
        if self.main:
            self.record()
            self._row({"step": step, "validation_loss": loss})
            self.bar.write(f"step {step}: validation loss {loss:.4f}", file=sys.stderr)
            self.accelerator.log({"validation_loss": loss}, step=step)

    def close(self) -> None:
        """Write the record and close the file and the bar."""
        if self.main:
            self.record()
            self.file.close()
            self.bar.close()

    def record(self) -> None:
        """Write run.json, whole or not at all."""
        path = self.run.output / RECORD_FILE
        new = path.with_name(f".{path.name}")
        new.write_text(json.dumps(self.describe(), indent=2) + "\n", encoding="utf-8")
        new.replace(path)

    def describe(self) -> dict[str, Any]:
        """Make the record of the run so far."""
        counts, processes = self.counts, self.accelerator.num_processes
        spent = max(time.monotonic() - self.began - self.warm_s, 1e-9)
        cuda = self.accelerator.device.type == "cuda"
        peak = torch.cuda.max_memory_allocated() if cuda else resident_bytes()
        return {
            "command": " ".join(sys.argv),
            "settings": plain(asdict(self.run)),
            "versions": {"python": platform.python_version(), **versions()},
            "device": torch.cuda.get_device_name() if cuda else f"cpu, {platform.machine()}",
            "processes": processes,
            "step": self.step,
            "loss": self.loss,
            "best": asdict(self.best) if self.best else None,
            **{name: counts[name] for name in ("samples", "tokens")},
            "samples_per_s": round(self.warm_seen.samples / spent, 2),
            "tokens_per_s": round(self.warm_seen.tokens / spent, 1),
            "padding": round(1 - counts["tokens"] / max(counts["places"], 1), 4),
            "peak_memory_gb": round(peak / 1e9, 3),
            "seconds": counts["seconds"],
            "device_hours": round(counts["seconds"] * processes / 3600, 4),
            **plain(self.facts()),
        }

    def _row(self, row: dict[str, float]) -> None:
        print(json.dumps({k: round(v, 5) for k, v in row.items()}), file=self.file, flush=True)


def open_metrics(path: Path, start: int) -> TextIO:
    """Open metrics.jsonl to go on after a step; rows of later ones, which are taken again, go."""
    if path.is_file():
        rows = path.read_text(encoding="utf-8").splitlines()
        kept = [row for row in rows if row.endswith("}") and json.loads(row)["step"] <= start]
        new = path.with_name(f".{path.name}")
        new.write_text("".join(f"{row}\n" for row in kept), encoding="utf-8")
        new.replace(path)
    return path.open("a", encoding="utf-8")


def versions() -> dict[str, str]:
    """Tell the versions of what a run rests on; a package that is not installed is left out."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def resident_bytes() -> int:
    """Tell the largest memory that this process has held."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def read_record(folder: Path) -> dict[str, Any]:
    """Read the run.json of a run's folder; empty where there is none."""
    path = folder / RECORD_FILE
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
