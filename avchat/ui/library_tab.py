"""Tab 3: the library: looked through by words, a sound, a picture or the clip on the left."""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from avchat.indexing import HASH_DIGITS
from avchat.library_find import FOLD
from avchat.ui import player
from avchat.ui.app import App
from avchat.ui.ask_tab import AskTab, part_values
from avchat.ui.asking import FAULTS
from avchat.ui.chat_log import alert
from avchat.ui.clip_column import (
    MEDIA,
    PRIVATE,
    ClipColumn,
    in_words,
    kept_values,
    lacks_survey,
    missing_steps,
    open_steps,
    shown_clip,
)
from avchat.ui.clip_values import line_value
from avchat.ui.clips import Clip
from avchat.ui.library_files import FilesPart, connect_files, lay_out_files, overview
from avchat.ui.moments_tab import WITH_TIME
from avchat.ui.progress import BAR, teller
from avchat.ui.results import Result, listed, results
from avchat.ui.shelf import library_ready
from avchat.ui.shelf_search import (
    MOST,
    Hit,
    Hits,
    LibraryWish,
    library_cut,
    library_file,
    library_find,
    library_like,
)
from avchat.ui.visitors import Refused, Visitor
from avchat.ui.words import say

SEARCH: dict[str, Any] = {**PRIVATE, "concurrency_id": "library", "concurrency_limit": 4}
ACTIONS = ("like_sound", "like_picture", "ask", "moments", "download")
OPENS = ("open", "ask", "moments")
COMPARED = {
    "both": "Compared by sound and picture.",
    "sound": "Compared by the sound alone.",
    "picture": "Compared by the picture alone.",
}
SEARCHES = itertools.count(1)
PARTS = ("", "clip", "range", "frame")
After = Callable[[Clip | None, str], list[Any]]


@dataclass
class LibraryTab:
    """Components of the tab."""

    text: gr.Textbox
    tries: list[tuple[gr.Button, str]]  # texts that are found in the examples
    examples: list[Any]  # a sound, a picture, what of the clip on the left
    sense: gr.Radio
    filters: list[Any]
    at: gr.Number  # the time in view, in seconds
    go: gr.Button
    status: gr.HTML
    results: gr.HTML
    files: FilesPart

    @property
    def inputs(self) -> list[Any]:
        """Return what says what to look for; `wish_of` reads it."""
        return [self.text, *self.examples, self.sense, *self.filters]


def lay_out(app: App) -> LibraryTab:
    """Make the tab."""
    text = gr.Textbox(
        label=say("lib_text"), placeholder=say("lib_hint"), elem_id="library-text",
        elem_classes="avchat-query",
    )  # fmt: skip
    tries = [
        (gr.Button(say("lib_try") + one.sought, size="sm", elem_classes="avchat-try"), one.sought)
        for one in app.examples
        if one.sought and app.settings.library is None
    ]
    with gr.Accordion(say("lib_examples"), open=False, elem_id="library-examples"):
        with gr.Row():
            sound = gr.Audio(
                sources=["upload", "microphone"], type="filepath", label=say("lib_sound"),
                elem_id="library-sound",
            )  # fmt: skip
            picture = gr.Image(
                sources=["upload", "webcam", "clipboard"], type="filepath",
                label=say("lib_picture"), height=160, elem_id="library-picture",
            )  # fmt: skip
        parts = [(say(f"lib_part_{part}"), part) for part in PARTS]
        part = gr.Radio(parts, value="", label=say("lib_part"), elem_id="library-part")
    senses = [
        (say("sense_both"), "both"),
        (say("sense_sound"), "sound"),
        (say("sense_picture"), "picture"),
    ]
    sense = gr.Radio(senses, value="both", label=say("compare_by"), elem_id="library-sense")
    with gr.Accordion(say("lib_filters"), open=False, elem_id="library-filters"):
        filters = lay_out_filters()
    go = gr.Button(say("find"), variant="primary", elem_id="library-find")
    status = gr.HTML("", elem_id="library-status", min_height=24)
    found = results("library-results", ACTIONS, plays=False, ticks=False)
    at = gr.Number(0, visible=False)
    files = lay_out_files(app, filters[1])
    examples = [sound, picture, part]
    return LibraryTab(
        text, tries, examples, sense, filters, at, go, status, found, files
    )  # fmt: skip


def lay_out_filters() -> list[Any]:
    """Make the filters, in the order in which `wish_of` reads them; the second is the folder."""
    without = gr.Textbox(
        label=say("lib_without"), placeholder=say("lib_without_hint"), elem_id="library-without"
    )
    folder = gr.Radio(
        [(say("lib_all"), "")], value="", label=say("lib_folder"), elem_id="library-folder"
    )
    with gr.Row():
        # Gradio shows an empty number as 0, and sends 0 as soon as the drawer is open.
        shortest = gr.Number(0, label=say("lib_min"), minimum=0)
        longest = gr.Number(0, label=say("lib_max"), minimum=0)
    has_sound = gr.Checkbox(False, label=say("lib_has_sound"), elem_id="library-has-sound")
    with gr.Row():
        after = gr.Textbox(label=say("lib_after"), max_length=10)
        before = gr.Textbox(label=say("lib_before"), max_length=10)
    top = gr.Slider(1, MOST, LibraryWish.top, step=1, label=say("top"), elem_id="library-top")
    least = gr.Number(0, label=say("least"), minimum=-1, maximum=1, step=0.05)
    fold = gr.Slider(0.9, 1, FOLD, step=0.01, label=say("lib_fold"), elem_id="library-fold")
    return [without, folder, shortest, longest, has_sound, after, before, top, least, fold]


def wish_of(at: float, span: tuple[float, float] | None, *given: Any) -> LibraryWish:
    """Read the time in view, the marked range and the other `LibraryTab.inputs`."""
    text, sound, picture, part, sense, without, folder, *rest = given
    shortest, longest, has_sound, after, before, top, least, fold = rest
    start, end = span if part == "range" and span else (None, None)
    return LibraryWish(
        text or "",
        without or "",
        Path(sound) if sound else None,
        Path(picture) if picture else None,
        part or "",
        float(at or 0) if part == "frame" else start,
        end,
        sense,
        folder or "",
        float(shortest) if shortest else None,
        float(longest) if longest else None,
        bool(has_sound),
        after or "",
        before or "",
        int(top),
        float(least) if least else None,
        float(fold),
    )


def list_value(found: Hits, key: str) -> dict[str, Any]:
    """Make the value that lists what was found."""
    rows = [result_of(one, found.sense) for one in found.found]
    rows += [result_of(one, found.sense, faint=True) for one in found.closest]
    count = len(found.found)
    values = {"count": count, "least": "" if found.least is None else f"{found.least:.2f}"}
    message = "clip_found_one" if count == 1 else "clip_found"
    if not count:
        message = "nothing" if found.least is None else "none"
    return listed(rows, message, key=key, values=values)


def result_of(one: Hit, sense: str, *, faint: bool = False) -> Result:
    """Lay one hit out for the list."""
    return Result(
        f"{one.hash}:{one.start!r}:{one.end!r}",
        one.start,
        one.end,
        one.score,
        one.picture if one.thumbnail and sense != "sound" else None,
        one.sound if one.has_sound and sense != "picture" else None,
        one.thumbnail,
        one.name,
        faint,
        missing=one.missing,
    )


def place_of(event: gr.EventData) -> tuple[str, float, float]:
    """Read which part of which file a result is: hash, start and end in seconds."""
    hash, _, part = str(event.id).partition(":")
    try:
        start, end = map(float, part.split(":"))
    except ValueError as error:
        raise Refused("there is no such result") from error
    return hash, start, end


def connect(
    app: App,
    tab: LibraryTab,
    column: ClipColumn,
    asked: AskTab,
    tabs: gr.Tabs,
    shown: gr.Tab,
    after: After,
    more: list[Any],
) -> None:
    """Find, and go on from a result; keep the list of files up to date.

    Args: shown: this tab; after, more: as in `clip_column.connect`.
    """
    outputs = [tab.status, tab.results]

    def shelf(request: gr.Request, name: str | None, progress: gr.Progress = BAR) -> list[Any]:
        """Show what is in the library; the first time, the examples are put into it."""
        app.visitors.of(request)
        try:
            library_ready(app, teller(progress))
        except FAULTS as error:
            return overview(app, name or "", error=str(error), keep=True)
        return overview(app, name or "", keep=True)

    def searched(visitor: Visitor, look: Callable[[], Hits]) -> list[Any]:
        """Show what a search finds; what goes wrong is one line in the tab."""
        try:
            found = look()
        except FAULTS as error:
            return [alert(str(error)), None]
        return [COMPARED[found.sense], list_value(found, f"library-{next(SEARCHES)}")]

    def look(
        request: gr.Request,
        at: float,
        span: tuple[float, float] | None,
        progress: gr.Progress = BAR,  # Gradio fills it in by its place
        *given: Any,
    ) -> list[Any]:
        visitor = app.visitors.of(request)
        wish = wish_of(at, span, *given)
        return searched(visitor, lambda: library_find(app, visitor, wish, teller(progress)))

    def like(request: gr.Request, event: gr.EventData, top: float) -> list[Any]:
        visitor = app.visitors.of(request)
        with in_words():
            hash, start, _ = place_of(event)
        sense = event.action.removeprefix("like_")
        return searched(visitor, lambda: library_like(app, visitor, hash, start, sense, int(top)))

    def download(request: gr.Request, event: gr.EventData) -> Any:
        visitor = app.visitors.of(request)
        with in_words():
            path = library_cut(app, visitor, *place_of(event))
        if visitor.clip is None:
            return gr.File([str(path)], visible=True)
        return kept_values(visitor.clip, path)

    given = [tab.at, column.span, *tab.inputs]
    find = {**SEARCH, "js": WITH_TIME, "show_progress_on": tab.status}
    shown.select(
        shelf, [tab.files.name], tab.files.outputs, show_progress_on=tab.files.card, **SEARCH
    )
    gr.on([tab.go.click, tab.text.submit], look, given, outputs, **find)
    for button, sought in tab.tries:
        event = button.click(lambda sought=sought: sought, None, [tab.text], queue=False, **PRIVATE)
        event.then(look, given, outputs, **find)
    often = {"trigger_mode": "multiple", "show_progress_on": tab.status}
    tab.results.more(like, [tab.filters[7]], outputs, **often, **SEARCH)
    tab.results.cut(download, None, [column.exported], **often, **PRIVATE, **MEDIA)
    connect_opening(app, tab, column, asked, tabs, after, more)
    connect_files(app, tab.files)


def connect_opening(
    app: App,
    tab: LibraryTab,
    column: ClipColumn,
    asked: AskTab,
    tabs: gr.Tabs,
    after: After,
    more: list[Any],
) -> None:
    """Take the file of a result in view and play what was found; ask about it, search it."""
    outputs = [*column.outputs, *more]

    def switch(event: gr.EventData) -> Any:
        return gr.Tabs(selected=event.action) if event.action in OPENS[1:] else gr.skip()

    def open_one(
        request: gr.Request, event: gr.EventData, progress: gr.Progress = BAR
    ) -> Iterator[dict[Any, Any]]:
        if event.action not in OPENS:
            yield {column.status: gr.skip()}
            return
        visitor = app.visitors.of(request)
        with in_words():
            hash, start, end = place_of(event)
            path = library_file(app, hash)
        begun = False
        for clip, values in steps(app, visitor, hash, path, progress):
            step = dict(zip(column.outputs, values, strict=True))
            if clip is not None and not begun and visitor.clip is clip:
                question = "" if clip.exchanges else clip.suggestion
                step |= dict(zip(more, after(clip, question), strict=True))
            # never at once after the step before, or the page loses what is left out here
            if clip is not None and begun:  # the person may have done something meanwhile
                for part in (column.span, column.ask_span, column.export_span, column.exported):
                    del step[part]
            elif clip is not None and visitor.clip is clip:
                step |= ask_values(column, asked, clip, start, end, event.action)
                if not clip.info.is_still:
                    step[column.player] = playing(clip, start, end)
                begun = True
            yield step

    # Without "multiple" the page drops a wish while an earlier one is carried out.
    often: dict[str, Any] = {**PRIVATE, "trigger_mode": "multiple"}
    tab.results.act(switch, None, [tabs], queue=False, **often)
    tab.results.act(open_one, None, outputs, show_progress_on=column.status, **often, **MEDIA)


def steps(
    app: App, visitor: Visitor, hash: str, path: Path, progress: gr.Progress
) -> Iterator[tuple[Clip | None, list[Any]]]:
    """Open a file of the library as `open_steps` does, or show it again."""
    known = [one for one in visitor.clips.values() if one.hash[:HASH_DIGITS] == hash]
    if not known:
        yield from open_steps(app, visitor, path, "", progress)
        return
    visitor.show(known[0])
    yield known[0], shown_clip(visitor, known[0], busy=lacks_survey(known[0]))
    for values in missing_steps(visitor, known[0], teller(progress)):
        yield known[0], values


def playing(clip: Clip, start: float, end: float) -> dict[str, Any]:
    """Make the player's value that shows a clip and plays a part of it."""
    span = {"start": start, "end": end}
    fps = clip.info.fps or None
    return player.shown(
        clip.shown, clip.kind, clip.name, key=clip.id, subtitles=clip.subtitles, fps=fps, **span
    )


def ask_values(
    column: ClipColumn, asked: AskTab, clip: Clip, start: float, end: float, action: str
) -> dict[Any, Any]:
    """Make a part of a longer file the range that the next question is about."""
    whole = clip.info.is_still or end - start > 0.9 * clip.info.duration_s
    if action != "ask" or whole:
        return {}
    span = round(start, 2), round(end, 2)
    part_of, part = part_values(span)
    return {
        column.span: span,
        column.timeline: line_value(clip, span),
        column.ask_span: gr.update(interactive=True),
        column.export_span: gr.update(interactive=True),
        asked.part_of: part_of,
        asked.part: part,
    }
