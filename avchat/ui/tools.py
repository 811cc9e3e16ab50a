"""The four MCP tools: a file or a text in, JSON out; nothing is remembered from call to call.

What was encoded of a file is kept by its bytes, so a second question about it is quick. Gradio
shows the docstrings here to assistants and to people: names, first lines and Args are the manual.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from threading import Event
from typing import Any, Literal

import numpy as np

from avchat.app_settings import Settings
from avchat.library import Library
from avchat.library_find import Filters, Found, Query
from avchat.library_find import find as look_up
from avchat.receipt import in_words as receipt_in_words
from avchat.ui.app import App
from avchat.ui.asking import ask, weigh
from avchat.ui.chat_log import as_data
from avchat.ui.clip_column import in_words
from avchat.ui.clips import Clip, Exchange, Options, clock
from avchat.ui.finding import as_data as found_as_data
from avchat.ui.finding import find
from avchat.ui.given import file_of, how_many, number, part, wish
from avchat.ui.opening import open_clip, survey
from avchat.ui.progress import silent
from avchat.ui.searches import Wish
from avchat.ui.shelf import library_ready, opened, plainly
from avchat.ui.visitors import Refused, Visitor

SenseName = Literal["both", "sound", "picture"]
HEARD = "What do you hear?"


def no_tools(settings: Settings) -> str:
    """Say why the tools are not served; nothing where they are."""
    if not settings.mcp:
        return "they are switched off"
    if settings.auth is not None:
        return "assistants have no way to give the password"  # Gradio's MCP cannot log in
    return "" if find_spec("mcp") else 'they need pip install "gradio[mcp]"'


class Tools:
    """The tools over one app; each method is one, under its own name."""

    def __init__(self, app: App) -> None:
        """Take the app whose models answer."""
        self.app = app

    def ask_video(
        self,
        video: str,
        question: str,
        sense: SenseName = "both",
        start: float | None = None,
        end: float | None = None,
    ) -> str:
        """Ask a question about one video, sound or picture file. The model both sees the picture
        and hears the sound track, and the answer comes with proof of what it rests on.
        Returns JSON: "answer"; "receipt", in words: how many frames were seen and how many seconds
        heard; "seen" and "heard", the same as numbers (seconds); "rests_on", whose "verdict" is
        sound, picture, both, or question (question: the answer would be the same without seeing or
        hearing anything, so do not trust it), with "says", the same in words; "times", the moments
        that the answer cites (t in seconds, text as m:ss); "clip", what kind of file it is.
        If a user passes a file, use the tool upload_file_to_gradio, if present, and give what it
        returns.

        Args:
            video: The file: what upload_file_to_gradio or POST /gradio_api/upload returned.
            question: What to ask, in plain words, for example: What do you hear?
            sense: What the model may use: both, sound (it sees nothing) or picture (hears nothing).
            start: Ask only about the part from this second on; needs end, too.
            end: Ask only about the part up to this second.
        """
        with self.opened(video) as (visitor, clip):
            return as_text(self.asked(visitor, clip, question, sense, Options(*part(start, end))))

    def find_moments(self, video: str, text: str, sense: SenseName = "both", top: int = 5) -> str:
        """Find the moments of one video or sound file in which something is seen or heard.
        Returns JSON: "good_match" (false: nothing in this file is a clear match, say so);
        "moments", the best first: "start" and "end" in seconds, "time", the same as m:ss, "score"
        (a cosine, higher is better) and "why", what picture and sound scored; "closest", the same
        for what scored less than "least_score", where there is no clear match. A long file is
        looked through once and then remembered: the first call may take minutes, later ones about
        the same file seconds.
        If a user passes a file, use the tool upload_file_to_gradio, if present, and give what it
        returns.

        Args:
            video: The file: what upload_file_to_gradio or POST /gradio_api/upload returned.
            text: What to look and listen for, for example: a dog barks
            sense: Where to search: both, sound (what is heard) or picture (what is seen).
            top: How many moments at most, 1 to 50.
        """
        with self.opened(video) as (visitor, clip):
            wanted = Wish(text=wish(text, sense), sense=sense, top=how_many(top))
            for search in find(self.app, visitor, clip, wanted):
                data = found_as_data(search)
            rows = {
                name: [without_id(row) for row in data[name]] for name in ("moments", "closest")
            }
            good = {"good_match": bool(rows["moments"])}
            return as_text(good | data | rows | {"clip": clip.to_dict()})

    def find_clips(
        self,
        text: str,
        sense: SenseName = "both",
        top: int = 10,
        min_length: float | None = None,
        max_length: float | None = None,
        has_sound: bool | None = None,
    ) -> str:
        """Find clips in this app's library by what is seen, heard or said in them.
        Returns JSON: "good_match" (false: nothing in the library fits well, say so); "clips", the
        best first: "id" of the file, its "name", the part that fits ("start" and "end" in seconds,
        "time", the same as m:ss), "score" (higher is better) and "why", how much picture, sound
        and speech add to the score.

        Args:
            text: What to look and listen for, for example: rain on a roof
            sense: Where to search: both, sound (what is heard) or picture (what is seen).
            top: How many clips at most, 1 to 50.
            min_length: Only files at least so many seconds long.
            max_length: Only files at most so many seconds long.
            has_sound: true: only files with a sound track; false: only those without.
        """
        with in_words():
            text, most = wish(text, sense), how_many(top)
            limits = Filters(
                min_length_s=number(min_length, "min_length", 0),
                max_length_s=number(max_length, "max_length", 0),
                has_sound=None if has_sound is None else bool(has_sound),
            )
            [vector] = self.app.engine.texts([text])
            head = self.app.engine.head
            query = Query(((np.asarray(vector), 1.0),), text=text, sense=sense)
            with self.library() as library:
                found = look_up(library, query, limits, top=most, threshold=head.threshold)
            clips = [found_data(one) for one in found]
            return as_text({"good_match": bool(clips), "clips": clips})

    def describe_sound(
        self, video: str, start: float | None = None, end: float | None = None
    ) -> str:
        """Describe what is heard in one video or sound file, from its sound track alone.
        Returns JSON: "has_sound" (false: the file has no sound track, and there is nothing to
        describe); "silent" (true: there is a track, and nothing can be heard on it);
        "description", in words, by a model that sees nothing of the picture; "loudest_s" in seconds
        and "loudest" as m:ss, when it is loudest; "rests_on", whose "verdict" is sound, or question
        where the model would have said the same without listening; "receipt", what was heard.
        If a user passes a file, use the tool upload_file_to_gradio, if present, and give what it
        returns.

        Args:
            video: The file: what upload_file_to_gradio or POST /gradio_api/upload returned.
            start: Describe only the part from this second on; needs end, too.
            end: Describe only the part up to this second.
        """
        with self.opened(video) as (visitor, clip):
            if not clip.info.has_audio:
                return as_text({"has_sound": False, "clip": clip.to_dict()})
            survey(clip, silent, Event())
            data = self.asked(visitor, clip, HEARD, "sound", Options(*part(start, end)))
            data["description"] = data.pop("answer")
            return as_text({"has_sound": True} | loudest(clip) | data)

    @contextmanager
    def opened(self, video: object) -> Iterator[tuple[Visitor, Clip]]:
        """Open a file for one call and forget it afterwards; what goes wrong is one line."""
        engine, settings = self.app.engine, self.app.settings
        with in_words(), self.app.visitors.guest() as visitor:
            path = file_of(video, settings, visitor.folder, Event())
            clip = open_clip(visitor, path, settings, silent, Event(), watched=False)
            try:
                yield visitor, clip
            finally:
                for talk in clip.talks.values():
                    engine.drop(talk)

    @contextmanager
    def library(self) -> Iterator[Library]:
        """Open the library; the app's own is made of the examples where there is none yet."""
        library_ready(self.app)
        library = opened(self.app)
        with plainly(self.app):
            yield library

    def asked(
        self, visitor: Visitor, clip: Clip, question: str, sense: SenseName, options: Options
    ) -> dict[str, Any]:
        """Ask and weigh; Refused in the words of what went wrong."""
        exchange = Exchange(wish(question, sense), sense, options)
        clip.exchanges.append(exchange)
        for _ in ask(self.app, visitor, clip, exchange):
            pass
        if exchange.receipt is None:
            raise Refused(exchange.error or "stopped")
        data = as_data(exchange)
        if exchange.turn is not None:
            evidence = weigh(self.app, clip, 0)
            data["rests_on"] = {"verdict": evidence.verdict, "says": evidence.says()}
        said = {"answer": data["answer"], "receipt": receipt_in_words(exchange.receipt)}
        kept = ("seen", "heard", "rests_on", "times", "excerpts")
        return said | {name: data[name] for name in kept if name in data} | {"clip": clip.to_dict()}


def loudest(clip: Clip) -> dict[str, Any]:
    """Say when a clip is loudest, in seconds, and whether anything of it can be heard."""
    heights = None if clip.contour is None else clip.contour.loudness
    if heights is None or not len(heights) or not heights.any():
        return {"silent": heights is not None}
    t = (int(heights.argmax()) + 0.5) / len(heights) * clip.duration_s
    return {"silent": False, "loudest_s": round(t, 2), "loudest": clock(t)}


def without_id(row: dict[str, Any]) -> dict[str, Any]:
    """Leave out the number of a result: it means nothing after the call."""
    return {name: value for name, value in row.items() if name != "id"}


def found_data(found: Found) -> dict[str, Any]:
    """Return what was found in a library as plain data: an id and a name, no path."""
    return {
        "id": found.hash,
        "name": found.clip,
        "start": found.start,
        "end": found.end,
        "time": f"{clock(found.start)} to {clock(found.end)}",
        "score": found.score,
        "why": found.why,
    }


def as_text(data: dict[str, Any]) -> str:
    """Write JSON: MCP carries text. Numbers are rounded to what they are worth."""
    return json.dumps(rounded(data), ensure_ascii=False, indent=1)


def rounded(data: Any) -> Any:
    """Round every float in plain data to three decimals."""
    if isinstance(data, dict):
        return {name: rounded(value) for name, value in data.items()}
    if isinstance(data, list | tuple):
        return [rounded(value) for value in data]
    return round(float(data), 3) if isinstance(data, float | np.floating) else data
