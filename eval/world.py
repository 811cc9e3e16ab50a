"""Measure a model on clips of the world that it was never trained on: rendered to files,
decoded, asked.

    python eval/world.py --model tiny --clips 500 --seed 1 --json

Every question is asked four times: with everything, deafened (the sound switched off), blinded (the
picture switched off) and with the question alone. Short questions are answered by choosing among
their closed list of answers, greedily token by token, in all four conditions: a model that says
"there is no sound" when deafened is right to do so, and what its best guess would be is what the
comparison needs. `free` is the accuracy of answers written without that list.

Each clip is decoded and encoded once for all of it, a few at a time while the next are decoded, so
memory does not grow with the clips. What it cost stands below the table.
"""

import json
import math
import tempfile
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from avchat.batch import answer_batch
from avchat.batch_media import Part, in_orders, load_order
from avchat.encoders import Features
from avchat.evaluation.costs import RENDER, Cost
from avchat.evaluation.items import EvalError
from avchat.evaluation.progress import bar
from avchat.evaluation.records import Row
from avchat.evaluation.report import json_of
from avchat.evaluation.tables import NONE, cost_line
from avchat.media import Media, MediaError
from avchat.metrics import bootstrap_interval, group_accuracy, mean, same_answer
from avchat.model import AVChat
from avchat.script import run_script
from avchat.world.dataset import write_dataset
from avchat.world.questions import FAMILIES, ONE_SOURCE, SENTENCES, TWO_SOURCES
from avchat.world.sentences import slots_right

CONDITIONS = {"full": "both", "deaf": "picture", "blind": "sound", "question_only": "none"}
NEEDS = ("V", "A", "S", "AV")


@dataclass(frozen=True)
class World:
    """Measure a model on the world."""

    model: str = "tiny"
    """Preset, folder or Hub id."""
    clips: int = 500
    seed: int = 1
    split: str = "test"
    """test, phrasings (held-out wordings), combinations (held-out colour x shape x sound) or
    train.
    """
    folder: Path | None = None
    """Keep the rendered files here (default: a folder that is removed)."""
    sentences: bool = True
    """Also ask for descriptions and timelines."""
    batch: int = 32
    """Clips that are in memory, and answered about, at once; 1: one by one."""
    json: bool = False
    """Print one JSON object and nothing else."""


def main(run: World) -> None:
    """Render, ask, score, print."""
    if run.batch < 1:
        raise EvalError(f"--batch must be at least 1, not {run.batch}")
    if run.seed < 0:
        raise EvalError(f"--seed must be 0 or more, not {run.seed}")
    cost = Cost()
    with tempfile.TemporaryDirectory() as made:
        folder = run.folder or Path(made)
        with cost.timed(RENDER):
            render(run, folder)
        rows = [json.loads(line) for line in (folder / "questions.jsonl").read_text().splitlines()]
        rows = [row for row in rows if run.sentences or row["family"] not in SENTENCES]
        if all(row["family"] in SENTENCES for row in rows):
            raise EvalError(f"--clips {run.clips}: none has a short question; take more")
        model = AVChat.from_pretrained(run.model).eval()
        said = answers(model, folder, rows, run.batch, cost)
    short = [k for k, row in enumerate(rows) if row["family"] not in SENTENCES]
    report = report_of([rows[k] for k in short], [said[k] for k in short])
    told = [k for k, row in enumerate(rows) if row["family"] in SENTENCES]
    report["full"]["families"] |= sentences([rows[k] for k in told], [said[k] for k in told])
    about = {"model": run.model, "split": run.split, "clips": run.clips, "seed": run.seed}
    report = about | report | {"cost": cost.found()}
    print(json_of(report) if run.json else table(report))


def render(run: World, folder: Path) -> None:
    """Write the clips into a folder; EvalError where they cannot be written."""
    with bar("render") as told:
        try:
            write_dataset(folder, run.clips, run.seed, run.split, told)
        except FileExistsError as error:
            raise EvalError(f"{folder}: is a file, not a folder") from error
        except OSError as error:
            raise EvalError(f"{folder}: cannot be written ({error.strerror})") from error


def answers(
    model: AVChat, folder: Path, rows: list[Row], batch: int, cost: Cost
) -> list[dict[str, str]]:
    """Answer each row under each condition and, as `free`, in the model's own words.

    Args: batch: clips at once; those that follow are decoded meanwhile, in a process of its own.
    """
    of: dict[str, list[int]] = defaultdict(list)
    for k, row in enumerate(rows):
        of[row["video"]].append(k)
    videos, said = sorted(of), [{} for _ in rows]
    chunks = [videos[k : k + batch] for k in range(0, len(videos), batch)]

    def decoded(chunk: list[str]) -> list[Media | MediaError]:
        parts = [Part(str(folder / name)) for name in chunk]
        return [m for some in in_orders(parts) for m in load_order(some, model.config.frames)]

    with ThreadPoolExecutor(1) as pool, bar("answers") as told:
        ahead = pool.submit(decoded, chunks[0])
        for number, chunk in enumerate(chunks):
            with cost.timed("decode"):
                media = ahead.result()
            if number + 1 < len(chunks):
                ahead = pool.submit(decoded, chunks[number + 1])
            for one in media:
                if isinstance(one, MediaError):
                    raise EvalError(str(one))
            with cost.timed("encode"):
                features = dict(zip(chunk, model.encode(media), strict=True))
            with cost.timed("answer"):
                asked = [k for name in chunk for k in of[name]]
                found = ask(model, features, [rows[k] for k in asked])
                for k, one in zip(asked, found, strict=True):
                    said[k] = one
            cost.clips += len(chunk)
            told(cost.clips, len(videos))
    cost.tokens = sum(len(model.prompt.answer_ids(a)) for row in said for a in row.values())
    return said


def ask(model: AVChat, features: dict[str, Features], rows: list[Row]) -> list[dict[str, str]]:
    """Answer rows on clips that are encoded."""
    said: list[dict[str, str]] = [{} for _ in rows]
    short = [k for k, row in enumerate(rows) if row["family"] not in SENTENCES]
    told = [k for k, row in enumerate(rows) if row["family"] in SENTENCES]
    asked = [(name, short, sense, True, 0) for name, sense in CONDITIONS.items()]
    asked += [("free", short, "both", False, 16), ("free", told, "both", False, 160)]
    for name, kept, sense, chosen, most in asked:
        found = answer_batch(
            model,
            [features[rows[k]["video"]] for k in kept],
            [rows[k]["question"] for k in kept],
            sense=sense,
            choices=[rows[k]["choices"] for k in kept] if chosen else None,
            max_new_tokens=most,
        )
        for k, answer in zip(kept, found, strict=True):
            said[k][name] = answer
    return said


def report_of(rows: list[Row], said: list[dict[str, str]]) -> Row:
    """Score short questions under all conditions."""
    right = {
        name: [one[name] == row["answer"] for one, row in zip(said, rows, strict=True)]
        for name in CONDITIONS
    }
    free = [same_answer(one["free"], row["answer"]) for one, row in zip(said, rows, strict=True)]
    report: Row = {"n": len(rows)}
    report |= {name: score(rows, right[name]) for name in CONDITIONS}
    report["count"] = dict(Counter(row[key] for row in rows for key in ("needs", "family")))
    report["chance"] = score(rows, [1 / len(row["choices"]) for row in rows])
    report["free"] = score(rows, free)
    report["pairs"] = pairs(rows, right["full"])
    report["interval"] = intervals(rows, right["full"])
    return report


def sentences(rows: list[Row], said: list[dict[str, str]]) -> dict[str, float]:
    """Score sentence answers by their statements (F1)."""
    scores = defaultdict(list)
    for one, row in zip(said, rows, strict=True):
        scores[row["family"]].append(slots_right(one["free"], row["answer"]))
    return {family: mean(values) for family, values in scores.items()}


def score(rows: list[Row], right: list) -> dict:
    """Average over what is needed and over families; AV also by the number of sounding sources."""
    by_need, by_family = defaultdict(list), defaultdict(list)
    for row, good in zip(rows, right, strict=True):
        by_need[row["needs"]].append(float(good))
        by_family[row["family"]].append(float(good))
    families = {name: mean(by_family[name]) for name in FAMILIES if by_family[name]}
    sources = {"AV one source": ONE_SOURCE, "AV two sources": TWO_SOURCES}
    split = {
        name: mean([s for f in members for s in by_family[f]]) for name, members in sources.items()
    }
    return {need: mean(by_need[need]) for need in NEEDS} | split | {"families": families}


def pairs(rows: list[Row], right: list[bool]) -> dict:
    """Score minimal pairs as groups: both members of a pair right."""
    of = [f"{Path(r['video']).stem.rstrip('ab')} {r['question']}" for r in rows]
    twice = {key for key in of if of.count(key) > 1}
    kept = [
        (r, good, key)
        for r, good, key in zip(rows, right, of, strict=True)
        if key in twice and r["needs"] == "AV"
    ]
    by_family = {
        f: group_accuracy(
            [g for r, g, _ in kept if r["family"] == f], [k for r, _, k in kept if r["family"] == f]
        )
        for f in {r["family"] for r, _, _ in kept}
    }
    return {
        "AV": group_accuracy([g for _, g, _ in kept], [k for _, _, k in kept]),
        "families": by_family,
    }


def intervals(rows: list[Row], right: list[bool]) -> dict:
    """Give 95 % intervals, clustered on the clip or the pair of clips."""
    of = [Path(r["video"]).stem.rstrip("ab") for r in rows]
    found = {}
    for key, names in (("needs", NEEDS), ("family", tuple(FAMILIES))):
        for name in names:
            kept = [k for k, r in enumerate(rows) if r[key] == name]
            if kept:
                found[name] = bootstrap_interval([right[k] for k in kept], [of[k] for k in kept])
    return found


def table(report: Row) -> str:
    """Lay the report out for reading."""
    names = [*CONDITIONS, "chance", "free"]
    lines = [f"{'':22s} {'n':>5s} " + " ".join(f"{name:>13s}" for name in names)]
    count = report["count"]
    for need in (*NEEDS, "AV one source", "AV two sources"):
        values = " ".join(part(report[name][need], 13) for name in names)
        lines.append(f"{need:22s} {count.get(need, ''):>5} {values}")
    for family in report["chance"]["families"]:
        values = " ".join(part(report[name]["families"][family], 13) for name in names)
        lines.append(f"{family:22s} {count[family]:5d} {values}")
    for family in SENTENCES:
        if family in report["full"]["families"]:
            value = part(report["full"]["families"][family], 13)
            lines.append(f"{family:22s} {'':5s} {value} (slot F1)")
    lines.append(f"minimal pairs, both right: {part(report['pairs']['AV'])}")
    lines.append(cost_line(report))
    return "\n".join(lines)


def part(value: float, width: int = 0) -> str:
    """Write a score; a dash where nothing was scored."""
    return f"{NONE if math.isnan(value) else f'{value:.3f}':>{width}}"


if __name__ == "__main__":
    run_script(main, World, __doc__)
