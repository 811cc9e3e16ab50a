"""Find moments in a real browser: by text, by a sound, by the picture in view; export, keys."""

import wave
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from pages import WAIT_MS, upload

from avchat.world.captions import draw_gallery
from avchat.world.clip_file import write_film
from avchat.world.sounds import SAMPLE_RATE, render_waveform

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = [pytest.mark.page, pytest.mark.timeout(400)]
SOUGHT = 3  # of six scenes of 4 s: from 12 s to 16 s


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, str]:
    """A film of six clips; the sound of one of these; its caption."""
    folder = tmp_path_factory.mktemp("film")
    gallery = draw_gallery(1, 6)
    write_film([scene for scene, _ in gallery], folder / "film.mp4")
    with wave.open(str(folder / "part.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
        file.writeframes((render_waveform(gallery[SOUGHT][0]) * 32767).astype("<i2").tobytes())
    return folder / "film.mp4", folder / "part.wav", gallery[SOUGHT][1].text


@pytest.fixture
def page(address: str, open_page: Callable[..., "Page"], film: tuple) -> "Page":
    """The tab, with the film open."""
    page = open_page(address)
    upload(page, film[0])
    page.locator("#timeline .av-track").wait_for()
    page.locator("#timeline .av-legend").get_by_text("Scene changes").wait_for()
    page.locator("#clip-column .avchat-stop").wait_for(state="hidden")
    page.get_by_role("tab", name="Find moments").click()
    return page


def seconds(page: "Page") -> float:
    """Return where the player is."""
    return page.evaluate("window.avchatPlayer.time()")


def best(page: "Page", looked_for: str) -> str:
    """Look, wait until what was looked for is done, return the words of the first result."""
    page.click("#find")
    page.locator("#find-status").get_by_text(looked_for).wait_for(timeout=WAIT_MS)
    page.locator("#moment-exports").wait_for(timeout=WAIT_MS)
    return page.locator("#moments .av-go").first.inner_text()


def test_by_text_with_keys_and_exports(page: "Page", film: tuple) -> None:
    page.fill("#find-text textarea, #find-text input", film[2])
    said = best(page, film[2])
    assert "score 0.7" in said and "Heard and seen" in said
    assert "1 moment" in page.inner_text("#moments") or "One moment" in page.inner_text("#moments")
    assert "The best is 0.7" in page.get_attribute("#scores svg", "aria-label")
    assert page.locator("#moments .av-go img").first.get_attribute("alt").startswith("Picture at")
    page.locator("#moments .av-go").first.focus()
    page.keyboard.press("Enter")
    page.wait_for_function("window.avchatPlayer.time() > 12", timeout=WAIT_MS)
    page.wait_for_function("document.querySelector('#player video').paused", timeout=WAIT_MS)
    assert 15 < seconds(page) < 17.5  # it was played once, to its end
    page.locator("#moments input").first.check()
    page.click("#save-csv")
    page.locator("#exported").get_by_text(".csv").first.wait_for()
    page.locator("#find:enabled").wait_for()
    page.get_by_text("Scores as a table").click()
    page.locator("#scores td").nth(20).wait_for()
    page.locator("#moments").get_by_text("Ask about it").first.click()
    page.locator("#part").get_by_text("About 0:1").wait_for()
    assert page.locator("#ask").is_visible()
    page.wait_for_function("document.activeElement.closest('#question') !== null")


def test_by_a_sound_and_by_the_picture_in_view(page: "Page", film: tuple) -> None:
    page.get_by_label("A sound", exact=True).check()
    page.set_input_files("#find-sound input[type=file]", str(film[1]))
    page.locator("#find-sound [data-testid=download-link]").wait_for(state="attached")
    assert best(page, "like the sound that was given").startswith("0:1")
    assert page.locator("#scores svg .av-plot-score").count() == 1
    page.get_by_label("The picture in view").check()
    page.evaluate("window.avchatPlayer.seek(14)")
    page.wait_for_function("Math.abs(window.avchatPlayer.time() - 14) < 0.1")
    assert "Seen: picture" in best(page, "like the picture at 0:14")
    page.locator("#moments").get_by_text("More like this (picture)").first.click()
    page.locator("#find-status").get_by_text("like 0:1").wait_for()


def test_no_good_match_and_what_cannot_be(page: "Page") -> None:
    page.fill("#find-text textarea, #find-text input", "a dog barks")
    assert "little" in best(page, "a dog barks").lower() or page.locator(".av-faint").count()
    assert "No good match: nothing scores 0.60 or more." in page.inner_text("#moments")
    assert page.locator("#moments .av-faint").count() in (1, 2, 3)
    page.keyboard.press("Escape")
    page.locator("body").click(position={"x": 5, "y": 5})
    page.keyboard.press("n")
    assert page.evaluate("document.activeElement.className") == "av-go"
    page.get_by_label("The marked range").check()
    page.click("#find")
    page.locator("#find-status [role=alert]").get_by_text("mark a range").wait_for()
    page.locator("#moment-exports").wait_for(state="hidden")  # no older result stands below
    assert page.locator("#moments .av-go").count() == 0
    page.set_viewport_size({"width": 390, "height": 844})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
