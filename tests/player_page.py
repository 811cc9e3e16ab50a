"""A small page with the player and the timeline alone, and a server for it."""

import math
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import fastapi
import gradio as gr
import uvicorn

from avchat.ui import THEME
from avchat.ui.player import PLAYER_CSS, player, shown
from avchat.ui.timeline import Lane, Pin, drawn, timeline

LENGTH_S = 4.0
NAME = "a <b>bold</b> name.mp4"
PINS = [Pin(1.0, "it rings", True), Pin(1.02, "a bell", False), Pin(3.5, "it ends", False)]
CAPTIONS = "WEBVTT\n\n00:00.000 --> 00:04.000\na bell rings\n"
LINKS = "At [0:02](#t=2.5) and [0:01-0:02](#span=1-1.5), see [more](#avchat-more)."


def lanes(count: int) -> dict[str, object]:
    """Make the timeline's value with the first scores of two lanes, one score of them unknown."""
    times = [0.1 * i for i in range(count)]
    heard = [math.nan if i == 5 else math.sin(t) for i, t in enumerate(times)]
    return drawn(
        LENGTH_S,
        key="one",
        loudness=[abs(math.sin(i / 3)) for i in range(80)],
        cuts=[1.5, 2.5],
        lanes=[
            Lane("sound", "A", "stripes", times, heard, 0.6),
            Lane("my own", "V", "dots", times, [0.3] * count),
        ],
        pins=PINS,
    )


def build(clip: Path, sound: Path, broken: Path, captions: Path) -> gr.Blocks:
    """A page with the two components and buttons that give them values."""
    with gr.Blocks(title="player", analytics_enabled=False) as page:
        screen, line = player(), timeline()
        with gr.Row():
            buttons = {
                name: gr.Button(name, elem_id=name, size="sm")
                for name in (
                    "load",
                    "stream",
                    "mark",
                    "again",
                    "captions",
                    "sound",
                    "broken",
                    "nothing",
                )
            }
        stop = gr.Button("Stop", elem_id="stop")
        told = gr.Textbox(label="Told", elem_id="told")
        stopped = gr.Textbox(label="Stopped", elem_id="stopped")
        gr.Textbox(label="Question", elem_id="question")
        gr.Radio(["one", "two"], value="one", label="Choice", interactive=True)
        gr.Chatbot([{"role": "assistant", "content": LINKS}], label="Talk", buttons=[])

    def stream() -> Iterator[dict[str, object]]:
        for count in range(1, 40, 3):
            yield lanes(count)
            time.sleep(0.15)

    def heard(event: gr.EventData) -> str:
        # JSON has one kind of number
        return " ".join(str(t if t is None else float(t)) for t in (event.start, event.end))

    def spanned() -> dict[str, object]:
        return {**lanes(3), **drawn(LENGTH_S, key="one", span=(1.0, 2.0))}

    def video(**wish: object) -> dict[str, object]:
        return shown(clip, "video", NAME, key="one", **wish)

    with page:
        outputs = [screen, line]
        buttons["load"].click(lambda: [video(), lanes(40)], None, outputs)
        buttons["stream"].click(stream, None, line, show_progress="hidden")
        buttons["mark"].click(spanned, None, line, show_progress="hidden")
        buttons["again"].click(lambda: video(start=1.0, end=1.4), None, screen)
        buttons["captions"].click(lambda: video(subtitles=captions), None, screen)
        buttons["sound"].click(
            lambda: [
                shown(sound, "audio", "sound.wav", key="two"),
                drawn(LENGTH_S, key="two", has_audio=False),
            ],
            None,
            outputs,
        )
        buttons["broken"].click(
            lambda: shown(broken, "video", "broken.mp4", key="three"), None, screen
        )
        buttons["nothing"].click(lambda: [None, None], None, outputs)
        line.select(heard, None, told, show_progress="hidden")
        stop.click(lambda: "yes", None, stopped)
    return page


@contextmanager
def serve(page: gr.Blocks, folders: list[Path]) -> Iterator[str]:
    """Serve the page at /below of a server in a thread; give its address."""
    around = fastapi.FastAPI()
    around.get("/favicon.ico")(lambda: fastapi.Response(status_code=204))
    app = gr.mount_gradio_app(
        around,
        page,
        path="/below",
        allowed_paths=[str(folder) for folder in folders],
        css_paths=[PLAYER_CSS],
        theme=THEME,
        footer_links=[],
    )
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + 60
    while not server.started and time.monotonic() < deadline:
        time.sleep(0.05)
    assert server.started, "the server did not start"
    port = server.servers[0].sockets[0].getsockname()[1]
    yield f"http://127.0.0.1:{port}/below/"
    server.should_exit = True
    thread.join(20)
