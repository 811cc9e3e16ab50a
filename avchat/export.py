"""Spans and transcripts -> files that other programs read: CSV, WebVTT, CMX3600 edit lists.

Each is written whole or not at all; a file that is there already is kept unless told otherwise.
"""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from avchat.media import MediaInfo
from avchat.moments import Span
from avchat.transcripts import Line, vtt
from avchat.writing import ExportError, fresh

RECORD_START_S = 3600  # edit lists begin their record at one hour, by custom
DEFAULT_FPS = 25.0  # of files that do not say: sound files
MAX_FPS = 99.5  # two digits for the frame


def write_text(out: Path, text: str, overwrite: bool) -> None:
    """Write a whole text file."""
    with fresh(out, overwrite) as path:
        path.write_text(text, encoding="utf-8", newline="")


def check_spans(spans: Sequence[Span]) -> None:
    """Raise ExportError for a span that ends before it starts."""
    for span in spans:
        if not 0 <= span.start <= span.end:
            raise ExportError(f"a span cannot reach from {span.start:g} s to {span.end:g} s")


def write_csv(
    out: str | Path, spans: Sequence[Span], source: str | Path, *, overwrite: bool = False
) -> None:
    """Write spans, the best first, as a table: path, start, end, score and what each sense said."""
    check_spans(spans)
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\r\n")
    writer.writerow(["path", "start", "end", "score", "picture", "sound", "speech"])
    for span in spans:
        numbers = [span.start, span.end, span.score, *(span.why[sense] for sense in WHY)]
        writer.writerow([str(source), *(f"{number:.3f}" for number in numbers)])
    write_text(Path(out), table.getvalue(), overwrite)


WHY = ("picture", "sound", "speech")


def write_chapters(
    out: str | Path, spans: Sequence[Span], title: str, *, overwrite: bool = False
) -> None:
    """Write spans as WebVTT chapters, in order of time, each called by the title and its score."""
    check_spans(spans)
    ordered = sorted(spans, key=lambda span: span.start)
    lines = [Line(span.start, span.end, f"{title} ({span.score:.2f})") for span in ordered]
    write_text(Path(out), vtt(lines), overwrite)


def write_subtitles(out: str | Path, lines: Sequence[Line], *, overwrite: bool = False) -> None:
    """Write a transcript as WebVTT."""
    write_text(Path(out), vtt(lines), overwrite)


def frames_of(seconds: float, fps: float) -> int:
    """Count the frames before the one that begins nearest to a moment."""
    return round(seconds * fps)


def timecode(frame: int, fps: float) -> str:
    """Write the number of a frame as non-drop HH:MM:SS:FF.

    29.97 frames a second are counted as 30 to a second, so that its hour is 3.6 s longer than an
    hour: that is what non-drop means, and what edit programs expect.
    """
    base = round(fps)
    seconds, part = divmod(frame, base)
    hours, rest = divmod(seconds, 3600)
    return f"{hours % 24:02d}:{rest // 60:02d}:{rest % 60:02d}:{part:02d}"


def write_edl(
    out: str | Path,
    spans: Sequence[Span],
    info: MediaInfo,
    title: str,
    *,
    overwrite: bool = False,
) -> None:
    """Write spans as a CMX3600 edit list, in order of time, one after the other on the record."""
    check_spans(spans)
    write_text(Path(out), edl(spans, info, title), overwrite)


def edl(spans: Sequence[Span], info: MediaInfo, title: str) -> str:
    """Turn spans into a CMX3600 edit list. Its source times count from the file's first frame."""
    name, fps = Path(info.path).name, info.fps if info.has_video else DEFAULT_FPS
    if not 1 <= fps < MAX_FPS:
        raise ExportError(f"{name}: an edit list cannot count {fps:g} frames a second")
    if len(spans) > 999:
        raise ExportError(f"an edit list holds at most 999 spans, not {len(spans)}")
    track = "B" if info.has_video and info.has_audio else "V" if info.has_video else "A"
    lines = [f"TITLE: {plain(title)[:70]}", "FCM: NON-DROP FRAME", ""]
    at = RECORD_START_S * round(fps)
    for number, span in enumerate(sorted(spans, key=lambda span: span.start), 1):
        first = frames_of(span.start, fps)
        last = max(first + 1, frames_of(span.end, fps))  # exclusive: an event has a frame at least
        codes = [timecode(frame, fps) for frame in (first, last, at, at + last - first)]
        lines.append(f"{number:03d}  AX       {track:<5} C        {' '.join(codes)}")
        lines.append(f"* FROM CLIP NAME: {plain(name)}")
        lines.append(f"* COMMENT: SCORE {span.score:.3f}")
        at += last - first
    return "\r\n".join([*lines, ""])


def plain(text: str) -> str:
    """Return text as one line of ASCII, which is what edit lists are made of."""
    return " ".join(text.split()).encode("ascii", "replace").decode("ascii")
