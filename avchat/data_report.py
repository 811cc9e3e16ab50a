"""What a check of training data found, in words and as JSON."""

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from avchat.captions import CaptionedFile
from avchat.data import Sample
from avchat.data_answers import spread_of

STEPS = 10  # of the histogram, up to the context
WIDTH = 40  # characters of its longest bar
SHOWN = 20  # findings of one kind that are listed in words; JSON lists all


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, or worth a look."""

    kind: str
    where: str
    text: str


@dataclass(frozen=True)
class Manifest:
    """A manifest that was read, as far as its lines can be used."""

    path: Path
    samples: tuple[Sample | CaptionedFile, ...]
    captions: bool


@dataclass
class Report:
    """All that was found."""

    manifests: list[Manifest] = field(default_factory=list)
    faults: list[Finding] = field(default_factory=list)
    notes: list[Finding] = field(default_factory=list)
    context: int = 0  # tokens; 0 where no conversation was laid out
    tokens: list[int] = field(default_factory=list)  # of each conversation that could be laid out
    answers: list[int] = field(default_factory=list)  # tokens of each
    captions: list[int] = field(default_factory=list)  # words of each
    said: list[str] = field(default_factory=list)  # answers and captions


def as_json(report: Report) -> dict:
    """Make the object that --json prints."""
    return {
        "ok": not report.faults,
        "manifests": [counts(manifest) for manifest in report.manifests],
        "faults": [asdict(finding) for finding in report.faults],
        "notes": [asdict(finding) for finding in report.notes],
        "tokens": {
            "context": report.context,
            **spread(report.tokens),
            "histogram": histogram(report.tokens, report.context),
        },
        "answers": {"unit": "tokens", **spread(report.answers)},
        "captions": {"unit": "words", **spread(report.captions)},
        "said": spread_of(report.said),
    }


def counts(manifest: Manifest) -> dict:
    """Count a manifest."""
    return {
        "path": str(manifest.path),
        "kind": "captions" if manifest.captions else "conversations",
        "samples": len(manifest.samples),
        "clips": len({sample.media for sample in manifest.samples} - {None}),
        "texts": sum(sample.media is None for sample in manifest.samples),
    }


def spread(values: Sequence[int]) -> dict[str, float]:
    """Say how numbers are spread."""
    if not values:
        return {"count": 0}
    return {
        "count": len(values),
        "min": min(values),
        "median": statistics.median(values),
        "mean": round(statistics.fmean(values), 1),
        "max": max(values),
    }


def histogram(tokens: Sequence[int], context: int) -> list[dict[str, int | None]]:
    """Count conversations by length: tenths of the context, and what is beyond it.

    One token of the context is kept for an answer, as training keeps it.
    """
    if not context:
        return []
    edges = [context * k // STEPS for k in range(STEPS + 1)]
    bins: list[tuple[int, int | None]] = [*zip(edges, edges[1:], strict=False), (context, None)]
    return [
        {
            "from": low,
            "to": high,
            "samples": sum(low <= size and (high is None or size < high) for size in tokens),
        }
        for low, high in bins
    ]


def as_text(report: Report) -> Iterator[str]:
    """Say in lines what was found."""
    for manifest in map(counts, report.manifests):
        texts = ", {texts} of them of text alone" if manifest["texts"] else ""
        yield f"{{path}}: {{samples}} {{kind}} about {{clips}} files{texts}".format(**manifest)
    if report.tokens:
        yield f"tokens of a conversation, in a context of {report.context}:"
        yield from bars(histogram(report.tokens, report.context))
    for name, unit, values in (
        ("answers", "tokens", report.answers),
        ("captions", "words", report.captions),
    ):
        if values:
            text = "{count}, of {min} to {max} {unit}, median {median:g}, mean {mean:g}"
            yield f"{name}: {text.format(unit=unit, **spread(values))}"
    yield from told(spread_of(report.said))
    for name, findings in (("fault", report.faults), ("note", report.notes)):
        yield from listed(name, findings)


def told(said: dict[str, Any]) -> Iterator[str]:
    """Say what answers are like: their scripts, the most common ones, yes and no."""
    if not said:
        return
    scripts = ", ".join(f"{name} {share:.0%}" for name, share in said["scripts"].items())
    yield f"scripts: {scripts}"
    if said["common"][0]["count"] > 1:
        common = [one for one in said["common"] if one["count"] > 1]
        listed = ", ".join(f'"{one["answer"]:.30}" {one["share"]:.0%}' for one in common)
        yield f"said most: {listed}; {said['different']} different"
    if said["yes"] or said["no"]:
        yield f"begin with yes: {said['yes']:.0%}, with no: {said['no']:.0%}"


def bars(bins: Sequence[dict]) -> Iterator[str]:
    """Draw a histogram up to its last bin that holds something."""
    most = max(one["samples"] for one in bins)
    last_one = max(k for k, one in enumerate(bins) if one["samples"])
    for one in bins[: last_one + 1]:
        bar = "#" * -(-WIDTH * one["samples"] // most)
        last = "more" if one["to"] is None else one["to"] - 1
        yield f"  {one['from']:>6} - {last:<6} {one['samples']:>6}  {bar}".rstrip()


def listed(name: str, findings: Sequence[Finding]) -> Iterator[str]:
    """List findings, the first of each kind alone where there are many."""
    for kind in dict.fromkeys(finding.kind for finding in findings):
        same = [finding for finding in findings if finding.kind == kind]
        for finding in same[:SHOWN]:
            where = "" if finding.text.startswith(finding.where) else f"{finding.where}: "
            yield f"{name}: {kind}: {where}{finding.text}"
        if len(same) > SHOWN:
            yield f"{name}: {kind}: and {len(same) - SHOWN} more, which --json lists"
