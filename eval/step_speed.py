"""How fast a step of finetuning is: tokens a second, the share of the device's peak, its memory.

`python eval/speed.py step` times LoRA or QLoRA (`--bits 4`) on packed rows, with random weights of
a language model's size, through the code that train/finetune.py runs: clips as pooled features,
the splice, the block mask, the loss, AdamW.

Model FLOPs of a token, by convention those that a step needs (nothing computed twice counts):
2 a weight forwards, 2 a weight for the gradient of what enters it, 2 more where the weight itself
is trained, and the products of attention, of which causality needs half.
"""

import json
import resource
import tempfile
import time
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from avchat.collate import Batch, collate
from avchat.config import PRESETS, AudioConfig, LanguageConfig, LoraConfig, VisionConfig
from avchat.language import adamw_8bit
from avchat.model import AVChat
from avchat.projectors import PooledFeatures
from avchat.prompt import Packed, Turn, join_rows
from avchat.tokenizer import train_tokenizer
from avchat.trainable import Trainable, choose

SIZES = {
    "phi-2": {
        "vocab_size": 51200,
        "hidden_size": 2560,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "intermediate_size": 10240,
        "partial_rotary_factor": 0.4,
    },
    "small": {
        "vocab_size": 8192,
        "hidden_size": 512,
        "num_hidden_layers": 6,
        "num_attention_heads": 8,
        "intermediate_size": 2048,
        "partial_rotary_factor": 0.5,
    },
}
# Dense bf16, as the makers publish it; of other devices the peak is what a matrix product reaches.
PUBLISHED_PEAK = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "L40S": 362e12, "4090": 165e12}
FRAMES, CELLS, AUDIO = 16, 25, 4
WORDS = "the red circle makes a sound while a blue square moves to the left . " * 40


@dataclass(frozen=True)
class StepSpeed:
    """Steps of finetuning a language model of a size, with random weights."""

    language: Literal["phi-2", "small"] = "small"
    tokens: int = 2048
    """Tokens of a packed row."""
    batch: int = 1
    """Rows of a step."""
    steps: int = 5
    bits: Literal[4, 8] | None = None
    """QLoRA: the base in 4 or 8 bit."""
    checkpointing: bool = False
    compile: bool = False
    optimizer: Literal["adamw", "fused", "8bit"] = "adamw"
    rank: int = 128
    json: bool = False


def build(run: StepSpeed, folder: Path, device: torch.device) -> AVChat:
    """Build a model whose base is a folder of the Hub's form, with random weights."""
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    size = {**SIZES[run.language], "max_position_embeddings": run.tokens}
    base = AutoModelForCausalLM.from_config(
        AutoConfig.for_model("phi", **size), dtype=dtype, attn_implementation="sdpa"
    )
    base.save_pretrained(folder)
    # The encoders do not run: one thin layer, as wide as SigLIP so400m and Whisper small.
    vision = {
        "hidden_size": 1152,
        "num_hidden_layers": 1,
        "num_attention_heads": 16,
        "intermediate_size": 64,
        "image_size": 378,
        "patch_size": 14,
        "vision_use_head": False,
    }
    audio = {"n_mels": 80, "n_ctx": 1500, "n_state": 768, "n_head": 12, "n_layer": 1}
    config = replace(
        PRESETS["timeline"],
        vision=VisionConfig(inline=vision),
        audio=AudioConfig(inline=audio),
        language=LanguageConfig(hub=str(folder), lora=LoraConfig(r=run.rank, alpha=2 * run.rank)),
    )
    words = train_tokenizer([WORDS], 400)
    model = AVChat.from_config(config, words, dtype=dtype, bits=run.bits, lora=False)
    return model.to(device)


def make_batch(run: StepSpeed, model: AVChat) -> Batch:
    """Fill rows with conversations of about 680 tokens on clips of 8 s."""
    rows, clips = [], []
    for _ in range(run.batch):
        parts: list[Packed] = []
        while (left := run.tokens - sum(len(part.ids) for part in parts)) > 0:
            clip = PooledFeatures(
                visual=torch.randn(FRAMES * CELLS, 1152),
                audio=torch.randn(FRAMES * AUDIO, 4 * 768),
                audio_alone=None,
                frame_times_s=tuple(0.25 + 0.5 * k for k in range(FRAMES)),
                num_states=400,
                start_s=0.0,
                duration_s=8.0,
            )
            prefix = model.prompt.build(model.plan(clip), [])
            if len(prefix.ids) + 40 > left:
                parts.append(cut(model.prompt.build(None, [Turn("what?", WORDS)]), left))
                continue
            row = model.prompt.build(model.plan(clip), [Turn("what happens here?", WORDS)])
            parts.append(cut(row, min(left, len(prefix.ids) + 140)))
            clips.append(clip)
        rows.append(join_rows(parts))
    return collate(rows, clips).to(model.device)


def cut(row: Packed, tokens: int) -> Packed:
    """Keep the first tokens of a row."""
    return Packed(row.ids[:tokens], row.labels[:tokens], row.weights[:tokens])


def step_flops(run: StepSpeed, model: AVChat, batch: Batch) -> float:
    """Count the model FLOPs of a step; see the head of this file."""
    size = SIZES[run.language]
    tokens = batch.ids.numel()
    named = list(model.language.named_parameters())
    adapters = sum(p.numel() for name, p in named if ".lora_" in name)
    width, layers = size["hidden_size"], size["num_hidden_layers"]
    base = layers * (4 * width * width + 2 * width * size["intermediate_size"])
    head = width * size["vocab_size"] * len(batch.columns) * batch.ids.shape[0]
    attention = layers * 4 * width * run.tokens / 2  # a token, forwards
    return 4 * base * tokens + 6 * adapters * tokens + 4 * head + 3 * attention * tokens


def peak_flops(device: torch.device, dtype: torch.dtype | None = None) -> tuple[float, str]:
    """Look the device's peak up, or measure it by a large matrix product.

    Args: dtype: of that product; None for bf16 on a GPU, fp32 elsewhere.
    """
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        for known, peak in PUBLISHED_PEAK.items():
            if known in name:
                return peak, "published"
    side, usual = (8192, torch.bfloat16) if device.type == "cuda" else (2048, torch.float32)
    dtype = dtype or usual
    a = torch.randn(side, side, device=device, dtype=dtype)
    best = float("inf")
    for _ in range(5):
        began = time.perf_counter()
        a @ a
        settle(device)
        best = min(best, time.perf_counter() - began)
    return 2 * side**3 / best, "of a matrix product, measured"


def settle(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def main(run: StepSpeed) -> None:
    """Time steps and print what they reach."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        model = build(run, Path(folder), device)
    groups = choose(model, Trainable("qlora" if run.bits else "lora"))
    if run.checkpointing:
        model.language.gradient_checkpointing_enable({"use_reentrant": False})
    if run.compile:
        model.language.compile()
    groups = [{"params": group["params"], "lr": group["lr"]} for group in groups]
    if run.optimizer == "8bit":
        optimizer = adamw_8bit(groups)
    else:
        optimizer = torch.optim.AdamW(groups, fused=run.optimizer == "fused" or None)
    batch = make_batch(run, model)
    cast = torch.autocast("cuda", torch.bfloat16) if device.type == "cuda" else nullcontext()
    model.train()
    seconds = []
    for _ in range(run.steps + 2):  # two to warm up
        settle(device)
        began = time.perf_counter()
        with cast:
            loss = model(batch)
        (loss.total / loss.weight).backward()
        optimizer.step()
        optimizer.zero_grad()
        settle(device)
        seconds.append(time.perf_counter() - began)
    best = sorted(seconds[2:])[len(seconds[2:]) // 2]
    peak, how = peak_flops(device)
    flops = step_flops(run, model, batch)
    memory = (
        torch.cuda.max_memory_allocated(device)
        if device.type == "cuda"
        else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    )
    report = {
        "language": run.language,
        "bits": run.bits or 16 if device.type == "cuda" else run.bits or 32,
        "tokens": batch.ids.numel(),
        "step_s": best,
        "tokens_per_s": batch.ids.numel() / best,
        "model_tflops": flops / best / 1e12,
        "peak_tflops": peak / 1e12,
        "peak": how,
        "share_of_peak": flops / best / peak,
        "peak_memory_gb": memory / 1e9,
    }
    if run.json:
        print(json.dumps(report))
        return
    for name, value in report.items():
        print(f"{name:<16}{value:.3f}" if isinstance(value, float) else f"{name:<16}{value}")
