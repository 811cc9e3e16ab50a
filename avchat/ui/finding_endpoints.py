"""Find moments, for programs: the actions of finding.py under names."""

from collections.abc import Iterator
from typing import Any

import gradio as gr

from avchat.ui.app import App
from avchat.ui.clip_column import MEDIA, in_words
from avchat.ui.endpoints import Endpoint, model_limits
from avchat.ui.finding import as_data, export, find
from avchat.ui.given import how_many, number, part, uploaded, wish
from avchat.ui.searches import Wish
from avchat.ui.visitors import Refused

CHOICES = "by text file start end sense sound_weight least gap top".split()


def endpoints_of(app: App) -> list[Endpoint]:
    """List the actions."""
    does, model = Finding(app), model_limits(app)
    return [Endpoint(does.find, model), Endpoint(does.export_moments, MEDIA)]


class Finding:
    """What a program does to find moments in the clip in view."""

    def __init__(self, app: App) -> None:
        """Take the app that acts."""
        self.app = app

    def find(self, request: gr.Request, choices: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Find moments of the clip in view; each step knows more, the last one all.

        Args: choices: `text`; or `by` (sound, clip, frame or range) with a `file` that handle_file
        gives, or `start` and `end` in seconds; and, where wanted, `sense`, `sound_weight` from 0 to
        1, `least` score, `gap` in seconds below which moments are one, `top`.
        """
        with in_words():
            visitor = self.app.visitors.of(request)
            clip, wanted = visitor.in_view(), wish_of(choices)
            for search in find(self.app, visitor, clip, wanted):
                yield as_data(search) | {"over": search.over}

    def export_moments(self, request: gr.Request, form: str, ids: list[str]) -> gr.FileData:
        """Write moments that were found as csv, vtt, edl, or zip of clips. Args: ids: []: all."""
        with in_words():
            if not isinstance(ids, list) or not all(isinstance(one, str) for one in ids):
                raise Refused("ids is a list of what the moments are called, or empty for all")
            out = export(self.app, self.app.visitors.of(request), form, ids)
            return gr.FileData(path=str(out), orig_name=out.name).model_dump()


def wish_of(choices: object) -> Wish:
    """Return what is looked for; Refused for what makes no sense."""
    if not isinstance(choices, dict) or not choices.keys() <= set(CHOICES):
        raise Refused(f"choices are given by name: {', '.join(CHOICES)}")
    by, sense = choices.get("by", "text"), choices.get("sense", "both")
    text = wish(choices.get("text") if by == "text" else "like this", sense)
    start, end = part(choices.get("start"), choices.get("end"))
    return Wish(
        by,
        text,
        uploaded(choices["file"]) if choices.get("file") else None,
        start,
        end,
        sense,
        number(choices.get("sound_weight"), "sound_weight", 0, 1),
        number(choices.get("least"), "least", -1, 1),
        number(choices.get("gap"), "gap", 0) or 0.0,
        how_many(choices.get("top", 5)),
    )
