"""The answers of a run, marked by a judge: which aspects they are marked for, and the report."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from avchat.evaluation import aspects, judging
from avchat.evaluation.aspects import Aspect
from avchat.evaluation.items import EvalError
from avchat.evaluation.judge import TOP, Judge, JudgeName, messages
from avchat.evaluation.judging import JUDGED, Judged
from avchat.evaluation.records import Records, Row, read_manifest, read_records
from avchat.evaluation.set_rows import pair_of
from avchat.evaluation.tables import NONE, check_alike, line
from avchat.evaluation.verdicts import Verdict, read_verdicts

# the kinds of questions of Video-ChatGPT's benchmark -> what each is marked for
VCG = {
    "generic": (aspects.CORRECTNESS, aspects.DETAIL, aspects.CONTEXT),
    "temporal": (aspects.TEMPORAL,),
    "consistency": (aspects.CONSISTENCY,),
}
VCG_SET = "video-chatgpt"
# of a reply that nobody has seen yet, and of English: for plans alone
ANSWER_TOKENS, LETTERS = 20, 4

Told = Callable[[int, int], None]


def to_judge(folder: Path, condition: str = "full") -> list[tuple[Aspect, list[Judged]]]:
    """List what of a run is to be marked for what; EvalError where there is no answer to mark.

    Answers that are missing are not marked: the report counts them.
    """
    verdicts = [v for v in read_verdicts(folder) if v.condition == condition]
    answered = [v for v in verdicts if v.said is not None]
    if not answered:
        raise EvalError(f"{folder}: no answer under the condition {condition}: nothing to judge")
    if (read_manifest(folder).get("data") or {}).get("set") != VCG_SET:
        return [(aspects.QA, [judged(v) for v in answered])]
    found = []
    for kind, marked_for in VCG.items():
        some = [v for v in answered if v.family == kind]
        items = pairs(some) if kind == "consistency" else [judged(v) for v in some]
        found += [(aspect, items) for aspect in marked_for if items]
    return found


def judged(one: Verdict) -> Judged:
    """Take a question with its answers."""
    return Judged(one.id, one.clip, one.question, one.answer, one.said or "", also=one.also)


def pairs(verdicts: Sequence[Verdict]) -> list[Judged]:
    """Join questions that ask the same in two wordings; of both there must be an answer."""
    by_stem: dict[str, list[Verdict]] = {}
    for one in verdicts:
        by_stem.setdefault(pair_of(one.id), []).append(one)
    return [
        Judged(
            stem,
            a.clip,
            a.question,
            a.answer,
            a.said or "",
            question_2=b.question,
            said_2=b.said or "",
            also=a.also,
        )
        for stem, (a, b) in ((stem, both) for stem, both in by_stem.items() if len(both) == 2)
    ]


def plan(
    folder: Path,
    judge: JudgeName,
    condition: str = "full",
    parallel: int = 4,
    prices: tuple[float, float] | None = None,
) -> Row:
    """Say what judging a run would take from here, its controls included.

    Tokens and time are judged by the replies that are there already; without any, those of a
    request by its letters, and how long it takes is not known.

    Args: prices: of a million tokens that are sent, and that are answered.
    """
    path = folder / JUDGED
    rows = read_records(path) if path.is_file() else {}
    wanted = {
        judging.key_for(judge, aspect, item): (aspect.system, item.fields(aspect.pair))
        for aspect, items in to_judge(folder, condition)
        for item in judging.with_controls(items)
    }
    missing = [one for key, one in wanted.items() if "error" in rows.get(key, {"error": ""})]
    known = [row for key, row in rows.items() if key in wanted and "error" not in row]
    letters = sum(len(json.dumps(messages(*one))) for one in missing)
    sent = _mean(known, "tokens_in") or (letters / len(missing) / LETTERS if missing else 0)
    answered = _mean(known, "tokens_out") or ANSWER_TOKENS
    each_s = _mean(known, "seconds")
    found = {"judge_calls": len(missing), "tokens_in": round(sent * len(missing))}
    found |= {"tokens_out": round(answered * len(missing))}
    found["seconds"] = None if each_s is None else round(each_s * len(missing) / parallel, 1)
    if prices is not None:
        found["price"] = price(found["tokens_in"], found["tokens_out"], prices)
    return found


def _mean(rows: Sequence[Row], name: str) -> float | None:
    values = [row[name] for row in rows if row.get(name)]
    return sum(values) / len(values) if values else None


def price(tokens_in: int, tokens_out: int, prices: tuple[float, float]) -> float:
    """Price tokens, at so much for a million that are sent and that are answered."""
    return round((tokens_in * prices[0] + tokens_out * prices[1]) / 1e6, 4)


def spent(folder: Path, judge: JudgeName) -> tuple[int, int]:
    """Count the tokens that a judge was sent and answered with, over all that it marked here."""
    rows = [r for r in read_records(folder / JUDGED).values() if r["model"] == judge.model]
    return (
        sum(row.get("tokens_in") or 0 for row in rows),
        sum(row.get("tokens_out") or 0 for row in rows),
    )


def judge_run(folder: Path, judge: Judge, parallel: int, told: Told, condition: str) -> None:
    """Judge what is not judged yet; EvalError where the judge fails, with the rest kept."""
    with Records(folder / JUDGED) as records:
        for aspect, items in to_judge(folder, condition):
            judging.judge_all(judge, aspect, judging.with_controls(items), records, parallel, told)


def judged_report(folder: Path, judge: JudgeName, condition: str = "full") -> Row:
    """Report what a judge said of a run: an aspect a row."""
    path = folder / JUDGED
    rows = read_records(path) if path.is_file() else {}
    verdicts = [v for v in read_verdicts(folder) if v.condition == condition]
    found = [
        judging.report(judge, aspect, items, rows) for aspect, items in to_judge(folder, condition)
    ]
    about = read_manifest(folder)
    return {
        "run": str(folder),
        "model": about["model"],
        "data": about["data"],
        "partial": bool(about["limit"]),
        "judge": judge.model,
        "n": len(verdicts),
        "n_missing": sum(v.said is None for v in verdicts),
        "aspects": found,
    }


def judged_table(reports: Sequence[Row]) -> str:
    """Lay out judged runs, a row each: mean marks with intervals, exact matches beside them.

    Raises:
        EvalError: they were asked other questions, or marked by two judges, or by two prompts.
    """
    check_alike(reports)
    found = [one for report in reports for one in report["aspects"]]
    judging.one_judge(one for one in found if one["n_scored"])
    names = list(dict.fromkeys(one["aspect"] for one in found))
    head = [f"{name}, of {TOP}" for name in names]
    lines = [f"judge: {found[0]['returned'] or found[0]['model']}", ""]
    lines += [line(["run", "model", "n", *head, "exact, %"])]
    lines.append(line(["---"] * (len(names) + 4)))
    for report in reports:
        by_name = {one["aspect"]: one for one in report["aspects"]}
        cells = [_marks(by_name[name]) if name in by_name else NONE for name in names]
        exact = [one["exact"] for one in report["aspects"]]
        name = report["run"] + (" (partial)" if report["partial"] else "")
        row = [name, str(report["model"]), str(report["n"]), *cells]
        lines.append(line([*row, f"{100 * sum(exact) / len(exact):.1f}"]))
    unsound = [
        f"{report['run']}, {one['aspect']}: control {name} is off: do not trust this judge"
        for report in reports
        for one in report["aspects"]
        for name, check in one["controls"].items()
        if check["n_scored"] and not check["as_expected"]
    ]
    return "\n".join([*lines, "", *unsound]).rstrip("\n")


def _marks(one: Row) -> str:
    score, left = one["score"], one["n"] - one["n_scored"]
    said = f"{score['mean']:.2f} [{score['low']:.2f}, {score['high']:.2f}]"
    return (
        f"{said} ({left} unmarked: {score['worst']:.2f} to {score['best']:.2f})" if left else said
    )


def judged_lines(report: Row) -> list[str]:
    """Word a judged report for a terminal."""
    partial = "PARTIAL (--limit): " if report["partial"] else ""
    missing = f", {report['n_missing']} without an answer" if report["n_missing"] else ""
    lines = [f"{partial}{report['model']}, {report['n']} questions{missing}"]
    for one in report["aspects"]:
        lines += judging.report_lines(one)
    if "tokens_in" in report:
        cost = f", {report['price']:g}" if "price" in report else ""
        lines.append(f"tokens: {report['tokens_in']} in, {report['tokens_out']} out{cost}")
    return lines
