"""The app in a process of its own, and what a visitor does with its page, for browser tests."""

import os
import socket
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.error import URLError
from urllib.request import urlopen

import httpx
import pytest

from avchat.app_settings import Settings

if TYPE_CHECKING:
    import gradio as gr
    from playwright.sync_api import Page

    from avchat.ui.app import App

ROOT = Path(__file__).resolve().parent.parent
# Generous: on a machine that does other work a page may take a minute that takes seconds else.
START_S = 120
WAIT_MS = int(os.environ.get("AVCHAT_TEST_WAIT_MS", "90000"))
QUESTION = "#question textarea, #question input"
CLICK_STOP_WHEN_IT_CAN_BE = """() => {
    window.stopWasClicked = false;
    const timer = setInterval(() => {
        const stop = document.querySelector("#stop");
        if (stop.disabled) return;
        clearInterval(timer);
        stop.click();
        window.stopWasClicked = true;
    }, 1);
}"""


@contextmanager
def serve(
    model: str, cache: Path, program: Sequence[str] = ("app.py",), **settings: str
) -> Iterator[str]:
    """Run app.py in a process of its own; give its address. Args: settings: further variables."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = settings | {
        "GRADIO_SERVER_PORT": str(port),
        "AVCHAT_MODEL": model,
        "XDG_CACHE_HOME": str(cache),
        "GRADIO_TEMP_DIR": str(cache / "gradio"),
    }
    log = cache / "app.log"
    with log.open("w") as out:
        command = [sys.executable, *program]
        app = subprocess.Popen(
            command, cwd=ROOT, env=os.environ | settings, stdout=out, stderr=subprocess.STDOUT
        )
    address = f"http://127.0.0.1:{port}"
    try:
        wait_for(address, app, log)
        yield address
    finally:
        app.terminate()
        app.wait(timeout=20)


def wait_for(address: str, app: "subprocess.Popen[bytes]", log: Path) -> None:
    """Wait until the app answers, or fail with what it said."""
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and app.poll() is None:
        try:
            urlopen(address, timeout=5).close()
            return
        except (URLError, OSError):
            time.sleep(0.3)
    pytest.fail(f"app.py did not start:\n{log.read_text()[-2000:]}")


def upload(page: "Page", path: Path) -> None:
    """Give the page a file as a visitor does."""
    page.set_input_files("#upload input[type=file]", str(path))


def open_clip(page: "Page", path: Path) -> None:
    """Upload a clip and wait until it can be asked about."""
    upload(page, path)
    page.locator("#clip-status strong", has_text=path.stem).wait_for()
    page.locator(".avchat-stop:visible").wait_for(state="hidden")


def ask(page: "Page", question: str) -> str:
    """Ask, wait for the end of the answer and return it with its receipt."""
    answered = page.locator("#talk .receipt:not(:text('Waiting'))").count()
    page.fill(QUESTION, question)
    page.click("#ask")
    page.locator("#talk .receipt:not(:text('Waiting'))").nth(answered).wait_for(timeout=WAIT_MS)
    page.locator("#ask button:enabled, #ask:enabled").wait_for()
    return page.locator("#talk .bot").last.inner_text()


def mark(page: "Page", start: float, end: float) -> None:
    """Mark a range on the timeline by the mouse, in parts of its width."""
    box = page.locator("#timeline [role=slider]").bounding_box()
    assert box is not None
    y = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + box["width"] * start, y)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * end, y, steps=5)
    page.mouse.up()


def png(width: int, height: int, rows: bytes) -> bytes:
    """Make a grey picture of a size, whatever its rows hold."""
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    parts = ((b"IHDR", head), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    chunks = [
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in parts
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def wait_until(true: Callable[[], object]) -> None:
    """Wait for something that happens in another thread."""
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def file_at(address: str, path: object, **more: Any) -> httpx.Response:
    """Ask for a file as anybody can."""
    return httpx.get(f"{address}/gradio_api/file={path}", **more)


def icons_of(address: str) -> list[str]:
    """List the pictures on the page's buttons."""
    parts = httpx.get(f"{address}/config").json()["components"]
    icons = [part["props"].get("icon") for part in parts if part["type"] == "button"]
    return [icon["path"] for icon in icons if icon]


class Running(NamedTuple):
    """An app that is served from this process."""

    app: "App"
    address: str
    page: "gr.Blocks"


@contextmanager
def running(model: Path, **settings: Any) -> Iterator[Running]:
    """Serve the app from this process."""
    from avchat.ui import make_app
    from avchat.ui import serve as serve_page

    app, page = make_app(Settings(str(model), **settings))
    try:
        serve_page(app, page, prevent_thread_lock=True, quiet=True)
        yield Running(app, page.local_url.rstrip("/"), page)
    finally:
        page.close(verbose=False)
        app.visitors.close()
