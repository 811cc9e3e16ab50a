"""Reports -> Markdown: one run's conditions, or several runs side by side."""

from collections.abc import Sequence
from pathlib import Path

from avchat.evaluation.items import EvalError
from avchat.evaluation.report import ALL, FEW, Row, grouped, says_yes
from avchat.evaluation.verdicts import Verdict

NONE = "-"
FAULTS = 5  # reasons for missing answers that a table names


def condition_table(report: Row, against: str = "full") -> str:
    """Lay out one run: a row a group of questions, a column a condition.

    Raises:
        EvalError: it was not asked under the condition that the others are compared with.
    """
    conditions = report["conditions"]
    if against not in conditions:
        known = ", ".join(conditions)
        raise EvalError(f"{report['run']}: was asked under {known}, not {against}: see --against")
    lines = [title(report), "", line(["", "n", *conditions])]
    lines.append(line(["---"] * (len(conditions) + 2)))
    for group, one in conditions[against].items():
        cells = [accuracy(scores[group]) for scores in conditions.values()]
        lines.append(line([group, str(one["n"]), *cells]))
    if report["against"]:
        lines += ["", f"Against {against}, paired, in points (95 % interval over clips):", ""]
        lines += [line(["condition", "n", "difference", "p", "lost", "gained", "verdict"])]
        lines += [line(["---"] * 7)]
    for name, groups_of in report["against"].items():
        for group, one in groups_of.items():
            if group == ALL or one["verdict"] in ("better", "worse"):
                where = name if group == ALL else f"{name}, {group}"
                lines.append(line([where, *change(one)]))
    return "\n".join([*lines, "", *warnings(report)]).rstrip("\n")


def run_table(reports: Sequence[Row], condition: str = "full") -> str:
    """Lay out several runs, a row each; EvalError where they were not asked the same."""
    check_alike(reports)
    groups = list(dict.fromkeys(g for r in reports for g in r["conditions"].get(condition, {})))
    lines = [line(["run", "model", *groups]), line(["---"] * (len(groups) + 2))]
    for report in reports:
        scores = report["conditions"].get(condition, {})
        cells = [accuracy(scores[group]) if group in scores else NONE for group in groups]
        name = report["run"] + (" (partial)" if report["partial"] else "")
        lines.append(line([name, str(report["model"]), *cells]))
    said = [f"{r['run']}: {text}" for r in reports for text in warnings(r)]
    return "\n".join([*lines, "", *said]).rstrip("\n")


def change_table(changes: dict[str, dict[str, Row]], first: Path) -> str:
    """Lay out by how much runs differ from the first one."""
    lines = [f"Against {first}, paired, in points (95 % interval over clips):", ""]
    lines.append(line(["run", "group", "n", "difference", "p", "lost", "gained", "verdict"]))
    lines.append(line(["---"] * 8))
    for name, groups in changes.items():
        lines += [line([name, group, *change(one)]) for group, one in groups.items()]
    return "\n".join(lines)


def check_alike(reports: Sequence[Row]) -> None:
    """Raise EvalError where runs were asked of other data: their numbers are not of one thing."""
    data = [_identity(report["data"]) for report in reports]
    other = next((k for k, one in enumerate(data) if one != data[0]), None)
    if other is not None:
        raise EvalError(
            f"{reports[other]['run']}: was asked other questions than {reports[0]['run']}; "
            "one table holds runs on the same data"
        )


def _identity(data: Row | None) -> Row:
    """Return what tells data apart: of files what is in them, not what they are called."""
    found = {name: value for name, value in (data or {}).items() if name != "file"}
    return found | {"files": sorted(found.get("files", {}).values())}


def title(report: Row) -> str:
    """Name a run; a partial one says so first."""
    partial = "PARTIAL (--limit): " if report["partial"] else ""
    return f"{partial}{report['model']}, {report['counts']['n']} answers, accuracy in %"


def accuracy(score: Row) -> str:
    """Write an accuracy in percent with its interval; * where it is of few answers."""
    if not score["scored"]:
        return NONE
    low, high = score["interval"]
    few = " *" if score["scored"] < FEW else ""
    return f"{100 * score['accuracy']:.1f} [{100 * low:.1f}, {100 * high:.1f}]{few}"


def change(one: Row) -> list[str]:
    """Write a paired difference: n, points with interval, p, lost, gained, verdict."""
    if not one["n"]:
        return ["0", NONE, NONE, NONE, NONE, "no answer in common"]
    low, high = one["interval"]
    points = f"{100 * one['difference']:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"
    p = f"{one['p']:.3f}" if one["p"] >= 0.001 else "< 0.001"
    return [str(one["n"]), points, p, str(one["lost"]), str(one["gained"]), one["verdict"]]


def warnings(report: Row) -> list[str]:
    """Say what a reader must know: what is missing and how far it could move the numbers."""
    said = []
    for name, scores in report["conditions"].items():
        one = scores[ALL]
        if one["missing"] or one["unparsed"]:
            low, high = one["bounds"]
            said.append(
                f"{name}: {one['missing']} of {one['n']} answers are missing and "
                f"{one['unparsed']} are none of the choices: over all, the accuracy is between "
                f"{100 * low:.1f} and {100 * high:.1f} %"
            )
        if one["unaltered"] and name != "full":
            said.append(
                f"{name}: {one['unaltered']} answers are about clips from which it takes nothing"
            )
        if "yes_rate" in one:
            said.append(
                f"{name}: says yes to {100 * one['yes_rate']:.0f} % of its yes-or-no questions; "
                f"yes is right for {100 * one['yes_right']:.0f} %"
            )
    for fault in report["faults"][:FAULTS]:
        said.append(f"missing: {fault}")
    if len(report["faults"]) > FAULTS:
        said.append(f"missing: {len(report['faults']) - FAULTS} other reasons, in report.json")
    if any(s["scored"] < FEW for scores in report["conditions"].values() for s in scores.values()):
        said.append(f"* fewer than {FEW} answers")
    return said


def yes_no_table(verdicts: Sequence[Verdict]) -> str:
    """Lay out yes-or-no questions: how often yes is said, and what that yes is worth; "" if none.

    A model that says yes to everything has a recall of 100 % and hears nothing.
    """
    asked = [v for v in verdicts if v.is_yes_or_no and v.said is not None]
    lines = [line(["yes or no", "n", "yes said", "yes right", "precision", "recall", "F1"])]
    lines.append(line(["---"] * 7))
    for name, some in grouped(asked, lambda v: v.condition).items():
        said = [says_yes(v.said or "") for v in some]
        right = [v.answer.lower() == "yes" for v in some]
        hits = sum(a and b for a, b in zip(said, right, strict=True))
        shares = [(sum(said), len(some)), (sum(right), len(some))]
        shares += [(hits, sum(said)), (hits, sum(right)), (2 * hits, sum(said) + sum(right))]
        cells = [f"{100 * part / of:.1f}" if of else NONE for part, of in shares]
        lines.append(line([name, str(len(some)), *cells]))
    return "\n".join(lines) if asked else ""


def cost_line(report: Row) -> str:
    """Write what a run cost."""
    cost = report["cost"]
    stages = ", ".join(f"{name} {value:.1f} s" for name, value in cost["seconds"].items())
    speed = f"; {cost['clips_per_s']:.2f} clips/s" if cost["total_s"] else ""
    if cost["tokens_per_s"]:  # none where nothing is said
        speed += f", {cost['tokens_per_s']:.1f} tokens/s"
    return f"{stages or 'nothing was asked'}{speed}; peak memory {cost['peak_memory_mb']} MB"


def line(cells: Sequence[str]) -> str:
    """Write a row of a Markdown table."""
    return "| " + " | ".join(cell.replace("|", "/") for cell in cells) + " |"
