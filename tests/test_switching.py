"""Clips that change while something goes on: an answer stays with the clip that it is about."""

from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING

import pytest
from pages import QUESTION, Running, ask, open_clip, running, upload, wait_until

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = [pytest.mark.page, pytest.mark.timeout(400)]


@pytest.fixture(scope="module")
def served(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """An app in this process, whose models can be held."""
    home = tmp_path_factory.mktemp("switching")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(home))
        patch.setenv("GRADIO_TEMP_DIR", str(home / "gradio"))
        with running(model_folder) as served:
            yield served


def test_another_clip_in_the_middle_of_an_answer(
    served: Running, open_page: Callable[..., "Page"], clip: Path, silent_clip: Path
) -> None:
    page = open_page(served.address)
    open_clip(page, silent_clip)
    open_clip(page, clip)
    [visitor] = served.app.visitors.all.values()
    asked = visitor.in_view()
    with served.app.engine.turn:  # nothing is computed meanwhile
        page.fill(QUESTION, "what is seen?")
        page.click("#ask")
        wait_until(lambda: asked.exchanges and visitor.stops)
        page.locator("#recent").get_by_label(silent_clip.name).click()
        page.locator("#clip-status", has_text="no sound track").wait_for()
    wait_until(lambda: asked.exchanges[0].state == "done")
    page.locator("#ask:enabled").wait_for()
    assert page.locator("#talk .user").count() == 0
    page.locator("#recent").get_by_label(clip.name).click()
    page.locator("#talk .bot", has_text="Saw 8 frames").wait_for()


def test_a_file_that_cannot_be_opened_takes_nothing_away(
    served: Running, open_page: Callable[..., "Page"], clip: Path, tmp_path: Path
) -> None:
    page = open_page(served.address)
    open_clip(page, clip)
    ask(page, "what is seen?")
    broken = tmp_path / "broken.mp4"
    broken.write_text("not a video")
    page.fill(QUESTION, "half a quest")
    upload(page, broken)
    page.locator("#clip-status [role=alert]", has_text="error: broken.mp4").wait_for()
    assert clip.name in page.inner_text("#clip-status")
    assert page.locator("#player video").count() == 1
    assert page.input_value(QUESTION) == "half a quest"
    assert page.locator("#talk .user").count() == 1
    assert "Saw 8 frames" in ask(page, "and now?")


def test_a_question_while_a_clip_is_opened_is_kept(
    served: Running, open_page: Callable[..., "Page"], clip: Path, silent_clip: Path
) -> None:
    page = open_page(served.address)
    open_clip(page, clip)
    [visitor] = served.app.visitors.all.values()
    coming = Event()
    visitor.unseen.add(coming)  # as while a file is looked at
    page.fill(QUESTION, "what is seen?")
    page.click("#ask")
    page.locator("#talk", has_text="a clip is being opened: ask when it is shown").wait_for()
    assert page.input_value(QUESTION) == "what is seen?" and not visitor.in_view().exchanges
    upload(page, silent_clip)
    page.locator("#clip-status", has_text="no sound track").wait_for()
    assert page.input_value(QUESTION) == "what is seen?"
    assert not visitor.unseen
    page.click("#ask")
    page.locator("#talk .bot", has_text="Saw 8 frames").wait_for()
