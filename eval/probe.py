"""Which questions need hearing? Split a set by what models of single senses get right.

    python eval/probe.py --data mine.jsonl --picture runs/eyes/model --sound runs/ears/model \\
        --neither runs/words/model --both runs/av/model --output runs/probe

Each model answers with its sense alone: those of --picture see, those of --sound hear, those of
--neither have the question alone (train them so: a manifest's field `sense`). Several models of a
sense vote; a question counts as answered where more than half of them are right. What the question
alone answers needs neither; what one sense answers needs that one, or either; what only both answer
needs both; what none answers stays unknown. The same model may be named for all four: that is
weaker evidence, since a model is not trained to do without a sense.

Writes needs.jsonl (each question with what was found) and one file of questions for each part, as
the set was given, for training, for eval/ablate.py, or for a benchmark that a blind model fails.
With few choices some are right by luck: the report says how many to expect, and more models of a
sense make fewer.
"""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import tyro

from avchat.evaluation.items import EvalError, Item
from avchat.evaluation.records import Row, write_whole
from avchat.evaluation.report import json_of
from avchat.evaluation.session import Session, answer
from avchat.evaluation.source import questions
from avchat.evaluation.tables import line
from avchat.evaluation.verdicts import read_verdicts
from avchat.script import run_script

SENSES = {
    "picture": "deaf",
    "sound": "blind",
    "neither": "question_only",
    "both": "full",
}  # whose models are asked under which condition
PARTS = ("neither", "picture", "sound", "either", "both", "unknown")


@dataclass(frozen=True, kw_only=True)
class Probe(Session):
    """Find out which questions need which sense."""

    data: Path | None = None
    """Questions on your clips, as eval/ablate.py takes them. Without it: clips of the world."""
    clips: int = 100
    """Clips of the world, where no --data is given."""
    model: tyro.conf.Suppress[str] = "tiny"
    picture: tuple[str, ...] = ("tiny",)
    """Models that see."""
    sound: tuple[str, ...] = ("tiny",)
    """Models that hear."""
    neither: tuple[str, ...] = ("tiny",)
    """Models that know the question alone."""
    both: tuple[str, ...] = ("tiny",)
    """Models that see and hear."""


def main(run: Probe) -> None:
    """Ask each model what is missing, split, write, print."""
    items, data = questions(run.data, run.output, run.clips, run.seed, run.limit)
    right = {sense: votes(run, items, sense, data) for sense in SENSES}
    if run.dry_run:
        return
    parts = {
        item.id: part_of({sense: right[sense].get(item.id) for sense in SENSES}) for item in items
    }
    write_split(run, items, parts)
    report = summary(run, items, parts)
    write_whole(run.output / "report.json", json_of(report, indent=1) + "\n")
    print(json_of(report) if run.json else table(report))


def votes(run: Probe, items: Sequence[Item], sense: str, data: Row) -> dict[str, bool | None]:
    """Tell of each question whether more than half of a sense's models answer it; None where one
    of their answers is missing.
    """
    names: tuple[str, ...] = getattr(run, sense)
    if not names:
        raise EvalError(f"--{sense}: name a model, or several")
    found: dict[str, list[bool | None]] = {item.id: [] for item in items}
    for k, name in enumerate(names):
        part = replace(run, model=name, output=run.output / f"{sense}-{k}")
        if not answer(part, items, run.asking([SENSES[sense]]), data):
            continue
        for one in read_verdicts(part.output):
            found[one.id].append(one.right)
    return {
        id: None if None in hits else 2 * sum(map(bool, hits)) > len(hits)
        for id, hits in found.items()
    }


def part_of(right: dict[str, bool | None]) -> str:
    """Name what a question needs, by which senses answer it."""
    if None in right.values():
        return "unknown"
    if right["neither"]:
        return "neither"
    if right["picture"] or right["sound"]:
        alone = [sense for sense in ("picture", "sound") if right[sense]]
        return alone[0] if len(alone) == 1 else "either"
    return "both" if right["both"] else "unknown"


def write_split(run: Probe, items: Sequence[Item], parts: dict[str, str]) -> None:
    """Write each question with its part, and a file a part that eval/ablate.py and others read."""
    rows = [(item, parts[item.id]) for item in items]
    lines = [json.dumps({"id": item.id, "needs": part}, ensure_ascii=False) for item, part in rows]
    write_whole(run.output / "needs.jsonl", "".join(line + "\n" for line in lines))
    for part in PARTS:
        kept = [json.dumps(item.row(), ensure_ascii=False) for item, of in rows if of == part]
        write_whole(run.output / f"{part}.jsonl", "".join(line + "\n" for line in kept))


def summary(run: Probe, items: Sequence[Item], parts: dict[str, str]) -> Row:
    """Count parts, over all and by family, and how many are right by luck."""
    families: dict[str, Counter] = {}
    for item in items:
        families.setdefault(item.family or "all", Counter())[parts[item.id]] += 1
    luck = sum(1 / len(item.choices) for item in items if item.choices)
    return {
        "models": {sense: list(getattr(run, sense)) for sense in SENSES},
        "partial": bool(run.limit),
        "n": len(items),
        "parts": {part: sum(of == part for of in parts.values()) for part in PARTS},
        "families": {name: dict(families[name]) for name in sorted(families)},
        "right_by_luck_of_one_model": luck / len(items),
    }


def table(report: Row) -> str:
    """Lay the report out as Markdown."""
    partial = "PARTIAL (--limit): " if report["partial"] else ""
    lines = [f"{partial}what {report['n']} questions need", "", line(["", *PARTS])]
    lines.append(line(["---"] * (len(PARTS) + 1)))
    lines.append(line(["all", *(str(report["parts"][part]) for part in PARTS)]))
    for name, counts in report["families"].items():
        lines.append(line([name, *(str(counts.get(part, 0)) for part in PARTS)]))
    luck = 100 * report["right_by_luck_of_one_model"]
    lines += ["", f"one model that guesses among the choices is right about {luck:.0f} % of them"]
    return "\n".join(lines)


if __name__ == "__main__":
    run_script(main, Probe, __doc__)
