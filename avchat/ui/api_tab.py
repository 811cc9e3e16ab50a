"""The tab API: the question on the page as a program asks it, and what the app takes at most."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.route_utils import get_root_url

from avchat.app_settings import Settings
from avchat.ui import calls
from avchat.ui.app import App
from avchat.ui.ask_tab import AskTab, options_of
from avchat.ui.clip_column import PRIVATE
from avchat.ui.clips import Options
from avchat.ui.given import LONGEST
from avchat.ui.tools import no_tools
from avchat.ui.visitors import RECENT, Visitor
from avchat.ui.words import say

WRITERS = (calls.python, calls.shell, calls.curl, calls.mcp)
API = "/gradio_api/"


@dataclass
class ApiTab:
    """Components of the tab."""

    place: gr.Tab
    codes: list[gr.Code]  # as WRITERS


def lay_out(app: App, place: gr.Tab) -> ApiTab:
    """Make the tab."""
    gr.Markdown(say("api_intro"))
    shown = [f"call_{writer.__name__}" for writer in WRITERS]
    # No language: the colours that Gradio gives words in light are too pale to be read.
    codes = [
        gr.Code(
            label=say(name),
            interactive=False,
            show_line_numbers=False,
            wrap_lines=True,
            buttons=["copy"],
            elem_id=name.replace("_", "-"),
        )
        for name in shown[: 3 if no_tools(app.settings) else 4]
    ]
    gr.Markdown(limits(app), elem_id="limits")
    return ApiTab(place, codes)


def connect(app: App, tab: ApiTab, asked: AskTab) -> None:
    """Write the calls anew whenever the tab is shown."""

    def write(
        request: gr.Request, question: str, sense: str, part: Any, *settings: Any
    ) -> list[str]:
        options = options_of(part, list(settings))
        call = call_of(app, request, question.strip(), sense, options)
        return [writer(call) for writer, _ in zip(WRITERS, tab.codes, strict=False)]

    given = [asked.question, asked.sense, asked.part_of, *asked.settings]
    tab.place.select(write, given, tab.codes, queue=False, show_progress="hidden", **PRIVATE)


def call_of(
    app: App, request: gr.Request, question: str, sense: str, options: Options
) -> calls.Call:
    """Describe what is asked now; where no question is written, the last one of the talk."""
    visitor: Visitor = app.visitors.of(request)
    clip = visitor.clip
    if not question and clip is not None and clip.exchanges:
        last = clip.exchanges[-1]
        question, sense, options = last.question, last.sense, last.options
    name = "clip.mp4" if clip is None else clip.name
    model = app.settings.model
    known = Path(model).name if Path(model).is_dir() else model  # no folder of the server is told
    locked = app.settings.auth is not None
    asked = (question or "What do you hear?", sense, options)
    return calls.Call(address(request), name, *asked, known, locked)


def address(request: gr.Request) -> str:
    """Return the app's address as the browser knows it, behind proxies, too."""
    asked = request.request
    path = asked.url.path
    route = path[path.index(API) :] if API in path else path
    return get_root_url(asked, route, asked.scope.get("root_path"))


def limits(app: App) -> str:
    """Write what the app takes at most, as a table."""
    rows = "\n".join(f"| {name} | {value} |" for name, value in limit_rows(app.settings))
    return f"| Limit | Value |\n|---|---|\n{rows}"


def limit_rows(settings: Settings) -> list[tuple[str, str]]:
    """List the limits in words."""
    return [
        ("Largest file", f"{settings.max_file_mb} MB"),
        ("Longest clip", f"{settings.max_minutes:g} minutes"),
        ("Longest answer", f"{LONGEST} tokens"),
        ("Requests that may wait", f"{settings.queue}; a further one is told to come back"),
        ("Of one person at a time", f"{settings.per_person}"),
        ("Answers written side by side", f"{settings.at_once}"),
        ("Clips kept for one person", f"{RECENT}, until the page is closed"),
        ("A program that does nothing is forgotten after", f"{settings.idle_minutes:g} minutes"),
        (
            "Files by their address on the web",
            "taken, public ones" if settings.url else "not taken: upload",
        ),
        ("MCP tools", no_tools(settings) or "4"),
    ]
