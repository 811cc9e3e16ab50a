"""The public part of the world: a fixed set of clips and questions that any model can be asked.

Enters: a folder. Leaves: 1000 clips, questions.jsonl, benchmark.json (version, hashes, controls),
README.md (what it measures and what it does not). Its questions are checked against a hash that is
written here: whoever gets others has another generator, and is told so.
"""

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path

from avchat.world.dataset import Clip, DatasetError, write_dataset
from avchat.world.perception import perceive
from avchat.world.questions import FAMILIES, SENTENCES
from avchat.world.tags import FRAME_TIMES_S

VERSION = "1"
CLIPS, SEED, SPLIT = 1000, 20270101, "test"  # the seed is of no training and no earlier figure
QUESTIONS_SHA256 = "0666c1f044d9ae47c39dfd64c3818865b5dbdb4b642b820177c70491fdbf0d94"
MOST_LEAD = 0.05  # of a family's answers, the most frequent before the rarest (DAQA's bound)
MANY = 8  # choices beyond which some may never be right: there are fewer questions than it takes
CARD_BEGINS = "# avchat world, benchmark version "  # of this version or of an earlier one

CARD = """\
# avchat world, benchmark version {version}

{clips} clips of 4 s (H.264 and AAC) of coloured shapes that move and sound, and {questions}
questions on what is seen (V), heard (A), said (S) and on both at once (AV). Made by avchat's
generator, seed {seed}, split "{split}"; SHA-256 of questions.jsonl: {sha256}

## What it measures

Whether a model sees and hears, and binds the two: which shape makes which sound, whether they are
in time, what is heard and not seen. Each cross-modal question is kept only if its answer changes
with the sound and with the picture; such clips come in pairs with the same picture and another
sound, or the other way round, and are asked the same with another answer: who lacks the sense in
which the two differ cannot be right about both. That does not put a deaf or a blind model at
chance: one sense alone leaves out some of the choices (which shapes there are). Compare it with its
own baselines, below. Which sound a shape makes is drawn anew for each clip: there is nothing to
know beforehand.

## What it does not measure

Anything about real video. Shapes and tones are not the world, and a model that is good here may
fail on any film; one that was trained on this generator (as avchat's `tiny` was, on other clips)
has an advantage that says nothing about others. Say of a model whether it was.

## Baselines

Chance, the most frequent answer, a classifier of the question's words that learned from another
split, and the oracle, which reads the scene: `python eval/benchmark.py` computes all four on the
questions asked and sets them beside the model, in its table and as `baselines` in its report.json.
What was measured on version {version}, with the commands and the commits, stands in avchat's
EXPERIMENTS.md ("The benchmark of the world"), in short in its README.md.

## Rules

Nothing of the split "{split}" is trained on. Choose among `choices`; `describe` and `timeline`
questions have none and are scored by their statements (eval/world.py). Give the scores by family
and under the four conditions full, deaf, blind and question only, with 95 % intervals over clips; a
single average is no result. To submit: a pull request with the folder of the run (plan, answers,
manifest, report) that `python eval/benchmark.py` leaves.

## Licence

CC0 1.0: the clips are made by a program from nothing. The program: Apache-2.0.
"""


def write_benchmark(out: Path, told: Callable[[int, int], None] | None = None) -> list[Clip]:
    """Write the benchmark into a folder; goes on where it was stopped.

    Raises:
        DatasetError: the folder holds other clips or a README.md of its own, this version draws
            other questions, or a control fails.
    """
    check_card(out / "README.md")
    dataset = write_dataset(out, CLIPS, SEED, SPLIT, told)
    text = (out / "questions.jsonl").read_bytes()
    sha256 = hashlib.sha256(text).hexdigest()
    if sha256 != QUESTIONS_SHA256:
        raise DatasetError(
            f"{out}: this version of the generator draws other questions than benchmark "
            f"{VERSION} has: its figures are not comparable"
        )
    rows = [json.loads(line) for line in text.splitlines()]
    wrong = faults(dataset, rows)
    if wrong:
        raise DatasetError(f"{out}: {wrong[0]}")
    clips = {f"{clip.name}.mp4": _sha256(out / f"{clip.name}.mp4") for clip in dataset}
    facts = {"version": VERSION, "clips": CLIPS, "seed": SEED, "split": SPLIT}
    facts |= {"questions": len(rows), "questions_sha256": sha256}
    # of this machine's encoder: another one writes other bytes of the same pictures
    facts |= {"clips_sha256": clips, "controls": "passed"}
    write_whole(out / "README.md", CARD.format(**facts, sha256=sha256))
    write_whole(out / "benchmark.json", json.dumps(facts, indent=1) + "\n")
    return dataset


def check_card(path: Path) -> None:
    """Raise DatasetError where a README.md is not the card, which would take its place."""
    try:
        kept = not path.exists() or path.read_bytes().startswith(CARD_BEGINS.encode())
    except OSError as error:
        raise DatasetError(f"{path}: not readable ({error.strerror})") from error
    if not kept:
        raise DatasetError(f"{path}: is not the benchmark's card; give another folder")


def write_whole(path: Path, text: str) -> None:
    """Write a file whole or not at all, over the one that is there."""
    torn = path.with_suffix(f".part{path.suffix}")
    try:
        torn.write_text(text, encoding="utf-8")
        torn.replace(path)
    finally:
        torn.unlink(missing_ok=True)


def faults(dataset: list[Clip], rows: list[dict]) -> list[str]:
    """List which controls fail: answers that are not even, questions without a twin, answers that
    cannot be perceived.
    """
    found = []
    if len({row["id"] for row in rows}) < len(rows):
        found.append("two questions have one id")
    rows = [row for row in rows if row["family"] not in SENTENCES]
    asked: dict[tuple[str, str], set[str]] = defaultdict(set)
    for row in rows:
        if row["needs"] == "AV" and row["video"].endswith(("a.mp4", "b.mp4")):  # of a pair
            asked[Path(row["video"]).stem.rstrip("ab"), row["question"]].add(row["answer"])
    for family, counts in answers_of(rows).items():
        if (lead := lead_in(counts)) > max(1, MOST_LEAD * counts.total()):
            found.append(f"{family}: one answer comes {lead:.0f} times more often than another")
    found += [f"{question}: one answer" for (_, question), a in asked.items() if len(a) < 2][:1]
    missed = sum(not _perceived(clip) for clip in dataset)
    return [*found, *([f"{missed} clips with answers that cannot be perceived"] if missed else [])]


def answers_of(rows: list[dict]) -> dict[str, Counter]:
    """Count the answers of each family, those of its choices that are never right as 0; where
    choices differ from question to question, the places at which the right one stands.
    """
    answers: dict[str, Counter] = defaultdict(Counter)
    for row in rows:
        order = row["family"] in ("order", "sound_order")
        choices = range(len(row["choices"])) if order else row["choices"]
        answers[row["family"]].update(dict.fromkeys(choices, 0))
        answers[row["family"]][row["choices"].index(row["answer"]) if order else row["answer"]] += 1
    return answers


def lead_in(counts: Counter) -> float:
    """Give by how much the most frequent answer comes before the rarest.

    Where choices are many the rarest is of those that are ever right, or the mean if that is less.
    """
    if len(counts) <= MANY:
        return max(counts.values()) - min(counts.values())
    least = min(count for count in counts.values() if count)
    return max(counts.values()) - min(least, counts.total() / len(counts))


def _perceived(clip: Clip) -> bool:
    """Tell whether every short answer can be read off the frames and the sound: the oracle."""
    seen = perceive(clip.scene, FRAME_TIMES_S)
    return all(
        FAMILIES[q.family].answer(seen, dict(q.args)) == q.answer
        for q in clip.asked
        if q.family not in SENTENCES
    )


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
