"""What scripts of eval/ share that ask a model: their flags, the plan said, the answers given."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from avchat.evaluation.answering import Asking, Plan, generate
from avchat.evaluation.hashes import hashes_read
from avchat.evaluation.items import EvalError, Item
from avchat.evaluation.progress import bar
from avchat.evaluation.records import (
    ANSWERS,
    MANIFEST,
    Row,
    known_records,
    read_manifest,
    write_whole,
)
from avchat.evaluation.report import cost, flips, json_of, report_of
from avchat.evaluation.source import WORLD
from avchat.evaluation.tables import condition_table, cost_line
from avchat.model import AVChat


@dataclass(frozen=True, kw_only=True)
class Session:
    """A model that is asked."""

    output: Path
    """Folder of the run; the same command goes on with what is there."""
    model: str = "tiny"
    """Preset, folder or Hub id."""
    frames: int | None = None
    """Frames of a clip; None: as many as the model takes."""
    free: bool = False
    """Let the model answer in its own words where there are choices, too."""
    max_new_tokens: int = 32
    """Tokens of an answer in the model's own words, at most."""
    batch: int = 16
    """Clips that are in memory, and answered about, at once; 1: one by one."""
    seed: int = 1
    """Of the world's clips, and of the order of shuffled frames."""
    limit: int | None = None
    """Ask only the first so many questions: the result is marked as partial."""
    dry_run: bool = False
    """Say what would be asked, and ask nothing."""
    json: bool = False
    """Print one JSON object and nothing else."""

    def asking(self, conditions: Sequence[str], **more: object) -> Asking:
        """Say how items are asked; EvalError for what cannot be asked so."""
        for name in ("frames", "max_new_tokens", "batch", "limit"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise EvalError(f"--{name.replace('_', '-')} must be at least 1, not {value}")
        asking = Asking(
            conditions=tuple(conditions),
            frames=self.frames,
            free=self.free,
            max_new_tokens=self.max_new_tokens,
            seed=self.seed,
            **more,
        )
        asking.check()
        return asking


def answer(run: Session, items: Sequence[Item], asking: Asking, data: Row) -> bool:
    """Answer what is missing; False where it was only said what would be asked.

    Args: data: names what was asked, for the manifest.
    """
    check_script(run.output)
    model = AVChat.from_pretrained(run.model).eval()
    if run.dry_run:
        found = plan_of(run, model, items, asking)
        print(json_of(found) if run.json else plan_lines(found))
        return False
    with bar("answers") as told:
        facts = {"data": data, "limit": run.limit, "name": run.model}
        asked = generate(model, items, asking, run.output, facts=facts, clips=run.batch, told=told)
    if not asked:
        print(f"{run.output}: all answers were there, nothing was asked", file=sys.stderr)
    return True


def check_script(folder: Path) -> None:
    """Raise EvalError where another script made what is in a folder: its plan would be lost."""
    if not (folder / MANIFEST).is_file():
        return
    before = read_manifest(folder).get("script", "another program")
    if before != Path(sys.argv[0]).name:
        raise EvalError(f"{folder}: holds a run of {before}; name another --output")


def plan_lines(plan: Row) -> str:
    """Word a plan for a terminal."""
    known = {name: "not known before the first answers" for name, v in plan.items() if v is None}
    return "\n".join(f"{name.replace('_', ' ')}: {v}" for name, v in (plan | known).items())


def plan_of(run: Session, model: AVChat, items: Sequence[Item], asking: Asking) -> Row:
    """Count what a run would ask, and write nothing; the time is judged by the answers that are
    there, if any are.
    """
    plan = Plan(model, items, asking, hashes_read(run.output))
    missing = set(known_records(run.output / ANSWERS).missing(plan.keys.values()))
    absent = [Path(part.path) for part in plan.parts if not Path(part.path).is_file()]
    # a run of several models has the clips beside their folders
    worlds = (run.output / WORLD, run.output.parent / WORLD)
    to_render = [path for path in absent if path.parent in worlds]
    tokens = 0
    for item in items:
        words = () if asking.free else item.choices
        most = max((len(model.prompt.answer_ids(w)) for w in words), default=run.max_new_tokens)
        tokens += most * sum(plan.keys[item.id, name] in missing for name in asking.conditions)
    return {
        "questions": len(items),
        "clips": len(plan.parts),
        "clips_missing": len(absent) - len(to_render),
        "clips_to_render": len(to_render),
        "answers": len(plan.keys),
        "to_answer": len(missing),
        "tokens_at_most": tokens,
        "judge_calls": 0,
        "seconds": seconds_of(run.output, len(missing)),
    }


def seconds_of(folder: Path, missing: int) -> float | None:
    """Judge how long the missing answers take, by those that are there; None without any."""
    about = read_manifest(folder) if (folder / MANIFEST).is_file() else {}
    if not about.get("answered"):
        return None
    return round(missing * cost(about)["total_s"] / about["answered"], 1)


def print_report(run: Session, against: str = "full", said: Sequence[str] = ()) -> None:
    """Write a run's report and its flips beside its answers, and print it.

    Args: said: more lines for people.
    """
    report = report_of(run.output, against)
    write_whole(run.output / "report.json", json_of(report, indent=1) + "\n")
    lines = [json_of(row) for row in flips(run.output, against)]
    write_whole(run.output / "flips.jsonl", "".join(line + "\n" for line in lines))
    if run.json:
        print(json_of(report))
    else:
        print(condition_table(report, against), *said, cost_line(report), sep="\n\n")
    if not report["counts"]["scored"]:
        raise unscored(run.output, report["faults"])


def unscored(folder: Path, faults: Sequence[str]) -> EvalError:
    """Word that a run has no score at all, with the first reason."""
    why = faults[0] if faults else "no answer names a choice"
    return EvalError(f"{folder}: nothing could be scored: {why}")
