"""The player: a clip as a video, a sound or a picture, steered in the browser without a round trip.

Enters: a file that Gradio may serve. Leaves: the value of one `gr.HTML`, whose script (player.js)
makes `window.avchatPlayer` for the other parts of the page.
"""

import itertools
import json
from pathlib import Path
from typing import Any
from urllib.parse import quote

import gradio as gr

__all__ = ["PLAYER_CSS", "WORDS", "file_url", "player", "script", "shown"]

FOLDER = Path(__file__).parent
PLAYER_CSS = FOLDER / "player.css"
# {"en": {name: text}, "zh": ..., "es": ...}: gr.I18n does not reach into the HTML of a component.
WORDS: dict[str, dict[str, str]] = json.loads(
    (FOLDER / "player_words.json").read_text(encoding="utf-8")
)
WISHES = itertools.count(1)


def player() -> gr.HTML:
    """Make the player, empty; `shown` makes its values, None empties it."""
    return gr.HTML(
        None,
        html_template='<div class="av-player"></div>',
        js_on_load=script("words.js", "player.js", words=WORDS),
        apply_default_css=False,
        elem_id="player",
        elem_classes="av-skin",
    )


def shown(
    path: Path,
    kind: str,
    name: str,
    *,
    key: str,
    subtitles: Path | None = None,
    start: float | None = None,
    end: float | None = None,
    fps: float | None = None,
) -> dict[str, Any]:
    """Make the value that shows a file.

    Args: path: in Gradio's cache or in an allowed folder. kind: "video", "audio" or "image".
    name: what the visitor calls it. key: the clip's identity; the same key and path keep the
    player as it is, so that subtitles can change while it plays. subtitles: a WebVTT file.
    start, end: seconds; a start seeks, both play that span once, each time that this is called.
    fps: frames per second, the step of the keys for one frame; unknown counts as 25.
    """
    return {
        "url": file_url(path),
        "kind": kind,
        "name": name,
        "key": key,
        # a player shows new subtitles where their address is new
        "subtitles": f"{file_url(subtitles)}?v={subtitles.stat().st_mtime_ns}" if subtitles else "",
        "start": start,
        "end": end,
        "fps": fps,
        "wish": next(WISHES),  # the same span may be wanted twice
    }


def file_url(path: Path) -> str:
    """Give the address at which Gradio serves a file, relative to where the app is mounted."""
    return f"gradio_api/file={quote(str(path))}"


def script(*names: str, **given: Any) -> str:
    """Join script files of this folder into one body for `js_on_load`.

    Args: given: what they read as `given.NAME`. As properties of the component these would be lost
    where its value changes before its tab was ever shown.
    """
    head = f"const given = {json.dumps(given)};"
    return "\n".join([head, *((FOLDER / name).read_text(encoding="utf-8") for name in names)])
