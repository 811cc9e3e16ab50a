"""The verbs that look clips up: `avchat find | library`. cli.py runs them.

Heavy imports stay inside the verbs.
"""

import contextlib
import json
import math
import os
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import Positional, UseAppendAction, arg

from avchat.input_error import InputError

if TYPE_CHECKING:
    from avchat.heads import Head, Kind
    from avchat.library import Library
    from avchat.library_find import Filters, Found, Query
    from avchat.library_table import Sense
    from avchat.transcripts import Transcriber

MODELS = {"vlsa": "tiny", "siglip": "google/siglip-so400m-patch14-384"}  # --model when left out
WEIGHTS = ("text", "sound", "clip", "image")  # what --weight may name


@dataclass(frozen=True)
class Find:
    """Find clips by words, a sound, a clip, a picture, or several of them with weights."""

    text: Annotated[str | None, Positional, arg(metavar="TEXT")] = None
    """what is seen or heard, or said, in words"""
    library: str = "library"
    """a folder or s3://bucket/name"""
    sound: Annotated[Path | None, arg(metavar="FILE")] = None
    """find what sounds like this file"""
    clip: Annotated[Path | None, arg(metavar="FILE")] = None
    """find what is like this clip"""
    image: Annotated[Path | None, arg(metavar="FILE")] = None
    """find what looks like this picture"""
    sense: Literal["picture", "sound", "both"] | None = None
    """what of the library's clips is compared; left out, the sound with --sound alone, the \
picture with --image alone, else both"""
    unwanted: UseAppendAction[Annotated[tuple[str, ...], arg(name="not", metavar="TEXT")]] = ()
    """what it should not be, in words; may be given several times"""
    weight: UseAppendAction[Annotated[tuple[str, ...], arg(metavar="NAME=NUMBER")]] = ()
    """how much text, sound, clip or image counts among the others, such as text=2; may be given \
several times"""
    folder: Annotated[str | None, arg(metavar="FOLDER")] = None
    """only files in it or below"""
    min_length: Annotated[float | None, arg(metavar="SECONDS")] = None
    """only files at least as long"""
    max_length: Annotated[float | None, arg(metavar="SECONDS")] = None
    """only files at most as long"""
    has_sound: bool = False
    """only files with a sound track"""
    after: Annotated[str | None, arg(metavar="DATE")] = None
    """only files last changed on this day (YYYY-MM-DD) or later"""
    before: Annotated[str | None, arg(metavar="DATE")] = None
    """only files last changed before this day"""
    top: int = 10
    """how many to list at most"""
    threshold: Annotated[float | None, arg(metavar="COSINE")] = None
    """what fits less is no match; left out, the head's own for texts, if it has one, else none"""
    fold: Annotated[float | None, arg(metavar="COSINE")] = None
    """windows as alike as this, in picture and in sound, are listed once, the best; left out, \
0.99; 1 lists all"""
    model: str | None = None
    """where the library's head is now, if it is no longer where it was"""
    json: bool = False
    """print a list of JSON objects, best first"""


@dataclass(frozen=True)
class LibraryVerb:
    """Look after a library: list its files, remove some, rebuild its indexes, count."""

    action: Positional[Literal["list", "remove", "rebuild", "stats"]]
    """what to do"""
    paths: Positional[tuple[str, ...]] = ()
    """with remove: files and folders to forget; the files themselves stay"""
    library: str = "library"
    """a folder or s3://bucket/name"""
    json: bool = False
    """print JSON"""


def load(kind: "Kind", model: str) -> "Head":
    """Load a head."""
    from avchat.config import ModelError
    from avchat.heads import load_head

    try:
        return load_head(model, kind)
    except ModelError as error:
        raise InputError(str(error)) from error


def load_transcriber(name: str | None) -> "Transcriber | None":
    """Load the Whisper of --transcribe, if there is to be one."""
    if name is None:
        return None
    from avchat.transcripts import Transcriber, TranscriptError

    try:
        return Transcriber(name).load()
    except TranscriptError as error:
        raise InputError(str(error)) from error


def find(verb: Find) -> None:
    """Look up and print what was found, best first."""
    check(verb)
    with one_line(), contextlib.redirect_stdout(sys.stderr):
        from avchat.library import Library
        from avchat.library_find import FOLD
        from avchat.library_find import find as look_up

        library = Library.open(verb.library)
        limits = filters(verb)
        found = []
        if not library.table.count_rows():
            say("note: the library is empty")
        else:
            head = load(library.maker.kind, verb.model or library.maker.name)
            Library.open(
                verb.library,
                head_name=head.name,
                fingerprint=head.fingerprint,
                kind=library.maker.kind,
            )
            asked = query(verb, head)
            threshold = verb.threshold
            if threshold is None and not (verb.sound or verb.clip or verb.image):
                threshold = head.threshold  # measured on texts
            fold = FOLD if verb.fold is None else verb.fold if verb.fold < 1 else float("inf")
            found = look_up(library, asked, limits, top=verb.top, threshold=threshold, fold=fold)
            if not found and limits.folder and not library.holds(limits.folder):
                say(f"note: no file of the library is in {limits.folder}")
            elif not found:
                say("note: no good match")
    for one in found:
        if one.missing:
            say(f"note: {one.path} is no longer there")
    show(verb, found)


def show(verb: Find, found: "list[Found]") -> None:
    """Print what was found."""
    keys = ("clip", "path", "start", "end", "score", "why")
    if verb.json:
        print(json.dumps([{key: vars(one)[key] for key in keys} for one in found]))
        return
    for one in found:
        why = ", ".join(f"{name} {share:+.2f}" for name, share in one.why.items() if share)
        print(f"{one.score:6.3f}  {one.start:7.1f} - {one.end:.1f} s  {one.path}  ({why})")


def check(verb: Find) -> None:
    """Find what is wrong with the arguments and files before torch and a model are loaded."""
    from avchat.media import probe

    files = {"sound": verb.sound, "clip": verb.clip, "image": verb.image}
    given = {name for name, file in files.items() if file}
    if verb.text is not None and not verb.text.strip():
        raise InputError("the query is empty")
    if verb.text is None and not given:
        raise InputError("the query is empty: give TEXT, --sound, --clip or --image")
    if not all(text.strip() for text in verb.unwanted):
        raise InputError("--not is empty")
    check_numbers(verb)
    odd = [name for name, value in weights(verb).items() if value != 1 and not vars(verb)[name]]
    if odd:
        raise InputError(f"--weight {odd[0]}: there is no {odd[0]} in the query to weigh")
    for name in sorted(given):
        with one_line():
            info = probe(files[name], isolate=True)
        hears = name == "sound" or (name == "clip" and sense_of(verb) == "sound")
        if hears and not info.has_audio:
            raise InputError(f"{files[name].name}: there is no sound in this file to look for")
        sees = name == "image" or (name == "clip" and sense_of(verb) == "picture")
        if sees and not info.has_video:
            raise InputError(f"{files[name].name}: there is no picture in this file to look for")


def check_numbers(verb: Find) -> None:
    """Raise InputError where a number makes no sense."""
    if verb.top < 1:
        raise InputError(f"--top must be at least 1, not {verb.top}")
    if verb.threshold is not None and math.isnan(verb.threshold):
        raise InputError("--threshold nan: must be a number")
    if verb.fold is not None and not 0 < verb.fold <= 1:
        raise InputError(f"--fold {verb.fold:g}: must be a cosine above 0, 1 at most")
    for flag, value in (("--min-length", verb.min_length), ("--max-length", verb.max_length)):
        if value is not None and not 0 <= value < float("inf"):
            raise InputError(f"{flag} {value:g}: must be a number of seconds")
    if None not in (verb.min_length, verb.max_length) and verb.min_length > verb.max_length:
        raise InputError(
            f"no file is at least {verb.min_length:g} s and at most {verb.max_length:g} s"
        )


def sense_of(verb: Find) -> "Sense":
    """Choose what is compared: a sound alone with sounds, a picture alone with pictures."""
    from avchat.library_query import natural_sense

    return verb.sense or natural_sense([name for name in WEIGHTS if vars(verb)[name]])


def weights(verb: Find) -> dict[str, float]:
    """Read --weight; what it does not name counts 1."""
    found = dict.fromkeys(WEIGHTS, 1.0)
    for words in verb.weight:
        name, _, number = words.partition("=")
        try:
            value = float(number)
        except ValueError:
            value = 0.0
        if name not in found or not 0 < value < float("inf"):
            raise InputError(
                f"--weight {words}: write NAME=NUMBER, a name of {', '.join(WEIGHTS)} "
                "and a number above 0"
            )
        found[name] = value
    return found


def filters(verb: Find) -> "Filters":
    """Collect the filters."""
    from avchat.library_find import Filters

    return Filters(
        folder=None if verb.folder is None else os.path.abspath(verb.folder),
        min_length_s=verb.min_length,
        max_length_s=verb.max_length,
        has_sound=True if verb.has_sound else None,
        after_s=when(verb.after, "--after"),
        before_s=when(verb.before, "--before"),
    )


def when(date: str | None, flag: str) -> float | None:
    """Turn a date of the local time into seconds since 1970."""
    from avchat.library_query import day

    try:
        return None if date is None else day(date)
    except ValueError as error:
        raise InputError(f"{flag} {error}") from error


def query(verb: Find, head: "Head") -> "Query":
    """Turn what was given into vectors with weights."""
    from avchat.library_query import example_vector, make_query

    sense = sense_of(verb)
    if sense == "sound" and not head.hears:
        raise InputError(f"--sense sound: the library's head, {head.name}, hears nothing")
    weight, examples = weights(verb), []
    senses = {"sound": "sound", "clip": sense, "image": "picture"}
    for name, own in senses.items():
        file = vars(verb)[name]
        if file is None:
            continue
        examples.append((example_vector(head, file, own), weight[name]))
    words = verb.text or ""
    return make_query(head, words, verb.unwanted, examples, sense, text_weight=weight["text"])


def library(verb: LibraryVerb) -> None:
    """Carry out one action on a library."""
    with one_line():
        from avchat.library import Library

        if bool(verb.paths) != (verb.action == "remove"):
            needs = "remove needs paths" if verb.action == "remove" else "paths go with remove"
            raise InputError(f"{needs}: avchat library remove PATH... --library DIR")
        opened = Library.open(verb.library)
        answer = ACTIONS[verb.action](verb, opened)
    if verb.json:
        print(json.dumps(answer))
    elif isinstance(answer, list):
        for file in answer:
            gone = "  (missing)" if file["missing"] else ""
            path = file["path"].replace("\n", "\\n")  # a line a file
            print(f"{file['duration_s']:8.1f} s  {file['windows']:5d}  {path}{gone}")
    else:
        for name, value in answer.items():
            print(f"{name}: {plain(value)}")


def plain(value: object) -> str:
    """Write a value of a library's statistics for people."""
    if isinstance(value, dict):
        return " ".join(map(plain, value.values()))
    if isinstance(value, list):
        return ", ".join(map(plain, value)) or "nothing yet"
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def listed(verb: LibraryVerb, opened: "Library") -> list[dict]:
    """List the files of a library."""
    files = sorted(opened.files().values(), key=lambda file: file.path)
    return [asdict(file) | {"missing": not Path(file.path).exists()} for file in files]


def remove(verb: LibraryVerb, opened: "Library") -> dict:
    """Forget files and folders."""
    count = opened.remove(os.path.abspath(path) for path in verb.paths)
    if not count:
        raise InputError(f"{verb.library}: no file at {', '.join(verb.paths)} in this library")
    return {"removed": count}


def rebuild(verb: LibraryVerb, opened: "Library") -> dict:
    """Rebuild a library's indexes and compact it."""
    opened.rebuild()
    return opened.stats()


ACTIONS = {
    "list": listed,
    "remove": remove,
    "rebuild": rebuild,
    "stats": lambda verb, opened: opened.stats(),
}


@contextlib.contextmanager
def one_line() -> Iterator[None]:
    """Turn the faults of the input, in whatever module they are found, into an InputError."""
    from avchat.library_query import QueryError
    from avchat.library_table import LibraryError
    from avchat.media import MediaError

    try:
        yield
    except (LibraryError, MediaError, QueryError) as error:
        raise InputError(str(error)) from error


def say(line: str) -> None:
    """Tell people what is no part of the answer."""
    print(line, file=sys.stderr, flush=True)
