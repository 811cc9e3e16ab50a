"""All variants and seeds, trained and asked; then a table with intervals.

Each model has a folder, which one process claims: the same command started once more shares the
work, and a killed one goes on where it was. Intervals are of drawing clips and seeds anew, so a
difference is told only where neither another handful of clips nor another start would undo it; with
three seeds that is a rough guess at what a fourth would do. McNemar's test, which reports of one
model ask besides, knows no seeds and is not asked; nor is anything corrected for how many
comparisons there are, which the table says.

Each model's folder has a manifest with what its training cost; what all cost is their sum.
"""

import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import numpy as np

from avchat.evaluation.answering import Asking, generate
from avchat.evaluation.items import NEEDS, EvalError, Item
from avchat.evaluation.progress import bar
from avchat.evaluation.records import (
    MANIFEST,
    Row,
    manifest,
    read_manifest,
    write_whole,
)
from avchat.evaluation.report import FEW_CLIPS, json_of, spent
from avchat.evaluation.tables import cost_line, line
from avchat.evaluation.variant_lessons import Lessons
from avchat.evaluation.variants import Recipe, Training, Variant
from avchat.evaluation.verdicts import read_verdicts
from avchat.metrics import crossed_interval
from avchat.model import AVChat
from avchat.saved import fingerprint

try:
    import fcntl
except ImportError:  # Windows has no such locks: there one process does it all
    fcntl = None

WAIT_S = 5.0
TRAIN = "train"  # the stage of a cost that is training
# what a variant is asked with: as it was trained, and with senses taken away only then
CONDITIONS = {
    "both": ("full", "deaf", "blind"),
    "picture": ("deaf",),
    "sound": ("blind",),
    "none": ("question_only",),
}


RULE = (
    '"better" and "worse": the 95 % interval of the paired difference, over clips and seeds drawn '
    "anew, leaves out 0; below {few} clips nothing is said. {comparisons} comparisons here, not "
    "corrected for their number: of those without a difference about one in twenty is told."
)


@contextmanager
def claimed(folder: Path, wait: bool = False) -> Iterator[bool]:
    """Claim a folder as long as it is worked on; False where another process has it.

    Args: wait: until the other one is done with it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / ".claim").open("w")
    except OSError as error:
        raise EvalError(f"{folder}: cannot be written ({error.strerror})") from error
    with file:
        try:
            if fcntl is not None:
                fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


def settle(output: Path, base: AVChat, recipe: Recipe) -> None:
    """Write down what is trained in a folder; EvalError where something else was."""
    weights = {f"vision.{name}": one for name, one in base.vision.state_dict().items()}
    weights |= {f"audio.{name}": one for name, one in base.audio.state_dict().items()}
    facts = {"model": base.config.name, "encoders": fingerprint(weights), **asdict(recipe)}
    facts.pop("seeds")  # more of them may be wanted later
    path = output / "recipe.json"
    if path.is_file() and json.loads(path.read_text(encoding="utf-8")) != facts:
        raise EvalError(f"{output}: was trained otherwise ({path.name}); name another --output")
    write_whole(path, json_of(facts, indent=1) + "\n")


def train_all(
    base: AVChat, recipe: Recipe, variants: Sequence[Variant], items: Sequence[Item], output: Path
) -> bool:
    """Train and ask what is missing, and wait for what other processes have claimed.

    Returns: False where it was stopped.
    """
    lessons = Lessons(base, recipe.train_clips)
    while left := [(v, s) for s in range(recipe.seeds) for v in variants if not done(output, v, s)]:
        for variant, seed in left:
            words, folder = output / f"words-{seed}", place(output, variant, seed)
            training = Training(base, lessons, recipe, seed)
            if not (words / "model").is_dir():
                with claimed(words) as mine:
                    if mine and not learn_words(training, words):
                        return False
            if not (words / "model").is_dir():
                continue
            with claimed(folder) as mine:
                if mine and not done(output, variant, seed):
                    print(f"{variant.name}, seed {seed}", file=sys.stderr)
                    with trained_in(folder, recipe.clips_of(variant)):
                        whole = training.variant(variant, words, folder)
                    if not whole:
                        return False
                    ask(variant, folder, items)
                    break
        else:
            time.sleep(WAIT_S)
    return True


def learn_words(training: Training, folder: Path) -> bool:
    """Train what the variants of a seed begin with; False where it was stopped."""
    with trained_in(folder, 0):
        return training.words(folder)


@contextmanager
def trained_in(folder: Path, clips: int) -> Iterator[None]:
    """Add to a folder's manifest what is trained meanwhile.

    Args: clips: that are learned from in all, each as often as it is visited.
    """
    began = time.perf_counter()
    with manifest(folder, {"clips_asked": clips}) as found:
        try:
            yield
        finally:
            seconds = found["seconds"].get(TRAIN, 0.0) + time.perf_counter() - began
            found["seconds"] = {TRAIN: seconds}


def spent_in(output: Path) -> Row:
    """Sum up what all models in a folder cost, by whichever process: as a manifest says it. Clips
    are those that were learned from, as often as they were visited, and those asked about.
    """
    paths = [*output.glob(f"*/{MANIFEST}"), *output.glob(f"*/answers/{MANIFEST}")]
    return spent([read_manifest(path.parent) for path in paths])


def check_apart(output: Path, train: bool) -> None:
    """Raise EvalError where a folder holds variants and one model is asked, or the other way."""
    if (output / MANIFEST).is_file() and ("variants" in read_manifest(output)) != train:
        other = "without" if train else "with"
        raise EvalError(f"{output}: holds a run {other} --train; name another --output")


@contextmanager
def recorded(output: Path, facts: Row) -> Iterator[None]:
    """Keep the manifest of a folder of variants; what they cost is added however it ends."""
    with manifest(output, facts) as found:
        try:
            yield
        finally:
            found |= spent_in(output)


def planned(output: Path, recipe: Recipe, variants: Sequence[Variant], items: int) -> Row:
    """Count what would be trained and asked; the time is judged by the models that are there."""
    left = [v for seed in range(recipe.seeds) for v in variants if not done(output, v, seed)]
    words = sum(not (output / f"words-{k}" / "model").is_dir() for k in range(recipe.seeds))
    asked = sum(len(CONDITIONS[v.sense]) for v in variants) * items * recipe.seeds
    to_ask = sum(len(CONDITIONS[v.sense]) for v in left) * items
    models, total = recipe.seeds * len(variants), sum(spent_in(output)["seconds"].values())
    there = models - len(left)
    return {
        "variants": [variant.name for variant in variants],
        "seeds": recipe.seeds,
        "models": models,
        "to_train": len(left),
        "steps": recipe.words * words + sum(recipe.steps_of(variant) for variant in left),
        "questions": items,
        "answers": asked,
        "to_answer": to_ask,
        "judge_calls": 0,
        "seconds": round(total / there * len(left), 1) if there else None,
    }


def place(output: Path, variant: Variant, seed: int) -> Path:
    """Name the folder of one model."""
    return output / f"{variant.name.replace(', ', '-').replace(' ', '-')}-{seed}"


def done(output: Path, variant: Variant, seed: int) -> bool:
    """Tell whether a model is trained and asked."""
    return (place(output, variant, seed) / "asked").is_file()


def ask(variant: Variant, folder: Path, items: Sequence[Item]) -> None:
    """Ask a trained model everything."""
    model = AVChat.from_pretrained(folder / "questions" / "model").eval()
    with bar(f"answers, {variant.name}") as told:
        asking = Asking(conditions=CONDITIONS[variant.sense])
        generate(model, items, asking, folder / "answers", told=told)
    write_whole(folder / "asked", f"{len(items)}\n")


def results(output: Path, variants: Sequence[Variant], seeds: int) -> Row:
    """Score all variants: a row each, and one more for each sense taken from the first only when
    it is asked; differences are from the first.
    """
    said = {}
    for variant in variants:
        runs = [verdicts(place(output, variant, seed)) for seed in range(seeds)]
        for k, condition in enumerate(CONDITIONS[variant.sense]):
            if not k or variant is variants[0]:
                name = f"{variant.name}, asked {condition}" if k else variant.name
                said[name] = [run[condition] for run in runs]
    first = next(iter(said.values()))
    everywhere = [set(run) for runs in said.values() for run in runs]
    common = sorted(set.intersection(*everywhere))
    missing = len(set.union(*everywhere)) - len(common)
    scores = {
        name: np.array([[run[id].right for id in common] for run in runs], dtype=float)
        for name, runs in said.items()
    }  # [seeds, questions] each
    facts = [first[0][id] for id in common]
    groups = {need: [k for k, v in enumerate(facts) if v.needs == need] for need in NEEDS}
    groups |= {
        f"family {name}": [k for k, v in enumerate(facts) if v.family == name]
        for name in sorted({v.family for v in facts})
    }
    base = next(iter(scores.values()))
    clips = [v.clip for v in facts]
    rows = {
        name: {
            group: scored(values[:, kept], base[:, kept], [clips[k] for k in kept])
            for group, kept in groups.items()
            if kept
        }
        for name, values in scores.items()
    }
    about = {"questions": len(common), "missing": missing, "clips": len(set(clips))}
    return about | {"seeds": seeds, "variants": rows}


def verdicts(folder: Path) -> dict[str, dict]:
    """Read the verdicts of one model by condition and question; what has none is left out."""
    found: dict[str, dict] = {}
    for one in read_verdicts(folder / "answers"):
        if one.right is not None:
            found.setdefault(one.condition, {})[one.id] = one
    return found


def scored(values: np.ndarray, base: np.ndarray, clips: Sequence[str]) -> Row:
    """Score [seeds, questions] of verdicts: accuracy, each seed's, and how far from the base's."""
    change = crossed_interval(values - base, clips)
    return {
        "n": values.shape[1],
        "accuracy": float(values.mean()),
        "interval": list(crossed_interval(values, clips)),
        "by_seed": values.mean(1).tolist(),
        "difference": float((values - base).mean()),
        "difference_interval": list(change),
        "clips": len(set(clips)),
        "verdict": verdict_on(change, len(set(clips))),
    }


def verdict_on(change: tuple[float, float], clips: int) -> str:
    """Say whether a difference is real: there are clips enough, and its interval leaves out 0."""
    if clips < FEW_CLIPS:
        return "too few clips"
    low, high = change
    return "better" if low > 0 else "worse" if high < 0 else "no difference"


def trained_table(found: Row) -> str:
    """Lay the results out as Markdown: accuracy in %, and below it the difference in points."""
    rows = found["variants"]
    groups = [group for group in next(iter(rows.values())) if not group.startswith("family ")]
    counts = [f"{group} (n {next(iter(rows.values()))[group]['n']})" for group in groups]
    left = f" ({found['missing']} more lack an answer of some model)" if found["missing"] else ""
    lines = [
        f"{found['questions']} questions{left} on {found['clips']} clips, {found['seeds']} seeds; "
        "accuracy in %, 95 % interval over clips and seeds, (lowest to highest seed)",
        "",
        line(["trained", *counts]),
        line(["---"] * (len(groups) + 1)),
    ]
    lines += [line([name, *(_accuracy(one[g]) for g in groups)]) for name, one in rows.items()]
    lines += ["", f"Against {next(iter(rows))}, paired by question and seed, in points:", ""]
    lines += [line(["trained", *groups]), line(["---"] * (len(groups) + 1))]
    others = list(rows.items())[1:]
    lines += [line([name, *(_change(one[g]) for g in groups)]) for name, one in others]
    lines += ["", RULE.format(comparisons=len(others) * len(groups), few=FEW_CLIPS)]
    if "cost" in found:
        lines += ["", cost_line(found)]
    return "\n".join(lines)


def _accuracy(one: Row) -> str:
    low, high = (100 * value for value in one["interval"])
    least, most = (100 * value for value in (min(one["by_seed"]), max(one["by_seed"])))
    return f"{100 * one['accuracy']:.1f} [{low:.1f}, {high:.1f}] ({least:.1f} to {most:.1f})"


def _change(one: Row) -> str:
    low, high = (100 * value for value in one["difference_interval"])
    said = one["verdict"] if one["verdict"] != "no difference" else "no difference shown"
    return f"{100 * one['difference']:+.1f} [{low:+.1f}, {high:+.1f}] {said}"
