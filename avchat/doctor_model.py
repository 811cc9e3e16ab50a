"""A model that is not loaded: what would be fetched, what it weighs, whether it fits here.

Enters: a name. Leaves: a dict for `avchat doctor --model X --json`, or lines of text for people.
"""

from dataclasses import asdict
from typing import Any

import torch

from avchat.fetching import Source
from avchat.loading import Plan, by_hand, in_words, plan_of
from avchat.saved import is_unbundled, local_checkpoint
from avchat.sizes import PRECISIONS, WINDOWS, Memory, Unknown, free_memory, memory
from avchat.weight_files import check_whole

FITS, SHORT, NOT = "fits", "fits, with a short conversation", "does not fit"
FLAGS = {
    "fp32": "--dtype fp32",
    "bf16": "--dtype bf16",
    "8 bit": "--dtype bf16 --bits 8",
    "4 bit": "--dtype bf16 --bits 4",
}


def report_model(name: str) -> dict[str, Any]:
    """Say of a model what is fetched and how large, its memory by precision, where it fits.

    Sizes are bytes; None is "not known".

    Raises:
        ModelError: no such model, or it is not here and the Hub cannot be asked.
    """
    plan = plan_of(name)
    folder = local_checkpoint(name)
    own = [folder] if not any(source.part == "model" for source in plan.sources) else []
    for place in [*own, *(source.folder for source in plan.sources)]:
        if place is not None:
            check_whole(place)
    missing = [source.missing for source in plan.absent]
    free = {str(device): free_memory(device) for device in _devices()}
    try:
        counts = plan.count()
        needs = {p: memory(counts, p) for p in PRECISIONS if p in ("fp32", "bf16") or _hub(plan)}
        context, why = counts.context, ""
    except Unknown as error:
        needs, context, why = {}, None, str(error)
    verdict = {
        device: {p: _verdict(need, bytes_) for p, need in needs.items()}
        for device, bytes_ in free.items()
    }
    return {
        "model": name,
        "preset": plan.config.name,
        "sources": [_as_dict(source) for source in plan.sources],
        "download_bytes": None if None in missing else sum(missing),
        "context": context,
        "memory": {precision: need.to_dict() for precision, need in needs.items()},
        "memory_unknown": why,
        "free": free,
        "verdict": verdict,
        "advice": _advice(plan, verdict, needs),
    }


def _hub(plan: Plan) -> bool:
    """Say whether the language model can be in 8 and 4 bit: published weights alone can."""
    return plan.config.language.hub is not None


def _devices() -> list[torch.device]:
    cards = [torch.device("cuda", index) for index in range(torch.cuda.device_count())]
    return [*cards, torch.device("cpu")]


def _as_dict(source: Source) -> dict[str, Any]:
    said = asdict(source) | {"here": source.here, "bytes": source.size, "missing": source.missing}
    said["files"] = [{"name": f.name, "bytes": f.size, "here": f.here} for f in source.files]
    said["folder"] = None if source.folder is None else str(source.folder)
    return said


def _verdict(need: Memory, free: int | None) -> str:
    if free is None:
        return "not known"
    if need.on_top(full=True) <= free:
        return FITS
    return SHORT if need.on_top() <= free else NOT


def _advice(plan: Plan, verdict: dict[str, dict[str, str]], needs: dict[str, Memory]) -> list[str]:
    """Name the most exact choice that fits on each device, and how to go on without a network."""
    lines = []
    if is_unbundled(plan.name):
        lines.append(f"{plan.name} has no projectors of its own yet: train/finetune.py trains them")
    for device, found in verdict.items():
        good = [precision for precision, said in found.items() if said == FITS]
        good = good or [precision for precision, said in found.items() if said == SHORT]
        here = "cpu" if device == "cpu" else device
        if good:
            best = "bf16" if device != "cpu" and "bf16" in good else good[0]
            lines.append(f"on {device}: --device {here} {FLAGS[best]} {found[best]}")
        elif found:
            lines.append(f"on {device}: nothing fits; --offload DIR keeps layers on disk (slow)")
    for source in plan.absent:
        where = "to be fetched" if not source.unreachable else f"cannot be fetched: {source.note}"
        lines.append(f"{source.name}: {where}; {by_hand(source)}")
    return lines


def as_text(found: dict[str, Any]) -> str:
    """Lay a report out for people."""
    lines = [f"model    {found['model']} (its config is called {found['preset']})"]
    for source in found["sources"]:
        state = "here" if source["here"] else f"to be fetched: {in_words(source['missing'])}"
        size = f", {in_words(source['bytes'])} in all" if source["here"] else ""
        note = f"; {source['note']}" if source["note"] else ""
        lines.append(
            f"{source['part']:<8} {source['name']:<38} {state}{size} (says {source['known']}){note}"
        )
    lines.append(f"fetch    {in_words(found['download_bytes'])} in all")
    lines += _table(found)
    lines += [f"memory   not known: {found['memory_unknown']}"] if found["memory_unknown"] else []
    lines += [f"advice   {line}" for line in found["advice"]]
    return "\n".join(lines)


def _table(found: dict[str, Any]) -> list[str]:
    """Lay out the memory by part and precision, and the verdicts below."""
    needs = found["memory"]
    if not needs:
        return []
    rows = {
        "vision": "vision",
        "audio": "audio, fp32 always",
        "projectors": "projectors, fp32 always",
        "language": "language",
        "work": f"allowance: frames, {WINDOWS * 30} s of sound, a prompt",
        "process": "allowance: Python and its libraries",
        "least": "needed at least",
        "cache": f"keys and values of {found['context']} tokens",
        "total": "needed with a full context",
    }
    lines = [f"memory   {'':<42}" + "".join(f"{precision:>10}" for precision in needs)]
    for key, label in rows.items():
        sizes = "".join(f"{in_words(need[key]):>10}" for need in needs.values())
        lines.append(f"         {label:<42}{sizes}")
    for device, said in found["verdict"].items():
        free = found["free"][device]
        shown = "free memory not known" if free is None else f"{in_words(free)} free"
        lines.append(f"{device:<8} {shown}")
        lines += [f"         {precision:<6} {words}" for precision, words in said.items()]
    return lines
