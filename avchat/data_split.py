"""A manifest -> one to train on and one to validate on, that share no clip.

Clips are told apart by what is in their files: a copy under another name stays with its original,
and all questions about a clip stay together. Conversations and captions are split alike.
"""

import hashlib
import math
from collections.abc import Iterable
from pathlib import Path

from avchat.data import DataError, read_lines
from avchat.data_rows import Place, write_rows

PARTS = ("train", "validation")
PIECE = 1 << 20  # bytes of a file that are in memory at once


def digest(path: Path) -> str:
    """Hash the contents of a file; DataError where it cannot be read."""
    found = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while piece := file.read(PIECE):
                found.update(piece)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    return found.hexdigest()


def held_out(clips: Iterable[str], share: float, seed: int) -> set[str]:
    """Choose clips for validation by their hashes and the seed: in no order of a manifest."""
    ranked = sorted(clips, key=lambda clip: hashlib.sha256(f"{seed} {clip}".encode()).digest())
    if len(ranked) < 2:
        raise DataError(f"{len(ranked)} clip cannot be split")
    return set(ranked[: min(max(1, math.floor(len(ranked) * share + 0.5)), len(ranked) - 1)])


def split(manifest: Path, folder: Path, share: float = 0.1, seed: int = 0) -> dict[str, dict]:
    """Write train.jsonl and validation.jsonl; say how many clips and samples each holds.

    Args: share: of the clips that go to validation.
    """
    rows = [row for _, row in read_lines(manifest)]
    paths = {row["media"]: manifest.parent / row["media"] for row in rows}
    clips = {media: digest(path) for media, path in paths.items()}
    try:
        chosen = held_out(set(clips.values()), share, seed)
    except DataError as error:
        raise DataError(f"{manifest}: {error}") from error
    files = {part: folder / f"{part}.jsonl" for part in PARTS}
    if manifest.resolve() in [file.resolve() for file in files.values()]:
        raise DataError(f"{manifest}: would be written over; name another folder")
    place, report = Place(folder), {}
    for part, file in files.items():
        wanted = part == "validation"
        kept = [row for row in rows if (clips[row["media"]] in chosen) == wanted]
        moved = [row | {"media": moved_path(row["media"], paths, place)} for row in kept]
        write_rows(file, moved, lines=True)
        count = len({clips[row["media"]] for row in kept})
        report[part] = {"file": str(file), "clips": count, "samples": len(kept)}
    return report


def moved_path(media: str, paths: dict[str, Path], place: Place) -> str:
    """Write a path as it is seen from the new manifest; an absolute one stays."""
    return media if Path(media).is_absolute() else place.name(paths[media])
