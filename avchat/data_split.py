"""A manifest -> one to train on and one to validate on, that share no clip.

Clips are told apart by what is in their files: a copy under another name stays with its original,
and all questions about a clip stay together. Conversations of text alone are told apart by what is
said in them, and divided by themselves: each part has its share of both. Captions are split alike.
"""

import hashlib
import json
import math
from collections.abc import Iterable
from pathlib import Path

from avchat.data import DataError, clip_path, read_lines
from avchat.data_rows import Place, Row, require_files, write_rows

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


def text_digest(row: Row) -> str:
    """Hash what is said in a conversation of text alone."""
    said = json.dumps(row.get("messages"), sort_keys=True)
    return hashlib.sha256(said.encode()).hexdigest()


def held_out(things: Iterable[str], share: float, seed: int) -> set[str]:
    """Choose things for validation by their hashes and the seed: in no order of a manifest.

    At least one is chosen and one is left; of one alone none is chosen.
    """
    ranked = sorted(things, key=lambda one: hashlib.sha256(f"{seed} {one}".encode()).digest())
    if len(ranked) < 2:
        return set()
    return set(ranked[: min(max(1, math.floor(len(ranked) * share + 0.5)), len(ranked) - 1)])


def split(manifest: Path, folder: Path, share: float = 0.1, seed: int = 0) -> dict[str, dict]:
    """Write train.jsonl and validation.jsonl; say how many clips, texts and samples each holds.

    Args: share: of the clips, and of the conversations of text alone, that go to validation.
    """
    rows = [row for _, row in read_lines(manifest)]
    paths = {row["media"]: clip_path(manifest.parent, row["media"]) for row in rows if is_clip(row)}
    require_files(manifest, paths.values())
    digests = {media: digest(path) for media, path in paths.items()}
    named = [digests[row["media"]] if is_clip(row) else text_digest(row) for row in rows]
    clips = set(digests.values())
    texts = set(named) - clips
    chosen = held_out(clips, share, seed) | held_out(texts, share, seed)
    if not chosen:
        raise DataError(f"{manifest}: {len(clips)} clip and {len(texts)} texts cannot be split")
    files = {part: folder / f"{part}.jsonl" for part in PARTS}
    if manifest.resolve() in [file.resolve() for file in files.values()]:
        raise DataError(f"{manifest}: would be written over; name another folder")
    place, report = Place(folder), {}
    for part, file in files.items():
        held = part == "validation"
        kept = [k for k, name in enumerate(named) if (name in chosen) == held]
        write_rows(file, [moved(rows[k], paths, place) for k in kept], lines=True)
        names = {named[k] for k in kept}
        counts = {"clips": len(names & clips), "texts": len(names & texts), "samples": len(kept)}
        report[part] = {"file": str(file), **counts}
    return report


def is_clip(row: Row) -> bool:
    """Tell a line about a clip from one of text alone."""
    return "media" in row


def moved(row: Row, paths: dict[str, Path], place: Place) -> Row:
    """Write a line with its path as seen from the new manifest; an absolute one stays."""
    if not is_clip(row) or Path(row["media"]).is_absolute():
        return row
    return row | {"media": place.name(paths[row["media"]])}
