"""Which weights a run trains, said part by part: an explicit list that is printed, saved, tested.

Nothing is trained because of how it was loaded: `choose` freezes everything first.

Settings of the papers and of Bunny: language model by LoRA (r 128, alpha 256, dropout 0.05) at
2e-4, projectors at 2e-5, encoders frozen.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import nn

from avchat.config import ConfigError, LoraConfig
from avchat.language import adapt_linear, attach_lora, has_lora, is_quantised
from avchat.model import AVChat

Language = Literal["lora", "qlora", "full", "frozen"]
Projectors = Literal["full", "lora", "frozen"]


@dataclass(frozen=True)
class Trainable:
    """What is trained of each part, and its peak learning rate."""

    language: Language = "lora"
    language_lr: float = 2e-4
    lora: LoraConfig | None = None  # None: of the model's config, Bunny's where it has none
    visual_projector: Projectors = "full"
    audio_projector: Projectors = "full"
    projector_lr: float = 2e-5
    vision_lr: float = 0.0  # 0: frozen
    audio_lr: float = 0.0


def choose(model: AVChat, trainable: Trainable) -> list[dict[str, Any]]:
    """Freeze a model but for what is trained; return AdamW's groups, each with its "lr".

    Raises:
        ConfigError: the language model cannot be trained in that way, or nothing is trained.
    """
    rates = {
        "language": trainable.language_lr,
        "visual_projector": trainable.projector_lr,
        "audio_projector": trainable.projector_lr,
        "vision": trainable.vision_lr,
        "audio": trainable.audio_lr,
    }
    if not all(0 <= rate < math.inf for rate in rates.values()):
        raise ConfigError("learning rates must be numbers, 0 or above")
    lora = trainable.lora or LoraConfig()
    if lora.r < 1 or lora.alpha <= 0 or not 0 <= lora.dropout < 1 or not lora.targets:
        raise ConfigError("adapters need a rank and an alpha above 0, a dropout below 1, targets")
    if trainable.audio_projector != "frozen":
        model.learn_to_hear()
    model.requires_grad_(False)
    _choose_language(model, trainable)
    _choose_projector(model.visual_projector, trainable.visual_projector, trainable, model)
    _choose_projector(model.audio_projector, trainable.audio_projector, trainable, model)
    model.vision.requires_grad_(trainable.vision_lr > 0)
    model.audio.requires_grad_(trainable.audio_lr > 0)
    groups = []
    for part, lr in rates.items():
        weights = [p for p in getattr(model, part).parameters() if p.requires_grad]
        for weight in weights:
            weight.data = weight.data.float()  # AdamW's small steps would vanish in bf16
        if weights:
            groups.append({"params": weights, "lr": lr, "part": part})
    if not groups:
        raise ConfigError("nothing is trained: each part is frozen")
    return groups


def _choose_language(model: AVChat, trainable: Trainable) -> None:
    if trainable.language == "frozen":
        return
    quantised = is_quantised(model.language)
    if trainable.language == "qlora" and not quantised:
        raise ConfigError("qlora needs the language model in 4 bit, from the Hub or a folder")
    if trainable.language == "full":
        if quantised:
            raise ConfigError("a language model in 4 or 8 bit is trained by its adapters alone")
        if has_lora(model.language):
            model.merge()
        language = replace(model.config.language, lora=None)
        model.config = replace(model.config, language=language)
        model.language.requires_grad_(True)
        return
    known = model.config.language.lora
    wanted = trainable.lora or known or LoraConfig()
    if not has_lora(model.language):
        model.language = attach_lora(model.language, wanted)
    elif known is not None and wanted != known:
        raise ConfigError(
            f"the model has adapters of rank {known.r}, alpha {known.alpha}, dropout "
            f"{known.dropout:g} on {', '.join(known.targets)}, which go on as they are: leave the "
            "flags of --lora out, or fold them in (avchat merge)"
        )
    model.config = replace(model.config, language=replace(model.config.language, lora=wanted))
    for name, weight in model.language.named_parameters():
        weight.requires_grad_(".lora_" in name)


def _choose_projector(
    projector: nn.Module, mode: Projectors, trainable: Trainable, model: AVChat
) -> None:
    if mode == "lora":
        adapt_linear(projector, trainable.lora or model.config.language.lora or LoraConfig())
        for name, weight in projector.named_parameters():
            weight.requires_grad_(".lora_" in name)
    else:
        projector.requires_grad_(mode == "full")


def table(model: AVChat, groups: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Count, for each part, all weights and those that are trained, with their learning rate."""
    rates = {group["part"]: group["lr"] for group in groups}
    rows = {}
    for part in ("vision", "audio", "visual_projector", "audio_projector", "language"):
        weights = list(getattr(model, part).parameters())
        rows[part] = {
            "weights": sum(_count(p) for p in weights),
            "trained": sum(p.numel() for p in weights if p.requires_grad),
            "lr": rates.get(part, 0.0),
        }
    return rows


def _count(weight: torch.Tensor) -> int:
    """Count the numbers of a weight: two of 4 bit lie in a byte."""
    packed = weight.dtype == torch.uint8
    return weight.numel() * (2 if packed else 1)


def lines(rows: dict[str, dict[str, float]]) -> Iterator[str]:
    """Write the table in words."""
    yield f"{'part':<18}{'weights':>15}{'trained':>15}  learning rate"
    for part, row in rows.items():
        lr = f"{row['lr']:g}" if row["trained"] else "frozen"
        yield f"{part:<18}{row['weights']:>15,}{row['trained']:>15,}  {lr}"
    weights, trained = (sum(row[k] for row in rows.values()) for k in ("weights", "trained"))
    yield f"{'all':<18}{weights:>15,}{trained:>15,}  {trained / weights:.1%} of all"
