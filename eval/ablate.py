"""Ask the same questions with something taken away: does the sound help this model on these data?

    python eval/ablate.py --model tiny --clips 100 --output runs/ablate
    python eval/ablate.py --model runs/mine/model --data mine.jsonl --output runs/mine-ablate

Each clip is decoded once and asked about under every condition: full, deaf (the sound is absent),
silent, other_sound (another clip's), shifted, blind, one_frame, shuffled_frames, question_only; and
if it is named transcript_only, where a Whisper writes. Every answer is a line of answers.jsonl in
the output folder; the same command goes on where it was stopped, and asks again exactly what has
changed. The report says by how much each condition changes accuracy, with 95 % intervals over
clips; flips.jsonl lists the questions whose answer it changes. See eval/table.py for several runs.

    python eval/ablate.py --train --clips 300 --output runs/ablate-train

trains small models on the world that differ in one thing each (senses, stages, layout of the
tokens), several seeds of each, on the frozen encoders of --model, and tables them. Start the same
command once more beside it, and both share the work: a process for each core.
"""

from dataclasses import asdict, dataclass
from pathlib import Path

import tyro

from avchat.evaluation.conditions import CONDITIONS
from avchat.evaluation.items import EvalError
from avchat.evaluation.records import write_whole
from avchat.evaluation.report import cost, json_of
from avchat.evaluation.session import Session, answer, check_script, plan_lines, print_report
from avchat.evaluation.source import questions
from avchat.evaluation.variant_runs import (
    check_apart,
    claimed,
    planned,
    recorded,
    results,
    settle,
    spent_in,
    train_all,
    trained_table,
)
from avchat.evaluation.variants import Recipe, Variant, chosen
from avchat.model import AVChat
from avchat.script import run_script
from avchat.world.dataset import draw_dataset

USUAL = tuple(name for name in CONDITIONS if not name.endswith("_only") or "question" in name)


@dataclass(frozen=True, kw_only=True)
class Ablate(Session):
    """Take senses away from a model, one by one."""

    data: Path | None = None
    """Questions on your clips: JSON lines with video, question, answer (choices, family and needs
    where known), or a manifest as training reads it. Without it: clips of the world."""
    clips: int = 100
    """Clips of the world, where no --data is given."""
    conditions: tuple[str, ...] = USUAL
    """Which conditions; there are other_sound_only and transcript_only, too."""
    against: str = "full"
    """The condition that the others are compared with."""
    shift: float = 2.0
    """Seconds by which `shifted` moves the sound."""
    whisper: str | None = None
    """A Whisper that transcribes, for transcript_only (a name, or a .pt file)."""
    train: bool = False
    """Train variants on the world and compare them, instead of asking one model."""
    variants: tuple[str, ...] = ()
    """With --train: which variants, by how their names begin (default: all)."""
    recipe: tyro.conf.OmitArgPrefixes[Recipe] = Recipe()
    """With --train: how they are trained."""


def main(run: Ablate) -> None:
    """Ask what is missing, then report."""
    if run.train:
        train(run)
        return
    check_apart(run.output, train=False)
    asking = run.asking(run.conditions, shift_s=run.shift, whisper=run.whisper)
    if run.against not in run.conditions:
        raise EvalError(f"--against {run.against}: is not among the conditions that are asked")
    limits = (run.seed, run.limit, run.dry_run)
    items, data = questions(run.data, run.output, run.clips, *limits)
    if answer(run, items, asking, data):
        print_report(run, run.against)


def train(run: Ablate) -> None:
    """Train the variants that are missing, then table them all."""
    if run.data is not None or run.limit is not None:
        raise EvalError("--train is on clips of the world alone: leave out --data and --limit")
    run.recipe.check()
    variants = chosen(run.variants)
    if run.dry_run:
        say_plan(run, variants)
        return
    check_script(run.output)
    check_apart(run.output, train=True)
    base = AVChat.from_pretrained(run.model).eval()
    about = {"model": base.config.name, "variants": [v.name for v in variants]}
    about |= {"recipe": asdict(run.recipe), "name": run.model}
    with claimed(run.output, wait=True):
        settle(run.output, base, run.recipe)
        items, data = questions(None, run.output, run.clips, run.seed)
    with recorded(run.output, about | {"data": data, "n": len(items)}):
        whole = train_all(base, run.recipe, variants, items, run.output)
    if whole:
        found = results(run.output, variants, run.recipe.seeds)
        found["cost"] = cost(spent_in(run.output))
        write_whole(run.output / "trained.json", json_of(found, indent=1) + "\n")
        print(json_of(found) if run.json else trained_table(found))


def say_plan(run: Ablate, variants: list[Variant]) -> None:
    """Say what would be trained and asked; nothing is rendered for it."""
    drawn = [q for clip in draw_dataset(run.clips, run.seed) for q in clip.asked if q.choices]
    plan = planned(run.output, run.recipe, variants, len(drawn))
    named = plan | {"variants": "; ".join(plan["variants"])}
    print(json_of(plan) if run.json else plan_lines(named))


if __name__ == "__main__":
    run_script(main, Ablate, __doc__)
