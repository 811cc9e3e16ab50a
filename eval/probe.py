"""Which questions need hearing? Split a set by what models of single senses get right.

    python eval/probe.py --data mine.jsonl --picture runs/eyes/model --sound runs/ears/model \\
        --neither runs/words/model --both runs/av/model --output runs/probe

Each model answers with its sense alone: those of --picture see, those of --sound hear, those of
--neither have the question alone (train them so: a manifest's field `sense`). Several models of a
sense vote; a question counts as answered where more than half of them are right. What the question
alone answers needs neither; what one sense answers needs that one, or either; what only both answer
needs both; what none answers stays unknown. The same model may be named for all four: that is
weaker evidence, since a model is not trained to do without a sense.

Questions of which an answer is missing (a clip that cannot be decoded) are counted apart, with the
reasons; an answer that is none of the choices is no knowledge, and counts as wrong here.

Writes needs.jsonl (each question with what was found) and one file of questions for each part, as
eval/ablate.py reads them: a benchmark that a blind model fails, for instance. They are questions to
ask, not a manifest to train on: pick the lines of that by the ids in needs.jsonl. With few choices
some are right by luck: the report says how many to expect, and more models of a sense make fewer.
"""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import tyro

from avchat.evaluation.items import EvalError, Item
from avchat.evaluation.records import Row, manifest, read_manifest, write_whole
from avchat.evaluation.report import cost, json_of, spent
from avchat.evaluation.session import Session, answer, check_script, plan_lines, plan_of, unscored
from avchat.evaluation.source import questions
from avchat.evaluation.tables import FAULTS, cost_line, line
from avchat.evaluation.verdicts import Verdict, read_verdicts
from avchat.model import AVChat
from avchat.script import run_script

SENSES = {
    "picture": "deaf",
    "sound": "blind",
    "neither": "question_only",
    "both": "full",
}  # whose models are asked under which condition
PARTS = ("neither", "picture", "sound", "either", "both", "unknown", "missing")


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
    asked = asked_of(run)
    check_script(run.output)
    limits = (run.seed, run.limit, run.dry_run)
    items, data = questions(run.data, run.output, run.clips, *limits)
    if run.dry_run:
        found = planned(asked, items) | {"models": models_of(run)}
        named = [f"{sense} {' '.join(names)}" for sense, names in found["models"].items()]
        print(json_of(found) if run.json else plan_lines(found | {"models": ", ".join(named)}))
        return
    about = {"data": data, "limit": run.limit, "models": models_of(run), "n": len(items)}
    with manifest(run.output, about) as found:
        for part, sense in asked:
            answer(part, items, part.asking([SENSES[sense]]), data)
        found |= spent([read_manifest(part.output) for part, _ in asked])
        report = write_report(run, items, asked, found)
    print(json_of(report) if run.json else table(report))
    if report["parts"]["missing"] == len(items):
        raise unscored(run.output, report["faults"])


def models_of(run: Probe) -> dict[str, list[str]]:
    """List the models of each sense."""
    return {sense: list(getattr(run, sense)) for sense in SENSES}


def asked_of(run: Probe) -> list[tuple[Probe, str]]:
    """List the runs, one a model, each with its sense; EvalError where a sense has no model."""
    found = []
    for sense, names in models_of(run).items():
        if not names:
            raise EvalError(f"--{sense}: name a model, or several")
        for k, name in enumerate(names):
            found.append((replace(run, model=name, output=run.output / f"{sense}-{k}"), sense))
    return found


def planned(asked: Sequence[tuple[Probe, str]], items: Sequence[Item]) -> Row:
    """Count what would be asked of all models together."""
    plans = []
    for part, sense in asked:
        model = AVChat.from_pretrained(part.model).eval()
        plans.append(plan_of(part, model, items, part.asking([SENSES[sense]])))
    shared = ("questions", "clips", "clips_missing", "clips_to_render")
    found = {name: plans[0][name] for name in shared}
    for name in ("answers", "to_answer", "tokens_at_most", "judge_calls"):
        found[name] = sum(one[name] for one in plans)
    known = [one["seconds"] for one in plans]
    found["seconds"] = None if None in known else round(sum(known), 1)
    return found


def write_report(
    run: Probe, items: Sequence[Item], asked: Sequence[tuple[Probe, str]], about: Row
) -> Row:
    """Split questions by what was answered, and write it all down."""
    verdicts = [(sense, read_verdicts(part.output)) for part, sense in asked]
    right = {
        sense: votes(items, [some for of, some in verdicts if of == sense]) for sense in SENSES
    }
    parts = {item.id: part_of({sense: right[sense][item.id] for sense in SENSES}) for item in items}
    write_split(run, items, parts)
    report = summary(run, items, parts)
    report["faults"] = sorted({v.error for _, some in verdicts for v in some if v.error})
    report["unparsed"] = sum(v.outcome == "unparsed" for _, some in verdicts for v in some)
    report["cost"] = cost(about)
    write_whole(run.output / "report.json", json_of(report, indent=1) + "\n")
    return report


def votes(items: Sequence[Item], models: Sequence[Sequence[Verdict]]) -> dict[str, bool | None]:
    """Tell of each question whether more than half of a sense's models answer it; None where one
    of their answers is missing. One that names no choice, or several, does not answer it.
    """
    found: dict[str, list[str]] = {item.id: [] for item in items}
    for one in (one for verdicts in models for one in verdicts):
        found[one.id].append(one.outcome)
    return {
        id: None if "missing" in said else 2 * said.count("right") > len(said)
        for id, said in found.items()
    }


def part_of(right: dict[str, bool | None]) -> str:
    """Name what a question needs, by which senses answer it; missing: that cannot be told."""
    if None in right.values():
        return "missing"
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
        if item.family:
            families.setdefault(item.family, Counter())[parts[item.id]] += 1
    luck = sum(1 / len(item.choices) for item in items if item.choices)
    return {
        "models": models_of(run),
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
    if report["unparsed"]:
        lines.append(f"{report['unparsed']} answers are none of the choices: counted as wrong")
    lines += [f"missing: {fault}" for fault in report["faults"][:FAULTS]]
    if len(report["faults"]) > FAULTS:
        lines.append(f"missing: {len(report['faults']) - FAULTS} other reasons, in report.json")
    return "\n".join([*lines, "", cost_line(report)])


if __name__ == "__main__":
    run_script(main, Probe, __doc__)
