"""How a run goes: the settings that every script in train/ has, from which tyro makes its flags."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class RunConfig:
    """How a run goes. Scripts extend it; it is saved with the run as run.json."""

    output: Path
    """Folder of the run: the model, run.json, metrics.jsonl and checkpoints."""
    steps: int = 1000
    """Optimiser steps."""
    batch: int = 16
    """Rows of an optimiser step, shared out evenly over all processes: one command learns the same
    on one and on many."""
    accumulate: int = 1
    """Micro-batches into which each process cuts its share."""
    lr: float = 2e-4
    """Peak learning rate."""
    warmup: float = 0.03
    """Part of the steps in which the learning rate rises."""
    weight_decay: float = 0.0
    clip: float = 1.0
    """Largest norm of the gradient."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """Of what is computed; auto: bf16 on a GPU, fp32 without."""
    optimizer: Literal["adamw", "fused", "8bit"] = "adamw"
    """AdamW; fused: its CUDA kernel; 8bit: its state in a quarter of the memory (bitsandbytes)."""
    seed: int = 0
    save_every: int = 500
    """Steps between checkpoints."""
    keep: int = 2
    """Checkpoints that are kept, the newest ones."""
    validate_every: int = 100
    """Steps between validations, where there is something to validate on."""
    log_every: int = 20
    resume: bool = True
    """Go on from the newest checkpoint in output, if there is one."""
    tracker: Literal["tensorboard", "wandb", "trackio", "none"] = "tensorboard"
    """Where curves go, beside metrics.jsonl."""
