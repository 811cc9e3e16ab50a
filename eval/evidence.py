"""Does the evidence of an answer say what the question needs? On the world, where that is known.

    python eval/evidence.py --model tiny --questions 400 --seed 1

Each question is asked in a conversation of its own and its answer is weighed
(`Conversation.evidence`). Counted are answers that are right: those of V questions should rest on
the picture, of A questions (sounds) and S questions (speech) on the sound, of AV questions on both.
Intervals are 95 %, by a bootstrap over clips.
"""

import json
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from avchat.chat import Conversation
from avchat.evaluation.costs import RENDER, Cost
from avchat.evaluation.items import EvalError
from avchat.evaluation.records import Row
from avchat.evaluation.report import json_of
from avchat.evaluation.tables import NONE, cost_line
from avchat.media import Media, MediaError, load_media
from avchat.metrics import bootstrap_interval, mean, same_answer
from avchat.model import AVChat
from avchat.script import run_script
from avchat.world.dataset import write_dataset
from avchat.world.questions import SENTENCES

EXPECTED = {"V": "picture", "A": "sound", "S": "sound", "AV": "both"}
COUNTED = ("V", "A")  # until there are so many of these
VERDICTS = ("sound", "picture", "both", "question")
NEEDS = ("V", "A", "AV", "S")


@dataclass(frozen=True)
class EvidenceRun:
    """Weigh answers about clips of the world."""

    model: str = "tiny"
    """Preset, folder or Hub id."""
    questions: int = 400
    """V and A questions to be answered right and weighed; AV and S ones come as they come."""
    seed: int = 1
    split: str = "test"
    json: bool = False
    """Print one JSON object and nothing else."""


@dataclass(frozen=True)
class Weighed:
    """One answer: on which clip, to what, and what it rests on; None where it is wrong."""

    clip: str
    needs: str
    family: str
    verdict: str | None


def main(run: EvidenceRun) -> None:
    """Render, ask, weigh, print."""
    if run.questions < 2:
        raise EvalError(f"--questions must be at least 2, not {run.questions}")
    if run.seed < 0:
        raise EvalError(f"--seed must be 0 or more, not {run.seed}")
    cost = Cost()
    model = AVChat.from_pretrained(run.model)
    clips = run.questions // 2  # more than enough: there are several questions a clip
    with tempfile.TemporaryDirectory() as folder:
        with cost.timed(RENDER):
            write_dataset(Path(folder), clips, run.seed, run.split)
        rows = map(json.loads, (Path(folder) / "questions.jsonl").read_text().splitlines())
        short = [row for row in rows if row["family"] not in SENTENCES]
        if not short:
            raise EvalError(f"--questions {run.questions}: no clip has a short one; take more")
        found = weigh_all(model, Path(folder), short, run.questions, cost)
    about = {"model": run.model, "seed": run.seed, "split": run.split}
    report = about | report_of(found) | {"cost": cost.found()}
    print(json_of(report) if run.json else as_text(report))


def weigh_all(
    model: AVChat, folder: Path, rows: Sequence[Row], most: int, cost: Cost
) -> list[Weighed]:
    """Ask and weigh until `most` answers count."""
    found, counted = [], 0
    with tqdm(total=most, desc="weighed", disable=not sys.stderr.isatty()) as bar:
        for row, media in decoded(folder, rows, model.config.frames, cost):
            verdict = weighed(model, row, media, cost)
            found.append(Weighed(row["video"], row["needs"], row["family"], verdict))
            counts = verdict is not None and row["needs"] in COUNTED
            bar.update(counts)
            counted += counts
            if counted >= most:
                break
    return found


def decoded(
    folder: Path, rows: Sequence[Row], frames: int, cost: Cost
) -> Iterator[tuple[Row, Media]]:
    """Yield questions, each with its clip; those on one clip follow each other, and share it."""
    video, media = "", None
    for row in rows:
        if row["video"] != video:
            with cost.timed("decode"):
                media = loaded(folder / row["video"], frames)
            video = row["video"]
            cost.clips += 1
        yield row, media


def loaded(path: Path, frames: int) -> Media:
    """Decode a clip; EvalError where it cannot be."""
    try:
        return load_media(path, frames=frames)
    except MediaError as error:
        raise EvalError(str(error)) from error


def weighed(model: AVChat, row: Row, media: Media, cost: Cost) -> str | None:
    """Say what the answer to a question rests on; None where it is wrong."""
    with cost.timed("encode and answer"):
        conversation = Conversation(model, media)
        said = "".join(conversation.ask(row["question"], max_new_tokens=16))
    cost.tokens += len(model.prompt.answer_ids(said))
    if not said or not same_answer(said, row["answer"]):
        return None
    with cost.timed("weigh"):
        return conversation.evidence().verdict


def report_of(found: Sequence[Weighed]) -> Row:
    """Count what answers rest on, and how often it is what their questions need."""
    right = {need: [w for w in found if w.needs == need and w.verdict] for need in NEEDS}
    confusion = {need: Counter(w.verdict for w in some) for need, some in right.items()}
    families: dict[str, Counter] = {}
    for one in (one for one in found if one.verdict):
        families.setdefault(f"{one.needs} {one.family}", Counter())[one.verdict] += 1
    hits = {need: [float(w.verdict == EXPECTED[need]) for w in right[need]] for need in EXPECTED}
    return {
        "agreement": {need: mean(some) for need, some in hits.items()},
        "interval": {
            need: bootstrap_interval(some, [w.clip for w in right[need]])
            for need, some in hits.items()
        },
        "weighed": {need: len(some) for need, some in right.items()},
        "wrong": {
            need: sum(w.needs == need and w.verdict is None for w in found) for need in NEEDS
        },
        "confusion": {need: {v: confusion[need][v] for v in VERDICTS} for need in NEEDS},
        "families": {name: dict(counts) for name, counts in sorted(families.items())},
    }


def as_text(report: Row) -> str:
    """Lay the confusion table out."""
    lines = [f"{'needs':8}{'right':>7}{'wrong':>7}" + "".join(f"{v:>10}" for v in VERDICTS)]
    for need, row in report["confusion"].items():
        counts = f"{report['weighed'][need]:7}{report['wrong'][need]:7}"
        lines.append(f"{need:8}{counts}" + "".join(f"{row[v]:10}" for v in VERDICTS))
    for need in report["agreement"]:
        lines.append(f"{need}: of right answers {share(report, need)} rest on {EXPECTED[need]}")
    lines += [f"  {name}: {found}" for name, found in report["families"].items()]
    return "\n".join([*lines, cost_line(report)])


def share(report: Row, need: str) -> str:
    """Write how many answers rest on what their questions need, in %, with the interval."""
    if not report["weighed"][need]:
        return NONE
    low, high = (100 * value for value in report["interval"][need])
    return f"{report['agreement'][need]:.1%} [{low:.1f}, {high:.1f}]"


if __name__ == "__main__":
    run_script(main, EvidenceRun, __doc__)
