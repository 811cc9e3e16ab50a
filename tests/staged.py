"""Short stages on a manifest, for tests: a small random model learns a few steps."""

import json
from pathlib import Path

import torch
from accelerate.state import AcceleratorState
from small import build_model

from avchat.config import LoraConfig
from avchat.model import AVChat
from avchat.stage import StageConfig, train
from avchat.trainable import Trainable

ROOT = Path(__file__).resolve().parent.parent
LORA = LoraConfig(r=4, alpha=8, dropout=0.2, targets=("q_proj", "v_proj"))
ADAPTERS = Trainable("lora", 1e-2, LORA, projector_lr=1e-2)
# Unequal numbers of tokens to train: a mean of means is another loss.
ANSWERS = ["red", "a blue square", "the green star or the red circle.", "no", "the sound", "which"]


def write_manifest(path: Path, clip: Path, silent_clip: Path, sound_clip: Path) -> Path:
    """Write ten conversations: on both senses, on one, on parts, on nothing; one is a caption."""
    media = [clip, silent_clip, sound_clip, None]
    rows = []
    for k in range(9):
        asked = [{"role": "user", "content": "which object makes the sound?"}] * (1 + k % 2)
        said = [{"role": "assistant", "content": ANSWERS[k % len(ANSWERS)]}] * (1 + k % 2)
        turns = [turn for pair in zip(asked, said, strict=True) for turn in pair]
        row = {"id": f"s{k}", "messages": turns}
        if (file := media[k % 4]) is not None:
            row |= {"media": str(file), **({"start": 1.0, "end": 3.0} if k > 3 else {})}
        rows.append(row)
    rows.append({"id": "c", "media": str(clip), "caption": "a red circle", "of": "sound"})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def run_of(folder: Path, manifest: Path, **settings: object) -> StageConfig:
    plain = {"steps": 3, "batch": 4, "tracker": "none", "log_every": 1, "resume": False}
    return StageConfig(output=folder, data=(manifest,), **{**plain, **settings})


def trained(run: StageConfig, trainable: Trainable = ADAPTERS) -> tuple[AVChat, list[float]]:
    """Train a small random model; return it and the loss of each step."""
    AcceleratorState._reset_state(True)
    torch.manual_seed(1)
    model = build_model()
    assert train(run, model, trainable)
    lines = (run.output / "metrics.jsonl").read_text().splitlines()
    return model, [row["loss"] for line in lines if "loss" in (row := json.loads(line))]
