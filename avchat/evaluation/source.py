"""Where questions come from: a file of the user's, or clips of the world made for the run."""

from pathlib import Path

from avchat.evaluation.items import EvalError, Item, read_items
from avchat.evaluation.progress import bar
from avchat.evaluation.records import Row
from avchat.heads import sha256_of
from avchat.world.dataset import write_dataset


def questions(
    data: Path | None, output: Path, clips: int, seed: int, limit: int | None = None
) -> tuple[list[Item], Row]:
    """Read questions, and name them for a manifest: a file with its hash, or a part of the world.

    Args: data: None: `clips` clips of the world are rendered into the run's folder, and their short
    questions asked (sentences are scored by eval/world.py).
    """
    if data is not None:
        return read_items(data)[:limit], {"file": str(data), "sha256": sha256_of([data])}
    folder = output / "world"
    with bar("render") as told:
        try:
            write_dataset(folder, clips, seed, "test", told)
        except OSError as error:
            raise EvalError(f"{folder}: cannot be written ({error.strerror})") from error
    items = [item for item in read_items(folder / "questions.jsonl") if item.choices]
    if not items:
        raise EvalError(f"--clips {clips}: none of them has a question with choices; take more")
    return items[:limit], {"world": {"clips": clips, "seed": seed, "split": "test"}}
