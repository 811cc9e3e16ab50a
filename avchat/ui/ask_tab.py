"""Tab 1: a talk about the clip in view, with what each answer rests on."""

import html
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import gradio as gr

from avchat.media import MediaInfo
from avchat.ui.app import App
from avchat.ui.asking import FAULTS, agreed, ask, compare, lanes, rewind, shows_lanes, weigh
from avchat.ui.captions import captions, pane
from avchat.ui.chat_log import alert, as_json, as_markdown, comparison_panel, evidence_panel
from avchat.ui.chat_log import messages as laid_out
from avchat.ui.clip_column import MEDIA, PRIVATE, ClipColumn, in_words, line_value, screen_value
from avchat.ui.clips import Clip, Exchange, Options, clock
from avchat.ui.progress import BAR, teller
from avchat.ui.words import say

MODEL: dict[str, Any] = {"concurrency_id": "model"}
EMPTY = "Drop in a clip, or take an example, and ask."
LINKS = """
element.ownerDocument.addEventListener("click", (event) => {
  const link = event.target.closest && event.target.closest('a[href^="#avchat-evidence-"]');
  if (!link) return;
  event.preventDefault();
  trigger("select", { number: Number(link.getAttribute("href").slice(17)) });
}, true);
"""


@dataclass
class AskTab:
    """Components of the tab."""

    talk: gr.Chatbot
    starters: gr.Radio
    sense: gr.Radio
    question: gr.Textbox
    part: gr.HTML  # the range that is asked about, in words
    part_of: gr.State  # (start, end) or None
    ask: gr.Button
    stop: gr.Button
    compare: gr.Button
    panel: gr.HTML
    links: gr.HTML
    settings: list[Any]
    reset: gr.Button
    exports: list[gr.Button]
    transcript: gr.HTML

    @property
    def of_clip(self) -> list[Any]:
        """Return what a new clip changes; `for_clip` gives the values."""
        named = [self.talk, self.question, self.starters, self.panel, self.part, self.part_of]
        return [*named, self.transcript]


DEFAULTS = (None, 0.0, 1.0, 0, Options.max_new_tokens, "", False)


def lay_out(app: App) -> AskTab:
    """Make the tab."""
    talk = gr.Chatbot(
        label=say("conversation"),
        show_label=False,
        height=430,
        placeholder=EMPTY,
        buttons=["copy"],
        editable="user",
        elem_id="talk",
    )
    starters = gr.Radio([], label=say("starters"), visible=False, elem_id="starters")
    with gr.Group():
        senses = [(say("both"), "both"), (say("sound"), "sound"), (say("picture"), "picture")]
        part = gr.HTML("", visible=False, elem_id="part")
        question = gr.Textbox(
            label=say("question"), placeholder=say("question_hint"), elem_id="question"
        )
        sense = gr.Radio(senses, value="both", label=say("may_use"), elem_id="sense")
    with gr.Row():
        go = gr.Button(say("ask"), variant="primary", scale=2, min_width=90, elem_id="ask")
        stop = gr.Button(say("stop"), interactive=False, min_width=90, elem_id="stop")
        side = gr.Button(say("compare"), min_width=90, elem_id="compare")
    panel = gr.HTML("", visible=False, elem_id="panel")
    transcript = gr.HTML("", visible=False, elem_id="transcript")
    with gr.Accordion(say("settings"), open=False, elem_id="settings"):
        settings, reset = lay_out_settings(app)
    with gr.Row(elem_id="exports"):
        exports = [
            gr.Button(say(name), size="sm", elem_id=name)
            for name in ("save_md", "save_json", "save_vtt")
        ]
    links = gr.HTML("", js_on_load=LINKS, elem_id="links")
    return AskTab(
        talk, starters, sense, question, part, gr.State(None), go, stop, side, panel, links,
        settings, reset, exports, transcript,
    )  # fmt: skip


def lay_out_settings(app: App) -> tuple[list[Any], gr.Button]:
    """Make the drawer of settings, in the order of `DEFAULTS`."""
    settings = [
        gr.Number(None, label=say("frames"), precision=0, minimum=1, elem_id="frames"),
        gr.Slider(0, 2, 0, step=0.05, label=say("temperature"), elem_id="temperature"),
        gr.Slider(0.05, 1, 1, step=0.05, label=say("top_p"), elem_id="top-p"),
        gr.Number(0, label=say("seed"), precision=0, minimum=0, elem_id="seed"),
        gr.Slider(1, 1024, DEFAULTS[4], step=1, label=say("max_tokens"), elem_id="max-tokens"),
        gr.Textbox("", label=say("system"), lines=2, elem_id="system"),
        gr.Checkbox(
            False,
            label=say("transcribe"),
            interactive=app.engine.transcriber is not None,
            elem_id="transcribe",
        ),
    ]
    return settings, gr.Button(say("reset"), size="sm", elem_id="reset")


def options_of(part: tuple[float, float] | None, settings: list[Any]) -> Options:
    """Read the settings drawer and the range."""
    frames, temperature, top_p, seed, most, system, transcript = settings
    start, end = part or (None, None)
    return Options(
        start, end, int(frames) if frames else None, system or "", bool(transcript),
        float(temperature), float(top_p), int(seed or 0), int(most),
    )  # fmt: skip


def for_clip(app: App, clip: Clip | None, question: str) -> list[Any]:
    """Give the values of `AskTab.of_clip`."""
    talk = [] if clip is None else messages(app, clip)
    starters = starter_questions(clip.info) if clip is not None else []
    panel = gr.HTML("", visible=False)
    starters = gr.Radio(starters, value=None, visible=bool(starters))
    part = gr.HTML("", visible=False)
    return [talk, question, starters, panel, part, None, transcript_of(clip)]


def transcript_of(clip: Clip | None) -> Any:
    """Show what was written down of a clip, if anything was."""
    lines = () if clip is None else clip.lines
    return gr.HTML(pane(lines) if lines else "", visible=bool(lines))


def starter_questions(info: MediaInfo) -> list[str]:
    """Suggest questions that suit a clip: none about a sound that is not there."""
    seen = ["What do you see?"] if info.has_video else []
    heard = ["What do you hear?"] if info.has_audio else []
    both = ["Which object makes the sound?"] if seen and heard and not info.is_still else []
    return [*seen, *heard, *both]


def messages(app: App, clip: Clip) -> list[dict[str, str]]:
    """Lay the talk out for the page."""
    return laid_out(clip.exchanges, app.engine.model.config.notice)


def connect(app: App, tab: AskTab, column: ClipColumn) -> None:
    """Ask, stop, retry, edit, compare, weigh, export."""
    outputs = [tab.talk, tab.question, tab.ask, tab.stop, column.timeline]

    def begin(
        request: gr.Request, question: str, sense: str, part: Any, *settings: Any
    ) -> list[Any]:
        """Show the question at once; the answer waits for its turn."""
        clip = app.visitors.of(request).clip
        if clip is None:
            said = [{"role": "assistant", "content": alert("open a clip first")}]
            return [said, question, *busy(False), gr.skip()]
        if not question.strip():
            said = [*messages(app, clip), assistant(alert("the question is empty"))]
            return [said, question, *busy(False), gr.skip()]
        exchange = Exchange(question, sense, options_of(part, list(settings)))
        clip.exchanges.append(exchange)
        return [messages(app, clip), "", *busy(True), gr.skip()]

    def answer(request: gr.Request, progress: gr.Progress = BAR) -> Iterator[list[Any]]:
        """Answer the question that `begin` has shown."""
        visitor = app.visitors.of(request)
        clip = visitor.clip
        if clip is None or not clip.exchanges or clip.exchanges[-1].state != "waiting":
            yield [gr.skip(), gr.skip(), *busy(False), gr.skip()]
            return
        exchange = clip.exchanges[-1]
        for _ in ask(app, visitor, clip, exchange, teller(progress)):
            yield [messages(app, clip), gr.skip(), *busy(True), gr.skip()]
        yield [messages(app, clip), gr.skip(), *busy(False), line_value(clip)]
        if exchange.state == "done" and shows_lanes(app, clip):
            try:
                for _ in lanes(app, visitor, clip, exchange.question):
                    yield [gr.skip(), gr.skip(), *busy(False), line_value(clip)]
                agreed(app, clip, exchange)
            except FAULTS as error:
                gr.Info(str(error))
            yield [gr.skip(), gr.skip(), *busy(False), line_value(clip)]

    def stop(request: gr.Request) -> None:
        visitor = app.visitors.of(request)
        visitor.stop()
        for exchange in visitor.clip.exchanges if visitor.clip else ():
            exchange.stop.set()

    def again(request: gr.Request, number: int, question: str | None = None) -> list[Any]:
        """Ask a question of the talk once more, as it was or in other words."""
        clip = app.visitors.of(request).in_view()
        old = clip.exchanges[number]
        rewind(app, clip, number)
        clip.exchanges.append(Exchange(question or old.question, old.sense, old.options))
        return [messages(app, clip), gr.skip(), *busy(True), gr.skip()]

    def retry(request: gr.Request, event: gr.RetryData) -> list[Any]:
        return again(request, event.index // 2)

    def edit(request: gr.Request, event: gr.EditData) -> list[Any]:
        return again(request, event.index // 2, str(event.value).strip())

    def undo(request: gr.Request, event: gr.UndoData) -> list[Any]:
        clip = app.visitors.of(request).in_view()
        old = clip.exchanges[event.index // 2].question
        rewind(app, clip, event.index // 2)
        return [messages(app, clip), old, *busy(False), line_value(clip)]

    def written(request: gr.Request) -> Any:
        return transcript_of(app.visitors.of(request).clip)

    quick: dict[str, Any] = {**PRIVATE, "queue": False, "show_progress": "hidden"}
    slow: dict[str, Any] = {**PRIVATE, **MODEL, "concurrency_limit": app.settings.at_once}
    given = [tab.question, tab.sense, tab.part_of, *tab.settings]
    begun = [
        gr.on([tab.ask.click, tab.question.submit], begin, given, outputs, **quick),
        tab.talk.retry(retry, None, outputs, **quick),
        tab.talk.edit(edit, None, outputs, **quick),
    ]
    for event in begun:
        answered = event.then(answer, None, outputs, show_progress_on=column.status, **slow)
        answered.then(written, None, tab.transcript, **quick)
    tab.talk.undo(undo, None, outputs, **quick)
    tab.stop.click(stop, None, None, **quick)
    tab.starters.input(lambda question: question, [tab.starters], [tab.question], **quick)
    defaults = list(DEFAULTS)
    tab.reset.click(lambda: defaults, None, tab.settings, **quick)
    connect_part(tab, column)
    connect_panel(app, tab, column, slow)
    connect_exports(app, tab, column)


def connect_part(tab: AskTab, column: ClipColumn) -> None:
    """Ask about the range that is marked on the timeline, until it is cleared."""

    outputs = [tab.part_of, tab.part]
    quick: dict[str, Any] = {**PRIVATE, "queue": False, "show_progress": "hidden"}
    column.ask_span.click(part_values, [column.span], outputs, **quick)
    column.span.change(
        lambda span, part: [gr.skip(), gr.skip()] if span or not part else part_values(None),
        [column.span, tab.part_of],
        outputs,
        **quick,
    )


def part_values(span: tuple[float, float] | None) -> list[Any]:
    """Give the values of `part_of` and `part` for a range in seconds, or for the whole clip."""
    if span is None:
        return [None, gr.HTML("", visible=False)]
    words = f"About {clock(span[0])} to {clock(span[1])} only; clear the range to ask about all."
    return [span, gr.HTML(html.escape(words), visible=True)]


def connect_panel(app: App, tab: AskTab, column: ClipColumn, slow: dict[str, Any]) -> None:
    """Show on demand what an answer rests on, and what each sense alone would answer."""

    def evidence(request: gr.Request, event: gr.EventData) -> Any:
        clip = app.visitors.of(request).in_view()
        with in_words():
            found = weigh(app, clip, event.number)
        return gr.HTML(evidence_panel(clip.exchanges[event.number], found), visible=True)

    def side_by_side(
        request: gr.Request, question: str, part: Any, *settings: Any, progress: gr.Progress = BAR
    ) -> Iterator[Any]:
        visitor = app.visitors.of(request)
        with in_words():
            clip = visitor.in_view()
            asked = question.strip() or (clip.exchanges[-1].question if clip.exchanges else "")
            found, notice = [], app.engine.model.config.notice
            options = options_of(part, list(settings))
            for one in compare(app, visitor, clip, asked, options, teller(progress)):
                found.append(one)
                yield gr.HTML(comparison_panel(asked, found, notice), visible=True)

    tab.links.select(evidence, None, tab.panel, **slow)
    given = [tab.question, tab.part_of, *tab.settings]
    tab.compare.click(side_by_side, given, tab.panel, show_progress_on=column.status, **slow)


def connect_exports(app: App, tab: AskTab, column: ClipColumn) -> None:
    """Write the talk down in files."""
    for button, (ending, write) in zip(
        tab.exports, ((".md", as_markdown), (".json", as_json)), strict=False
    ):

        def export(request: gr.Request, ending: str = ending, write: Any = write) -> Any:
            with in_words():
                visitor = app.visitors.of(request)
                clip = visitor.in_view()
                out = visitor.folder / clip.id / f"talk{ending}"
                out.write_text(write(clip), encoding="utf-8")
            return gr.File(str(out), visible=True)

        button.click(export, None, column.exported, **PRIVATE, **MEDIA)

    def caption(request: gr.Request, progress: gr.Progress = BAR) -> list[Any]:
        """Write captions, show them in the player and in the pane, offer the file."""
        with in_words():
            visitor = app.visitors.of(request)
            clip = visitor.in_view()
            out = captions(app, visitor, clip, teller(progress))
        return [gr.File(str(out), visible=True), screen_value(clip), transcript_of(clip)]

    shown = [column.exported, column.player, tab.transcript]
    tab.exports[2].click(caption, None, shown, show_progress_on=column.status, **PRIVATE, **MODEL)


def busy(answering: bool) -> list[Any]:
    """Enable Ask or Stop, whichever makes sense now."""
    return [gr.Button(interactive=not answering), gr.Button(interactive=answering)]


def assistant(text: str) -> dict[str, str]:
    """Make one message of the model's side."""
    return {"role": "assistant", "content": text}
