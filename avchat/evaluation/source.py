"""Where questions come from: a file of the user's, or clips of the world made for the run."""

import sys
from pathlib import Path

from avchat.data_rows import Tally
from avchat.evaluation.items import EvalError, Item, items_of, key_of, read_items
from avchat.evaluation.progress import bar
from avchat.evaluation.records import Row
from avchat.heads import sha256_of
from avchat.world.dataset import draw_dataset, question_rows, write_dataset

WORLD = "world"  # the folder in a run's own where its clips of the world lie


def questions(
    data: Path | None,
    output: Path,
    clips: int,
    seed: int,
    limit: int | None = None,
    dry_run: bool = False,
) -> tuple[list[Item], Row]:
    """Read questions, and name them for a manifest: a file with its hash, or a part of the world.

    Args:
        data: None: `clips` clips of the world are rendered into the run's folder, and their short
            questions asked (sentences are scored by eval/world.py).
        dry_run: write nothing: clips of the world are drawn, and not rendered.
    """
    if data is not None:
        tally = Tally()
        items = read_items(data, tally=tally)
        if tally.line():
            print(f"{data}: {tally.line()}", file=sys.stderr)
        return items[:limit], {"file": str(data), "sha256": sha256_of([data])}
    folder = output / WORLD
    rows = _drawn(clips, seed) if dry_run else _rendered(folder, clips, seed)
    path = folder / "questions.jsonl"
    items = [item for k, row in enumerate(rows, 1) for item in items_of(path, k, row)]
    items = [item for item in items if item.choices]
    if not items:
        raise EvalError(f"--clips {clips}: none of them has a question with choices; take more")
    about = {"clips": clips, "seed": seed, "split": "test", "questions": key_of(rows)}
    return items[:limit], {"world": about}


def _drawn(clips: int, seed: int) -> list[Row]:
    return [row for clip in draw_dataset(clips, seed) for row in question_rows(clip)]


def _rendered(folder: Path, clips: int, seed: int) -> list[Row]:
    with bar("render") as told:
        try:
            dataset = write_dataset(folder, clips, seed, "test", told)
        except OSError as error:
            raise EvalError(f"{folder}: cannot be written ({error.strerror})") from error
    return [row for clip in dataset for row in question_rows(clip)]
