"""A clip -> captions: what is said in it, or, where nothing writes that down, what is heard.

The captions of sounds are the model's own answers, in brackets, about one window after another.
"""

from collections.abc import Iterator
from html import escape
from pathlib import Path
from threading import Event

from avchat.media import Media
from avchat.parts import load_parts
from avchat.transcripts import Line, audible, vtt
from avchat.ui.app import App
from avchat.ui.clips import Clip, Options, clock
from avchat.ui.progress import Told, silent
from avchat.ui.visitors import Refused, Stopped, Visitor, holding
from avchat.windows import cut_windows

ASKED = "What do you hear?"
WINDOW_S = 4.0  # of a caption of sounds: our choice, the length of the bundled model's clips
TOGETHER = 8  # windows decoded by one process
MOST_TOKENS = 48  # of one caption


def captions(app: App, visitor: Visitor, clip: Clip, told: Told = silent) -> Path:
    """Write a clip's captions as WebVTT; return the file. What a stop leaves is kept.

    Raises one of `asking.FAULTS`, Refused where there is no sound track.
    """
    if not clip.info.has_audio:
        raise Refused("this file has no sound track: there is nothing to caption")
    with visitor.doing(app.settings.per_person) as stop:
        if app.engine.transcriber is not None:
            clip.lines = transcript(app, clip, stop)
        else:
            clip.lines = tuple(joined(heard(app, clip, told, stop)))
    if not clip.lines:
        nothing = "no captions: nothing is heard in this clip"
        raise Stopped("stopped: no captions were written") if stop.is_set() else Refused(nothing)
    out = visitor.folder / clip.id / f"{clip.stem}_captions.vtt"
    out.write_text(vtt(clip.lines), encoding="utf-8")
    clip.subtitles = out
    return out


def transcript(app: App, clip: Clip, stop: Event) -> tuple[Line, ...]:
    """Write down what is said in a clip; a stop leaves what was written."""
    whisper, part = app.engine.transcriber, {"isolate": True, "stop": stop}
    with holding(app.engine.listening, stop, "stopped: no captions were written"):
        return tuple(whisper.file_lines(clip.path, clip.duration_s, **part))


def heard(app: App, clip: Clip, told: Told, stop: Event) -> Iterator[Line]:
    """Ask the model what it hears in each window that is not silent."""
    engine, options = app.engine, Options(max_new_tokens=MOST_TOKENS)
    windows = cut_windows(clip.path, clip.info, length_s=WINDOW_S, overlap_s=0, isolate=True)
    for first in range(0, len(windows), TOGETHER):
        some = windows[first : first + TOGETHER]
        frames = engine.model.config.frames
        media = load_parts(clip.path, some, frames=frames, size=None, isolate=True)
        for number, (window, part) in enumerate(zip(some, media, strict=True), first):
            if stop.is_set():
                return
            told("listening", number, len(windows))
            if not isinstance(part, Media) or not part.has_audio or not audible(part.waveform):
                continue
            talk = engine.compute(lambda part=part: engine.reach.begin(engine.model, part))
            said = "".join(engine.pieces(talk, ASKED, "sound", options, stop)).strip()
            engine.drop(talk)
            if said:
                yield Line(window.start_s, window.end_s, f"[{said.rstrip('.')}]")


def joined(lines: Iterator[Line]) -> Iterator[Line]:
    """Make one caption of neighbours that say the same."""
    last: Line | None = None
    for line in lines:
        if last is not None and line.text == last.text and line.start <= last.end + 0.05:
            last = Line(last.start, line.end, last.text)
            continue
        if last is not None:
            yield last
        last = line
    if last is not None:
        yield last


def pane(lines: tuple[Line, ...]) -> str:
    """Lay lines out with times that seek."""
    items = "".join(
        f'<li><a href="#t={line.start:g}">{clock(line.start)}</a> {escape(line.text)}</li>'
        for line in lines
    )
    return f'<section aria-label="Transcript"><ol class="lines">{items}</ol></section>'
