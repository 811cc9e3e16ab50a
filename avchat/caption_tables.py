"""Published tables of captions -> lines of our caption manifest: MSR-VTT, AudioCaps, Clotho,
SoundDescs, VALOR.

One way: a caption manifest holds less than they do. What a caption speaks of is our choice: both in
MSR-VTT and VALOR, whose clips have their sound; the sound in the others, whose writers heard it.
"""

import csv
import io
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from avchat.container import MediaError
from avchat.data import DataError, check_part, clip_path
from avchat.data_rows import LeftOut, Place, Row, Tally, parse, read_rows, read_text
from avchat.media import probe

CUT_S = 10  # AudioCaps captions ten seconds of a video
SLACK_S = 1.0  # its clips, cut out by others, are a little longer or shorter
CAPTIONS = 5  # of each file of Clotho


def read_table(path: Path, columns: set[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield the lines of a CSV file with their numbers; DataError where a column is missing."""
    reader = csv.DictReader(io.StringIO(read_text(path), newline=""))
    try:
        missing = columns - set(reader.fieldnames or ())
        if missing:
            raise DataError(f"{path}, line 1: needs the columns {', '.join(sorted(missing))}")
        for row in reader:
            if None in row.values() or None in row:
                raise DataError(f"{path}, line {reader.line_num}: not as many cells as columns")
            yield reader.line_num, row
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}: not a table ({error})") from error


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
        check_part(f"{path}, line {number}", {"media": video, "start": start_s})
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
        media = clip_path(place.root, row["file_name"])
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


def sounddescs(path: Path, place: Place, tally: Tally) -> Iterator[Row]:
    """Read SoundDescs: a sound of the BBC's archive and the description that its archivists gave.

    Its repository (akoepke/audio-retrieval-benchmark) has the descriptions as descriptions.pkl, by
    the sound's id, alone. A pickle runs what its writer wanted when it is opened, so we read none,
    but the same written out as CSV with the columns id and description; or the table that the BBC
    published with the sounds, BBCSoundEffects.csv (location, description, secs, category, CDNumber,
    CDName, tracknum), whose location is the id with the ending .wav.
    """
    if path.suffix.lower() in (".pkl", ".pickle"):
        raise DataError(
            f"{path}: a pickle can run programs, so it is not read; write it as CSV with the "
            "columns id and description"
        )
    header = read_text(path).split("\n", 1)[0]
    key = "location" if "location" in header else "id"
    for number, row in read_table(path, {key, "description"}):
        name = Path(row[key].strip().replace("\\", "/")).name
        if not name:
            raise DataError(f"{path}, line {number}: {key} is empty")
        stem = name[: -len(".wav")] if name.lower().endswith(".wav") else name
        media = place.clip(stem, ".wav", tally)
        yield {"id": stem, "media": media, "caption": row["description"]} | SOUND


def valor(path: Path, place: Place, tally: Tally) -> Iterator[Row]:
    """Read VALOR: clips, cut already, each with captions of what is seen and heard.

    VALOR-32K's desc_train.json, desc_val.json and desc_test.json are lists of video_id and desc. In
    its repository (TXH-mercury/VALOR) caption_annotation.json is a list of video_id and caption,
    txt_mapper.json an object that gives each video_id its captions, one text or a list of texts.
    """
    text = read_text(path)
    if text.lstrip().startswith("{"):
        table = parse(path, text)
        rows = [(1, {"video_id": name, "desc": said}) for name, said in table.items()]
    else:
        rows = read_rows(path)
    for number, row in rows:
        clip, said = row.get("video_id"), row.get("desc", row.get("caption"))
        captions = said if isinstance(said, list) else [said]
        if not isinstance(clip, str) or not all(isinstance(one, str) for one in captions):
            raise DataError(f"{path}, line {number}: needs video_id and desc, two texts")
        media = place.clip(clip, ".mp4", tally)
        for k, caption in enumerate(captions, 1):
            name = clip if len(captions) == 1 else f"{clip}-{k}"
            yield {"id": name, "media": media, "caption": caption}


TABLES: dict[str, Callable[[Path, Place, Tally], Iterator[Row]]] = {
    "msrvtt": msrvtt,
    "audiocaps": audiocaps,
    "clotho": clotho,
    "sounddescs": sounddescs,
    "valor": valor,
}


def read_captions_of(
    path: Path, table: str, place: Place, target: Place, tally: Tally, limit: int | None = None
) -> list[Row]:
    """Read a table as lines of a caption manifest that stands in the folder `target`.

    Args: limit: captions that are read, None for all.
    """
    rows, ids = [], Counter()
    for row in islice(TABLES[table](path, place, tally), limit):
        if not row["caption"].strip():
            tally.left["with an empty caption"] += 1
            continue
        try:
            name = target.name(row["media"])
        except LeftOut as reason:
            tally.left[str(reason)] += 1
            continue
        tally.carried += 1
        ids[row["id"]] += 1
        if (count := ids[row["id"]]) > 1:
            tally.lost["an id of their own, so a number was put behind it"] += 1
            row["id"] = f"{row['id']}-{count}"
        rows.append(row | {"media": name, "caption": row["caption"].strip()})
    return rows
