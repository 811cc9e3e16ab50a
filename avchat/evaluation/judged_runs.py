"""The answers of a run, marked by a judge: which aspects they are marked for, and the report."""

import json
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from pathlib import Path

from avchat.evaluation import aspects, judging
from avchat.evaluation.aspects import Aspect
from avchat.evaluation.items import EvalError, Item, key_of
from avchat.evaluation.judge import LEFT_OUT, TOP, Judge, JudgeName, messages, tokens_of
from avchat.evaluation.judging import JUDGED, Judged
from avchat.evaluation.records import Records, Row, read_manifest, read_records
from avchat.evaluation.set_rows import pair_of
from avchat.evaluation.tables import NONE, check_alike, line
from avchat.evaluation.verdicts import Verdict, read_verdicts
from avchat.metrics import mean

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
    asked = by_aspect(folder, condition)
    found = [(aspect, items_of(aspect, some)) for aspect, some in asked]
    if not any(items for _, items in found):
        answered = any(v.said is not None for _, some in asked for v in some)
        why = "of no pair both questions are answered" if answered else "no answer"
        raise EvalError(f"{folder}: {why} under the condition {condition}: nothing to judge")
    return [(aspect, items) for aspect, items in found if items]


def by_aspect(folder: Path, condition: str) -> list[tuple[Aspect, list[Verdict]]]:
    """List the questions of a run, answered or not, by what their answers are marked for."""
    verdicts = [v for v in read_verdicts(folder) if v.condition == condition]
    if (read_manifest(folder).get("data") or {}).get("set") != VCG_SET:
        return [(aspects.QA, verdicts)]
    return vcg_by_aspect(verdicts)


def vcg_by_aspect(verdicts: Sequence[Verdict]) -> list[tuple[Aspect, list[Verdict]]]:
    """List the questions of Video-ChatGPT's benchmark by what their answers are marked for."""
    of_kind = {kind: [v for v in verdicts if v.family == kind] for kind in VCG}
    return [(aspect, some) for kind, some in of_kind.items() for aspect in VCG[kind] if some]


def items_of(aspect: Aspect, verdicts: Sequence[Verdict]) -> list[Judged]:
    """List what there is to mark: questions with an answer, and pairs with both."""
    answered = [v for v in verdicts if v.said is not None]
    return pairs(answered) if aspect.pair else [judged(v) for v in answered]


def calls_for(items: Sequence[Item]) -> int:
    """Count the requests that marking these takes, controls included, if all are answered."""
    asked = [
        Verdict(
            **{name: getattr(item, name) for name in ("id", "clip", "family", "needs", "also")},
            **{"question": item.question, "answer": item.answer, "said": item.id},
            condition="full",
            outcome="unparsed",
        )
        for item in items
    ]
    return sum(
        len({key_of(one.fields(aspect.pair)) for one in judging.with_controls(made)})
        for aspect, made in ((a, items_of(a, some)) for a, some in vcg_by_aspect(asked))
    )


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
    judging.check_parallel(parallel)
    rows = marks_in(folder)
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
    values = [row[name] for row in rows if isinstance(row.get(name), int | float) and row[name]]
    return sum(values) / len(values) if values else None


def price(tokens_in: int, tokens_out: int, prices: tuple[float, float]) -> float:
    """Price tokens, at so much for a million that are sent and that are answered."""
    return round((tokens_in * prices[0] + tokens_out * prices[1]) / 1e6, 4)


def spent(folder: Path, judge: JudgeName) -> tuple[int, int]:
    """Count the tokens that a judge was sent and answered with, over all that it marked here."""
    rows = [r for r in read_records(folder / JUDGED).values() if r["model"] == judge.model]
    return (
        sum(tokens_of(row, "tokens_in") or 0 for row in rows),
        sum(tokens_of(row, "tokens_out") or 0 for row in rows),
    )


def judge_run(folder: Path, judge: Judge, parallel: int, told: Told, condition: str) -> None:
    """Judge what is not judged yet; EvalError where the judge fails, with the rest kept."""
    with Records(folder / JUDGED) as records:
        for aspect, items in to_judge(folder, condition):
            judging.judge_all(judge, aspect, judging.with_controls(items), records, parallel, told)


def judged_report(folder: Path, judge: JudgeName, condition: str = "full") -> Row:
    """Report what a judge said of a run: an aspect a row. EvalError where it said nothing."""
    to_judge(folder, condition)  # or there is nothing to report on
    rows = marks_in(folder)
    verdicts = [v for v in read_verdicts(folder) if v.condition == condition]
    found = [
        aspect_report(judge, aspect, some, rows) for aspect, some in by_aspect(folder, condition)
    ]
    if all(one["n_missing"] + one["n_not_judged"] == one["n"] for one in found):
        raise EvalError(f"{folder}: no answer is marked by {judge.flags}{_others(judge, rows)}")
    about = read_manifest(folder)
    return {
        "run": str(folder),
        "model": about["model"],
        "data": about["data"],
        "partial": bool(about["limit"]),
        "judge": judge.model,
        "without": list(judge.without),
        "n": len(verdicts),
        "n_missing": sum(v.said is None for v in verdicts),
        "aspects": found,
    }


def aspect_report(
    judge: JudgeName, aspect: Aspect, asked: Sequence[Verdict], rows: Mapping[str, Row]
) -> Row:
    """Report on one aspect; questions without an answer, and pairs without both, are missing."""
    items = items_of(aspect, asked)
    count = len({pair_of(one.id) for one in asked}) if aspect.pair else len(asked)
    return judging.report(judge, aspect, items, rows, missing=count - len(items))


def marks_in(folder: Path) -> dict[str, Row]:
    """Read what judges said of a run; nothing where none was asked."""
    path = folder / JUDGED
    return read_records(path) if path.is_file() else {}


def judge_of(folder: Path, model: str, without: tuple[str, ...] | None = None) -> JudgeName:
    """Find with which settings a judge marked a run; EvalError where they are not told.

    Args: without: as eval/judge.py was told; None: as the marks tell.
    """
    if without is not None:
        return JudgeName(model, without)
    found = [name for name in judges_in(marks_in(folder)) if name.model == model]
    if len(found) > 1:
        ways = " and as ".join(name.flags for name in found)
        raise EvalError(f"{folder}: was marked as {ways}: say --without as you did to judge")
    return found[0] if found else JudgeName(model)


def judges_in(rows: Mapping[str, Row]) -> list[JudgeName]:
    """List the judges that marked anything by the prompts of today, each with its settings."""
    marked = [row for row in rows.values() if "error" not in row]
    known = {model: _by_prompt(model) for model in {row["model"] for row in marked}}
    names = [known[row["model"]].get(row["prompt"]) for row in marked]
    return [name for name in dict.fromkeys(names) if name is not None]


def _by_prompt(model: str) -> dict[str, JudgeName]:
    """Name a judge with all settings that it may have, by the hashes of its prompts."""
    found: dict[str, JudgeName] = {}
    for count in range(len(LEFT_OUT) + 1):
        for without in combinations(LEFT_OUT, count):
            name = JudgeName(model, without)
            for aspect in aspects.ASPECTS.values():
                found.setdefault(judging.prompt_hash(name, aspect), name)
    return found


def _others(judge: JudgeName, rows: Mapping[str, Row]) -> str:
    found = [name.flags for name in judges_in(rows) if name != judge]
    return f"; there are marks by {', '.join(found)}" if found else "; eval/judge.py marks them"


def judged_table(reports: Sequence[Row]) -> str:
    """Lay out judged runs, a row each: mean marks with intervals, exact matches beside them.

    Raises:
        EvalError: they were asked other questions, or marked by two judges, or by two prompts.
    """
    check_alike(reports)
    found = [one for report in reports for one in report["aspects"]]
    by = judging.one_judge(one for one in found if one["n_scored"])
    names = list(dict.fromkeys(one["aspect"] for one in found))
    head = [f"{name}, of {TOP}" for name in names]
    lines = [f"judge: {judging.called(found[0] | by)}", ""]
    lines += [line(["run", "model", "n", *head, "exact, %"])]
    lines.append(line(["---"] * (len(names) + 4)))
    for report in reports:
        by_name = {one["aspect"]: one for one in report["aspects"]}
        cells = [_marks(by_name[name]) if name in by_name else NONE for name in names]
        name = report["run"] + (" (partial)" if report["partial"] else "")
        row = [name, str(report["model"]), str(report["n"]), *cells]
        lines.append(line([*row, _exact(report["aspects"])]))
    unsound = [
        f"{report['run']}, {one['aspect']}: control {name} is off: do not trust this judge"
        for report in reports
        for one in report["aspects"]
        for name, check in one["controls"].items()
        if check["n_scored"] and not check["as_expected"]
    ]
    return "\n".join([*lines, "", *unsound]).rstrip("\n")


def _marks(one: Row) -> str:
    score, left, said = one["score"], one["n"] - one["n_scored"], judging.mark_of(one)
    return (
        f"{said} ({left} unmarked: {score['worst']:.2f} to {score['best']:.2f})" if left else said
    )


def _exact(found: Sequence[Row]) -> str:
    """Word the share of exact matches, and its bounds where answers are missing."""
    share = 100 * mean([one["exact"] for one in found if one["n_missing"] < one["n"]])
    low, high = (100 * mean([one["exact_bounds"][k] for one in found]) for k in (0, 1))
    lacking = any(one["n_missing"] for one in found)
    return f"{share:.1f}" + (f" ({low:.1f} to {high:.1f})" if lacking else "")


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
