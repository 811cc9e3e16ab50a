"""Put the runs of eval/ side by side.

    python eval/table.py runs/a runs/b                        # Markdown
    python eval/table.py runs/a runs/b --json --plot ab.png   # JSON; families with intervals
    python eval/table.py runs/a runs/b --judge gpt-5-mini     # marks of eval/judge.py

One run: its conditions. Several, on the same questions: a row each, and each against the first,
paired question by question; "better" and "worse" are said only where the 95 % interval over clips
leaves out 0. Runs on other questions do not share a table, nor do marks of two judges.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from avchat.evaluation.items import EvalError
from avchat.evaluation.judged_runs import judge_of, judged_report, judged_table
from avchat.evaluation.plots import plot
from avchat.evaluation.report import Row, compared, json_of, report_of
from avchat.evaluation.tables import (
    change_table,
    check_alike,
    condition_table,
    cost_line,
    run_table,
)
from avchat.evaluation.verdicts import Verdict, read_verdicts
from avchat.script import run_script


@dataclass(frozen=True)
class Table:
    """Runs side by side."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """folders of runs"""
    condition: str = "full"
    """The condition that runs are compared under."""
    against: str = "full"
    """Of one run: the condition that the others are compared with."""
    judge: str = ""
    """The judge whose marks are put side by side, as eval/judge.py was told its name."""
    without: tuple[str, ...] | None = None
    """Where a run was judged with other settings, too: which, as eval/judge.py was told."""
    plot: Path | None = None
    """Draw accuracies by family, with their intervals, into a PNG."""
    json: bool = False
    """Print one JSON object and nothing else."""


def main(run: Table) -> None:
    """Read the runs, print their table."""
    if not run.runs:
        raise EvalError("name the folder of a run, or several")
    if run.judge:
        names = [judge_of(folder, run.judge, run.without) for folder in run.runs]
        runs = zip(run.runs, names, strict=True)
        marked = [judged_report(folder, name, run.condition) for folder, name in runs]
        print(json_of({"runs": marked}) if run.json else judged_table(marked))
        return
    reports = [report_of(folder, run.against) for folder in run.runs]
    check_alike(reports)
    changes = {str(folder): against_first(run, folder) for folder in run.runs[1:]}
    if run.plot:
        plot(reports, run.condition, run.plot)
    if run.json:
        print(json_of({"runs": reports, "against_first": changes}))
    elif len(reports) == 1:
        print(condition_table(reports[0], run.against), cost_line(reports[0]), sep="\n\n")
    else:
        print(run_table(reports, run.condition), change_table(changes, run.runs[0]), sep="\n\n")


def against_first(run: Table, folder: Path) -> dict[str, Row]:
    """Compare a run with the first one, on the questions that both were asked."""
    return compared(verdicts(run.runs[0], run.condition), verdicts(folder, run.condition))


def verdicts(folder: Path, condition: str) -> list[Verdict]:
    """Read a run's verdicts under one condition; EvalError where it was not asked under it."""
    found = [one for one in read_verdicts(folder) if one.condition == condition]
    if not found:
        raise EvalError(f"{folder}: was not asked under the condition {condition}")
    return found


if __name__ == "__main__":
    run_script(main, Table, __doc__)
