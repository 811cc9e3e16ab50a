"""Every action under a name, for programs: `gradio_client`, HTTP, and assistants over MCP.

The MCP tools (tools.py) are public. The actions here are undocumented in Gradio's sense: a client
may call them by name, with all their arguments in order, and no assistant is offered them. The
session of a client is a person like any other: `/open` takes a clip in view, `/ask` asks about it.
All give plain data; what goes wrong is one line.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import gradio as gr
import numpy as np
from gradio.utils import get_function_description

from avchat.receipt import in_words as receipt_in_words
from avchat.ui.app import App
from avchat.ui.asking import ask, compare, lanes, rewind, settled, weigh_alone
from avchat.ui.captions import captions
from avchat.ui.chat_log import as_data, as_json, as_markdown
from avchat.ui.clip_column import MEDIA, export_range, in_words
from avchat.ui.clips import Exchange, Options
from avchat.ui.given import file_of, options_of, whole_part, wish
from avchat.ui.opening import open_clip, survey
from avchat.ui.progress import silent
from avchat.ui.tools import SenseName, Tools
from avchat.ui.visitors import Refused

FORMS = {"json": as_json, "md": as_markdown}  # of a talk


@dataclass(frozen=True)
class Endpoint:
    """A function with a name for programs; `limits`: its place in the queue, as `gr.api` has it."""

    action: Callable[..., Any]
    limits: dict[str, Any] = field(default_factory=dict)
    public: bool = False  # an MCP tool, too: there are four, see tools.py


def connect(app: App, more: Sequence[Endpoint] = ()) -> None:
    """Give every action its name, within `gr.Blocks`. Args: more: the actions of other tabs."""
    for one in (*endpoints_of(app), *tools_of(app), *more):
        gr.api(
            one.action,
            api_name=one.action.__name__,
            api_description=described(app, one),
            api_visibility="public" if one.public else "undocumented",
            **one.limits,
        )


def described(app: App, one: Endpoint) -> str:
    """Say what an endpoint does, and what is too much for it where it takes a file."""
    text, parameters, _ = get_function_description(one.action)
    if "video" not in parameters:
        return text
    settings = app.settings
    web = " A public http(s) address of a file is taken, too." if settings.url else ""
    return (
        f"{text}{web} Takes up to {settings.max_file_mb} MB and {settings.max_minutes:g} minutes."
    )


def tools_of(app: App) -> list[Endpoint]:
    """List the MCP tools."""
    tools, model = Tools(app), model_limits(app)
    return [
        Endpoint(tools.ask_video, model, public=True),
        Endpoint(tools.find_clips, MEDIA, public=True),
        Endpoint(tools.find_moments, model, public=True),
        Endpoint(tools.describe_sound, model, public=True),
    ]


def endpoints_of(app: App) -> list[Endpoint]:
    """List the actions about the clip in view."""
    does, model = Actions(app), model_limits(app)
    at_once: dict[str, Any] = {"queue": False}
    return [
        Endpoint(does.open, MEDIA),
        Endpoint(does.clips, at_once),
        Endpoint(does.show, at_once),
        Endpoint(does.ask, model),
        Endpoint(does.ask_with, model),
        Endpoint(does.stop, at_once),
        Endpoint(does.evidence, model),
        Endpoint(does.compare, model),
        Endpoint(does.rewind, model),
        Endpoint(does.relevance, model),
        Endpoint(does.talk, at_once),
        Endpoint(does.captions, model),
        Endpoint(does.export_range, MEDIA),
        Endpoint(does.leave, at_once),
    ]


def model_limits(app: App) -> dict[str, Any]:
    """Say that an action waits with the questions of the page."""
    return {"concurrency_id": "model", "concurrency_limit": app.settings.at_once}


class Actions:
    """What a program does with a clip in view; each method is an endpoint under its own name."""

    def __init__(self, app: App) -> None:
        """Take the app that acts."""
        self.app = app

    def open(self, request: gr.Request, video: gr.FileData) -> dict[str, Any]:
        """Take a file in view and prepare it for questions; say what it is."""
        app = self.app
        visitor = app.visitors.of(request)
        with in_words(), visitor.doing(app.settings.per_person) as stop:
            path = file_of(video, app.settings, visitor.folder, stop)
            clip = open_clip(visitor, path, app.settings, silent, stop, watched=False)
            if path.parent == visitor.folder:
                path.unlink()  # it was fetched; the clip has a link to it
            survey(clip, silent, stop)
            if not stop.is_set():
                app.engine.talk(clip, Options(), silent, stop)
            return {"id": clip.id} | clip.to_dict()

    def clips(self, request: gr.Request) -> list[dict[str, Any]]:
        """List the clips that this session has opened and that are still kept, the latest last."""
        visitor = self.app.visitors.of(request)
        return [
            {"id": one.id, "in_view": one is visitor.clip} | one.to_dict()
            for one in visitor.clips.values()
        ]

    def show(self, request: gr.Request, id: str) -> dict[str, Any]:
        """Take a clip in view again that was opened before. Args: id: of the list of /clips."""
        visitor = self.app.visitors.of(request)
        with in_words():
            if id not in visitor.clips:
                raise Refused("there is no such clip any more: open it again")
            visitor.show(visitor.clips[id])
            return {"id": id} | visitor.in_view().to_dict()

    def ask(self, request: gr.Request, question: str, sense: SenseName) -> Iterator[dict[str, Any]]:
        """Ask about the clip in view; each step holds the answer so far, the last one all of it.

        The last step's `state` is done, or stopped; it holds what was seen and heard, tokens,
        times, and `number`, for /evidence.
        """
        yield from self.ask_with(request, question, sense, {})

    def ask_with(
        self, request: gr.Request, question: str, sense: SenseName, options: dict[str, Any]
    ) -> Iterator[dict[str, Any]]:
        """Ask as /ask does, in another way. Args: options: those of `given.OPTIONS` by name."""
        with in_words():
            visitor = self.app.visitors.of(request)
            clip = visitor.in_view()
            exchange = Exchange(wish(question, sense), sense, options_of(options))
            clip.exchanges.append(exchange)
            for _ in ask(self.app, visitor, clip, exchange):
                if exchange.state == "answering":
                    yield as_data(exchange)
            if exchange.state == "failed":
                raise Refused(exchange.error)
            data = as_data(exchange) | {"number": clip.exchanges.index(exchange)}
            if exchange.receipt is not None:
                data["receipt"] = receipt_in_words(exchange.receipt)
            yield data

    def stop(self, request: gr.Request) -> None:
        """Stop whatever runs for this session: the model itself, not only what it sends."""
        visitor = self.app.visitors.of(request)
        visitor.stop()
        for exchange in visitor.clip.exchanges if visitor.clip else ():
            exchange.stop.set()

    def evidence(self, request: gr.Request, number: int) -> dict[str, Any]:
        """Weigh what an answer rests on. Args: number: of the answer, from 0; -1: the last one."""
        with in_words():
            visitor = self.app.visitors.of(request)
            clip = visitor.in_view()
            found = weigh_alone(self.app, visitor, clip, place(number, clip.exchanges))
            if found is None:
                raise Refused("stopped: the answer was not weighed")
            return found.to_dict()

    def compare(
        self, request: gr.Request, question: str, options: dict[str, Any]
    ) -> Iterator[list[dict[str, Any]]]:
        """Ask with both senses, with the sound alone and with the picture alone; the talk stays."""
        with in_words():
            visitor = self.app.visitors.of(request)
            clip, asked, found = visitor.in_view(), wish(question, "both"), []
            for one in compare(self.app, visitor, clip, asked, options_of(options)):
                words = receipt_in_words(one.receipt)
                found.append({"sense": one.sense, "answer": one.answer, "receipt": words})
                yield found

    def rewind(self, request: gr.Request, number: int) -> int:
        """Forget an answer and all after it; return how many are left. Then ask again.

        Args: number: of the answer, from 0; -1: the last one.
        """
        with in_words():
            clip = settled(self.app.visitors.of(request))
            rewind(self.app, clip, place(number, clip.exchanges))
            return len(clip.exchanges)

    def relevance(self, request: gr.Request, text: str) -> dict[str, Any]:
        """Score the clip in view against a text over time: what the timeline shows.

        Returns the middles of windows in seconds and, for each, the cosines of sound and picture;
        None where a sense is absent.
        """
        with in_words():
            visitor = self.app.visitors.of(request)
            clip = visitor.in_view()
            for curve in lanes(self.app, visitor, clip, wish(text, "both")):
                last = curve
            lists = {"times_s": last.times_s, "sound": last.sound, "picture": last.picture}
            return {name: without_nan(values) for name, values in lists.items()}

    def talk(self, request: gr.Request, form: Literal["json", "md"]) -> str:
        """Return the talk about the clip in view as JSON or as Markdown."""
        with in_words():
            if form not in FORMS:
                raise Refused(f"a talk is written as {' or '.join(FORMS)}, not {form!r:.20}")
            return FORMS[form](self.app.visitors.of(request).in_view())

    def captions(self, request: gr.Request) -> str:
        """Write captions of the clip in view: WebVTT of what is said, or else of what is heard."""
        with in_words():
            visitor = self.app.visitors.of(request)
            return captions(self.app, visitor, visitor.in_view()).read_text(encoding="utf-8")

    def export_range(self, request: gr.Request, start: float, end: float) -> gr.FileData:
        """Cut a range, in seconds, out of the clip in view, exactly; return the file."""
        with in_words():
            visitor = self.app.visitors.of(request)
            cut = export_range(self.app, visitor, whole_part(start, end))
            return gr.FileData(path=str(cut), orig_name=cut.name).model_dump()

    def leave(self, request: gr.Request) -> None:
        """Forget this session at once: its clips, its talks, what runs for it."""
        self.app.visitors.leave(request.session_hash)


def place(number: object, exchanges: list[Exchange]) -> int:
    """Return which exchange is meant; Refused where there is none."""
    count = len(exchanges)
    if not isinstance(number, int) or not -count <= number < count:
        raise Refused("there is no such answer")
    return number % count


def without_nan(values: np.ndarray) -> list[float | None]:
    """Return numbers that JSON can hold."""
    return [None if np.isnan(value) else float(value) for value in values]
