"""All variants and seeds, trained and asked; then a table with intervals.

Each model has a folder, which one process claims: the same command started once more shares the
work, and a killed one goes on where it was. Intervals are of drawing clips and seeds anew, so a
difference is told only where neither another handful of clips nor another start would undo it; with
three seeds that is a rough guess at what a fourth would do.
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
from avchat.evaluation.records import Row, write_whole
from avchat.evaluation.report import json_of
from avchat.evaluation.tables import line
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
# what a variant is asked with: as it was trained, and with senses taken away only then
CONDITIONS = {
    "both": ("full", "deaf", "blind"),
    "picture": ("deaf",),
    "sound": ("blind",),
    "none": ("question_only",),
}


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
                    if mine and not training.words(words):
                        return False
            if not (words / "model").is_dir():
                continue
            with claimed(folder) as mine:
                if mine and not done(output, variant, seed):
                    print(f"{variant.name}, seed {seed}", file=sys.stderr)
                    if not training.variant(variant, words, folder):
                        return False
                    ask(variant, folder, items)
                    break
        else:
            time.sleep(WAIT_S)
    return True


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
        "verdict": "better" if change[0] > 0 else "worse" if change[1] < 0 else "no difference",
    }


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
    return "\n".join(lines)


def _accuracy(one: Row) -> str:
    low, high = (100 * value for value in one["interval"])
    least, most = (100 * value for value in (min(one["by_seed"]), max(one["by_seed"])))
    return f"{100 * one['accuracy']:.1f} [{low:.1f}, {high:.1f}] ({least:.1f} to {most:.1f})"


def _change(one: Row) -> str:
    low, high = (100 * value for value in one["difference_interval"])
    said = one["verdict"] if one["verdict"] != "no difference" else "no difference shown"
    return f"{100 * one['difference']:+.1f} [{low:+.1f}, {high:+.1f}] {said}"
