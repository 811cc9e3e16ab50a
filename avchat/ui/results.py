"""A list of found parts as the page shows it: real buttons with pictures, scores, and why.

Enters: `Result`s. Leaves: the value of one `gr.HTML`, drawn by results.js; its events `tick`,
`act`, `more` and `cut` tell Python which results are ticked and what is wanted of one. Only ids
travel.
"""

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from avchat.ui.player import script

__all__ = ["RESULTS_CSS", "RESULT_WORDS", "Result", "listed", "results"]

FOLDER = Path(__file__).parent
RESULTS_CSS = FOLDER / "results.css"
RESULT_WORDS: dict[str, dict[str, str]] = json.loads(
    (FOLDER / "results_words.json").read_text(encoding="utf-8")
)


@dataclass(frozen=True)
class Result:
    """A part of a clip, in seconds; picture, sound: what each sense scored, NaN or None: nothing.

    clip: the name of its file, where several are listed; faint: it is no good match, shown all the
    same; text: of what is said there; missing: its file is gone, and nothing can be done with it.
    """

    id: str
    start: float
    end: float
    score: float
    picture: float | None = None
    sound: float | None = None
    thumbnail: bytes = b""  # JPEG
    clip: str = ""
    faint: bool = False
    text: str = ""
    missing: bool = False


def results(
    elem_id: str, actions: Sequence[str] = (), *, plays: bool = True, ticks: bool = True
) -> gr.HTML:
    """Make a list, empty; `listed` makes its values, None empties it.

    Args: actions: buttons of each result, named as in results_words.json; each calls `.act(fn)`,
    like_sound and like_picture `.more(fn)`, download `.cut(fn)`, with a `gr.EventData` that has
    `id` and `action`. plays: a click plays the span in the player at once; else it is the action
    "open". ticks: they can be chosen, which calls `.tick(fn)` with `ids`.
    """
    return gr.HTML(
        None,
        html_template='<div class="av-results"></div>',
        js_on_load=script(
            "words.js",
            "results.js",
            words=RESULT_WORDS,
            actions=list(actions),
            plays=plays,
            ticks=ticks,
        ),
        apply_default_css=False,
        elem_id=elem_id,
        elem_classes="av-skin",
    )


def listed(
    found: Sequence[Result], message: str, *, key: str, values: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Make the value that shows results, the best first, the faint ones below the others.

    Args: message: the name of a sentence of results_words.json, with `values` to fill in. key: of
    the search; ticks are kept as long as it is the same.
    """
    rows = [row(one) for one in found]
    return {"items": rows, "message": message, "values": values or {}, "key": key}


def row(one: Result) -> dict[str, Any]:
    """Give a result as JSON can hold it."""
    picture, sound = (
        None if value is None or value != value else round(float(value), 3)
        for value in (one.picture, one.sound)
    )
    return {
        "id": one.id,
        "start": round(one.start, 2),
        "end": round(one.end, 2),
        "score": round(one.score, 3),
        "picture": picture,
        "sound": sound,
        "thumbnail": base64.b64encode(one.thumbnail).decode("ascii"),
        "clip": one.clip,
        "faint": one.faint,
        "text": one.text,
        "missing": one.missing,
    }
