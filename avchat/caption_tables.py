"""Published tables of captions -> lines of our caption manifest: MSR-VTT, AudioCaps, Clotho.

One way: a caption manifest holds less than they do. What a caption speaks of is our choice: both in
MSR-VTT, whose clips have their sound; the sound in AudioCaps and Clotho, whose writers heard it.
"""

import csv
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from avchat.container import MediaError
from avchat.data import DataError
from avchat.data_rows import Place, Row, Tally, parse, read_text
from avchat.media import probe

CUT_S = 10  # AudioCaps captions ten seconds of a video
SLACK_S = 1.0  # its clips, cut out by others, are a little longer or shorter
CAPTIONS = 5  # of each file of Clotho


def read_table(path: Path, columns: set[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield the lines of a CSV file with their numbers; DataError where a column is missing."""
    reader = csv.DictReader(io.StringIO(read_text(path), newline=""))
    missing = columns - set(reader.fieldnames or ())
    if missing:
        raise DataError(f"{path}, line 1: needs the columns {', '.join(sorted(missing))}")
    for row in reader:
        if None in row.values() or None in row:
            raise DataError(f"{path}, line {reader.line_num}: not as many cells as columns")
        yield reader.line_num, row


def audiocaps(path: Path, place: Place, tally: Tally) -> Iterator[Row]:
    """Read AudioCaps: ten seconds of a YouTube video and a caption of what is heard.

    The table names no files. Those that people have are called by the video, with or without the
    start and a Y before it; a longer one is the whole video, of which the ten seconds are taken.
    """
    for number, row in read_table(path, {"audiocap_id", "youtube_id", "start_time", "caption"}):
        video, start = row["youtube_id"], row["start_time"]
        try:
            start_s = float(start)
        except ValueError as error:
            raise DataError(f"{path}, line {number}: start_time {start} is no number") from error
        names = (f"{video}_{start}", f"Y{video}_{start}", video, f"Y{video}")
        known = [name for name in names if ("audio", name) in place.stems]
        known += [name for name in names if ("video", name) in place.stems]
        media = place.clip(known[0] if known else names[0], ".wav", tally)
        part = {"start": start_s, "end": start_s + CUT_S} if known and is_whole(media) else {}
        yield {"id": row["audiocap_id"], "media": media, **part, "caption": row["caption"]} | SOUND


def is_whole(media: Path) -> bool:
    """Tell a whole video from the ten seconds that were cut out of it."""
    try:
        return probe(media, isolate=True).duration_s > CUT_S + SLACK_S
    except MediaError:  # `avchat data check` says what is wrong with it
        return False


SOUND = {"of": "sound"}


def clotho(path: Path, place: Place, tally: Tally) -> Iterator[Row]:
    """Read Clotho: sound files, each with five captions."""
    names = [f"caption_{k}" for k in range(1, CAPTIONS + 1)]
    for _, row in read_table(path, {"file_name", *names}):
        media = place.root / row["file_name"]
        for k, name in enumerate(names, 1):
            yield {"id": f"{media.stem}-{k}", "media": media, "caption": row[name]} | SOUND


def msrvtt(path: Path, place: Place, tally: Tally) -> Iterator[Row]:
    """Read MSR-VTT: clips, cut already, each with twenty sentences."""
    table = parse(path, read_text(path))
    if not isinstance(table, dict) or not isinstance(table.get("sentences"), list):
        raise DataError(f"{path}: needs an object with videos and sentences")
    for number, sentence in enumerate(table["sentences"], 1):
        clip, caption = words(path, number, sentence)
        media = place.clip(clip, ".mp4", tally)
        yield {"id": str(sentence.get("sen_id", number)), "media": media, "caption": caption}


def words(path: Path, number: int, sentence: Any) -> tuple[str, str]:
    """Take the clip and the caption out of a sentence of MSR-VTT."""
    row = sentence if isinstance(sentence, dict) else {}
    clip, caption = row.get("video_id"), row.get("caption")
    if not isinstance(clip, str) or not isinstance(caption, str):
        raise DataError(f"{path}, sentence {number}: needs video_id and caption, two texts")
    return clip, caption


TABLES: dict[str, Callable[[Path, Place, Tally], Iterator[Row]]] = {
    "msrvtt": msrvtt,
    "audiocaps": audiocaps,
    "clotho": clotho,
}


def read_captions_of(path: Path, table: str, place: Place, target: Place, tally: Tally) -> list:
    """Read a table as lines of a caption manifest that stands in the folder `target`."""
    rows = []
    for row in TABLES[table](path, place, tally):
        if not row["caption"].strip():
            tally.left["with an empty caption"] += 1
            continue
        tally.carried += 1
        rows.append(row | {"media": target.name(row["media"]), "caption": row["caption"].strip()})
    return rows
