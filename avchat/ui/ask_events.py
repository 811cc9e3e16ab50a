"""What happens on the Ask tab: ask, stop, retry, edit, compare, weigh, write down."""

from collections.abc import Callable, Iterator
from typing import Any

import gradio as gr

from avchat.ui.app import App
from avchat.ui.ask_tab import DEFAULTS, AskTab, messages, options_of, part_values, transcript_of
from avchat.ui.asking import (
    COMPARED,
    FAULTS,
    agreed,
    ask,
    compare,
    lanes,
    rewind,
    settled,
    shows_lanes,
    weigh_alone,
)
from avchat.ui.captions import captions
from avchat.ui.chat_log import alert, as_json, as_markdown, comparison_panel, evidence_panel
from avchat.ui.clip_column import (
    PRIVATE,
    ClipColumn,
    however_it_ends,
    in_words,
    kept_values,
    span_of,
)
from avchat.ui.clip_values import line_value, screen_value
from avchat.ui.clips import Clip, Exchange
from avchat.ui.progress import BAR, teller
from avchat.ui.visitors import Refused, Visitor

BUSY = "one question at a time: ask this one when the answer is there, or stop it"
MODEL: dict[str, Any] = {"concurrency_id": "model"}
CROWDED = "too many people are asking at the moment: ask again a little later"
OUR_FAULT = "something went wrong here that is not your fault: ask again, or open the clip again"
QUICK: dict[str, Any] = {**PRIVATE, "queue": False, "show_progress": "hidden"}
# The tab with the question may have come up just now.
FOCUS = """() => {
  const selector = "#question textarea, #question input";
  setTimeout(() => document.querySelector(selector)?.focus(), 100);
}"""


def connect(app: App, tab: AskTab, column: ClipColumn, tabs: gr.Tabs) -> None:
    """Connect everything on the tab."""
    slow: dict[str, Any] = {**PRIVATE, **MODEL, "concurrency_limit": app.settings.at_once}
    outputs = [tab.talk, tab.question, tab.ask, tab.stop, column.timeline]
    answer = answer_of(app)
    for event in (*asked(app, tab, column, tabs, outputs), *changed(app, tab, outputs)):
        # "multiple": what still draws after an answer must not swallow the next question
        shown = {"show_progress_on": column.status, "trigger_mode": "multiple"}
        answered = event.then(answer, None, outputs, **shown, **slow)
        answered.failure(failed(app), None, outputs, **QUICK)
        follow(app, tab, column, answered, slow)
    tab.starters.input(started, [tab.starters], [tab.question, tab.starters], **QUICK)
    tab.reset.click(lambda: list(DEFAULTS), None, tab.settings, **QUICK)
    connect_part(tab, column)
    connect_panel(app, tab, column, slow)
    connect_exports(app, tab, column)


def started(question: str) -> list[Any]:
    """Fill a starter in; it is unchecked again, or it would work only once."""
    return [question, gr.Radio(value=None)]


def asked(
    app: App, tab: AskTab, column: ClipColumn, tabs: gr.Tabs, outputs: list[Any]
) -> list[Any]:
    """Show a question at once, when it is asked; its answer waits for its turn. Stop it."""

    def begin(
        request: gr.Request, question: str, sense: str, part: Any, *settings: Any
    ) -> list[Any]:
        visitor = app.visitors.of(request)
        try:
            if visitor.unseen:  # else the question would be about the clip that is about to go
                raise Refused("a clip is being opened: ask when it is shown")
            clip = visitor.in_view()
            if not question.strip():
                raise Refused("the question is empty")
        except Refused as error:  # the talk stays, and what is typed
            talk = [] if visitor.clip is None else messages(app, visitor.clip)
            said = {"role": "assistant", "content": alert(str(error))}
            return [[*talk, said], *[gr.skip()] * 4]
        return taken(app, clip, Exchange(question, sense, options_of(part, list(settings))))

    def ask_range(
        request: gr.Request, question: str, sense: str, span: Any, *settings: Any
    ) -> list[Any]:
        """Ask what is typed about the marked range; where nothing is, the tab waits for it."""
        shown = [*part_values(span), gr.Tabs(selected="ask")]
        if span is None or not question.strip():
            return [*[gr.skip()] * 5, *shown]
        return [*begin(request, question, sense, span, *settings), *shown]

    def stop(request: gr.Request) -> None:
        visitor = app.visitors.of(request)
        visitor.stop()
        for clip in list(visitor.clips.values()):
            for exchange in clip.exchanges:
                exchange.stop.set()

    tab.stop.click(stop, None, None, **QUICK)
    given = [tab.question, tab.sense, tab.part_of, *tab.settings]
    ranged = [tab.question, tab.sense, column.span, *tab.settings]
    more = [*outputs, tab.part_of, tab.part, tabs]
    of_range = column.ask_span.click(ask_range, ranged, more, **QUICK)
    of_range.then(None, None, None, js=FOCUS, **PRIVATE)
    return [gr.on([tab.ask.click, tab.question.submit], begin, given, outputs, **QUICK), of_range]


def taken(app: App, clip: Clip, exchange: Exchange) -> list[Any]:
    """Give the values of the tab when a question is asked; one at a time is taken."""
    if clip.add(exchange):
        return [messages(app, clip), "", *busy(True), gr.skip()]
    before = clip.under_way()
    if before is not None and before.question == exchange.question:
        # two events of one press: Enter, and the button under it
        return [gr.skip(), "", gr.skip(), gr.skip(), gr.skip()]
    clip.note = BUSY  # what is typed stays
    return [messages(app, clip), gr.skip(), *busy(True), gr.skip()]


def answer_of(app: App) -> Callable[..., Any]:
    """Make what answers the question that is waiting."""

    def answer(request: gr.Request, progress: gr.Progress = BAR) -> Iterator[list[Any]]:
        visitor = app.visitors.of(request)
        found = waiting_in(visitor)
        if found is None:
            yield [gr.skip(), gr.skip(), *buttons(visitor), gr.skip()]
            return
        clip, exchange = found
        for _ in ask(app, visitor, clip, exchange, teller(progress)):
            shown = messages(app, clip) if visitor.clip is clip else gr.skip()
            yield [shown, gr.skip(), *busy(True), gr.skip()]
        done = [gr.skip(), gr.skip()]
        if visitor.clip is clip:
            done = [messages(app, clip), line_value(clip)]
        yield [done[0], gr.skip(), *buttons(visitor), done[1]]

    return answer


def waiting_in(visitor: Visitor) -> tuple[Clip, Exchange] | None:
    """Take the question that waits for its answer; it may be about a clip out of view by now."""
    for clip in list(visitor.clips.values()):
        exchange = clip.take()
        if exchange is not None:
            return clip, exchange
    return None


def follow(app: App, tab: AskTab, column: ClipColumn, answered: Any, slow: dict[str, Any]) -> None:
    """After an answer, show the transcript, and where in the clip the question fits."""

    def written(request: gr.Request) -> Any:
        return transcript_of(app.visitors.of(request).clip)

    def relevance(request: gr.Request) -> Iterator[Any]:
        visitor = app.visitors.of(request)
        clip = visitor.clip
        exchange = clip.exchanges[-1] if clip is not None and clip.exchanges else None
        yield gr.skip()  # a generator that yields nothing would empty the timeline
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
        found, clip = waiting_in(visitor), visitor.clip
        if found is not None:
            clip, exchange = found
            exchange.state, exchange.error = "failed", CROWDED  # `ask` has not seen it
        elif clip is not None and clip.exchanges and clip.under_way() is None:
            last = clip.exchanges[-1]
            if last.receipt is None and not last.error:
                last.state, last.error = "failed", OUR_FAULT
        in_view = clip is not None and visitor.clip is clip
        shown = messages(app, clip) if in_view else gr.skip()
        return [shown, gr.skip(), *buttons(visitor), gr.skip()]

    return end


def changed(app: App, tab: AskTab, outputs: list[Any]) -> list[Any]:
    """Ask a question of the talk once more, as it was or in other words; or take it back."""

    def again(request: gr.Request, number: int, question: str = "") -> list[Any]:
        with in_words():
            clip = settled(app.visitors.of(request))
        old = clip.exchanges[number]
        rewind(app, clip, number)
        exchange = Exchange(question or old.question, old.sense, old.options)
        talk, _, *others = taken(app, clip, exchange)
        return [talk, gr.skip(), *others]  # what is typed stays

    def retry(request: gr.Request, event: gr.RetryData) -> list[Any]:
        return again(request, event.index // 2)

    def edit(request: gr.Request, event: gr.EditData) -> list[Any]:
        return again(request, event.index // 2, str(event.value).strip())

    def undo(request: gr.Request, event: gr.UndoData) -> list[Any]:
        visitor = app.visitors.of(request)
        with in_words():
            clip = settled(visitor)
        old = clip.exchanges[event.index // 2].question
        rewind(app, clip, event.index // 2)
        return [messages(app, clip), old, *buttons(visitor), line_value(clip)]

    tab.talk.undo(undo, None, outputs, **QUICK)
    return [
        tab.talk.retry(retry, None, outputs, **QUICK),
        tab.talk.edit(edit, None, outputs, **QUICK),
    ]


def connect_part(tab: AskTab, column: ClipColumn) -> None:
    """Follow the range that is marked on the timeline; a question about one follows it, too."""

    def marked(part: Any, event: gr.EventData) -> list[Any]:
        span = span_of(event)
        enabled = [gr.update(interactive=span is not None)] * 2
        asked = [gr.skip()] * 2 if part is None else part_values(span)
        return [span, *enabled, *asked]

    outputs = [column.span, column.ask_span, column.export_span, tab.part_of, tab.part]
    # "multiple": of two marks in a row the last one counts
    column.timeline.select(marked, [tab.part_of], outputs, trigger_mode="multiple", **QUICK)


def connect_panel(app: App, tab: AskTab, column: ClipColumn, slow: dict[str, Any]) -> None:
    """Show on demand what an answer rests on, and what each sense alone would answer."""

    def evidence(request: gr.Request, event: gr.EventData) -> Iterator[list[Any]]:
        visitor = app.visitors.of(request)
        with in_words():
            clip = visitor.in_view()
            yield [gr.skip(), *busy(True)]
            found = weigh_alone(app, visitor, clip, event.number)
        if found is not None and visitor.clip is clip:
            exchange = clip.exchanges[event.number]
            yield [gr.HTML(evidence_panel(exchange, found), visible=True), *busy(False)]

    def side_by_side(
        request: gr.Request,
        question: str,
        part: Any,
        progress: gr.Progress = BAR,  # Gradio fills it in by its place
        *settings: Any,
    ) -> Iterator[list[Any]]:
        visitor = app.visitors.of(request)
        with in_words():
            clip = visitor.in_view()
            yield [gr.skip(), *busy(True)]
            asked = question.strip() or (clip.exchanges[-1].question if clip.exchanges else "")
            found, notice = [], app.engine.model.config.notice
            options = options_of(part, list(settings))
            for one in compare(app, visitor, clip, asked, options, teller(progress)):
                if visitor.clip is not clip:  # the person has gone on to another one
                    return
                found.append(one)
                yield [gr.HTML(comparison_panel(asked, found, notice), visible=True), *busy(True)]
            if len(found) < len(COMPARED):
                gr.Info("stopped: the comparison is not whole")

    shown, rest = [tab.panel, tab.ask, tab.stop], rest_of(app)
    weighed = tab.links.select(evidence, None, shown, **slow)
    given = [tab.question, tab.part_of, *tab.settings]
    compared = tab.compare.click(side_by_side, given, shown, show_progress_on=column.status, **slow)
    for event in (weighed, compared):
        however_it_ends(event, rest, [tab.ask, tab.stop])


def rest_of(app: App) -> Callable[..., Any]:
    """Make what follows long work however it ends: Ask again, Stop only for what still runs."""

    def rest(request: gr.Request) -> list[Any]:
        return buttons(app.visitors.of(request))

    return rest


def connect_exports(app: App, tab: AskTab, column: ClipColumn) -> None:
    """Write the talk down in files."""
    for button, (ending, write) in zip(
        tab.exports, ((".md", as_markdown), (".json", as_json)), strict=False
    ):

        def export(request: gr.Request, ending: str = ending, write: Any = write) -> Any:
            with in_words():
                visitor = app.visitors.of(request)
                clip = visitor.in_view()
                out = visitor.folder / clip.id / f"{clip.stem}_talk{ending}"
                out.write_text(write(clip), encoding="utf-8")
                return kept_values(clip, out)

        button.click(export, None, column.exported, queue=False, **PRIVATE)

    def caption(request: gr.Request, progress: gr.Progress = BAR) -> Iterator[list[Any]]:
        """Write captions, show them in the player and in the pane, offer the file."""
        visitor = app.visitors.of(request)
        with in_words():
            clip = visitor.in_view()
            yield [*[gr.skip()] * 3, *busy(True)]
            files = kept_values(clip, captions(app, visitor, clip, teller(progress)))
        if visitor.clip is clip:
            yield [files, screen_value(clip), transcript_of(clip), *busy(False)]

    shown = [column.exported, column.player, tab.transcript, tab.ask, tab.stop]
    # Without a limit of its own it would set that of everything under this id to Gradio's, 1.
    slow: dict[str, Any] = {**PRIVATE, **MODEL, "concurrency_limit": app.settings.at_once}
    written = tab.exports[2].click(caption, None, shown, show_progress_on=column.status, **slow)
    however_it_ends(written, rest_of(app), shown[3:])


def buttons(visitor: Visitor) -> list[Any]:
    """Enable Ask where no question is under way, Stop where anything is."""
    asking = any(clip.under_way() for clip in list(visitor.clips.values()))
    stops = asking or bool(visitor.stops)
    return [gr.Button(interactive=not asking), gr.Button(interactive=stops)]


def busy(answering: bool) -> list[Any]:
    """Enable Ask or Stop, whichever makes sense now."""
    return [gr.Button(interactive=not answering), gr.Button(interactive=answering)]
