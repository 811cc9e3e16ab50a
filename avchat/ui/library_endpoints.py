"""The library, for programs: the actions of shelf.py and shelf_search.py under names."""

from collections.abc import Iterator
from dataclasses import fields
from typing import Any

import gradio as gr

from avchat.ui.app import App
from avchat.ui.clip_column import MEDIA, in_words
from avchat.ui.endpoints import Endpoint, model_limits
from avchat.ui.given import how_many, number, uploaded, whole_part
from avchat.ui.shelf import Status, library_add, library_files, library_ready, library_rebuild
from avchat.ui.shelf import library_remove as remove
from avchat.ui.shelf_search import LibraryWish, as_data, library_cut, library_find, library_like
from avchat.ui.tools import SenseName
from avchat.ui.visitors import Refused

UPLOADS = ("sound", "picture")  # of a wish: files that handle_file gives
TEXTS = ("text", "unwanted", "part", "sense", "folder", "after", "before")
NAMES = [field.name for field in fields(LibraryWish)]


def endpoints_of(app: App) -> list[Endpoint]:
    """List the actions."""
    does, model = Shelf(app), model_limits(app)
    searches = [does.library_find, does.library_like]
    changes = [does.library_list, does.library_add, does.library_remove, does.library_rebuild]
    return [
        *(Endpoint(action, model) for action in searches),
        *(Endpoint(action, MEDIA) for action in (*changes, does.library_cut)),
    ]


class Shelf:
    """What a program does with the library; files have ids, which are hashes of their bytes."""

    def __init__(self, app: App) -> None:
        """Take the app that acts."""
        self.app = app

    def library_list(self, request: gr.Request, part: str) -> dict[str, Any]:
        """List the files whose names contain a text ("": all), and what the library holds."""
        with in_words():
            library_ready(self.app)
            return library_files(self.app, part)

    def library_add(
        self, request: gr.Request, files: list[gr.FileData]
    ) -> Iterator[list[dict[str, Any]]]:
        """Add uploaded files; each step says how far each of them is, the last one what became of
        them.
        """
        with in_words():
            paths = [uploaded(file) for file in files]
            visitor = self.app.visitors.of(request)
            for states in library_add(self.app, visitor, paths):
                yield [state_data(one) for one in states]

    def library_remove(self, request: gr.Request, ids: list[str]) -> int:
        """Forget files by their ids; return how many."""
        with in_words():
            return remove(self.app, self.app.visitors.of(request), ids)

    def library_rebuild(self, request: gr.Request) -> Iterator[list[dict[str, Any]]]:
        """Make the library anew from those of its files that are still there."""
        with in_words():
            for states in library_rebuild(self.app, self.app.visitors.of(request)):
                yield [state_data(one) for one in states]

    def library_find(self, request: gr.Request, choices: dict[str, Any]) -> dict[str, Any]:
        """Find clips in the library.

        Args: choices: `text`, or a `sound` or `picture` that handle_file gives, or several; and,
        where wanted, `unwanted` words, `part` (clip, range or frame of the clip in view, with
        `start` and `end` in seconds), `sense`, `folder` (its id), `min_length_s`, `max_length_s`,
        `has_sound`, `after`, `before` (YYYY-MM-DD), `top`, `least` score, `fold`.
        """
        with in_words():
            library_ready(self.app)
            visitor = self.app.visitors.of(request)
            return as_data(library_find(self.app, visitor, wish_of(choices)))

    def library_like(
        self, request: gr.Request, id: str, start: float, sense: SenseName, top: int
    ) -> dict[str, Any]:
        """Find more that is like a part that was found. Args: start: of it, in seconds."""
        with in_words():
            visitor, start = self.app.visitors.of(request), number(start, "start", 0)
            if start is None:
                raise Refused("say where the part starts, in seconds")
            found = library_like(self.app, visitor, str(id), start, sense, how_many(top))
            return as_data(found)

    def library_cut(self, request: gr.Request, id: str, start: float, end: float) -> gr.FileData:
        """Cut a part, in seconds, out of a file of the library; return it as a file."""
        with in_words():
            visitor = self.app.visitors.of(request)
            out = library_cut(self.app, visitor, str(id), *whole_part(start, end))
            return gr.FileData(path=str(out), orig_name=out.name).model_dump()


def wish_of(choices: object) -> LibraryWish:
    """Return what is looked for; Refused for what makes no sense."""
    if not isinstance(choices, dict) or not choices.keys() <= set(NAMES):
        raise Refused(f"choices are given by name: {', '.join(NAMES)}")
    given: dict[str, Any] = {}
    for name, value in choices.items():
        if value is None:
            continue
        if name in UPLOADS:
            given[name] = uploaded(value)
        elif name in TEXTS:
            given[name] = str(value)
        elif name == "has_sound":
            given[name] = bool(value)
        elif name == "top":
            given[name] = how_many(value)
        else:
            given[name] = number(value, name, -1 if name == "least" else 0)
    return LibraryWish(**given)


def state_data(status: Status) -> dict[str, Any]:
    """Give what became of a file as JSON can hold it."""
    return {
        "name": status.name,
        "state": status.state,
        "share": round(status.share, 3),
        "reason": status.reason,
    }
