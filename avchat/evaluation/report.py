"""Verdicts -> a report: accuracies with intervals, what each condition changes, what it cost.

Failures are counted, and bound what the accuracy may be: neither scored 0 nor left out. Intervals
are 95 %, by a bootstrap over clips; "better" and "worse" are said only where the interval of the
paired difference leaves out 0.
"""

import json
import math
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from avchat.evaluation.items import NEEDS, EvalError
from avchat.evaluation.records import Row, read_manifest
from avchat.evaluation.verdicts import Verdict, read_verdicts
from avchat.metrics import bootstrap_interval, holm, mcnemar, mean

ALL = "all"
FEW = 20  # answers of a group below which its interval says little: marked in tables
FEW_CLIPS = 10  # below which a bootstrap over clips is no interval: nothing is said to be better
CHANCE = 0.05  # of a difference where there is none


def report_of(folder: Path, against: str = "full") -> Row:
    """Report on a run: each condition by itself, and against one of them."""
    about, verdicts = read_manifest(folder), read_verdicts(folder)
    by_condition = grouped(verdicts, lambda v: v.condition)
    base = by_condition.get(against)
    found: Row = {"run": str(folder), "model": about.get("model"), "data": about.get("data")}
    found |= {"partial": bool(about.get("limit")), "counts": counts(verdicts)}
    found["conditions"] = {name: scores(some) for name, some in by_condition.items()}
    found["against"] = {
        name: compared(base, some)
        for name, some in by_condition.items()
        if base is not None and name != against
    }
    found["faults"] = sorted({v.error for v in verdicts if v.error})
    found["cost"] = cost(about)
    return found


def grouped(verdicts: Sequence[Verdict], of: Callable[[Verdict], str]) -> dict[str, list[Verdict]]:
    """Group verdicts by a name, in the order in which names come."""
    groups: dict[str, list[Verdict]] = {}
    for one in verdicts:
        groups.setdefault(of(one), []).append(one)
    return groups


def groups_of(verdicts: Sequence[Verdict]) -> dict[str, list[Verdict]]:
    """Group verdicts as reports show them: all, by what is needed, by family."""
    needs = grouped([v for v in verdicts if v.needs], lambda v: v.needs)
    families = grouped([v for v in verdicts if v.family], lambda v: v.family)
    order = {name: needs[name] for name in (*NEEDS, *needs) if name in needs}
    return {ALL: list(verdicts)} | order | {f"family {n}": families[n] for n in sorted(families)}


def counts(verdicts: Sequence[Verdict]) -> dict[str, int]:
    """Count outcomes; `scored` is what accuracies are of."""
    found = Counter(v.outcome for v in verdicts)
    scored = found["right"] + found["wrong"]
    return {
        "n": len(verdicts),
        "scored": scored,
        "missing": found["missing"],
        "unparsed": found["unparsed"],
        "unaltered": sum(not v.altered for v in verdicts),
    }


def scores(verdicts: Sequence[Verdict]) -> dict[str, Row]:
    """Score a condition: group by group."""
    return {name: score(some) for name, some in groups_of(verdicts).items()}


def score(verdicts: Sequence[Verdict]) -> Row:
    """Score a group: accuracy of what has a verdict, its interval, and between which bounds it
    lies whatever the missing and unparsed answers are worth.
    """
    scored = [v for v in verdicts if v.right is not None]
    right = sum(v.right is True for v in scored)
    low, high = bootstrap_interval([float(v.right) for v in scored], [v.clip for v in scored])
    found = counts(verdicts) | {
        "accuracy": mean([float(v.right) for v in scored]),
        "interval": [low, high],
        "bounds": [right / len(verdicts), (right + len(verdicts) - len(scored)) / len(verdicts)],
    }
    yes_or_no = [v for v in verdicts if v.is_yes_or_no and v.said is not None]
    if yes_or_no:
        found["yes_rate"] = mean([float(says_yes(v.said or "")) for v in yes_or_no])
        found["yes_right"] = mean([float(v.answer.lower() == "yes") for v in yes_or_no])
    return found


def says_yes(said: str) -> bool:
    """Tell whether an answer begins with yes."""
    return said.lower().strip().startswith("yes")


def compared(first: Sequence[Verdict], second: Sequence[Verdict]) -> dict[str, Row]:
    """Compare two lists of verdicts on the same items, group by group; the second minus the first.

    The p of families are corrected together for their number.
    """
    ours = {v.id: v for v in second}
    pairs = [(v, ours[v.id]) for v in first if v.id in ours]
    if not pairs:
        raise EvalError("the two have no question in common: there is nothing to compare")
    of = {name: {v.id for v in some} for name, some in groups_of([a for a, _ in pairs]).items()}
    found = {
        name: difference([(a, b) for a, b in pairs if a.id in ids]) for name, ids in of.items()
    }
    families = {name: one["p"] for name, one in found.items() if name.startswith("family ")}
    for name, p in holm(families).items():
        found[name]["p"] = p
    return {name: one | {"verdict": verdict_on(one)} for name, one in found.items()}


def difference(pairs: Sequence[tuple[Verdict, Verdict]]) -> Row:
    """Compare verdicts on the same items: the paired difference, its interval, McNemar's p."""
    both = [(a, b) for a, b in pairs if a.right is not None and b.right is not None]
    changes = [float(b.right) - float(a.right) for a, b in both]
    low, high = bootstrap_interval(changes, [a.clip for a, _ in both])
    return {
        "n": len(both),
        "clips": len({a.clip for a, _ in both}),
        "difference": mean(changes),
        "interval": [low, high],
        "p": mcnemar([bool(a.right) for a, _ in both], [bool(b.right) for _, b in both]),
        "gained": sum(change > 0 for change in changes),
        "lost": sum(change < 0 for change in changes),
        "said_otherwise": sum(a.said != b.said for a, b in both),
    }


def verdict_on(one: Row) -> str:
    """Say whether a difference is real: its interval leaves out 0, and so does McNemar's test."""
    if one["clips"] < FEW_CLIPS:
        return "too few clips"
    low, high = one["interval"]
    if low <= 0 <= high or one["p"] >= CHANCE:
        return "no difference shown"
    return "better" if low > 0 else "worse"


def flips(folder: Path, against: str = "full") -> list[Row]:
    """List questions whose answer a condition changes: which, from what to what."""
    by_condition = grouped(read_verdicts(folder), lambda v: v.condition)
    base = {v.id: v for v in by_condition.get(against, [])}
    found = {}
    for name, some in by_condition.items():
        for one in some:
            before = base.get(one.id)
            both = before is not None and None not in (before.said, one.said)
            if name != against and both and before.said != one.said:
                row = found.setdefault(one.id, _asked(before))
                row["under"][name] = {"said": one.said, "outcome": one.outcome}
    return list(found.values())


def _asked(one: Verdict) -> Row:
    asked = {"id": one.id, "clip": one.clip, "family": one.family, "needs": one.needs}
    asked |= {"question": one.question, "answer": one.answer}
    return asked | {"said": one.said, "outcome": one.outcome, "under": {}}


def cost(about: Row) -> Row:
    """Sum up what a run cost: time by stage, speed, memory."""
    seconds = about.get("seconds", {})
    total = sum(seconds.values())
    found = {"seconds": {name: round(value, 1) for name, value in seconds.items()}}
    found["total_s"] = round(total, 1)
    found["clips_per_s"] = about.get("clips_asked", 0) / total if total else None
    found["tokens_per_s"] = about.get("tokens", 0) / total if total else None
    found["peak_memory_mb"] = about.get("peak_memory_mb")
    return found


def spent(runs: Sequence[Row]) -> Row:
    """Sum up what several runs cost, as the manifest of one would say it."""
    stages = dict.fromkeys(stage for one in runs for stage in one["seconds"])
    return {
        "seconds": {name: sum(one["seconds"].get(name, 0.0) for one in runs) for name in stages},
        "clips_asked": sum(one["clips_asked"] for one in runs),
        "tokens": sum(one["tokens"] for one in runs),
        "peak_memory_mb": max((one["peak_memory_mb"] for one in runs), default=None),
    }


def json_of(report: Row, indent: int | None = None) -> str:
    """Write a report as JSON, which knows no NaN: what nothing was scored for is null."""
    return json.dumps(without_nan(report), indent=indent, ensure_ascii=False)


def without_nan(value: Any) -> Any:
    """Put None in the place of NaN, wherever in plain data."""
    if isinstance(value, dict):
        return {key: without_nan(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(one) for one in value]
    return None if isinstance(value, float) and math.isnan(value) else value
