"""The timeline under the player: where the clip is, how it sounds, where a question fits, a range.

Enters: numbers on the clip's clock. Leaves: the value of one `gr.HTML`, drawn and steered by
timeline.js; its event `select` tells Python which range is marked.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from avchat.ui.player import WORDS, script

__all__ = ["KEEP", "Lane", "Pin", "drawn", "timeline"]

KEEP = "keep"
WISHES = itertools.count(1)


@dataclass(frozen=True)
class Lane:
    """Scores over time: their name and letter, a pattern, times in seconds, NaN where unknown.

    name: "sound" and "picture" are told in the visitor's language as what fits the question.
    pattern: "stripes", "dots", "grid" or "lines". threshold: the score of a clear hit, if any.
    """

    name: str
    letter: str
    pattern: str
    times: Sequence[float]
    scores: Sequence[float]
    threshold: float | None = None


@dataclass(frozen=True)
class Pin:
    """A time in seconds that an answer names, and in which words.

    solid: the search found the same place; a hollow pin rests on the model alone.
    """

    t: float
    text: str
    solid: bool


def timeline() -> gr.HTML:
    """Make the timeline, empty; `drawn` makes its values, None empties it.

    `.select(fn)` is called with a `gr.EventData` that has `start` and `end`: seconds, or None and
    None when the range was cleared. Only a range that the visitor or `drawn` changed is told.
    """
    return gr.HTML(
        None,
        html_template='<div class="av-timeline"></div>',
        js_on_load=script("words.js", "lanes.js", "keys.js", "timeline.js", words=WORDS),
        apply_default_css=False,
        elem_id="timeline",
        elem_classes="av-skin",
    )


def drawn(
    duration: float,
    *,
    key: str,
    loudness: Sequence[float] | None = None,
    cuts: Sequence[float] = (),
    lanes: Sequence[Lane] = (),
    pins: Sequence[Pin] = (),
    has_audio: bool = True,
    span: tuple[float, float] | str | None = KEEP,
) -> dict[str, Any]:
    """Make the value that shows a clip of `duration` seconds.

    Args: key: the clip's identity; another one clears the range. loudness: levels from 0 to 1 in
    equal steps of time; None while it is not known. cuts: seconds. span: a range to mark, None to
    clear it, KEEP to leave what the visitor marked.
    """
    value: dict[str, Any] = {
        "duration": duration,
        "key": key,
        "loudness": None if loudness is None else [round(float(level), 3) for level in loudness],
        "cuts": [round(float(t), 2) for t in cuts],
        "lanes": [lane_value(lane) for lane in lanes],
        "pins": [{"t": pin.t, "text": pin.text, "solid": pin.solid} for pin in pins],
        "has_audio": has_audio,
    }
    if span != KEEP:
        value["range"] = span and list(span)
        value["wish"] = next(WISHES)  # the same range may be wanted twice
    return value


def lane_value(lane: Lane) -> dict[str, Any]:
    """Give a lane as JSON can hold it: no NaN, few digits."""
    return {
        "name": lane.name,
        "letter": lane.letter,
        "pattern": lane.pattern,
        "times": [round(float(t), 2) for t in lane.times],
        "scores": [None if math.isnan(score) else round(float(score), 4) for score in lane.scores],
        "threshold": lane.threshold,
    }
