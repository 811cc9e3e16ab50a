"""Have the answers of a run marked by a judge: a language model behind any OpenAI-compatible
endpoint.

    export OPENAI_API_KEY=...                                   # or OPENAI_BASE_URL=http://localhost:8000/v1
    python eval/judge.py runs/msvd --judge gpt-5-mini --without temperature max_tokens --dry-run
    python eval/judge.py runs/msvd --judge gpt-5-mini --without temperature max_tokens

Each mark is a line of judged.jsonl in the run's folder; what is judged is not judged again, and
the same command goes on after a stop, a full quota or a judge that was down. Newer models take no
temperature but their own, and no limit called max_tokens: --without says so, and the limit goes as
max_completion_tokens. A reply that holds no mark is unparsed: counted, and the mean bounded, as by
answers that are missing. Beside it stand exact match, and what the judge gives the right answers,
another clip's, none, and one that asks for a mark: a judge that fails there is not to be trusted.
Marks of two judges or hosts, or of two versions of a prompt, never share a table.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from avchat.evaluation.items import EvalError
from avchat.evaluation.judge import Judge, JudgeName
from avchat.evaluation.judged_runs import (
    judge_run,
    judged_lines,
    judged_report,
    plan,
    price,
    spent,
)
from avchat.evaluation.judging import JUDGED
from avchat.evaluation.progress import bar
from avchat.evaluation.records import write_whole
from avchat.evaluation.report import json_of
from avchat.evaluation.session import plan_lines
from avchat.script import run_script


@dataclass(frozen=True)
class Marking:
    """Mark a run's answers."""

    run: Annotated[Path, tyro.conf.Positional]
    """folder of a run, as eval/qa.py or eval/video_chatgpt.py leaves it"""
    judge: str
    """The model that judges, as its endpoint calls it: the name with a date, if there is one."""
    base_url: str | None = None
    """The endpoint; without it OPENAI_BASE_URL, and without that OpenAI's own."""
    without: tuple[str, ...] = ()
    """Settings that the endpoint does not take: temperature, response_format, max_tokens (its limit
    is sent as max_completion_tokens then), max_completion_tokens."""
    host: str | None = None
    """What its marks are known by; without it its address. For one judge whose address changes."""
    condition: str = "full"
    """Which answers of the run."""
    parallel: int = 4
    """Requests at a time."""
    tries: int = 6
    """How often a request is sent at most; the wait doubles each time."""
    pause: float = 1.0
    """Seconds before the second try."""
    timeout: float = 60.0
    """Seconds after which a request counts as lost."""
    report_only: bool = False
    """Report on what is judged; ask nothing."""
    dry_run: bool = False
    """Say how many requests it would take, about how many tokens, and how long."""
    prices: tuple[float, float] | None = None
    """Of a million tokens sent, and of a million answered: what it costs is said then."""
    json: bool = False
    """Print one JSON object and nothing else."""


def main(run: Marking) -> None:
    """Judge what is missing, then report."""
    name = JudgeName(run.judge, run.without)
    wanted = plan(run.run, name, run.condition, run.parallel, run.prices)
    if run.dry_run:
        print(json_of(wanted) if run.json else plan_lines(wanted))
        return
    if not run.report_only:
        settings = {"timeout_s": run.timeout, "tries": run.tries, "pause_s": run.pause}
        judge = Judge(run.judge, run.base_url, **settings, without=run.without, host=run.host)
        if wanted["judge_calls"] and (day := judge.shutdown()):
            print(
                f"note: {judge.address} gives up {run.judge} on {day}: marks by another judge "
                "will not be comparable",
                file=sys.stderr,
            )
        with bar("judged") as told:
            judge_run(run.run, judge, run.parallel, told, run.condition)
        if judge.retries:
            print(f"{judge.retries} requests were sent again", file=sys.stderr)
    report = judged_report(run.run, name, run.condition)
    tokens = spent(run.run, name)
    report |= {"tokens_in": tokens[0], "tokens_out": tokens[1]}
    if run.prices:
        report["price"] = price(*tokens, run.prices)
    write_whole(run.run / "judged.json", json_of(report, indent=1) + "\n")
    print(json_of(report) if run.json else "\n".join(judged_lines(report)))
    if not any(one["n_scored"] for one in report["aspects"]):
        raise EvalError(f"{run.run}: no reply holds a mark; what was said is in {JUDGED}")


if __name__ == "__main__":
    run_script(main, Marking, __doc__)
