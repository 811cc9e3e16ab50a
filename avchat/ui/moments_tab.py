"""Tab 2: moments of the clip in view, found by words, by a sound, by a picture, by a part of it."""

import html
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

import gradio as gr

from avchat.ui.app import App
from avchat.ui.ask_tab import AskTab, part_values
from avchat.ui.asking import FAULTS
from avchat.ui.chat_log import alert
from avchat.ui.clip_column import (
    FILE_TYPES,
    MEDIA,
    PRIVATE,
    ClipColumn,
    however_it_ends,
    in_words,
    kept_values,
)
from avchat.ui.clip_values import line_value
from avchat.ui.clips import Clip
from avchat.ui.finding import MOST, chosen, export, find, title_of
from avchat.ui.player import script
from avchat.ui.progress import BAR, teller
from avchat.ui.results import RESULT_WORDS, Result, listed, results
from avchat.ui.searches import Search, Wish
from avchat.ui.span_files import FORMS
from avchat.ui.visitors import Visitor
from avchat.ui.words import say

QUICK: dict[str, Any] = {**PRIVATE, "queue": False, "show_progress": "hidden"}
HINTED = ("frame", "range")  # what to look for is in the player or on the timeline
EVERY_S = 0.3  # between two drawings while a clip is looked through
# The time in view is known to the player alone: it takes the place of the first input.
WITH_TIME = "(at, ...more) => [window.avchatPlayer ? window.avchatPlayer.time() : 0, ...more]"


@dataclass
class MomentsTab:
    """Components of the tab."""

    by: gr.Radio
    text: gr.Textbox
    sound: gr.Audio
    clip: gr.File
    hints: list[gr.Markdown]
    sense: gr.Radio
    weigh: gr.Checkbox
    weight: gr.Slider
    least: gr.Number
    gap: gr.Number
    top: gr.Slider
    at: gr.Number  # the time in view, in seconds
    go: gr.Button
    stop: gr.Button
    status: gr.HTML
    plot: gr.HTML
    results: gr.HTML
    ticked: gr.State  # ids
    exports: gr.Column
    saves: list[gr.Button]

    @property
    def inputs(self) -> list[Any]:
        """Return what says what to look for, and how; `wish_of` reads it."""
        example = [self.at, self.by, self.text, self.sound, self.clip]
        return [*example, self.sense, self.weigh, self.weight, self.least, self.gap, self.top]

    @property
    def of_clip(self) -> list[Any]:
        """Return what a new clip or search changes; `for_clip` gives the values."""
        shown = [self.status, self.plot, self.results, self.ticked, self.exports]
        return [*shown, self.go, self.stop]


def lay_out(app: App) -> MomentsTab:
    """Make the tab."""
    ways = [(say(f"by_{way}"), way) for way in ("text", "sound", "frame", "range", "clip")]
    by = gr.Radio(ways, value="text", label=say("look_for"), elem_id="find-by")
    text = gr.Textbox(
        label=say("find_text"),
        placeholder=say("find_hint"),
        elem_id="find-text",
        elem_classes="avchat-query",
    )
    sound = gr.Audio(
        sources=["upload", "microphone"],
        type="filepath",
        label=say("find_sound"),
        visible=False,
        elem_id="find-sound",
    )
    clip = gr.File(
        label=say("find_clip"),
        file_types=FILE_TYPES,
        height=120,
        visible=False,
        elem_id="find-clip",
    )
    hints = [gr.Markdown(say(f"hint_{way}"), visible=False) for way in HINTED]
    senses = [
        (say("sense_both"), "both"),
        (say("sense_sound"), "sound"),
        (say("sense_picture"), "picture"),
    ]
    sense = gr.Radio(senses, value="both", label=say("compare_by"), elem_id="find-sense")
    with gr.Accordion(say("find_more"), open=False, elem_id="find-more"):
        weigh = gr.Checkbox(False, label=say("weigh"), elem_id="find-weigh")
        weight = gr.Slider(
            0, 1, 0.5, step=0.05, label=say("sound_weight"), visible=False, elem_id="find-weight"
        )
        least = gr.Number(0, label=say("least"), minimum=-1, maximum=1, step=0.05)
        gap = gr.Number(0, label=say("gap"), minimum=0)
        top = gr.Slider(1, MOST, 5, step=1, label=say("top"))
    with gr.Row():
        go = gr.Button(say("find"), variant="primary", scale=2, min_width=90, elem_id="find")
        stop = gr.Button(
            say("stop"), interactive=False, min_width=90, elem_id="find-stop",
            elem_classes="avchat-stop",
        )  # fmt: skip
    status = gr.HTML("", elem_id="find-status", min_height=24)
    plot = scores_plot()
    found = results("moments", ("ask", "like_sound", "like_picture"))
    with gr.Column(visible=False, elem_id="moment-exports") as exports:
        gr.Markdown(say("export_note"))
        with gr.Row():
            saves = [
                gr.Button(say(name), size="sm", min_width=80, elem_id=name.replace("_", "-"))
                for name in ("save_csv", "save_chapters", "save_edl", "save_clips")
            ]
    at = gr.Number(0, visible=False)
    return MomentsTab(
        by, text, sound, clip, hints, sense, weigh, weight, least, gap, top, at, go, stop,
        status, plot, found, gr.State([]), exports, saves,
    )  # fmt: skip


def scores_plot() -> gr.HTML:
    """Make the drawing of scores over time, empty; `plotted` makes its values."""
    return gr.HTML(
        None,
        html_template='<div class="av-scores" hidden></div>',
        js_on_load=script("words.js", "scores.js", words=RESULT_WORDS),
        apply_default_css=False,
        elem_id="scores",
        elem_classes="av-skin",
    )


def wish_of(at: float, span: tuple[float, float] | None, *given: Any) -> Wish:
    """Read the time in view, the marked range and the other `MomentsTab.inputs`."""
    by, text, sound, clip, sense, weigh, weight, least, gap, top = given
    file = {"sound": sound, "clip": clip}.get(by)
    start, end = span if by == "range" and span else (None, None)
    return Wish(
        by,
        text or "",
        Path(file) if file else None,
        float(at or 0) if by == "frame" else start,
        end,
        sense,
        float(weight) if weigh and sense == "both" else None,
        float(least) if least else None,
        float(gap or 0),
        int(top),
    )


def for_clip(clip: Clip | None) -> list[Any]:
    """Give the values of `MomentsTab.of_clip`: what was found in a clip last, or nothing."""
    if clip is None or clip.search is None:
        return ["", None, None, [], gr.Column(visible=False), *busy(False)]
    return found_values(clip, clip.search)


def found_values(clip: Clip, search: Search) -> list[Any]:
    """Give the values of `MomentsTab.of_clip` for a search, as far as it has come."""
    some = gr.Column(visible=search.over and bool(search.found.spans or search.found.misses))
    words = html.escape(f"{title_of(search.wish)} ({BY_SENSE[search.wish.sense]})")
    warnings = "".join(f"<br>{html.escape(warning)}" for warning in search.warnings)
    shown = [f"{words}{warnings}", plotted(clip, search), list_value(clip, search)]
    return [*shown, [] if not search.over else gr.skip(), some, *busy(not search.over)]


BY_SENSE = {"both": "sound and picture", "sound": "by its sound", "picture": "by its picture"}


def plotted(clip: Clip, search: Search) -> dict[str, Any]:
    """Make the value that draws scores over time."""
    curve, sense = search.curve, search.wish.sense
    rows = {
        "score": curve.score,
        "sound": curve.sound if sense == "both" else curve.sound * float("nan"),
        "picture": curve.picture if sense == "both" else curve.picture * float("nan"),
    }
    return {
        "duration": clip.duration_s,
        "times": [round(float(t), 2) for t in curve.times_s],
        "least": search.least,
        "spans": [[round(span.start, 2), round(span.end, 2)] for span in search.found.spans],
        **{
            name: [None if score != score else round(float(score), 3) for score in scores]
            for name, scores in rows.items()
        },
    }


def list_value(clip: Clip, search: Search) -> dict[str, Any]:
    """Make the value that lists what was found."""
    clear = len(search.found.spans)
    rows = []
    for place, span in enumerate([*search.found.spans, *search.found.misses]):
        seen, heard = clip.info.has_video, clip.info.has_audio
        rows.append(
            Result(
                search.ids[place],
                span.start,
                span.end,
                span.score,
                span.why["picture"] if seen and search.wish.sense != "sound" else None,
                span.why["sound"] if heard and search.wish.sense != "picture" else None,
                search.pictures[place] if search.pictures else b"",
                faint=place >= clear,
            )
        )
    message, values = message_of(clip, search)
    return listed(rows, message, key=f"{clip.id}-{search.number}", values=values)


def message_of(clip: Clip, search: Search) -> tuple[str, dict[str, Any]]:
    """Say in a sentence of results_words.json what came of a search, and what to fill in."""
    count = len(search.found.spans)
    if not search.over:
        return "looking", {}
    if not search.complete and clip.embedded is not None:
        share = round(100 * clip.embedded.done / len(clip.embedded.windows))
        return "stopped", {"share": share, "count": count}
    if count:
        return ("found_one" if count == 1 else "found"), {"count": count}
    if search.least is None:
        return "nothing", {}
    return "none", {"least": f"{search.least:.2f}"}


def connect(app: App, tab: MomentsTab, column: ClipColumn, asked: AskTab, tabs: gr.Tabs) -> None:
    """Find, stop, choose, export, go on from a result."""
    outputs = [column.timeline, *tab.of_clip]

    def searching(visitor: Visitor, wish: Wish, progress: gr.Progress) -> Iterator[list[Any]]:
        """Look for a wish, drawn as it comes; what goes wrong is one line in the tab."""
        clip, drawn = visitor.clip, 0.0
        try:
            clip = visitor.in_view()
            yield [gr.skip(), "", *[gr.skip()] * 4, *busy(True)]
            for search in find(app, visitor, clip, wish, teller(progress)):
                due = search.over or monotonic() - drawn > EVERY_S
                if due and visitor.clip is clip:  # else the person has gone on to another one
                    drawn = monotonic()
                    yield [line_value(clip), *found_values(clip, search)]
        except FAULTS as error:
            if clip is None or visitor.stops:  # something else is being done: it goes on
                yield [gr.skip(), alert(str(error)), *[gr.skip()] * 4, *busy(False)]
                return
            clip.search = None  # what was found before does not answer this
            if visitor.clip is clip:
                yield [line_value(clip), alert(str(error)), *for_clip(clip)[1:]]
        if visitor.clip is not clip:
            yield [*[gr.skip()] * 6, *busy(False)]

    def look(
        request: gr.Request,
        at: float,
        span: tuple[float, float] | None,
        progress: gr.Progress = BAR,  # Gradio fills it in by its place
        *given: Any,
    ) -> Iterator[list[Any]]:
        yield from searching(app.visitors.of(request), wish_of(at, span, *given), progress)

    def stop(request: gr.Request) -> None:
        app.visitors.of(request).stop()

    def like(
        request: gr.Request, event: gr.EventData, top: float, progress: gr.Progress = BAR
    ) -> Iterator[list[Any]]:
        """Look for more that is like a result."""
        visitor = app.visitors.of(request)
        with in_words():
            [span] = chosen(visitor.in_view(), [event.id])
        sense = event.action.removeprefix("like_")
        wish = Wish("range", start=span.start, end=span.end, sense=sense, top=int(top))
        yield from searching(visitor, wish, progress)

    heavy: dict[str, Any] = {**PRIVATE, **MEDIA, "show_progress_on": tab.status}
    given = [*tab.inputs[:1], column.span, *tab.inputs[1:]]
    gr.on([tab.go.click, tab.text.submit], look, given, outputs, js=WITH_TIME, **heavy)
    tab.results.more(like, [tab.top], outputs, **heavy)
    tab.stop.click(stop, None, None, **QUICK)
    connect_choices(tab)
    connect_exports(app, tab, column)
    connect_ask(app, tab, column, asked, tabs)


def connect_choices(tab: MomentsTab) -> None:
    """Show the inputs that belong to what was chosen."""

    def choose(by: str) -> list[Any]:
        return [gr.update(visible=by == way) for way in ("text", "sound", "clip", *HINTED)]

    def weights(sense: str, weigh: bool) -> list[Any]:
        return [gr.update(visible=sense == "both"), gr.update(visible=weigh and sense == "both")]

    tab.by.change(choose, [tab.by], [tab.text, tab.sound, tab.clip, *tab.hints], **QUICK)
    gr.on(
        [tab.sense.change, tab.weigh.change],
        weights,
        [tab.sense, tab.weigh],
        [tab.weigh, tab.weight],
        **QUICK,
    )


def connect_exports(app: App, tab: MomentsTab, column: ClipColumn) -> None:
    """Keep which results are ticked; write them to a file."""

    def tick(event: gr.EventData) -> list[str]:
        return [str(one) for one in event.ids]

    def rest(request: gr.Request) -> list[Any]:
        return busy(bool(app.visitors.of(request).stops))

    outputs = [column.exported, tab.go, tab.stop]
    # "multiple": of two ticks in a row both count
    tab.results.tick(tick, None, [tab.ticked], trigger_mode="multiple", **QUICK)
    for button, form in zip(tab.saves, FORMS, strict=True):

        def save(
            request: gr.Request,
            ticked: list[str],
            form: str = form,
            progress: gr.Progress = BAR,
        ) -> Iterator[list[Any]]:
            visitor = app.visitors.of(request)
            with in_words():
                clip = visitor.in_view()
                yield [gr.skip(), *busy(True)]
                path = export(app, visitor, form, ticked, teller(progress))
                files = kept_values(clip, path)
            yield [files if visitor.clip is clip else gr.skip(), gr.skip(), gr.skip()]

        heavy: dict[str, Any] = {**PRIVATE, **MEDIA, "show_progress_on": tab.status}
        saved = button.click(save, [tab.ticked], outputs, **heavy)
        however_it_ends(saved, rest, outputs[1:])


def connect_ask(
    app: App, tab: MomentsTab, column: ClipColumn, asked: AskTab, tabs: gr.Tabs
) -> None:
    """Make a result the range that the next question is about."""

    def ask_about(request: gr.Request, event: gr.EventData) -> list[Any]:
        clip = app.visitors.of(request).in_view()
        with in_words():
            [found] = chosen(clip, [event.id])
        span = (round(found.start, 2), round(found.end, 2))
        enabled = [gr.update(interactive=True)] * 2
        line = line_value(clip, span)
        return [span, line, *enabled, *part_values(span), gr.Tabs(selected="ask")]

    outputs = [column.span, column.timeline, column.ask_span, column.export_span]
    tab.results.act(ask_about, None, [*outputs, asked.part_of, asked.part, tabs], **QUICK)


def busy(looking: bool) -> list[Any]:
    """Enable Find or Stop, whichever makes sense now."""
    return [gr.Button(interactive=not looking), gr.Button(interactive=looking)]
