"""Measure a model on the public benchmark of the world, beside its baselines.

    avchat world worlds/v1 --benchmark
    python eval/benchmark.py worlds/v1 --model tiny --output runs/benchmark

Under four conditions: full, deaf, blind, question only; each clip is decoded once. Baselines that
need no model: chance; the majority (the most frequent answer of a family in the training split);
a classifier of the question's words, trained on the training split; and the oracle, which reads
the answer off the scene as it is drawn at the model's own frame rate. The table is README.md's.
"""

import json
import sys
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from avchat.evaluation.items import EvalError, Item, read_items
from avchat.evaluation.question_only import guesses
from avchat.evaluation.records import Row, write_whole
from avchat.evaluation.report import groups_of, json_of, report_of
from avchat.evaluation.session import Session, answer, unscored
from avchat.evaluation.tables import accuracy, cost_line, line, warnings
from avchat.evaluation.verdicts import Verdict, read_verdicts
from avchat.heads import sha256_of
from avchat.metrics import bootstrap_interval, mean
from avchat.script import run_script
from avchat.world.benchmark import CLIPS, QUESTIONS_SHA256, SEED, SPLIT, VERSION
from avchat.world.dataset import draw_dataset
from avchat.world.perception import perceive
from avchat.world.questions import FAMILIES
from avchat.world.tags import FRAME_TIMES_S

CONDITIONS = ("full", "deaf", "blind", "question_only")
BASELINES = ("chance", "majority", "question, trained", "oracle")


@dataclass(frozen=True, kw_only=True)
class Benchmark(Session):
    """A model on the benchmark."""

    folder: Annotated[Path, tyro.conf.Positional]
    """what `avchat world FOLDER --benchmark` wrote"""


def main(run: Benchmark) -> None:
    """Ask what is missing, score the baselines, print the table."""
    clips = facts_of(run.folder).get("clips_sha256", {})
    items = [item for item in read_items(run.folder / "questions.jsonl") if item.choices]
    items = items[: run.limit]
    changed = changed_of(items, clips)
    if changed:
        print(f"{run.folder}: {changed_line(changed, items)}", file=sys.stderr)
    data = {"benchmark": VERSION, "questions_sha256": QUESTIONS_SHA256}
    if not answer(run, items, run.asking(CONDITIONS), data):
        return
    report = report_of(run.output)
    full = [v for v in read_verdicts(run.output) if v.condition == "full"]
    report["baselines"] = {
        name: scored(items, full, right) for name, right in baselines(items).items()
    }
    report["clips_changed"] = changed
    write_whole(run.output / "report.json", json_of(report, indent=1) + "\n")
    print(json_of(report) if run.json else table(report))
    if not report["counts"]["scored"]:
        raise unscored(run.output, report["faults"])


def facts_of(folder: Path) -> Row:
    """Read what the benchmark's folder says of itself; EvalError where it is none."""
    path, mend = folder / "benchmark.json", f"avchat world {folder} --benchmark"
    if not path.is_file():
        raise EvalError(f"{folder}: no benchmark is here: {mend}")
    try:
        facts = dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise EvalError(f"{path}: not readable, perhaps cut off: once more {mend}") from error
    if facts.get("version") != VERSION:
        raise EvalError(f"{folder}: is version {facts.get('version')}, this is avchat's {VERSION}")
    if not (folder / "questions.jsonl").is_file():
        raise EvalError(f"{folder}: questions.jsonl is missing: once more {mend}")
    if sha256_of([folder / "questions.jsonl"]) != QUESTIONS_SHA256:
        raise EvalError(f"{folder}: its questions are not those of benchmark {VERSION}")
    return facts


def changed_of(items: Sequence[Item], clips: dict[str, str]) -> list[str]:
    """List the clips of items that are there, and are not those that benchmark.json tells of."""
    paths = [path for path in dict.fromkeys(i.video for i in items) if path.is_file()]
    return [p.name for p in paths if p.name in clips and sha256_of([p]) != clips[p.name]]


def changed_line(changed: Sequence[str], items: Sequence[Item]) -> str:
    """Warn of clips that are not those listed: no fault, since encoders differ in their bytes."""
    of = len({item.video for item in items})
    return (
        f"{len(changed)} of {of} clips ({changed[0]} first) are not those of benchmark.json: "
        "another ffmpeg wrote them, or they were changed; figures may differ"
    )


def baselines(items: list[Item]) -> dict[str, dict[str, float]]:
    """Score what needs no model: of each question, by its id, how much of it is right."""
    drawn = draw_dataset(CLIPS, SEED, "train")  # its questions alone: no clip is rendered
    train = [
        Item(f"{c.name}-{k}", Path(c.name), q.question, q.answer, q.choices, q.family, q.needs)
        for c in drawn
        for k, q in enumerate(c.asked)
        if q.choices
    ]
    counts: dict[str, Counter] = defaultdict(Counter)
    for item in train:
        counts[item.family][item.answer] += 1
    learned = guesses(train, items)
    return {
        "chance": {item.id: 1 / len(item.choices) for item in items},
        "majority": {i.id: float(majority(counts[i.family], i) == i.answer) for i in items},
        "question, trained": {
            item.id: float(guess == item.answer) for item, guess in zip(items, learned, strict=True)
        },
        "oracle": perceived(),
    }


def majority(counts: Counter, item: Item) -> str:
    """Return the choice that is the most frequent answer of a family."""
    return max(item.choices, key=lambda choice: counts[choice])


def perceived() -> dict[str, float]:
    """Answer by what can be seen and heard of each scene at the model's own rate."""
    found = {}
    for clip in draw_dataset(CLIPS, SEED, SPLIT):
        seen = perceive(clip.scene, FRAME_TIMES_S)
        for k, q in enumerate(clip.asked):
            if q.choices:
                said = FAMILIES[q.family].answer(seen, dict(q.args))
                found[f"{clip.name}-{k}-{q.family}"] = float(said == q.answer)
    return found


def scored(items: list[Item], full: list[Verdict], right: dict[str, float]) -> dict[str, Row]:
    """Score a baseline group by group, with intervals over clips."""
    found = {}
    for name, some in groups_of(full).items():
        scores, clips = [right[v.id] for v in some], [v.clip for v in some]
        interval = list(bootstrap_interval(scores, clips))
        found[name] = {"accuracy": mean(scores), "interval": interval, "scored": len(scores)}
    return found


def table(report: Row) -> str:
    """Lay out the groups, a row each: baselines, then the model under each condition."""
    partial = "PARTIAL (--limit): " if report["partial"] else ""
    names = [*BASELINES, *(f"{report['model']}, {name}" for name in CONDITIONS)]
    columns = [*report["baselines"].values(), *report["conditions"].values()]
    lines = [f"{partial}avchat world, benchmark {VERSION}, accuracy in % (95 % over clips)", ""]
    lines += [line(["", "n", *names]), line(["---"] * (len(names) + 2))]
    for group, one in report["conditions"]["full"].items():
        cells = [accuracy(column[group]) for column in columns]
        lines.append(line([group, str(one["n"]), *cells]))
    return "\n".join([*lines, "", *warnings(report), "", cost_line(report)])


if __name__ == "__main__":
    run_script(main, Benchmark, __doc__)
