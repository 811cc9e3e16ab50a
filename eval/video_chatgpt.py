"""The benchmark of Video-ChatGPT, from its own files: answers here, marks by eval/judge.py.

    python eval/video_chatgpt.py --generic generic_qa.json --temporal temporal_qa.json \\
        --consistency consistency_qa.json --videos Test_Videos/ --model runs/mine/model \\
        --output runs/vcg
    python eval/judge.py runs/vcg --judge gpt-5-mini --without temperature max_tokens

Five aspects are marked: correctness, detail and context of the generic questions, temporal of the
temporal ones, consistency of each pair. The prompts are our own, and the judge of the published
figures is gone (gpt-3.5-turbo, 2023): marks from here stand beside no published ones. None of these
questions needs the sound; their answers were written from captions of what is seen.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from avchat.data_rows import Tally
from avchat.evaluation.items import EvalError, Item
from avchat.evaluation.judged_runs import VCG_SET, calls_for
from avchat.evaluation.report import json_of
from avchat.evaluation.session import Session, answer, plan_lines, plan_of, print_report
from avchat.evaluation.vcg import KINDS, read_vcg
from avchat.heads import sha256_of
from avchat.model import AVChat
from avchat.script import run_script


@dataclass(frozen=True, kw_only=True)
class VideoChatgpt(Session):
    """Answer the questions; a judge marks them later."""

    generic: Path | None = None
    """generic_qa.json"""
    temporal: Path | None = None
    """temporal_qa.json"""
    consistency: Path | None = None
    """consistency_qa.json"""
    videos: Path
    """The folder of its clips."""
    max_new_tokens: int = 256
    """Tokens of an answer, at most."""


def main(run: VideoChatgpt) -> None:
    """Ask what is missing, then report exact matches, which need no judge."""
    files = {kind: vars(run)[kind] for kind in KINDS if vars(run)[kind] is not None}
    if not files:
        raise EvalError(f"name one of the benchmark's files: {', '.join(f'--{k}' for k in KINDS)}")
    tally = Tally()
    items = [i for kind, path in files.items() for i in read_vcg(kind, path, run.videos, tally)]
    items = items[: run.limit]
    if run.dry_run:
        print_plan(run, items)
        return
    data = {"set": VCG_SET, "files": {kind: sha256_of([path]) for kind, path in files.items()}}
    if answer(run, items, run.asking(["full"]), data):
        next_step = f"marks: python eval/judge.py {run.output} --judge NAME"
        print_report(run, said=[line for line in (tally.line(), next_step) if line])


def print_plan(run: VideoChatgpt, items: Sequence[Item]) -> None:
    """Say what would be asked, of the model and then of a judge, and ask nothing."""
    model = AVChat.from_pretrained(run.model).eval()
    there = [item for item in items if item.video.is_file()]  # others get no answer to judge
    found = plan_of(run, model, items, run.asking(["full"])) | {"judge_calls": calls_for(there)}
    print(json_of(found) if run.json else plan_lines(found))


if __name__ == "__main__":
    run_script(main, VideoChatgpt, __doc__)
