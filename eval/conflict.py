"""Let eyes and ears disagree: whom does a model believe, and how often does it invent a sound?

    python eval/conflict.py --model tiny --clips 100 --output runs/conflict

Each clip is asked about with another clip's sound under its picture. What the eyes say is the
model's own answer with the sound absent; what the ears say, its answer to that sound alone; the
prior, its answer to the question alone. Where eyes and ears disagree, the answer to the clip with
the swapped sound follows one of them, the prior alone, or none. `same`: eyes and ears say the same;
`missing`: one of these answers is not there. Of yes-or-no questions the yes-rate
under each condition is printed: a model that says yes to all hears nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from avchat.evaluation.conditions import CONDITIONS
from avchat.evaluation.records import Row, read_manifest, write_whole
from avchat.evaluation.report import ALL, FEW, cost, groups_of, json_of, score
from avchat.evaluation.session import Session, answer, unscored
from avchat.evaluation.source import questions
from avchat.evaluation.tables import accuracy, cost_line, line, warnings
from avchat.evaluation.verdicts import Verdict, read_verdicts
from avchat.metrics import bootstrap_interval, mean, same_answer
from avchat.script import run_script

SOURCES = {"eyes": "deaf", "ears": "other_sound_only", "prior": "question_only"}
ASKED = ("full", "other_sound", *SOURCES.values())


@dataclass(frozen=True, kw_only=True)
class Conflict(Session):
    """Swap sounds, and see whom the answers follow."""

    data: Path | None = None
    """Questions on your clips, as eval/ablate.py takes them. Without it: clips of the world."""
    clips: int = 100
    """Clips of the world, where no --data is given."""


def main(run: Conflict) -> None:
    """Ask what is missing, then say whom the answers follow."""
    limits = (run.seed, run.limit, run.dry_run)
    items, data = questions(run.data, run.output, run.clips, *limits)
    if not answer(run, items, run.asking(ASKED), data):
        return
    report = report_of(run.output)
    write_whole(run.output / "report.json", json_of(report, indent=1) + "\n")
    print(json_of(report) if run.json else table(report))
    if not any(one["scored"] for one in report["conditions"].values()):
        raise unscored(run.output, report["faults"])


def report_of(folder: Path) -> Row:
    """Say whom the answers follow, group by group, and how often yes is said."""
    about, verdicts = read_manifest(folder), read_verdicts(folder)
    said = {(v.id, v.condition): v for v in verdicts}
    full = [v for v in verdicts if v.condition == "full"]
    follows = {name: followed(some, said) for name, some in groups_of(full).items()}
    by_condition = {name: [v for v in verdicts if v.condition == name] for name in ASKED}
    return {
        "model": about["model"],
        "data": about["data"],
        "partial": bool(about["limit"]),
        "follows": follows,
        "conditions": {name: score(some) for name, some in by_condition.items()},
        "faults": sorted({v.error for v in verdicts if v.error}),
        "cost": cost(about),
    }


def followed(asked: Sequence[Verdict], said: dict[tuple[str, str], Verdict]) -> Row:
    """Count whom the answers to swapped clips follow, where eyes and ears disagree.

    `same`: eyes and ears say the same; `missing`: one of the answers is not there.
    """
    whom: list[tuple[str, str]] = []
    found = {"n": len(asked), "same": 0, "missing": 0}
    for one in asked:
        swapped = said[one.id, "other_sound"]
        answers = {name: said[one.id, condition].said for name, condition in SOURCES.items()}
        if swapped.said is None or None in answers.values():
            found["missing"] += 1
        elif not swapped.altered or same_answer(answers["eyes"] or "", answers["ears"] or ""):
            found["same"] += 1
        else:
            whom.append((source_of(swapped.said, answers), one.clip))
    found["disagree"] = len(whom)
    clips = [clip for _, clip in whom]
    for name in (*SOURCES, "none"):
        hits = [float(source == name) for source, _ in whom]
        found[name] = {"rate": mean(hits), "interval": bootstrap_interval(hits, clips)}
    return found


def source_of(said: str, answers: dict[str, str | None]) -> str:
    """Name whom an answer follows: eyes or ears before the prior, which may agree with either."""
    return next((name for name, one in answers.items() if same_answer(said, one or "")), "none")


def table(report: Row) -> str:
    """Lay the report out as Markdown."""
    partial = "PARTIAL (--limit): " if report["partial"] else ""
    lines = [f"{partial}{report['model']}: whom answers follow where eyes and ears disagree, in %"]
    lines += [f"(95 % interval over clips; * fewer than {FEW} answers)"]
    lines += ["", line(["", "n", "disagree", *SOURCES, "none", "same", "missing"])]
    lines.append(line(["---"] * 9))
    for name, one in report["follows"].items():
        cells = [share(one[source], one["disagree"]) for source in (*SOURCES, "none")]
        counts = [str(one[count]) for count in ("same", "missing")]
        lines.append(line([name, str(one["n"]), str(one["disagree"]), *cells, *counts]))
    lines += ["", "Right by the clip's own answers, in % (95 % interval over clips):", ""]
    lines += [line(["condition", "what is given", "n", "right"]), line(["---"] * 4)]
    for name, one in report["conditions"].items():
        lines.append(line([name, CONDITIONS[name][1], str(one["n"]), accuracy(one)]))
    by_group = {name: {ALL: one} for name, one in report["conditions"].items()}
    said = warnings({"conditions": by_group, "faults": report["faults"]})
    return "\n".join([*lines, "", *said, "", cost_line(report)])


def share(one: Row, n: int) -> str:
    """Write a rate as an accuracy is written: with its interval, * where it is of few answers."""
    return accuracy({"scored": n, "accuracy": one["rate"], "interval": one["interval"]})


if __name__ == "__main__":
    run_script(main, Conflict, __doc__)
