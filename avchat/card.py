"""Model cards: what a model was made from, on what, how, and how to use it; as the Hub reads them.

Enters: a `Config` and the record of a run (run.json). Leaves: the text of README.md. Every number
comes from the record; what it does not say is left out.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from avchat.config import CONFIG_FILE, Config

TRAINING, BEFORE, MERGED = "Training", "Before that", "Merged adapters"
# Names of openai-whisper that its repositories on the Hub do not share.
WHISPER_ON_HUB = {"large-v1": "large", "large": "large-v3", "turbo": "large-v3-turbo"}
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
Record = dict[str, Any]


def plain_card(config: Config) -> str:
    """Write the card of a model of which no record is at hand."""
    listed = "".join(f"- {base}\n" for base in _bases(config))
    listed = listed or "- none: all weights are in this folder\n"
    return (
        f"{_front(config, [])}# {config.name}\n{_notice(config)}"
        f"\nAn avchat model, layout `{config.projector.layout}`. Bases, as in `{CONFIG_FILE}`:\n\n"
        f"{listed}\n{_use(config.name)}"
    )


def run_card(config: Config, record: Record, *, place: Path, before: str = "") -> str:
    """Write the card of a model that a run writes.

    Args: record: as run.json has it; place: the folder that the model is written to, which tells a
    checkpoint and the best from the last; before: the card of the model that it began from.
    """
    adapters = 0 < record["trained"]["language"]["trained"] < _weights(record, "language")
    name = Path(record["settings"]["output"]).name or config.name
    earlier = history(before)
    return (
        f"{_front(config, ['lora'] if adapters else [])}# {name}\n{_notice(config)}"
        "\nAnswers questions about video, pictures and sound. An avchat model, layout "
        f"`{config.projector.layout}`, {config.frames} frames a clip.\n\n"
        f"{_use(name)}\n## {TRAINING}\n\n"
        + "".join(f"- {line}\n" for line in _training(config, record, place))
        + f"\n{_table(record)}\n"
        + (f"## {BEFORE}\n\n{earlier}\n" if earlier else "")
        + _limits(config)
    )


def merged_card(card: str, note: str) -> str:
    """Carry a card on with a line on what was merged."""
    return f"{card.rstrip()}\n\n## {MERGED}\n\n{note}\n"


def history(card: str) -> str:
    """Take from a card what it tells of how its model came to be, one level of headings down."""
    parts = re.split(r"^## (.+)\n", card, flags=re.M)
    kept = []
    for title, text in zip(parts[1::2], parts[2::2], strict=True):
        if title in (TRAINING, MERGED):
            kept.append(f"### {title}\n\n{text.strip()}\n")
        elif title == BEFORE:
            kept.append(f"{text.strip()}\n")
    return "\n".join(kept)


def _front(config: Config, tags: list[str]) -> str:
    """Write the metadata that the Hub reads. Licence and data are the user's to name."""
    hubs = [config.vision.hub, _whisper(config.audio.hub), config.language.hub]
    bases = [hub for hub in hubs if hub and HUB_ID.fullmatch(hub) and not Path(hub).is_dir()]
    listed = "".join(f"- {base}\n" for base in bases)
    return (
        "---\nlibrary_name: avchat\npipeline_tag: video-text-to-text\n"
        + (f"base_model:\n{listed}" if listed else "")
        + "tags:\n"
        + "".join(f"- {tag}\n" for tag in ["audio", "video", *tags])
        + "---\n"
    )


def _whisper(name: str | None) -> str | None:
    """Name a Whisper as the Hub does; None for a file."""
    if name is None or name.endswith(".pt"):
        return None
    if "/" in name:  # in the form of Transformers
        return name
    return f"openai/whisper-{WHISPER_ON_HUB.get(name, name)}"


def _bases(config: Config) -> Iterator[str]:
    """Name what was not built from nothing, with its revision."""
    for part in (config.vision, config.audio, config.language):
        if part.hub is not None:
            at = f" at {part.revision}" if part.revision else ""
            yield f"{_short(part.hub)}{at}"


def _short(name: str) -> str:
    """Leave of a path on somebody's machine its last two names; other names as they are."""
    path = Path(name)
    return "/".join(path.parts[1:][-2:]) if path.is_absolute() else name


def _notice(config: Config) -> str:
    return f"\n> {config.notice}\n" if config.notice else ""


def _use(name: str) -> str:
    return (
        f'## Use\n\n```bash\navchat chat clip.mp4 "What do you hear?" --model {name}\n```\n\n'
        "```python\nfrom avchat import AVChat\n\n"
        f'model = AVChat.from_pretrained("{name}")\n'
        'print("".join(model.open("clip.mp4").ask("What do you hear?")))\n```\n\n'
        f"`{name}` stands for this folder's path, or its name on the Hub.\n"
    )


def _training(config: Config, record: Record, place: Path) -> Iterator[str]:
    """Tell, line by line, from what, on what, how and how fast a run trained."""
    settings = record["settings"]
    init = settings.get("init") or config.name
    bases = ", ".join(_bases(config)) or "none, all weights are in this folder"
    yield f"**From** `{_short(init)}`; bases: {bases}."
    yield from _data(record)
    cuts = settings["accumulate"] * record["processes"]
    packed = f"packed to {settings['pack']} tokens" if settings["pack"] else "a sample each"
    yield (
        f"**How** stage {record['stage']}, step {_step(record, place)} of {settings['steps']}; "
        f"{settings['batch']} rows a step ({settings['batch'] // cuts} x {settings['accumulate']} "
        f"micro-batches x {record['processes']} processes), {packed}; {_precision(record)}; seed "
        f"{settings['seed']}."
    )
    if config.language.lora is not None and record["trained"]["language"]["trained"]:
        lora = config.language.lora
        quantised = ", on weights in 4 bit" if settings.get("language") == "qlora" else ""
        yield (
            f"**LoRA** rank {lora.r}, alpha {lora.alpha}, dropout {lora.dropout:g} on "
            f"{', '.join(lora.targets)}{quantised}."
        )
    yield from _result(record)


def _data(record: Record) -> Iterator[str]:
    for what, found in record["manifests"].items():
        if not found["files"]:
            continue
        files = ", ".join(f"`{name}` (sha256 {record['data'][name]})" for name in found["files"])
        yield (
            f"**{'On' if what == 'training' else 'Validated on'}** {files}: {found['samples']} "
            f"samples, on {found['clips']} clips; {found['text_only']} of text alone."
        )
    if record.get("skipped"):
        yield f"**Left out** {len(record['skipped'])} samples that could not be used."


def _result(record: Record) -> Iterator[str]:
    """Tell what the record says of losses, amounts and speed, and at which step it says so."""
    samples = record["manifests"]["training"]["samples"]
    if record["loss"] is None:
        return
    best = record["best"]
    yield (
        f"**Result** loss {record['loss']:.4f} at step {record['step']}"
        + (f"; best validation loss {best['loss']:.4f}, at step {best['step']}." if best else ".")
    )
    yield (
        f"**Until step {record['step']}** {record['samples']} samples, {record['tokens']} tokens: "
        f"{record['samples'] / samples:.2f} epochs. {record['tokens_per_s']:g} tokens a second; "
        f"{record['device_hours']:g} device-hours on {record['processes']} x {record['device']}; "
        f"{record['peak_memory_gb']:g} GB at most in one process."
    )
    versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    yield f"**Versions** {versions}."


def _step(record: Record, place: Path) -> int:
    """Tell the step of the weights: by a checkpoint's name, else as the record has it."""
    if found := re.search(r"step-(\d+)", place.parent.name):
        return int(found[1])
    best = record["best"] if place.name.endswith("best") else None
    return int((best or record)["step"])


def _precision(record: Record) -> str:
    chosen = record["settings"]["precision"]
    if chosen == "auto":
        return "fp32" if record["device"].startswith("cpu") else "bf16"
    return chosen


def _weights(record: Record, part: str) -> int:
    return int(record["trained"][part]["weights"])


def _table(record: Record) -> str:
    """Lay out what was trained, part by part."""
    rows = ["| part | weights | trained | how | peak learning rate |", "|---|---|---|---|---|"]
    for part, row in record["trained"].items():
        whole = "adapters" if row["trained"] < row["weights"] else "all"
        how, lr = (whole, f"{row['lr']:g}") if row["trained"] else ("frozen", "")
        rows.append(f"| {part} | {row['weights']:,} | {row['trained']:,} | {how} | {lr} |")
    return "\n".join(rows) + "\n"


def _limits(config: Config) -> str:
    bases = "the bases above have licences of their own, and so may the data"
    toy = f" The model that it began from says of itself: {config.notice}." if config.notice else ""
    return (
        "## Limits\n\nNot evaluated: nobody has measured how well this model answers; losses do "
        f"not tell it.{toy} Answers are made from a few frames, so what happens between them is "
        "not seen.\n\n"
        f"## Licence\n\nNot set. Whoever publishes this model fills in `license:` in the first "
        f"lines of this file: {bases}.\n"
    )
