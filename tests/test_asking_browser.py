"""What a visitor does while something else is under way, in a real browser."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from pages import CLICK_STOP_WHEN_IT_CAN_BE, QUESTION, WAIT_MS, ask, mark, open_clip

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = [pytest.mark.page, pytest.mark.timeout(400)]
FIND_TEXT = "#find-text textarea, #find-text input"


def test_a_click_on_the_film_while_another_example_is_prepared(
    address: str, open_page: Callable[..., "Page"]
) -> None:
    page = open_page(address)
    page.locator("#examples button").nth(1).click()
    page.locator("#examples button").last.click()  # it takes the place of the first one
    page.locator("#clip-status strong", has_text="film-of-10-scenes").wait_for()
    page.wait_for_function(f"!!document.querySelector('{FIND_TEXT}')?.value")
    film = page.locator("#examples button").last.inner_text()
    assert page.input_value(FIND_TEXT) in film and page.is_visible("#find")
    assert page.locator("#clip-column .avchat-stop:visible").count(), (
        "it is filled in before all is prepared"
    )
    page.get_by_role("tab", name="Ask", exact=True).click()
    for _ in range(2):  # a starter works more than once
        page.fill(QUESTION, "")
        page.locator("#starters label", has_text="What do you see?").click()
        page.wait_for_function(f"document.querySelector('{QUESTION}').value != ''")
    page.locator("#clip-column .avchat-stop:visible").wait_for(state="hidden")
    assert "film-of-10-scenes" in page.inner_text("#clip-status")
    assert page.input_value(QUESTION) == "What do you see?"


def test_one_question_is_taken_at_a_time_and_a_refused_one_leaves_the_talk(
    address: str, open_page: Callable[..., "Page"], clip: Path
) -> None:
    page = open_page(address)
    open_clip(page, clip)
    ask(page, "What do you hear?")
    page.fill(QUESTION, " ")
    page.press(QUESTION, "Enter")
    page.get_by_text("error: the question is empty").wait_for()
    assert page.locator("#talk .user").count() == 1
    mark(page, 0.25, 0.75)
    page.locator("#ask-span:enabled").wait_for()
    page.fill(QUESTION, "describe what you see and hear.")
    page.click("#ask-span")  # asked at once
    page.locator("#talk .user", has_text="(0:01 to 0:03)").wait_for()
    page.locator("#talk .receipt:not(:text('Waiting'))").nth(1).wait_for(timeout=WAIT_MS)
    page.locator("#ask:enabled, #ask button:enabled").wait_for()
    page.click("#ask-span")  # nothing is typed: it waits for the question
    page.wait_for_function("document.activeElement.closest('#question') !== null", timeout=WAIT_MS)
    assert page.locator("#talk .user").count() == 2


def test_after_a_fault_the_buttons_are_right(
    address: str, open_page: Callable[..., "Page"], silent_clip: Path
) -> None:
    page = open_page(address)
    open_clip(page, silent_clip)
    page.click("#save_vtt")
    page.get_by_text("there is nothing to caption").wait_for()
    page.locator("#ask:enabled").wait_for()
    page.locator("#stop:disabled").wait_for()


def test_stop_ends_a_comparison(address: str, open_page: Callable[..., "Page"], clip: Path) -> None:
    page = open_page(address)
    open_clip(page, clip)
    for number in range(5):  # a fast machine may have compared all before the click arrives
        question = f"describe what you see and hear, {number}"
        page.fill(QUESTION, question)
        page.evaluate(CLICK_STOP_WHEN_IT_CAN_BE)
        page.click("#compare")
        page.wait_for_function("window.stopWasClicked", timeout=WAIT_MS)
        page.locator("#stop:disabled").wait_for()
        page.locator("#ask:enabled").wait_for()
        if page.locator("#panel section", has_text=question).locator(".columns > div").count() < 3:
            break
    else:
        pytest.fail("five comparisons ran to their end")
    assert "Saw 8 frames" in ask(page, "what do you see?")
