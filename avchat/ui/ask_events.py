"""What happens on the Ask tab: ask, stop, retry, edit, compare, weigh, write down."""

from collections.abc import Callable, Iterator
from typing import Any

import gradio as gr

from avchat.ui.app import App
from avchat.ui.ask_tab import DEFAULTS, AskTab, messages, options_of, part_values, transcript_of
from avchat.ui.asking import FAULTS, agreed, ask, compare, lanes, rewind, shows_lanes, weigh
from avchat.ui.captions import captions
from avchat.ui.chat_log import alert, as_json, as_markdown, comparison_panel, evidence_panel
from avchat.ui.clip_column import (
    MEDIA,
    PRIVATE,
    ClipColumn,
    in_words,
    line_value,
    screen_value,
    span_of,
)
from avchat.ui.clips import Clip, Exchange
from avchat.ui.progress import BAR, teller
from avchat.ui.visitors import Refused, Visitor

MODEL: dict[str, Any] = {"concurrency_id": "model"}
CROWDED = "too many people are asking at the moment: ask again a little later"
OUR_FAULT = "something went wrong here that is not your fault: ask again, or open the clip again"
QUICK: dict[str, Any] = {**PRIVATE, "queue": False, "show_progress": "hidden"}


def connect(app: App, tab: AskTab, column: ClipColumn) -> None:
    """Connect everything on the tab."""
    slow: dict[str, Any] = {**PRIVATE, **MODEL, "concurrency_limit": app.settings.at_once}
    outputs = [tab.talk, tab.question, tab.ask, tab.stop, column.timeline]
    answer = answer_of(app)
    for event in (*asked(app, tab, outputs), *changed(app, tab, outputs)):
        # "multiple": what still draws after an answer must not swallow the next question
        shown = {"show_progress_on": column.status, "trigger_mode": "multiple"}
        answered = event.then(answer, None, outputs, **shown, **slow)
        answered.failure(failed(app), None, outputs, **QUICK)
        follow(app, tab, column, answered, slow)
    tab.starters.input(lambda question: question, [tab.starters], [tab.question], **QUICK)
    tab.reset.click(lambda: list(DEFAULTS), None, tab.settings, **QUICK)
    connect_part(tab, column)
    connect_panel(app, tab, column, slow)
    connect_exports(app, tab, column)


def asked(app: App, tab: AskTab, outputs: list[Any]) -> list[Any]:
    """Show a question at once, when it is asked; its answer waits for its turn. Stop it."""

    def begin(
        request: gr.Request, question: str, sense: str, part: Any, *settings: Any
    ) -> list[Any]:
        try:
            visitor = app.visitors.of(request)
            if visitor.unseen:  # else the question would be about the clip that is about to go
                raise Refused("a clip is being opened: ask when it is shown")
            clip = visitor.in_view()
        except Refused as error:
            said = [{"role": "assistant", "content": alert(str(error))}]
            return [said, question, *busy(False), gr.skip()]
        if not question.strip():
            said = {"role": "assistant", "content": alert("the question is empty")}
            return [[*messages(app, clip), said], question, *busy(False), gr.skip()]
        exchange = Exchange(question, sense, options_of(part, list(settings)))
        if not clip.add(exchange):  # two events of one press: Enter, and the button under it
            return [gr.skip(), "", *busy(True), gr.skip()]
        return [messages(app, clip), "", *busy(True), gr.skip()]

    def stop(request: gr.Request) -> None:
        visitor = app.visitors.of(request)
        visitor.stop()
        for clip in list(visitor.clips.values()):
            for exchange in clip.exchanges:
                exchange.stop.set()

    tab.stop.click(stop, None, None, **QUICK)
    given = [tab.question, tab.sense, tab.part_of, *tab.settings]
    return [gr.on([tab.ask.click, tab.question.submit], begin, given, outputs, **QUICK)]


def answer_of(app: App) -> Callable[..., Any]:
    """Make what answers the question that is waiting."""

    def answer(request: gr.Request, progress: gr.Progress = BAR) -> Iterator[list[Any]]:
        visitor = app.visitors.of(request)
        clip = waiting_in(visitor)
        if clip is None:
            under_way = any(c.under_way() for c in visitor.clips.values())
            yield [gr.skip(), gr.skip(), *busy(under_way), gr.skip()]
            return
        for _ in ask(app, visitor, clip, clip.exchanges[-1], teller(progress)):
            shown = messages(app, clip) if visitor.clip is clip else gr.skip()
            yield [shown, gr.skip(), *busy(True), gr.skip()]
        done = [gr.skip(), gr.skip()]
        if visitor.clip is clip:
            done = [messages(app, clip), line_value(clip)]
        yield [done[0], gr.skip(), *busy(False), done[1]]

    return answer


def waiting_in(visitor: Visitor) -> Clip | None:
    """Find the clip whose last question waits for its answer: the person may look at another."""
    clips = list(visitor.clips.values())
    return next((c for c in clips if c.exchanges and c.exchanges[-1].state == "waiting"), None)


def follow(app: App, tab: AskTab, column: ClipColumn, answered: Any, slow: dict[str, Any]) -> None:
    """After an answer, show the transcript, and where in the clip the question fits."""

    def written(request: gr.Request) -> Any:
        return transcript_of(app.visitors.of(request).clip)

    def relevance(request: gr.Request) -> Iterator[Any]:
        visitor = app.visitors.of(request)
        clip = visitor.clip
        exchange = clip.exchanges[-1] if clip is not None and clip.exchanges else None
        if exchange is None or exchange.state != "done" or not shows_lanes(app, clip):
            return
        try:
            for _ in lanes(app, visitor, clip, exchange.question):
                if visitor.clip is clip:
                    yield line_value(clip)
            agreed(app, clip, exchange)
        except FAULTS as error:
            gr.Info(str(error))
        if visitor.clip is clip:
            yield line_value(clip)

    answered.then(written, None, tab.transcript, trigger_mode="multiple", **QUICK)
    hidden: dict[str, Any] = {"trigger_mode": "multiple", "show_progress": "hidden"}
    answered.then(relevance, None, column.timeline, **hidden, **slow)


def failed(app: App) -> Callable[..., Any]:
    """Make what ends a question that was not answered: the queue is full, or the fault is ours."""

    def end(request: gr.Request) -> list[Any]:
        visitor = app.visitors.of(request)
        clip = waiting_in(visitor) or visitor.clip
        if clip is None:
            return [gr.skip(), gr.skip(), *busy(False), gr.skip()]
        exchange = clip.exchanges[-1] if clip.exchanges else None
        if exchange is not None and exchange.receipt is None and not exchange.error:
            waits = exchange.state == "waiting"  # `ask` has not seen it
            exchange.state, exchange.error = "failed", CROWDED if waits else OUR_FAULT
        shown = messages(app, clip) if visitor.clip is clip else gr.skip()
        return [shown, gr.skip(), *busy(False), gr.skip()]

    return end


def changed(app: App, tab: AskTab, outputs: list[Any]) -> list[Any]:
    """Ask a question of the talk once more, as it was or in other words; or take it back."""

    def again(request: gr.Request, number: int, question: str = "") -> list[Any]:
        with in_words():
            clip = settled(app.visitors.of(request))
        old = clip.exchanges[number]
        rewind(app, clip, number)
        clip.exchanges.append(Exchange(question or old.question, old.sense, old.options))
        return [messages(app, clip), gr.skip(), *busy(True), gr.skip()]

    def retry(request: gr.Request, event: gr.RetryData) -> list[Any]:
        return again(request, event.index // 2)

    def edit(request: gr.Request, event: gr.EditData) -> list[Any]:
        return again(request, event.index // 2, str(event.value).strip())

    def undo(request: gr.Request, event: gr.UndoData) -> list[Any]:
        with in_words():
            clip = settled(app.visitors.of(request))
        old = clip.exchanges[event.index // 2].question
        rewind(app, clip, event.index // 2)
        return [messages(app, clip), old, *busy(False), line_value(clip)]

    tab.talk.undo(undo, None, outputs, **QUICK)
    return [
        tab.talk.retry(retry, None, outputs, **QUICK),
        tab.talk.edit(edit, None, outputs, **QUICK),
    ]


def settled(visitor: Visitor) -> Clip:
    """Return the clip in view; Refused while something is being answered about it."""
    clip = visitor.in_view()
    if any(one.state in ("waiting", "answering") for one in clip.exchanges):
        raise Refused("one thing at a time: wait for the answer, or stop it")
    return clip


def connect_part(tab: AskTab, column: ClipColumn) -> None:
    """Ask about the range that is marked on the timeline: it is followed until it is cleared."""

    def marked(part: Any, event: gr.EventData) -> list[Any]:
        if part is None:  # nobody asks about a range
            return [gr.skip(), gr.skip()]
        return part_values(span_of(event))

    outputs = [tab.part_of, tab.part]
    column.ask_span.click(part_values, [column.span], outputs, **QUICK)
    column.timeline.select(marked, [tab.part_of], outputs, **QUICK)


def connect_panel(app: App, tab: AskTab, column: ClipColumn, slow: dict[str, Any]) -> None:
    """Show on demand what an answer rests on, and what each sense alone would answer."""

    def evidence(request: gr.Request, event: gr.EventData) -> Any:
        clip = app.visitors.of(request).in_view()
        with in_words():
            found = weigh(app, clip, event.number)
        return gr.HTML(evidence_panel(clip.exchanges[event.number], found), visible=True)

    def side_by_side(
        request: gr.Request,
        question: str,
        part: Any,
        progress: gr.Progress = BAR,  # Gradio fills it in by its place
        *settings: Any,
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
    # Without a limit of its own it would set that of everything under this id to Gradio's, 1.
    slow: dict[str, Any] = {**PRIVATE, **MODEL, "concurrency_limit": app.settings.at_once}
    tab.exports[2].click(caption, None, shown, show_progress_on=column.status, **slow)


def busy(answering: bool) -> list[Any]:
    """Enable Ask or Stop, whichever makes sense now."""
    return [gr.Button(interactive=not answering), gr.Button(interactive=answering)]
