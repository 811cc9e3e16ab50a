"""A file of training data in one form -> the same in another, and a count of what was not carried.

Paths of a foreign file are relative to a root, its own folder when none is given; those of a
manifest are relative to the manifest.
"""

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

from avchat.caption_tables import TABLES, read_captions_of
from avchat.data import DataError, Sample, read_manifest
from avchat.data_formats import FIELDS, FORMATS
from avchat.data_rows import (
    LeftOut,
    Place,
    Row,
    Tally,
    manifest_row,
    read_rows,
    read_text,
    write_rows,
)
from avchat.data_speech import read_speech

OURS = "avchat"
SPEECH = "speech"
SOURCES = (OURS, *FORMATS, *TABLES, SPEECH)
TARGETS = (OURS, *FORMATS)


def convert(
    source: Path,
    target: Path,
    read_as: str,
    write_as: str,
    root: Path | None = None,
    limit: int | None = None,
) -> Tally:
    """Convert a file and say what became of its samples.

    Args: root: the folder that paths of a foreign form are relative to, or, from ours to ours,
    those of the source; limit: samples (of a table: captions) that are read, None for all.
    """
    check(source, target, read_as, write_as, root)
    exported = read_as == OURS != write_as  # the root is of the target's paths alone
    place = Place(root if root and write_as != OURS else target.parent)
    tally = Tally()
    if read_as in TABLES:
        there = Place(root or source.parent)
        rows = read_captions_of(source, read_as, there, place, tally, limit)
    else:
        if read_as == SPEECH:
            samples = read_speech(source, target, tally, limit)
        else:
            samples = read_samples(source, read_as, None if exported else root, tally, limit)
        rows = write_samples(samples, write_as, place, tally)
    if not rows:
        raise DataError(f"{source}: nothing to carry over; {tally.line() or 'no samples'}")
    write_rows(target, rows, lines=write_as == OURS or target.suffix == ".jsonl")
    return tally


def check(source: Path, target: Path, read_as: str, write_as: str, root: Path | None) -> None:
    """Find what is wrong with the arguments."""
    if read_as in TABLES and write_as != OURS:
        raise DataError(f"{read_as} holds captions: it becomes {OURS} alone, not {write_as}")
    if read_as == SPEECH and write_as != OURS:
        raise DataError(f"{read_as} becomes {OURS} alone; convert that to {write_as} then")
    if read_as == SPEECH and root is not None:
        raise DataError("--media-root is not for speech, whose paths are relative to its tables")
    if root is not None and not root.is_dir():
        raise DataError(f"{root}: no such folder")
    if target.is_dir():
        raise DataError(f"{target}: is a folder; name a file in it")
    if target.resolve() == source.resolve():
        raise DataError(f"{target}: is what is read; name another file")


def read_samples(
    source: Path, read_as: str, root: Path | None, tally: Tally, limit: int | None
) -> list[Sample]:
    """Read samples in any form. Args: root: of their paths, None for the file's own folder."""
    if read_as == OURS:
        return read_manifest(source, root)[:limit]
    samples, place, fields = [], Place(root or source.parent), set(FIELDS[read_as].split())
    for index, (line, row) in enumerate(islice(read_rows(source), limit)):
        one = Tally()
        try:
            samples.append(FORMATS[read_as][0](row, index, place, one))
        except LeftOut as reason:
            tally.left[str(reason)] += 1
            continue
        except DataError as error:
            form = guess(source)
            hint = "" if form in ("", read_as) else f"; this looks like {form}"
            raise DataError(f"{source}, line {line}: {error}{hint}") from error
        tally.lost += one.lost
        tally.lost.update(f"the field {name}" for name in sorted(set(row) - fields))
    return list(numbered(samples, tally))


def guess(path: Path) -> str:
    """Guess the form of a file by what it names; empty where nothing fits."""
    try:
        text = read_text(path)
        for table, words in TABLE_MARKS.items():
            if all(word in text for word in words):
                return table
        _, row = next(read_rows(path), (0, {}))
    except DataError:
        return ""
    return next((form for form, names in MARKS if set(names) <= set(row)), "")


TABLE_MARKS = {
    "msrvtt": ('"videos"', '"sentences"'),
    "audiocaps": ("audiocap_id,", "youtube_id,"),
    "clotho": ("file_name,", "caption_5"),
    "sounddescs": ("location,description,",),
    "valor": ('"video_id"', '"desc"'),
}
# The keys that tell a form from those after it.
MARKS = (
    (OURS, ("media",)),
    (OURS, ("id", "messages")),  # of text alone
    ("video-chatgpt-raw", ("q", "a", "video_id")),
    ("video-salmonn-2-plus", ("use_audio", "conversations")),
    ("video-salmonn-2", ("video", "audio", "conversations")),
    *(("llama-factory", (name, "conversations")) for name in ("images", "videos", "audios")),
    ("videollama2", ("audio", "conversations")),
    ("llava", ("conversations",)),
    ("llama-factory", ("instruction", "output")),
    ("ms-swift", ("messages",)),
)


def numbered(samples: list[Sample], tally: Tally) -> Iterator[Sample]:
    """Tell samples of one id apart by a number behind it."""
    given = {sample.id for sample in samples}
    met: set[str] = set()
    for sample in samples:
        name, number = sample.id, 1
        while name in met or (number > 1 and name in given):
            number += 1
            name = f"{sample.id}-{number}"
        if number > 1:
            tally.lost["an id of their own, so a number was put behind it"] += 1
        met.add(name)
        yield replace(sample, id=name)


def write_samples(samples: list[Sample], write_as: str, place: Place, tally: Tally) -> list[Row]:
    """Write samples in any form."""
    rows = []
    for sample in samples:
        one = Tally()
        try:
            write = manifest_row if write_as == OURS else FORMATS[write_as][1]
            row = write(sample, len(rows), place, one)
        except LeftOut as reason:
            tally.left[str(reason)] += 1
            continue
        tally.lost += one.lost
        tally.carried += 1
        rows.append(row)
    return rows
