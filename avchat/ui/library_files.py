"""The lower part of the Library tab: what is in it, adding and removing files, making it anew."""

import html
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from avchat.ui.app import App
from avchat.ui.asking import FAULTS
from avchat.ui.chat_log import alert
from avchat.ui.clip_column import PRIVATE
from avchat.ui.clips import clock
from avchat.ui.progress import BAR, teller
from avchat.ui.shelf import (
    Foreign,
    Status,
    library_add,
    library_files,
    library_rebuild,
    library_remove,
)
from avchat.ui.visitors import Refused, Visitor
from avchat.ui.words import say

CHANGE: dict[str, Any] = {**PRIVATE, "concurrency_id": "shelf", "concurrency_limit": 2}
SHOWN = 200  # files that are listed at a time
FOLDERS = 20  # folders to choose from: those with the most files
STATES = {
    "queued": "waiting",
    "working": "working",
    "added": "added",
    "there": "already there",
    "failed": "failed",
    "stopped": "stopped before it was added",
}


@dataclass
class FilesPart:
    """Components of the lower part."""

    card: gr.HTML
    folder: gr.Radio  # a filter of the search
    manage: gr.Accordion
    upload: gr.File
    path: gr.Textbox
    add: gr.Button
    states: gr.HTML
    name: gr.Textbox
    files: gr.CheckboxGroup
    remove: gr.Button
    rebuild: gr.Button
    stop: gr.Button

    @property
    def outputs(self) -> list[Any]:
        """Return what a changed library changes; `overview` gives the values."""
        return [self.card, self.folder, self.files, self.manage]


def lay_out_files(app: App, folder: gr.Radio) -> FilesPart:
    """Make the part; where nothing may be changed, it says so."""
    local = not app.settings.public
    card = gr.HTML("", elem_id="library-card", min_height=24)
    with gr.Accordion(say("lib_manage"), open=False, visible=local, elem_id="manage") as manage:
        upload = gr.File(
            label=say("lib_upload"), file_count="multiple", file_types=["video", "audio"],
            height=120, elem_id="library-upload",
        )  # fmt: skip
        with gr.Row():
            path = gr.Textbox("", label=say("lib_path"), scale=4, elem_id="library-path")
            add = gr.Button(say("lib_add"), min_width=80, elem_id="library-add")
        stop = gr.Button(say("stop"), size="sm", elem_classes="avchat-stop")
        states = gr.HTML("", elem_id="library-states")
        name = gr.Textbox("", label=say("lib_name"), elem_id="library-name")
        files = gr.CheckboxGroup([], label=say("lib_files"), elem_id="library-files")
        with gr.Row():
            remove = gr.Button(say("lib_remove"), size="sm", elem_id="library-remove")
            rebuild = gr.Button(say("lib_rebuild"), size="sm", elem_id="library-rebuild")
    if not local:
        gr.Markdown(say("lib_read_only"), elem_id="library-read-only")
    return FilesPart(
        card, folder, manage, upload, path, add, states, name, files, remove, rebuild, stop
    )


def overview(app: App, name: str = "", *, error: str = "", keep: bool = False) -> list[Any]:
    """Give the values of `FilesPart.outputs`: what is in the library now.

    keep: what the person has chosen stays chosen.
    """
    still = [gr.skip()] * 2
    try:
        found = library_files(app, name)
    except Foreign as foreign:
        return [alert(str(foreign)), *still, gr.Accordion(open=True)]
    except Refused as empty:
        none = gr.CheckboxGroup([], value=[])
        return [alert(error or str(empty)), gr.skip(), none, gr.skip()]
    shown = [(label_of(file), file["id"]) for file in found["list"][:SHOWN]]
    folders = [(f"{one['name']} ({one['files']})", one["id"]) for one in found["folders"][:FOLDERS]]
    chosen: dict[str, Any] = {} if keep else {"value": []}
    folder = gr.Radio([(say("lib_all"), ""), *folders], **({} if keep else {"value": ""}))
    card = alert(error) if error else html.escape(card_of(found))
    files = gr.skip() if app.settings.public else gr.CheckboxGroup(shown, **chosen)
    return [card, folder, files, gr.skip()]


def card_of(found: dict[str, Any]) -> str:
    """Say in one line what the library holds and which head made it."""
    more = len(found["list"]) - SHOWN
    return (
        f"{found['files']} files, {found['hours']:.2f} hours in {found['windows']} windows, "
        f"{found['megabytes']:.1f} MB; made by the lookup head {found['model']}"
        + (f"; {more} more files are not listed below" if more > 0 else "")
    )


def label_of(file: dict[str, Any]) -> str:
    """Name a file in the list."""
    sound = "" if file["has_sound"] else ", no sound"
    missing = ", missing" if file["missing"] else ""
    return f"{file['name']} ({clock(file['duration_s'])}{sound}{missing})"


def states_of(found: Sequence[Status]) -> str:
    """Write how far files are that are being added, those that matter most first."""
    order = ["working", "failed", "stopped", "added", "there", "queued"]
    done = sum(one.state not in ("queued", "working") for one in found)
    ranked = sorted(found, key=lambda one: order.index(one.state))[:SHOWN]
    rows = "".join(f"<li>{html.escape(state_of(one))}</li>" for one in ranked)
    return f'<p role="status">{done} of {len(found)} done</p><ul class="file-states">{rows}</ul>'


def state_of(one: Status) -> str:
    """Say in words how far one file is."""
    share = f", {100 * one.share:.0f} %" if one.state == "working" else ""
    reason = f": {one.reason}" if one.reason else ""
    return f"{one.name}: {STATES[one.state]}{share}{reason}"


def connect_files(app: App, part: FilesPart) -> None:
    """Add, remove, make anew; the list follows."""
    outputs = [part.states, *part.outputs]

    def changed(change: Callable[[], Iterator[list[Status]]]) -> Iterator[list[Any]]:
        """Show how far a change is, then what is in the library."""
        still, said = [gr.skip()] * 4, gr.skip()
        try:
            for found in change():
                said = states_of(found)
                yield [said, *still]
        except FAULTS as error:
            said = alert(str(error))
        yield [said, *overview(app)]  # all of it: what a next step skips may never be shown

    def upload(
        request: gr.Request, paths: list[str] | None, progress: gr.Progress = BAR
    ) -> Iterator[list[Any]]:
        visitor: Visitor = app.visitors.of(request)
        told = teller(progress)
        for values in changed(lambda: library_add(app, visitor, paths or [], told)):
            yield [*values, None]  # what was given is taken: the next is welcome

    def add(request: gr.Request, path: str, progress: gr.Progress = BAR) -> Iterator[list[Any]]:
        visitor, told = app.visitors.of(request), teller(progress)
        if not path.strip():  # what was said of the last files stays
            gr.Info("name a file or a folder of this machine; chosen files add themselves")
            yield [gr.skip()] * len(outputs)
            return
        yield from changed(lambda: library_add(app, visitor, [path], told, uploaded=False))

    def rebuild(request: gr.Request, progress: gr.Progress = BAR) -> Iterator[list[Any]]:
        visitor, told = app.visitors.of(request), teller(progress)
        yield from changed(lambda: library_rebuild(app, visitor, told))

    def remove(request: gr.Request, ids: list[str]) -> list[Any]:
        try:
            count = library_remove(app, app.visitors.of(request), ids)
        except FAULTS as error:
            return [alert(str(error)), *[gr.skip()] * 4]
        said = "One file was removed." if count == 1 else f"{count} files were removed."
        return [f'<p role="status">{said}</p>', *overview(app)]

    def named(name: str | None) -> list[Any]:
        return overview(app, name or "")

    def stop(request: gr.Request) -> None:
        app.visitors.of(request).stop()

    heavy: dict[str, Any] = {**CHANGE, "show_progress_on": part.states}
    part.upload.upload(upload, [part.upload], [*outputs, part.upload], **heavy)
    gr.on([part.add.click, part.path.submit], add, [part.path], outputs, **heavy)
    part.rebuild.click(rebuild, None, outputs, **heavy)
    part.remove.click(remove, [part.files], outputs, **heavy)
    part.name.submit(named, [part.name], part.outputs, **PRIVATE)
    part.stop.click(stop, None, None, queue=False, **PRIVATE)
