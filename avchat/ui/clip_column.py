"""The left of the page: what a person gives, the player, the timeline; the same for every tab.

`open_steps` is how every part of the page takes a clip in view. Each step gives values for
`ClipColumn.outputs`, so that the column always shows one clip and nothing of another.
"""

import html
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import gradio as gr

from avchat.cuts import cut_isolated
from avchat.export import ExportError
from avchat.ui import player, timeline
from avchat.ui.app import App, Example
from avchat.ui.asking import FAULTS
from avchat.ui.clip_values import card, line_value, screen_value
from avchat.ui.clips import Clip, Options
from avchat.ui.given import fetched
from avchat.ui.opening import open_clip, survey
from avchat.ui.progress import BAR, Told, teller
from avchat.ui.visitors import Refused, Stopped, Visitor
from avchat.ui.words import say

FILE_TYPES = ["video", "audio", "image"]
STOPPED, SHORT_S = "Stopped", 5.0
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
    exported: gr.File  # what was made of the clip for the person to take away

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
    exported = gr.File(
        label=say("exported"),
        file_count="multiple",
        visible=False,
        interactive=False,
        elem_id="exported",
    )
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
    app: App,
    column: ClipColumn,
    after: Callable[[Clip | None, str], list[Any]],
    more: list[Any],
    search: list[Any],
) -> None:
    """Open what is uploaded, recorded or picked; export a marked range.

    Args: after: gives the values of `more`, other outputs that a new clip changes, of the clip and
    the question that suits it. search: what is looked for, by what, and the tabs, which an example
    fills in that is made to be searched.
    """
    outputs = [*column.outputs, *more]
    # "multiple": what is given while another clip is prepared takes its place, and is not dropped
    often: dict[str, Any] = {**PRIVATE, "trigger_mode": "multiple"}
    shared: dict[str, Any] = {**often, **MEDIA, "show_progress_on": column.status}

    def opened(
        visitor: Visitor, path: Path | str, question: str, progress: gr.Progress, sought: str = ""
    ) -> Iterator[list[Any]]:
        """Open a clip; the tabs change once, since somebody may be typing by the next step."""
        begun = False
        for clip, values in open_steps(app, visitor, path, question, progress):
            first = clip is not None and clip is visitor.clip and not begun
            others = after(clip, question) if first else [gr.skip()] * len(more)
            wish = [sought, "text", gr.Tabs(selected="moments")]
            # the upload is taken back at first: the next one is welcome
            given = gr.skip() if begun else None
            begun = begun or first
            yield [*values, *others, *(wish if first and sought else [gr.skip()] * 3), given]

    def upload(request: gr.Request, path: str, progress: gr.Progress = BAR) -> Iterator[list[Any]]:
        yield from opened(app.visitors.of(request), Path(path), "", progress)

    def fetch(
        request: gr.Request, address: str, progress: gr.Progress = BAR
    ) -> Iterator[list[Any]]:
        yield from opened(app.visitors.of(request), address, "", progress)

    def example_of(one: Example) -> Callable[..., Iterator[list[Any]]]:
        def example(request: gr.Request, progress: gr.Progress = BAR) -> Iterator[list[Any]]:
            visitor = app.visitors.of(request)
            yield from opened(visitor, one.path, one.question, progress, one.sought)

        return example

    def again(request: gr.Request, number: str) -> list[Any]:
        visitor = app.visitors.of(request)
        clip = visitor.clips.get(number)
        if clip is None:
            return [gr.skip()] * len(outputs)
        visitor.show(clip)
        question = "" if clip.exchanges else clip.suggestion
        return [*shown_clip(visitor, clip, busy=lacks_survey(clip)), *after(clip, question)]

    def complete(request: gr.Request, progress: gr.Progress = BAR) -> Iterator[list[Any]]:
        visitor = app.visitors.of(request)
        yield [gr.skip()] * len(column.outputs)  # yielding nothing would empty them
        if visitor.clip is not None:
            yield from missing_steps(visitor, visitor.clip, teller(progress))

    given = [*outputs, *search, column.upload]
    column.upload.upload(upload, [column.upload], given, **shared)
    column.webcam.stop_recording(upload, [column.webcam], given, **shared)
    if column.web is not None:
        address, go = column.web
        gr.on([address.submit, go.click], fetch, [address], given, **shared)
    shown = column.recent.input(again, [column.recent], outputs, **often)
    shown.then(complete, None, column.outputs, **shared)
    for pick, one in zip(column.picks, app.examples, strict=True):
        pick.click(example_of(one), None, given, **shared)
    connect_span(app, column)


def connect_span(app: App, column: ClipColumn) -> None:
    """Cut the marked range out when asked to; stop what is being done to the clip."""

    def export(request: gr.Request, span: tuple[float, float] | None) -> Iterator[list[Any]]:
        visitor = app.visitors.of(request)
        with in_words():
            clip = visitor.in_view()
            yield [gr.skip(), gr.Button(visible=True)]
            files = kept_values(clip, export_range(app, visitor, span))
        if visitor.clip is clip:
            yield [files, gr.skip()]

    def rest(request: gr.Request) -> Any:
        return gr.Button(visible=bool(app.visitors.of(request).openings))

    def stop(request: gr.Request) -> None:
        app.visitors.of(request).stop()

    column.exported.change(None, None, None, js=SHOW_EXPORTED, **PRIVATE)
    outputs = [column.exported, column.stop]
    cut = column.export_span.click(export, [column.span], outputs, **PRIVATE, **MEDIA)
    however_it_ends(cut, rest, [column.stop])
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
            raise Stopped("stopped: nothing was cut")
    return out


def however_it_ends(event: Any, rest: Callable[..., Any], outputs: list[Any]) -> None:
    """Follow an event with what puts the buttons right: after a fault `then` is not called."""
    for follow in (event.then, event.failure):
        follow(rest, None, outputs, queue=False, trigger_mode="multiple", **PRIVATE)


@contextmanager
def in_words() -> Iterator[None]:
    """Show what goes wrong as one line, until the person closes it; what they ended is no fault."""
    try:
        yield
    except Stopped as ended:
        said = gr.Error(str(ended), duration=SHORT_S, title=STOPPED, print_exception=False)
        raise said from ended
    except (*FAULTS, ExportError) as error:
        raise gr.Error(said_of(error), duration=None, print_exception=False) from error


def said_of(error: Exception) -> str:
    """Say a fault without the folder of this machine in which a file was to be written."""
    before, colon, after = str(error).partition(": ")
    name = Path(before).name if isinstance(error, ExportError) else before
    return f"{name}{colon}{after}"


def open_steps(
    app: App, visitor: Visitor, path: Path | str, question: str, progress: gr.Progress
) -> Iterator[tuple[Clip | None, list[Any]]]:
    """Take a file in view step by step; give the clip with the values of the column's outputs.

    First what it is, then how it sounds, then it is ready to be asked about: what is encoded now
    need not be encoded when the first question comes. A file that cannot be used is one line, and
    the clip that was in view stays. A path that is text is an address of the web.
    """
    told = teller(progress)
    before = visitor.clip
    try:
        with visitor.opening() as stop:
            yield None, opening_values()
            with TemporaryDirectory(dir=visitor.folder, ignore_cleanup_errors=True) as folder:
                if isinstance(path, str):
                    path = fetched(path, app.settings, Path(folder), told, stop)
                clip = open_clip(visitor, path, app.settings, told, stop, suggestion=question)
            yield clip, shown_clip(visitor, clip, busy=True)
            if not clip.info.is_still:
                survey(clip, told, stop)
                yield clip, later_values(visitor, clip, busy=True)
            if not stop.is_set():
                with suppress(Stopped):
                    app.engine.talk(clip, Options(), told, stop)
        yield clip, later_values(visitor, clip, busy=bool(visitor.openings))
    except FAULTS as error:
        if visitor.latest is not stop:  # another clip has taken its place
            return
        yield None, refused_values(visitor, str(error))
        if before is not None and before is visitor.clip and not stop.is_set():
            for values in missing_steps(visitor, before, told):
                yield None, [gr.skip(), *values[1:]]  # the error stays


def lacks_survey(clip: Clip) -> bool:
    """Tell whether it is not known how a clip sounds over time, and could be."""
    return clip.contour is None and not clip.info.is_still


def missing_steps(visitor: Visitor, clip: Clip, told: Told) -> Iterator[list[Any]]:
    """Find out how a clip in view sounds where that was given up for another clip.

    It gives values for the column's outputs, once: of two steps that follow at once the page loses
    what the second one skips (its client applies it to the first, before that is shown).
    """
    if not lacks_survey(clip):
        return
    try:
        with visitor.opening() as stop:
            visitor.unseen.discard(stop)  # the clip is in view: it can be asked about
            survey(clip, told, stop)
    except FAULTS as error:
        gr.Info(str(error))
    yield later_values(visitor, clip, busy=bool(visitor.openings))


def opening_values() -> list[Any]:
    """Give the values of `ClipColumn.outputs` while nothing is known of a file yet."""
    status = gr.HTML('<span role="status">Opening ...</span>', visible=True)
    still = [gr.skip()] * 5
    return [status, *still, gr.Button(visible=True), gr.skip(), gr.skip()]


def refused_values(visitor: Visitor, error: str) -> list[Any]:
    """Give the values of `ClipColumn.outputs` when a file could not be opened: one line."""
    line = f'<span class="error" role="alert" lang="en">error: {html.escape(error)}</span>'
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


def kept_values(clip: Clip, *made: Path) -> Any:
    """Give the value of `ClipColumn.exported`: all that was made of a clip, and now these files."""
    for path in made:
        clip.keep(path)
    files = [str(path) for path in clip.kept if path.exists()]
    return gr.File(files or None, visible=bool(files))


def shown_clip(visitor: Visitor, clip: Clip, *, busy: bool = False) -> list[Any]:
    """Give the values of `ClipColumn.outputs` for a new clip in view; busy: it can be stopped.

    Nothing, where the person has gone on to another one.
    """
    if visitor.clip is not clip:
        return [gr.skip()] * 9
    buttons = [*[gr.update(interactive=False)] * 2, gr.Button(visible=busy), kept_values(clip)]
    choices = [(one.name, one.id) for one in reversed(visitor.clips.values())]
    recent = gr.Radio(choices, value=clip.id, visible=len(choices) > 1)
    status = gr.HTML(card(clip), visible=True)
    return [status, screen_value(clip), line_value(clip), None, *buttons, recent]
