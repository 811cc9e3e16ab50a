"""Ask the questions of a public set, or your own, and match whole answers.

    python eval/qa.py music-avqa avqa-test.json --videos clips/ --model runs/mine/model \\
        --output runs/music
    python eval/qa.py msvd-qa test_q.json test_a.json --videos clips/ --output runs/msvd
    python eval/qa.py own questions.jsonl --output runs/own --conditions full deaf

Sets: msvd-qa, msrvtt-qa, activitynet-qa (questions and answers, matched by id), music-avqa, avqa,
avhbench, cmm, daily-omni, own. Where a set has a closed list of answers the model chooses among
them (--free: it answers in its own words, of which a whole answer must match: "no" is not in
"piano"). Answers that name no choice are unparsed: counted, and the accuracy bounded. What was left
out of the files is said. For answers that only a judge can mark see eval/video_chatgpt.py.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from avchat.data_rows import Tally
from avchat.evaluation.records import write_whole
from avchat.evaluation.report import json_of
from avchat.evaluation.session import Session, answer, print_report
from avchat.evaluation.sets import read_set
from avchat.evaluation.tables import yes_no_table
from avchat.evaluation.verdicts import read_verdicts
from avchat.heads import sha256_of
from avchat.script import run_script


@dataclass(frozen=True, kw_only=True)
class Qa(Session):
    """Questions of a set."""

    set: Annotated[str, tyro.conf.Positional]
    """the set's name"""
    files: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """its file of questions; where it has one, that of answers"""
    videos: Path | None = None
    """The folder of its clips; for `own`: what its paths are relative to (default: its file)."""
    conditions: tuple[str, ...] = ("full",)
    """Under which conditions to ask (see eval/ablate.py)."""
    write: bool = False
    """Ask nothing: write the questions into --output, for other harnesses (eval/lmms_tasks)."""


def main(run: Qa) -> None:
    """Ask what is missing, then report."""
    asking = run.asking(run.conditions)
    tally = Tally()
    items = read_set(run.set, run.files, run.videos, tally)[: run.limit]
    if run.write:
        path = run.output / "questions.jsonl"
        write_whole(path, "".join(json_of(item.row()) + "\n" for item in items))
        print(*filter(None, (tally.line(), f"{len(items)} questions in {path}")), sep="\n")
        return
    data = {"set": run.set, "files": {path.name: sha256_of([path]) for path in run.files}}
    if answer(run, items, asking, data):
        said = [line for line in (tally.line(), yes_no_table(read_verdicts(run.output))) if line]
        print_report(run, run.conditions[0], said)


if __name__ == "__main__":
    run_script(main, Qa, __doc__)
