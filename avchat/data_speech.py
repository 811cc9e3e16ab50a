"""Speech with its transcripts, as the package `datasets` reads it -> samples of our manifest.

A source is a folder, a .parquet, .json, .jsonl or .csv file, or hub:NAME[:CONFIG][:SPLIT], which is
streamed. A folder of sound files says what is said in them in metadata.csv or metadata.jsonl, whose
column file_name is relative to it. What a set holds as bytes is written beside the manifest, what
it holds as paths stays where it is. Nothing is decoded.
"""

import zlib
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from avchat.data import DataError, Sample, clip_path
from avchat.data_rows import SOUNDS, Row, Tally
from avchat.prompt import Turn

# Our choice; which one a sample gets follows from its id.
QUESTIONS = (
    "What is said?",
    "What does the speaker say?",
    "Write down what is said.",
    "Please transcribe the speech.",
)
HUB = "hub:"
BUILDERS = {".parquet": "parquet", ".json": "json", ".jsonl": "json", ".csv": "csv"}
METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
# Names of columns in published sets, the more telling first.
SOUND_COLUMNS = ("audio", "file_name", "speech", "file", "path")
TEXT_COLUMNS = ("text", "transcription", "transcript", "sentence", "raw_text", "normalized_text")
# How sound files of each kind begin.
MAGIC = {b"RIFF": ".wav", b"fLaC": ".flac", b"OggS": ".ogg", b"ID3": ".mp3", b"\xff\xfb": ".mp3"}


def read_speech(source: Path, target: Path, tally: Tally, limit: int | None) -> list[Sample]:
    """Read a set of speech; write sound that it holds as bytes into a folder beside `target`.

    Args: limit: rows that are read, None for all.

    Raises:
        DataError: the set cannot be read or reached, or has no sound or no transcripts.
    """
    samples, ids = [], set()
    table = None if str(source).startswith(HUB) else table_of(source)
    for number, row in enumerate(rows_of(source, table, limit)):
        sound, text = column(source, row, SOUND_COLUMNS), column(source, row, TEXT_COLUMNS)
        said = row[text]
        if not isinstance(said, str) or not said.strip():
            tally.left["with an empty transcript"] += 1
            continue
        media = sound_file(row[sound], number, table, target)
        if media is None:
            tally.left["without sound"] += 1
            continue
        name = str(row.get("id", number))
        if name in ids:  # as of a speaker
            name = f"{name}-{number}"
        ids.add(name)
        question = QUESTIONS[zlib.crc32(name.encode()) % len(QUESTIONS)]
        samples.append(Sample(name, media, (Turn(question, said.strip()),), sense="sound"))
    return samples


def rows_of(source: Path, table: Path | None, limit: int | None) -> Iterator[Row]:
    """Yield the rows of a set, sound as it is stored; DataError where it cannot be read.

    Args: table: the file that is read; None where the source names a set on the Hub.
    """
    # here, as they take a second to load
    import datasets
    import pyarrow
    from datasets.exceptions import DatasetsError

    datasets.logging.set_verbosity(datasets.logging.CRITICAL)  # what it would log is raised below
    try:
        yield from islice(open_set(source, table), limit)
    except ImportError as error:
        raise DataError(
            f"{source}: this kind of set needs the package torchcodec ({error})"
        ) from error
    except (OSError, ValueError, KeyError, DatasetsError, pyarrow.ArrowException) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{source}: cannot be read ({reason:.300})") from error


def open_set(source: Path, table: Path | None) -> Iterator[Row]:
    """Open a set as a stream, without decoding its sound."""
    from datasets import load_dataset

    if table is None:
        name, config, split = hub_name(str(source))
        sets = load_dataset(name, config, streaming=True)
    else:
        kind, split = BUILDERS[table.suffix.lower()], ""
        sets = load_dataset(kind, data_files=str(table), streaming=True)
    chosen = split or ("train" if len(sets) > 1 else next(iter(sets)))
    if chosen not in sets:
        raise DataError(f"{source}: name one of its splits: {', '.join(sets)}")
    rows = sets[chosen]
    # what has no known features has none to decode
    return iter(rows if rows.features is None else rows.decode(False))


def hub_name(source: str) -> tuple[str, str | None, str]:
    """Take hub:NAME[:CONFIG][:SPLIT] apart; what is left out is None, or an empty split."""
    name, *rest = source[len(HUB) :].split(":")
    if not name or len(rest) > 2:
        raise DataError(f"{source}: must be hub:NAME[:CONFIG][:SPLIT]")
    config, split = (*rest, "", "")[:2]
    return name, config or None, split


def table_of(source: Path) -> Path:
    """Find the file with the transcripts: the source, or the only one in a folder and below."""
    if source.is_file():
        if source.suffix.lower() not in BUILDERS:
            raise DataError(f"{source}: not a folder nor one of {', '.join(BUILDERS)}")
        return source
    if not source.is_dir():
        raise DataError(f"{source}: no such file or folder")
    found = sorted(path for path in source.rglob("*") if path.name in METADATA)
    found = found or sorted(path for path in source.rglob("*") if path.suffix in BUILDERS)
    if len(found) != 1:
        listed = ", ".join(str(path.relative_to(source)) for path in found[:5])
        what = f"several tables, name one: {listed}" if found else f"no {' or '.join(METADATA)}"
        raise DataError(f"{source}: {what}")
    return found[0]


def column(source: Path, row: Row, names: tuple[str, ...]) -> str:
    """Find a column by the names it has in published sets."""
    if name := next((name for name in names if name in row), None):
        return name
    raise DataError(
        f"{source}: none of its columns ({', '.join(map(str, row))}) is called {', '.join(names)}"
    )


def sound_file(value: Any, number: int, table: Path | None, target: Path) -> Path | None:
    """Find a row's sound file, or write it; None where the row has no sound.

    Args: value: a path, or an object with bytes, a path or both; table: the file that paths are
    relative to, None where they lead nowhere, on the Hub.
    """
    parts = value if isinstance(value, dict) else {"path": value}
    data, path = parts.get("bytes"), parts.get("path")
    if isinstance(data, bytes) and data:
        # never the name that is stored: it may lead anywhere
        stored = Path(path).suffix.lower() if isinstance(path, str) else ""
        begins = (ending for magic, ending in MAGIC.items() if data.startswith(magic))
        ending = next(begins, stored if stored in SOUNDS else ".wav")
        return write(target.with_name(f"{target.stem}-sound") / f"{number:06d}{ending}", data)
    if table is None or not isinstance(path, str) or not path.strip():
        return None
    return clip_path(table.parent, path)


def write(path: Path, data: bytes) -> Path:
    """Write a file into a folder that is made."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error.strerror})") from error
    return path
