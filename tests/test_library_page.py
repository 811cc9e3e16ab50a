"""The Library tab in a real browser: found at once, added, played, asked about, removed."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from pages import WAIT_MS, serve

from avchat.world.captions import draw_gallery
from avchat.world.clip_file import write_clip

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = [pytest.mark.page, pytest.mark.timeout(400)]


@pytest.fixture(scope="module")
def address(bundled: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The app over the bundled models."""
    with serve(bundled, tmp_path_factory.mktemp("app")) as address:
        yield address


def to_library(page: "Page") -> None:
    """Go to the tab and wait for what is in the library."""
    page.get_by_role("tab", name="Library").click()
    page.locator("#library-card", has_text="files,").wait_for(timeout=WAIT_MS)


def search(page: "Page", text: str) -> None:
    """Look for a text and wait for the answer."""
    page.fill("#library-text textarea, #library-text input", text)
    page.click("#library-find")
    page.locator("#library-results .av-message", has_text="found").wait_for(timeout=WAIT_MS)


def test_a_newcomer_finds_an_example_and_plays_it(
    address: str,
    open_page: Callable[..., "Page"],
) -> None:
    page = open_page(address)
    to_library(page)
    page.get_by_role("button", name="Filters").click()
    page.locator("#library-has-sound").wait_for()  # filters that are shown filter nothing yet
    example = page.locator(".avchat-try").first
    assert example.inner_text().startswith("Try: a ")
    example.click()
    first = page.locator("#library-results .av-go").first
    first.wait_for(timeout=WAIT_MS)
    assert "film-of-10-scenes" in first.inner_text()
    assert first.locator("img").get_attribute("alt")
    page.locator("#title").click()
    page.keyboard.press("n")  # it goes to the result, and opens no clip
    assert page.evaluate("document.activeElement.className") == "av-go"
    page.wait_for_timeout(300)
    assert page.locator("#clip-status strong").count() == 0
    first.press("Enter")
    page.wait_for_selector("#player video")
    page.wait_for_function("window.avchatPlayer.time() > 20")  # the span is far from the start
    page.locator("#library-results").get_by_text("Ask about it").first.click()
    page.locator("#part", has_text="only").wait_for(timeout=WAIT_MS)
    assert page.get_by_role("tab", name="Ask", exact=True).get_attribute("aria-selected") == "true"


def test_a_file_is_added_found_asked_about_and_removed(
    address: str,
    open_page: Callable[..., "Page"],
    tmp_path: Path,
) -> None:
    [(scene, line)] = draw_gallery(1, 1)
    write_clip(scene, tmp_path / "my own clip.mp4")
    page = open_page(address)
    to_library(page)
    page.get_by_role("button", name="Add or remove files").click()
    page.set_input_files("#library-upload input[type=file]", str(tmp_path / "my own clip.mp4"))
    page.get_by_text("my own clip.mp4: added").wait_for(timeout=WAIT_MS)
    search(page, line.text)
    result = page.locator("#library-results .av-result", has_text="my own clip.mp4")
    assert "score" in result.inner_text()
    result.get_by_text("Ask about it").click()
    page.wait_for_selector("#player video")
    page.fill("#question textarea, #question input", "what do you hear?")
    page.click("#ask")
    page.locator("#talk .receipt:not(:text('Waiting'))").wait_for(timeout=WAIT_MS)
    to_library(page)
    page.locator("#library-files").get_by_label("my own clip.mp4").check()
    page.click("#library-remove")
    page.get_by_text("One file was removed.").wait_for()
    assert page.locator("#library-files").get_by_label("my own clip.mp4").count() == 0
    assert str(tmp_path) not in page.content()
