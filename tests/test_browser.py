"""The app in a real browser: upload a file, ask, read the answer from the page."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.error import URLError
from urllib.request import urlopen

import numpy as np
import pytest

from avchat.world.casting import draw_scene
from avchat.world.clip_file import write_clip
from avchat.world.questions import every_question

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

ROOT = Path(__file__).resolve().parent.parent
# Generous: on a machine that does other work a page may take a minute that takes seconds else.
pytestmark = pytest.mark.timeout(400)
START_S = 120
WAIT_MS = 90_000


@contextmanager
def serve(model: str, cache: Path) -> Iterator[str]:
    """Run app.py in a process of its own; give its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = {
        "GRADIO_SERVER_PORT": str(port),
        "AVCHAT_MODEL": model,
        "XDG_CACHE_HOME": str(cache),
        "GRADIO_TEMP_DIR": str(cache / "gradio"),
    }
    log = cache / "app.log"
    with log.open("w") as out:
        command = [sys.executable, "app.py"]
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


@pytest.fixture(scope="module")
def address(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The app over the random model."""
    with serve(str(model_folder), tmp_path_factory.mktemp("app")) as address:
        yield address


@pytest.fixture
def open_page(browser: "Browser") -> Iterator[Callable[..., "Page"]]:
    """Open pages that no other visitor shares; none may ask for anything outside this machine."""
    contexts, asked = [], []

    def opened(address: str, width: int = 1280, height: int = 900) -> "Page":
        context = browser.new_context(viewport={"width": width, "height": height})
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(WAIT_MS)
        page.on("request", lambda request: asked.append(request.url))
        page.goto(address)
        page.wait_for_selector("#ask")
        return page

    yield opened
    for context in contexts:
        context.close()
    outside = [url for url in asked if not url.startswith(("http://127.0.0.1", "data:", "blob:"))]
    assert not outside


def upload(page: "Page", path: Path) -> None:
    """Give the page a file as a visitor does."""
    page.set_input_files("#upload input[type=file]", str(path))


def ask(page: "Page", question: str) -> str:
    """Ask, wait for the end of the answer and return it with its receipt."""
    answered = page.locator("#talk .receipt").count()
    page.fill("#question textarea, #question input", question)
    page.click("#ask")
    page.locator("#talk .receipt").nth(answered).wait_for(timeout=WAIT_MS)
    return page.locator("#talk .bot").last.inner_text()


def test_upload_ask_read(address: str, open_page: Callable[..., "Page"], clip: Path) -> None:
    page = open_page(address)
    assert "toy world" in page.inner_text("#notice")
    upload(page, clip)
    page.wait_for_selector("#player video")
    assert page.evaluate("document.querySelector('#player video').readyState") is not None
    first = ask(page, "What do you hear?")
    assert "Saw 8 frames over 4.0 s and heard 4.0 s of sound." in first
    again = ask(page, "What do you see?")
    assert "the clip was kept in memory" in again


def test_the_right_answer_is_on_the_page(
    bundled: str,
    open_page: Callable[..., "Page"],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("bundled")
    rng = np.random.default_rng(11)
    with serve(bundled, folder) as address:
        page = open_page(address)
        for kind, families in (("one source", ("colour",)), ("sounds", ("sound_kind",))):
            scene = draw_scene(rng, kind)
            asked = {q.family: q for q in every_question(scene, rng) if q.family in families}
            assert set(asked) == set(families)
            write_clip(scene, folder / f"{kind}.mp4")
            page.goto(address)
            upload(page, folder / f"{kind}.mp4")
            page.wait_for_selector("#player video")
            for question in asked.values():
                assert question.answer in ask(page, question.question).lower()


def test_the_switch(address: str, open_page: Callable[..., "Page"], clip: Path) -> None:
    page = open_page(address)
    upload(page, clip)
    page.wait_for_selector("#player video")
    page.get_by_label("Sound only").check()
    assert "The picture was switched off for this question." in ask(page, "what is there?")
    page.get_by_label("Picture only").check()
    assert "The sound was switched off for this question." in ask(page, "what is there?")


def test_a_clip_without_sound(
    address: str, open_page: Callable[..., "Page"], silent_clip: Path
) -> None:
    page = open_page(address)
    upload(page, silent_clip)
    page.wait_for_selector("#player video")
    assert "This file has no sound track: nothing was heard." in ask(page, "what do you hear?")


def test_a_sound_without_a_picture(
    address: str, open_page: Callable[..., "Page"], sound_clip: Path
) -> None:
    page = open_page(address)
    upload(page, sound_clip)
    page.wait_for_selector("#listener")
    assert "This file has no picture: nothing was seen." in ask(page, "what do you see?")


def test_a_broken_file(address: str, open_page: Callable[..., "Page"], tmp_path: Path) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_text("not a video")
    page = open_page(address)
    upload(page, broken)
    alert = page.locator("#clip-status [role=alert]")
    alert.wait_for()
    assert alert.inner_text().startswith("error: broken.mp4")
    page.fill("#question textarea, #question input", "what is there?")
    page.click("#ask")
    page.get_by_text("error: open a clip first").wait_for()


CLICK_STOP_WHEN_IT_CAN_BE = """() => {
    const timer = setInterval(() => {
        const stop = document.querySelector("#stop");
        if (!stop.disabled) { stop.click(); clearInterval(timer); }
    }, 1);
}"""


def test_stop_stops_the_model(address: str, open_page: Callable[..., "Page"], clip: Path) -> None:
    page = open_page(address)
    upload(page, clip)
    page.wait_for_selector("#player video")
    for _ in range(5):  # a fast machine may have ended the answer before the click arrives
        page.evaluate(CLICK_STOP_WHEN_IT_CAN_BE)
        if "Stopped." in ask(page, "describe"):
            return
    pytest.fail("five answers ran to their end")


def test_an_example_is_one_click(address: str, open_page: Callable[..., "Page"]) -> None:
    page = open_page(address)
    page.locator("#examples button").nth(1).click()
    page.wait_for_selector("#player video")
    assert page.input_value("#question textarea, #question input")
    page.click("#ask")
    page.locator("#talk .receipt").wait_for(timeout=WAIT_MS)


def test_two_visitors(
    address: str, open_page: Callable[..., "Page"], clip: Path, silent_clip: Path
) -> None:
    ours, theirs = open_page(address), open_page(address)
    for page, path in ((ours, clip), (theirs, silent_clip)):
        upload(page, path)
        page.wait_for_selector("#player video")
    assert "no sound track" in ask(theirs, "what do you hear?")
    assert "heard 4.0 s" in ask(ours, "what do you hear?")


def test_a_phone_shows_all_of_it(address: str, open_page: Callable[..., "Page"]) -> None:
    page = open_page(address, width=390, height=844)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_a_program_can_drive_the_app_by_name(address: str, clip: Path) -> None:
    from gradio_client import Client, handle_file

    client = Client(address, verbose=False)
    client.predict(handle_file(str(clip)), api_name="/open")
    steps = list(client.submit("what is seen?", "both", api_name="/ask"))
    assert len(steps) > 3
    assert "Saw 8 frames over 4.0 s" in str(steps[-1])
    client.predict(api_name="/stop")
