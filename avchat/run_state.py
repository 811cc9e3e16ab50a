"""The state of a run on disk: checkpoints that are whole or not there, and going on from them.

    output/checkpoints/step-00000500/   what a resumed run needs, the weights that are trained alone
    output/checkpoints/step-00000500/model/   the same as a model: `--init`, `avchat chat --model`
    output/best/, output/model/         the model of the lowest loss of validation, the last one

All are written beside their place and renamed into it: a kill at any moment leaves what was there.
"""

import json
import os
import pickle
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from avchat.run_config import RunConfig

if TYPE_CHECKING:
    from accelerate import Accelerator

STATE_FILE = "state.json"
TRAINED_FILE = "trained.safetensors"
CHECKPOINTS, NEW, OLD = "checkpoints", "new-", "old-"
MADE = (CHECKPOINTS, "model", "best", "run.json", "metrics.jsonl")
# What may change when a run is resumed: where and how often things are written, what only costs
# time or memory, and how a step is cut.
FREE = {
    "output", "save_every", "keep", "validate_every", "log_every", "resume", "tracker",
    "accumulate", "cache", "workers", "skip_bad", "compile", "checkpointing",
}  # fmt: skip
DAMAGED = (SafetensorError, pickle.UnpicklingError)
ADAM_BYTES = 8  # two fp32 numbers a weight


class TrainingError(Exception):
    """A run that must stop; one line in the user's words."""


@dataclass(frozen=True)
class Best:
    """The step at which the loss of validation was lowest, and that loss."""

    step: int
    loss: float


class RunState:
    """Writes a run's checkpoints and models, and reads the newest checkpoint back."""

    def __init__(
        self,
        run: RunConfig,
        accelerator: "Accelerator",
        model: nn.Module,
        save: Callable[[Path], None],
        data: Any,
    ) -> None:
        """Args: save: writes the model into a folder; data: names what the run learns from."""
        self.run, self.accelerator, self.model = run, accelerator, model
        self.write_model, self.data = save, data
        self.best: Best | None = None
        self.counts: dict[str, float] = {}  # of what was trained on before this start
        self.folder = run.output / CHECKPOINTS
        self.sharded = accelerator.state.deepspeed_plugin is not None
        accelerator.register_save_state_pre_hook(self._save_trained)
        accelerator.register_load_state_pre_hook(self._load_trained)

    def save(self, step: int, counts: dict[str, float]) -> None:
        """Save all that a resumed run needs; the newest `run.keep` checkpoints stay.

        Raises:
            TrainingError: it cannot be written; what was there before is as it was.
        """
        whole = self.folder / f"step-{step:08d}"
        if whole.exists():
            return
        new = self.folder / f"{NEW}{whole.name}"
        with self._writing(new):
            # DeepSpeed would write the frozen bases too, gigabytes that never change
            shards = {"exclude_frozen_parameters": True} if self.sharded else {}
            self.accelerator.save_state(str(new), **shards)
            self._write(new / "model")
            self.accelerator.wait_for_everyone()  # a slower rank may still write its own state
            if self.accelerator.is_main_process:
                (new / STATE_FILE).write_text(json.dumps(self._describe(step, counts)))
                new.rename(whole)
                for old in sorted(self.folder.glob("step-*"))[: -max(self.run.keep, 1)]:
                    _remove(old)
        self.accelerator.wait_for_everyone()

    def save_model(self, target: Path) -> None:
        """Write the model into a folder that is replaced whole."""
        new = target.with_name(f"{NEW}{target.name}")
        with self._writing(new):
            self._write(new)
            if self.accelerator.is_main_process:
                if target.exists():
                    old = target.with_name(f"{OLD}{target.name}")
                    _remove(old)
                    target.rename(old)
                new.rename(target)
                _remove(target.with_name(f"{OLD}{target.name}"))
        self.accelerator.wait_for_everyone()

    def offer(self, found: Best) -> None:
        """Keep the model of now as the best where its loss of validation is the lowest."""
        if self.best is None or found.loss < self.best.loss:
            self.best = found
            self.save_model(self.run.output / "best")

    def resume(self) -> int:
        """Load the newest checkpoint; return the step to go on from, 0 when there is none.

        Raises:
            TrainingError: it was made with other settings, or cut over other processes.
        """
        self._mend()
        saved = sorted(self.folder.glob("step-*"))
        if not saved:
            return 0
        with _readable(saved):
            then = json.loads((saved[-1] / STATE_FILE).read_text())
            self._compare(saved[-1], then)
            # DeepSpeed: what is frozen is not in the file
            rank = self.accelerator.process_index
            if (
                self.accelerator.num_processes == then["processes"]
            ):  # a rank that is new has no state of its own
                (saved[-1] / f"random_states_{rank}.pkl").stat()  # accelerate would go on without
            loose = {"load_module_strict": False} if self.sharded else {}
            self.accelerator.load_state(str(saved[-1]), **loose)
        self.best = Best(**then["best"]) if then["best"] else None
        self.counts = then["counts"]
        self.accelerator.print(f"resumed after step {then['step']}", file=sys.stderr)
        return int(then["step"])

    def begin_anew(self) -> int:
        """Put what an earlier run made aside, lest it passes for what this one makes."""
        self._mend()
        left = [path for name in MADE if (path := self.run.output / name).exists()]
        if self.accelerator.is_main_process and left:
            number = 1
            while (aside := self.run.output / f"earlier-{number}").exists():
                number += 1
            aside.mkdir()
            for path in left:
                path.rename(aside / path.name)
        self.accelerator.wait_for_everyone()
        return 0

    def _mend(self) -> None:
        """Clear away what a killed run left half written; put back what it was replacing."""
        if self.accelerator.is_main_process:
            for name in ("model", "best"):
                old, target = (self.run.output / f"{x}{name}" for x in (OLD, ""))
                if old.exists() and not target.exists():
                    old.rename(target)
            for folder in (self.folder, self.run.output):
                for left in [*folder.glob(f"{NEW}*"), *folder.glob(f"{OLD}*")]:
                    _remove(left)
        self.accelerator.wait_for_everyone()

    def _compare(self, checkpoint: Path, then: dict[str, Any]) -> None:
        now = self._describe(then["step"], {})
        names = sorted({*now["settings"], *then["settings"]} - FREE)
        changed = [k for k in names if now["settings"].get(k) != then["settings"].get(k)]
        changed += ["the data"] * (now["data"] != then["data"])
        if changed:
            raise TrainingError(
                f"{checkpoint} was made with other settings ({', '.join(changed)}): "
                "give another --output, or --no-resume"
            )
        if now["cut"] != then["cut"]:
            raise TrainingError(
                f"{checkpoint} is {then['cut']}, and this run is {now['cut']}: go on in the same "
                f"way, or begin from its weights with --init {checkpoint / 'model'} and another "
                "--output"
            )

    def _describe(self, step: int, counts: dict[str, float]) -> dict[str, Any]:
        processes = self.accelerator.num_processes
        plugin = self.accelerator.state.deepspeed_plugin
        cut = (
            f"cut over {processes} processes by DeepSpeed, ZeRO-{plugin.zero_stage}"
            if plugin
            else ""
        )
        return {
            "step": step,
            "cut": cut or "in one piece",
            "processes": processes,
            "settings": plain(asdict(self.run)),
            "data": plain(self.data),
            "best": asdict(self.best) if self.best else None,
            "counts": counts,
        }

    def _write(self, folder: Path) -> None:
        """Write the model, by the main process; ZeRO-3 gathers its weights on all of them."""
        with gathered(self.accelerator, self.model):
            if self.accelerator.is_main_process:
                self.write_model(folder)

    @contextmanager
    def _writing(self, new: Path) -> Iterator[None]:
        """Name the folder when it cannot be written; leave nothing half written behind."""
        if self.accelerator.is_main_process:
            _remove(new)
        self.accelerator.wait_for_everyone()  # lest a faster rank's file is removed
        try:
            yield
        except (OSError, RuntimeError, SafetensorError) as error:
            full = shutil.disk_usage(self.run.output).free < 1 << 20
            if isinstance(error, RuntimeError) and not full:  # torch.save's word for it, or a fault
                raise
            _remove(new)
            saved = sorted(self.folder.glob("step-*"))
            left = f"; {saved[-1]} is whole" if saved else ""
            reason = "the disk is full" if full else str(error).splitlines()[0]
            raise TrainingError(f"{new.parent} cannot be written ({reason}){left}") from error

    def _save_trained(self, models: list[nn.Module], weights: list[dict], folder: str) -> None:
        """Write the trained weights alone, in place of accelerate's whole model."""
        if weights and self.accelerator.is_main_process:
            save_file(self._trained(), Path(folder) / TRAINED_FILE)
        weights.clear()

    def _trained(self) -> dict[str, torch.Tensor]:
        """Collect the weights that are trained, by the names that they have without wrappers."""
        bare = self.accelerator.unwrap_model(self.model)
        return {n: p.detach() for n, p in bare.named_parameters() if p.requires_grad}

    def _load_trained(self, models: list[nn.Module], folder: str) -> None:
        if not models:
            return  # DeepSpeed has loaded its shards
        models.clear()
        trained = self._trained()
        saved = load_file(Path(folder) / TRAINED_FILE)
        if set(saved) != set(trained):
            raise TrainingError(f"{folder} was made with other trained parts: --no-resume")
        with torch.no_grad():
            for name, weight in trained.items():
                weight.copy_(saved[name])


@contextmanager
def _readable(saved: list[Path]) -> Iterator[None]:
    """Say of the newest checkpoint that it is damaged, and what the run can go on from."""
    try:
        yield
    except (OSError, ValueError, KeyError, RuntimeError, EOFError, *DAMAGED) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        earlier = saved[-2].name if len(saved) > 1 else "its beginning"
        raise TrainingError(
            f"{saved[-1]} is damaged ({reason}): remove it, and the same command goes on from "
            f"{earlier}"
        ) from error


@contextmanager
def gathered(accelerator: "Accelerator", model: nn.Module) -> Iterator[None]:
    """Bring the weights that ZeRO-3 has cut together on every rank, for as long as it lasts."""
    plugin = accelerator.state.deepspeed_plugin
    if plugin is None or plugin.zero_stage != 3:
        yield
        return
    from deepspeed import zero

    with zero.GatheredParameters(list(model.parameters())):
        yield


def check_room(output: Path, model: nn.Module, keep: int, model_bytes: int) -> None:
    """Raise TrainingError, before the first step, where the folder cannot hold the run.

    Needed: the trained weights, a model and Adam's state for each of the `keep` checkpoints and
    the one being written; the best and the last model.

    Args: model_bytes: of a saved model, where it holds more than the trained weights.
    """
    probe = output / f"{NEW}probe-{os.getpid()}"
    try:
        output.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"0" * 4096)
        probe.unlink()
    except OSError as error:
        raise TrainingError(f"{output} cannot be written ({error.strerror})") from error
    trained = [p for p in model.parameters() if p.requires_grad]
    weights = sum(p.numel() * p.element_size() for p in trained)
    adam = sum(p.numel() for p in trained) * ADAM_BYTES
    saved = max(model_bytes, weights)
    need = (keep + 1) * (weights + saved + adam) + 2 * saved
    free = shutil.disk_usage(output).free
    if free < need:
        raise TrainingError(
            f"{output}: checkpoints need about {need / 1e9:.1f} GB, {free / 1e9:.1f} GB are free"
        )


def plain(value: Any) -> Any:
    """Turn settings into what JSON gives back."""
    return json.loads(json.dumps(value, default=str))


def _remove(folder: Path) -> None:
    """Remove a folder; under another name first, so that a kill leaves no half of it."""
    if folder.is_dir():
        if not folder.name.startswith((NEW, OLD)):
            folder = folder.rename(folder.with_name(f"{OLD}{folder.name}"))
        shutil.rmtree(folder, ignore_errors=True)
