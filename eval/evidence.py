"""Does the evidence of an answer say what the question needs? On the world, where that is known.

    python eval/evidence.py --model tiny --questions 400 --seed 1

Each question is asked in a conversation of its own and its answer is weighed
(`Conversation.evidence`). Counted are answers that are right: those of V questions should rest on
the picture, of A questions (sounds) and S questions (speech) on the sound, of AV questions on both.
"""

import json
import sys
import tempfile
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path

import tyro
from tqdm import tqdm

from avchat.chat import Conversation
from avchat.evaluation.costs import RENDER, Cost
from avchat.evaluation.tables import cost_line
from avchat.media import load_media
from avchat.metrics import same_answer
from avchat.model import AVChat
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


def main(run: EvidenceRun) -> None:
    """Render, ask, weigh, print."""
    cost = Cost()
    model = AVChat.from_pretrained(run.model)
    clips = run.questions // 2  # more than enough: there are several questions a clip
    table: dict[str, Counter] = defaultdict(Counter)
    families: dict[str, Counter] = defaultdict(Counter)
    wrong: Counter = Counter()
    with tempfile.TemporaryDirectory() as folder:
        with cost.timed(RENDER):
            write_dataset(Path(folder), clips, run.seed, run.split)
        rows = map(json.loads, (Path(folder) / "questions.jsonl").read_text().splitlines())
        bar = tqdm(total=run.questions, desc="weighed", disable=not sys.stderr.isatty())
        for row in rows:
            if row["family"] in SENTENCES:
                continue
            cost.clips += 1
            with cost.timed("decode"):
                media = load_media(Path(folder) / row["video"], frames=model.config.frames)
            with cost.timed("encode and answer"):
                conversation = Conversation(model, media)
                said = "".join(conversation.ask(row["question"], max_new_tokens=16))
            cost.tokens += len(model.prompt.answer_ids(said))
            if not said or not same_answer(said, row["answer"]):
                wrong[row["needs"]] += 1
                continue
            with cost.timed("weigh"):
                verdict = conversation.evidence().verdict
            table[row["needs"]][verdict] += 1
            families[f"{row['needs']} {row['family']}"][verdict] += 1
            bar.update(row["needs"] in COUNTED)
            if sum(table[need].total() for need in COUNTED) >= run.questions:
                break
    report = {
        "model": run.model,
        "seed": run.seed,
        "split": run.split,
        "agreement": {
            need: table[need][verdict] / max(table[need].total(), 1)
            for need, verdict in EXPECTED.items()
        },
        "weighed": {need: table[need].total() for need in NEEDS},
        "wrong": {need: wrong[need] for need in NEEDS},
        "confusion": {need: {v: table[need][v] for v in VERDICTS} for need in NEEDS},
        "families": {name: dict(found) for name, found in sorted(families.items())},
        "cost": cost.found(),
    }
    print(json.dumps(report) if run.json else as_text(report))


def as_text(report: dict) -> str:
    """Lay the confusion table out."""
    lines = [f"{'needs':8}{'right':>7}{'wrong':>7}" + "".join(f"{v:>10}" for v in VERDICTS)]
    for need, row in report["confusion"].items():
        counts = f"{report['weighed'][need]:7}{report['wrong'][need]:7}"
        lines.append(f"{need:8}{counts}" + "".join(f"{row[v]:10}" for v in VERDICTS))
    for need, part in report["agreement"].items():
        lines.append(f"{need}: of right answers {part:.1%} rest on {EXPECTED[need]}")
    lines += [f"  {name}: {found}" for name, found in report["families"].items()]
    return "\n".join([*lines, cost_line(report)])


if __name__ == "__main__":
    main(tyro.cli(EvidenceRun, description=__doc__))
