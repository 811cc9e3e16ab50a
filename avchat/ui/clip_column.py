"""The left of the page: what a person gives, the player, the timeline; the same for every tab.

`open_steps` is how every part of the page takes a clip in view. Each step gives values for
`ClipColumn.outputs`, so that the column always shows one clip and nothing of another.
"""

import html
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import gradio as gr
import numpy as np

from avchat.chat import Conversation
from avchat.cuts import cut_isolated
from avchat.export import ExportError
from avchat.ui import player, timeline
from avchat.ui.app import App, Example
from avchat.ui.asking import FAULTS
from avchat.ui.clips import Clip, Options
from avchat.ui.given import fetched
from avchat.ui.opening import open_clip, survey
from avchat.ui.progress import BAR, teller
from avchat.ui.visitors import Refused, Visitor
from avchat.ui.words import say

FILE_TYPES = ["video", "audio", "image"]
# What decodes and copies files runs beside what answers, two at a time.
MEDIA: dict[str, Any] = {"concurrency_id": "media", "concurrency_limit": 2}
PRIVATE: dict[str, Any] = {"api_visibility": "private"}

# Files to keep come up in one place, which may be out of sight of the button that made them.
SHOW_EXPORTED = """() => {
  setTimeout(() => document.querySelector("#exported")?.scrollIntoView({ block: "nearest" }), 200);
}"""


@dataclass
class ClipColumn:
    """Components of the left column."""

    upload: gr.File
    picks: list[gr.Button]
    webcam: gr.Video
    web: tuple[gr.Textbox, gr.Button] | None  # an address of the web, where those are taken
    recent: gr.Radio
    status: gr.HTML
    player: gr.HTML
    timeline: gr.HTML
    span: gr.State  # the marked range, (start, end) in seconds, or None
    ask_span: gr.Button
    export_span: gr.Button
    stop: gr.Button
    exported: gr.File

    @property
    def outputs(self) -> list[Any]:
        """Return what a clip in view changes; `shown_clip` gives the values."""
        buttons = [self.ask_span, self.export_span, self.stop, self.exported]
        return [self.status, self.player, self.timeline, self.span, *buttons, self.recent]


def lay_out(app: App) -> ClipColumn:
    """Make the column."""
    with gr.Tabs(elem_id="inputs"):
        with gr.Tab(say("upload")):
            upload = gr.File(
                label=say("your_clip"),
                file_types=FILE_TYPES,
                height=84,
                buttons=[],
                elem_id="upload",
            )
        with gr.Tab(say("webcam")):
            webcam = gr.Video(
                label=say("webcam"), sources=["webcam"], include_audio=True, elem_id="webcam"
            )
        web = lay_out_web() if app.settings.url else None
    gr.Markdown(say("examples"), elem_id="examples-title")
    with gr.Row(elem_id="examples"):
        picks = [
            gr.Button(example.label, icon=str(example.thumbnail), size="sm")
            for example in app.examples
        ]
        for pick in picks:
            pick.keep_in_cache.add(pick.icon["path"])  # or its picture is gone after an hour
    recent = gr.Radio([], label=say("recent"), visible=False, elem_id="recent")
    status = gr.HTML("", visible=False, elem_id="clip-status")
    stop = gr.Button(say("stop"), size="sm", visible=False, elem_classes="avchat-stop")
    with gr.Column(elem_id="viewer"):
        screen, line = player.player(), timeline.timeline()
        with gr.Row(elem_id="span-buttons"):
            ask_span = gr.Button(say("ask_span"), size="sm", interactive=False, elem_id="ask-span")
            export_span = gr.Button(
                say("export_span"), size="sm", interactive=False, elem_id="export-span"
            )
    exported = gr.File(label=say("exported"), visible=False, interactive=False, elem_id="exported")
    given = (upload, picks, webcam, web, recent, status, screen, line, gr.State(None))
    return ClipColumn(*given, ask_span, export_span, stop, exported)


def lay_out_web() -> tuple[gr.Textbox, gr.Button]:
    """Make the place for an address of the web."""
    with gr.Tab(say("web")):
        address = gr.Textbox(
            label=say("web_address"), placeholder="https://", max_lines=1, elem_id="web-address"
        )
        return address, gr.Button(say("web_open"), elem_id="web-open")


def connect(
    app: App, column: ClipColumn, after: Callable[[Clip | None, str], list[Any]], more: list[Any]
) -> None:
    """Open what is uploaded, recorded or picked; mark ranges.

    Args: after: gives the values of `more`, other outputs that a new clip changes, of the clip and
    the question that suits it.
    """
    outputs = [*column.outputs, *more]
    shared: dict[str, Any] = {**PRIVATE, **MEDIA, "show_progress_on": column.status}

    def opened(
        visitor: Visitor, path: Path | str, question: str, progress: gr.Progress
    ) -> Iterator:
        """Open a clip; the tabs change once, since somebody may be typing by the next step."""
        begun = False
        for clip, values in open_steps(app, visitor, path, question, progress):
            first = clip is not None and not begun
            others = after(clip, question) if first else [gr.skip()] * len(more)
            begun = begun or first
            yield [*values, *others, None]  # the upload is taken back: the next one is welcome

    def upload(request: gr.Request, path: str, progress: gr.Progress = BAR) -> Iterator[list[Any]]:
        yield from opened(app.visitors.of(request), Path(path), "", progress)

    def fetch(
        request: gr.Request, address: str, progress: gr.Progress = BAR
    ) -> Iterator[list[Any]]:
        yield from opened(app.visitors.of(request), address, "", progress)

    def example_of(one: Example) -> Callable[..., Iterator[list[Any]]]:
        def example(request: gr.Request, progress: gr.Progress = BAR) -> Iterator[list[Any]]:
            visitor = app.visitors.of(request)
            yield from opened(visitor, one.path, one.question, progress)

        return example

    def again(request: gr.Request, number: str) -> list[Any]:
        visitor = app.visitors.of(request)
        if number not in visitor.clips:
            return [gr.skip()] * len(outputs)
        visitor.show(visitor.clips[number])
        return [*shown_clip(visitor), *after(visitor.clip, "")]

    given = [*outputs, column.upload]
    column.upload.upload(upload, [column.upload], given, **shared)
    column.webcam.stop_recording(upload, [column.webcam], given, **shared)
    if column.web is not None:
        address, go = column.web
        gr.on([address.submit, go.click], fetch, [address], given, **shared)
    column.recent.input(again, [column.recent], outputs, **PRIVATE)
    for pick, one in zip(column.picks, app.examples, strict=True):
        pick.click(example_of(one), None, given, **shared)
    connect_span(app, column)


def connect_span(app: App, column: ClipColumn) -> None:
    """Follow the range that is marked on the timeline; cut it out when asked to."""

    def marked(event: gr.EventData) -> list[Any]:
        span = span_of(event)
        return [span, *[gr.update(interactive=span is not None)] * 2]

    def export(request: gr.Request, span: tuple[float, float] | None) -> dict[str, Any]:
        visitor = app.visitors.of(request)
        with in_words():
            return gr.File(str(export_range(app, visitor, span)), visible=True)

    def stop(request: gr.Request) -> None:
        app.visitors.of(request).stop()

    buttons = [column.ask_span, column.export_span]
    column.exported.change(None, None, None, js=SHOW_EXPORTED, **PRIVATE)
    column.timeline.select(marked, None, [column.span, *buttons], queue=False, **PRIVATE)
    column.export_span.click(export, [column.span], [column.exported], **PRIVATE, **MEDIA)
    column.stop.click(stop, None, None, queue=False, **PRIVATE)


def span_of(event: gr.EventData) -> tuple[float, float] | None:
    """Read the range, in seconds, that the timeline says is marked; None for none."""
    return None if event.start is None else (float(event.start), float(event.end))


def export_range(app: App, visitor: Visitor, span: tuple[float, float] | None) -> Path:
    """Cut a range out of the clip in view, exactly, into a file of its own."""
    clip = visitor.in_view()
    if span is None:
        raise Refused("mark a range first")
    start, end = span
    folder = visitor.folder / clip.id / "cuts"
    folder.mkdir(exist_ok=True)
    ending = ".mp4" if clip.info.has_video else ".m4a"
    out = folder / f"{clip.path.stem}_{start:.1f}-{end:.1f}{ending}"
    with visitor.doing(app.settings.per_person) as stop:
        if cut_isolated(clip.path, start, end, out, exact=True, overwrite=True, stop=stop) is None:
            raise Refused("stopped: nothing was cut")
    return out


@contextmanager
def in_words() -> Iterator[None]:
    """Show what goes wrong as one line, until the person closes it."""
    try:
        yield
    except (*FAULTS, ExportError) as error:
        raise gr.Error(str(error), duration=None, print_exception=False) from error


def open_steps(
    app: App, visitor: Visitor, path: Path | str, question: str, progress: gr.Progress
) -> Iterator[tuple[Clip | None, list[Any]]]:
    """Take a file in view step by step; give the clip with the values of the column's outputs.

    First what it is, then how it sounds, then it is ready to be asked about: what is encoded now
    need not be encoded when the first question comes. A file that cannot be used is one line, and
    the clip that was in view stays. A path that is text is an address of the web.
    """
    told = teller(progress)
    try:
        with visitor.opening() as stop:
            yield None, opening_values()
            with TemporaryDirectory(dir=visitor.folder, ignore_cleanup_errors=True) as folder:
                if isinstance(path, str):
                    path = fetched(path, app.settings, Path(folder), told, stop)
                clip = open_clip(visitor, path, app.settings, told, stop, suggestion=question)
            yield clip, shown_clip(visitor, busy=True)
            survey(clip, told, stop)
            yield clip, later_values(visitor, clip, busy=True)
            if not stop.is_set():
                app.engine.talk(clip, Options(), told)
        yield clip, later_values(visitor, clip)
    except FAULTS as error:
        if not visitor.openings:  # else another clip has taken its place
            yield None, refused_values(visitor, str(error))


def opening_values() -> list[Any]:
    """Give the values of `ClipColumn.outputs` while nothing is known of a file yet."""
    status = gr.HTML('<span role="status">Opening ...</span>', visible=True)
    still = [gr.skip()] * 5
    return [status, *still, gr.Button(visible=True), gr.skip(), gr.skip()]


def refused_values(visitor: Visitor, error: str) -> list[Any]:
    """Give the values of `ClipColumn.outputs` when a file could not be opened: one line."""
    line = f'<span class="error" role="alert">error: {html.escape(error)}</span>'
    kept = "" if visitor.clip is None else f"<br>{card(visitor.clip)}"
    still = [gr.skip()] * 5
    return [
        gr.HTML(line + kept, visible=True),
        *still,
        gr.Button(visible=False),
        gr.skip(),
        gr.skip(),
    ]


def later_values(visitor: Visitor, clip: Clip, *, busy: bool = False) -> list[Any]:
    """Give the values of `ClipColumn.outputs` when more is known of a clip that is shown already.

    Nothing, where the person has gone on to another one.
    """
    if visitor.clip is not clip:
        return [gr.skip()] * 9
    drawn = gr.HTML(card(clip)), gr.skip(), line_value(clip)
    return [*drawn, *[gr.skip()] * 3, gr.Button(visible=busy), gr.skip(), gr.skip()]


def shown_clip(visitor: Visitor, *, busy: bool = False) -> list[Any]:
    """Give the values of `ClipColumn.outputs` for the clip in view; busy: it can be stopped."""
    clip = visitor.in_view()
    buttons = [*[gr.update(interactive=False)] * 2, gr.Button(visible=busy)]
    buttons.append(gr.File(None, visible=False))
    choices = [(one.name, one.id) for one in reversed(visitor.clips.values())]
    recent = gr.Radio(choices, value=clip.id, visible=len(choices) > 1)
    status = gr.HTML(card(clip), visible=True)
    return [status, screen_value(clip), line_value(clip), None, *buttons, recent]


def card(clip: Clip) -> str:
    """Say what a clip is, and what of it could not be used."""
    warnings: list[str] = []
    for talk in clip.talks.values():
        if isinstance(talk, Conversation):
            warnings += [warning for part in talk.media for warning in part.warnings]
        else:
            warnings += talk.warnings
    return "<br>".join([clip.card(), *map(html.escape, dict.fromkeys(warnings))])


def screen_value(clip: Clip) -> dict[str, Any]:
    """Give the player its clip."""
    return player.shown(
        clip.shown,
        clip.kind,
        clip.name,
        key=clip.id,
        subtitles=clip.subtitles,
        fps=clip.info.fps or None,
    )


def line_value(
    clip: Clip, span: tuple[float, float] | str | None = timeline.KEEP
) -> dict[str, Any] | None:
    """Give the timeline what is known of a clip; a still picture has none. span: as in `drawn`."""
    if clip.info.is_still:
        return None
    contour = clip.contour
    return timeline.drawn(
        clip.duration_s,
        key=clip.id,
        loudness=None if contour is None or contour.loudness is None else contour.loudness.tolist(),
        cuts=() if contour is None else contour.cuts_s,
        lanes=lanes_of(clip),
        pins=[pin for exchange in clip.exchanges for pin in exchange.pins],
        has_audio=clip.info.has_audio,
        span=span,
    )


def lanes_of(clip: Clip) -> list[timeline.Lane]:
    """Draw what the last question or search scored, for each sense that the clip has."""
    curve = clip.curve
    if curve is None:
        return []
    times, sound, picture = curve.times_s, curve.sound, curve.picture
    if len(times) == 1:  # one window is the whole clip
        times = np.array([curve.starts_s[0], curve.ends_s[0]])
        sound, picture = sound.repeat(2), picture.repeat(2)
    lanes = []
    if clip.info.has_audio:
        lanes.append(timeline.Lane("sound", "A", "stripes", times.tolist(), sound.tolist()))
    if clip.info.has_video:
        lanes.append(timeline.Lane("picture", "V", "dots", times.tolist(), picture.tolist()))
    return lanes
