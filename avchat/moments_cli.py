"""`avchat moments VIDEO TEXT`: find the seconds of one file, write them down, cut them out."""

import json
import re
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tqdm import tqdm
from tyro.conf import Positional, arg

from avchat.input_error import InputError
from avchat.lookup_cli import MODELS, load_transcriber

if TYPE_CHECKING:
    from avchat.heads import Head
    from avchat.media import MediaInfo
    from avchat.moments import Span
    from avchat.transcripts import Transcriber


@dataclass(frozen=True)
class Moments:
    """Find the seconds of a file in which something is seen or heard."""

    video: Positional[Path]
    """video, sound or picture file"""
    text: Annotated[str, Positional, arg(metavar="TEXT")]
    """what to look and listen for"""
    head: Literal["vlsa", "siglip"] = "vlsa"
    """what compares: vlsa sees and hears, siglip sees"""
    model: Annotated[str | None, arg(metavar="NAME")] = None
    """weights of the head: a folder or a name on the Hub; the bundled ones when left out"""
    top: Annotated[int, arg(metavar="K")] = 5
    """how many spans at most"""
    sense: Literal["both", "sound", "picture"] = "both"
    """where to search"""
    transcribe: Annotated[str | None, arg(metavar="WHISPER")] = None
    """search in what is said, too: a published Whisper's name, such as base, or a .pt file"""
    csv: Annotated[Path | None, arg(metavar="FILE")] = None
    """write the spans as a table"""
    vtt: Annotated[Path | None, arg(metavar="FILE")] = None
    """write the spans as WebVTT chapters"""
    edl: Annotated[Path | None, arg(metavar="FILE")] = None
    """write the spans as a CMX3600 edit list"""
    cut: Annotated[Path | None, arg(metavar="FOLDER")] = None
    """write a clip of each span into this folder, copied from the keyframe before"""
    exact: bool = False
    """with --cut: begin at the exact frame, which encodes the clips anew"""
    overwrite: bool = False
    """replace files that are there already"""
    json: bool = False
    """print a JSON list, the best span first"""


def moments(verb: Moments) -> None:
    """Search, print what was found, write what was asked for; progress goes to stderr."""
    from avchat.media import MediaError, probe

    try:
        check(verb)
        info = probe(verb.video, isolate=True)
        with redirect_stdout(sys.stderr):
            transcriber = load_transcriber(verb.transcribe)
        search(verb, info, load(verb), transcriber)
    except MediaError as error:
        raise InputError(str(error)) from error


def check(verb: Moments) -> None:
    """Find what is wrong with the arguments before a head is loaded and hours are searched."""
    from avchat.moments import MomentsError, check_wish

    try:
        check_wish(verb.text, verb.top, verb.sense, 8.0, 2.0)
    except MomentsError as error:
        raise InputError(str(error)) from error
    if verb.transcribe is not None and verb.sense == "picture":
        raise InputError("--transcribe listens: it does not go with --sense picture")
    if verb.exact and verb.cut is None:
        raise InputError("--exact belongs to --cut FOLDER")
    written = [file for file in (verb.csv, verb.vtt, verb.edl) if file is not None]
    for file in written:
        if not file.parent.is_dir():
            raise InputError(f"{file}: there is no folder {file.parent}")
        if file.exists() and not verb.overwrite:
            raise InputError(f"{file}: there is such a file already; --overwrite replaces it")
    if len({file.absolute() for file in written}) < len(written):
        raise InputError("--csv, --vtt and --edl need files of their own")
    if verb.cut is not None:
        try:
            verb.cut.mkdir(exist_ok=True)
        except OSError as error:
            raise InputError(
                f"{verb.cut}: cannot be a folder for clips: {error.strerror}"
            ) from error


def load(verb: Moments) -> "Head":
    """Load the head that compares."""
    with redirect_stdout(sys.stderr):  # what libraries print is no answer
        from avchat.config import ModelError
        from avchat.heads import load_head

        try:
            return load_head(verb.model or MODELS[verb.head], verb.head)
        except ModelError as error:
            raise InputError(str(error)) from error


def search(
    verb: Moments,
    info: "MediaInfo",
    head: "Head",
    transcriber: "Transcriber | None" = None,
    *,
    isolate: bool = True,
) -> None:
    """Search a file with a head, then print and write the spans."""
    from avchat import moments as finder

    with tqdm(unit="part", file=sys.stderr, disable=None, leave=False) as bar:
        try:
            found = finder.moments(
                head,
                verb.video,
                verb.text,
                top=verb.top,
                sense=verb.sense,
                transcriber=transcriber,
                isolate=isolate,
                progress=lambda done, total: advance(bar, done, total),
            )
        except finder.MomentsError as error:
            raise InputError(str(error)) from error
    for warning in found.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    write(verb, info, found.spans)
    if verb.json:
        print(json.dumps([as_json(verb.video, span) for span in found.spans]))
    elif not found.spans:
        print("no good match")
    else:
        for span in found.spans:
            print(in_words(span))


def advance(bar: tqdm, done: int, total: int) -> None:
    """Move the bar; the total is a guess at first."""
    bar.total = total
    bar.update(done - bar.n)


def as_json(video: Path, span: "Span") -> dict:
    """Describe a span as `avchat find --json` describes a clip."""
    return {
        "clip": f"{video.name}#t={span.start:.3f},{span.end:.3f}",
        "path": str(video.absolute()),
        "start": round(span.start, 3),
        "end": round(span.end, 3),
        "score": round(span.score, 4),
        "why": {sense: round(score, 4) for sense, score in span.why.items()},
    }


def in_words(span: "Span") -> str:
    """Describe a span in one line."""
    why = ", ".join(f"{sense} {score:.2f}" for sense, score in span.why.items() if score)
    return f"{clock(span.start)} to {clock(span.end)}  {span.score:.2f}  ({why or 'nothing alike'})"


def clock(seconds: float) -> str:
    """Write seconds as 1:02:03.4."""
    tenths = round(seconds * 10)
    hours, rest = divmod(tenths, 36_000)
    return f"{hours}:{rest // 600:02d}:{rest % 600 // 10:02d}.{rest % 10}"


def write(verb: Moments, info: "MediaInfo", spans: Sequence["Span"]) -> None:
    """Write the files that were asked for; a clip that cannot be cut does not stop the others."""
    from avchat.export import write_chapters, write_csv, write_edl
    from avchat.writing import ExportError

    over = {"overwrite": verb.overwrite}
    writers: list[tuple[Path | None, Callable[[Path], None]]] = [
        (verb.csv, lambda file: write_csv(file, spans, verb.video, **over)),
        (verb.vtt, lambda file: write_chapters(file, spans, verb.text, **over)),
        (verb.edl, lambda file: write_edl(file, spans, info, verb.text, **over)),
    ]
    faults = []
    for file, writer in writers:
        try:
            if file is not None:
                writer(file)
        except ExportError as error:
            faults.append(str(error))
    faults += cut_all(verb, spans)
    if faults:
        raise InputError("; ".join(faults))


def cut_all(verb: Moments, spans: Sequence["Span"]) -> list[str]:
    """Cut a clip of each span, named by its rank and its seconds; return what went wrong."""
    from avchat.cuts import cut
    from avchat.writing import ExportError

    faults = []
    for rank, span in enumerate(spans if verb.cut is not None else [], 1):
        stem = re.sub(r"\W+", "_", verb.video.stem)
        suffix = ".mp4" if verb.exact else verb.video.suffix
        out = verb.cut / f"{rank:02d}_{stem}_{span.start:.1f}-{span.end:.1f}{suffix}"
        try:
            done = cut(
                verb.video, span.start, span.end, out, exact=verb.exact, overwrite=verb.overwrite
            )
        except ExportError as error:
            faults.append(str(error))
            continue
        how = "copied" if done.copied else "encoded"
        print(f"{out}: {how}, {clock(done.start)} to {clock(done.end)}", file=sys.stderr)
    return faults
