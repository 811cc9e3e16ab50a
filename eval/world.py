"""Measure a model on clips of the world that it was never trained on: rendered to files,
decoded, asked.

    python eval/world.py --model tiny --clips 500 --seed 1 --json

Every question is asked four times: with everything, deafened (the sound switched off), blinded (the
picture switched off) and with the question alone. Short questions are answered by choosing among
their closed list of answers, greedily token by token, in all four conditions: a model that says
"there is no sound" when deafened is right to do so, and what its best guess would be is what the
comparison needs. `free` is the accuracy of answers written without that list.
"""

import json
import math
import sys
import tempfile
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path

import tyro
from tqdm import tqdm

from avchat.batch import answer_batch
from avchat.config import ModelError
from avchat.encoders import Features
from avchat.media import load_media
from avchat.metrics import bootstrap_interval, group_accuracy, mean, same_answer
from avchat.model import AVChat
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
    json: bool = False
    """Print one JSON object and nothing else."""


def main(run: World) -> None:
    """Render, ask, score, print."""
    with tempfile.TemporaryDirectory() as made:
        folder = run.folder or Path(made)
        bar = tqdm(total=run.clips, desc="render", disable=not sys.stderr.isatty())
        write_dataset(
            folder, run.clips, run.seed, run.split, lambda done, of: bar.update(done - bar.n)
        )
        bar.close()
        rows = [json.loads(line) for line in (folder / "questions.jsonl").read_text().splitlines()]
        model = AVChat.from_pretrained(run.model).eval()
        features = see_and_hear(model, folder, sorted({row["video"] for row in rows}))
    short = [row for row in rows if row["family"] not in SENTENCES]
    said = {name: choose(model, features, short, sense) for name, sense in CONDITIONS.items()}
    right = {
        name: [a == row["answer"] for a, row in zip(said[name], short, strict=True)]
        for name in CONDITIONS
    }
    report = {
        "model": run.model,
        "split": run.split,
        "clips": run.clips,
        "seed": run.seed,
        "n": len(short),
    }
    report |= {name: score(short, right[name]) for name in CONDITIONS}
    report["count"] = dict(Counter(row[key] for row in short for key in ("needs", "family")))
    report["chance"] = score(short, [1 / len(row["choices"]) for row in short])
    report["free"] = score(short, free(model, features, short))
    report["pairs"] = pairs(short, right["full"])
    report["interval"] = intervals(short, right["full"])
    if run.sentences:
        told = [row for row in rows if row["family"] in SENTENCES]
        report["full"]["families"] |= sentences(model, features, told)
    print(json.dumps(without_nan(report)) if run.json else table(report))


def see_and_hear(model: AVChat, folder: Path, videos: list[str]) -> dict[str, Features]:
    """Decode and encode each clip once."""
    found = {}
    for name in tqdm(videos, desc="encode", disable=not sys.stderr.isatty()):
        found[name] = model.encode([load_media(folder / name, frames=model.config.frames)])[0]
    return found


def choose(model: AVChat, features: dict[str, Features], rows: list[dict], sense: str) -> list[str]:
    """Answer each question by one of its choices."""
    clips, asked = [features[row["video"]] for row in rows], [row["question"] for row in rows]
    return answer_batch(model, clips, asked, sense=sense, choices=[row["choices"] for row in rows])


def free(model: AVChat, features: dict[str, Features], rows: list[dict]) -> list[bool]:
    """Answer each question in the model's own words, and compare whole answers."""
    clips, asked = [features[row["video"]] for row in rows], [row["question"] for row in rows]
    said = answer_batch(model, clips, asked, max_new_tokens=16)
    return [same_answer(a, row["answer"]) for a, row in zip(said, rows, strict=True)]


def sentences(model: AVChat, features: dict[str, Features], rows: list[dict]) -> dict[str, float]:
    """Score sentence answers by their statements (F1)."""
    clips, asked = [features[row["video"]] for row in rows], [row["question"] for row in rows]
    said = answer_batch(model, clips, asked, max_new_tokens=160)
    scores = defaultdict(list)
    for answer, row in zip(said, rows, strict=True):
        scores[row["family"]].append(slots_right(answer, row["answer"]))
    return {family: mean(values) for family, values in scores.items()}


def score(rows: list[dict], right: list) -> dict:
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


def pairs(rows: list[dict], right: list[bool]) -> dict:
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


def intervals(rows: list[dict], right: list[bool]) -> dict:
    """Give 95 % intervals, clustered on the clip or the pair of clips."""
    of = [Path(r["video"]).stem.rstrip("ab") for r in rows]
    found = {}
    for key, names in (("needs", NEEDS), ("family", tuple(FAMILIES))):
        for name in names:
            kept = [k for k, r in enumerate(rows) if r[key] == name]
            if kept:
                found[name] = bootstrap_interval([right[k] for k in kept], [of[k] for k in kept])
    return found


def without_nan(report: dict) -> dict:
    """Put null where nothing was asked: JSON knows no NaN."""
    return {
        key: without_nan(value)
        if isinstance(value, dict)
        else None
        if isinstance(value, float) and math.isnan(value)
        else value
        for key, value in report.items()
    }


def table(report: dict) -> str:
    """Lay the report out for reading."""
    names = [*CONDITIONS, "chance", "free"]
    lines = [f"{'':22s} {'n':>5s} " + " ".join(f"{name:>13s}" for name in names)]
    count = report["count"]
    for need in (*NEEDS, "AV one source", "AV two sources"):
        values = " ".join(f"{report[name][need]:13.3f}" for name in names)
        lines.append(f"{need:22s} {count.get(need, ''):>5} {values}")
    for family in report["chance"]["families"]:
        values = " ".join(f"{report[name]['families'][family]:13.3f}" for name in names)
        lines.append(f"{family:22s} {count[family]:5d} {values}")
    for family in SENTENCES:
        if family in report["full"]["families"]:
            lines.append(
                f"{family:22s} {'':5s} {report['full']['families'][family]:13.3f} (slot F1)"
            )
    lines.append(f"minimal pairs, both right: {report['pairs']['AV']:.3f}")
    return "\n".join(lines)


if __name__ == "__main__":
    try:
        main(tyro.cli(World, description=__doc__))
    except (ModelError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from error
