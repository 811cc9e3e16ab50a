"""The pictures of the app in docs/: `make screenshots` runs it and drives it in Chromium."""

import os
import shutil
import tempfile
from io import BytesIO
from pathlib import Path

from conftest import CHROMIUM_FLAGS, ROOT
from pages import QUESTION, WAIT_MS, ask, serve
from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

DOCS = ROOT / "docs"
COLOURS = 256  # a third of the bytes, and no difference that one sees
ONE_OF_TWO, FILM = 1, -1  # places in the strip of examples


def main() -> None:
    """Write all pictures; raises what Playwright raises where the page is not as expected."""
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium")
    with (
        tempfile.TemporaryDirectory() as cache,
        serve("tiny", Path(cache)) as address,
        sync_playwright() as playwright,
    ):
        browser = playwright.chromium.launch(executable_path=chromium, args=CHROMIUM_FLAGS)
        for name, draw in (("app", app), ("moments", moments), ("library", library)):
            page = opened(browser, address, 1280, 1000)
            draw(page)
            save(page, name)
        page = opened(browser, f"{address}/?__theme=dark", 390, 844)
        answered(page)
        page.locator("#compare").scroll_into_view_if_needed()
        save(page, "phone-dark")
        browser.close()


def opened(browser: Browser, address: str, width: int, height: int) -> Page:
    """Open the page in a window of a size in pixels."""
    page = browser.new_page(viewport={"width": width, "height": height}, reduced_motion="reduce")
    page.set_default_timeout(WAIT_MS)
    page.goto(address)
    page.wait_for_selector("#ask")
    return page


def take(page: Page, example: int) -> None:
    """Open one of the examples."""
    page.locator("#examples button").nth(example).click()
    page.locator("#clip-column .avchat-stop:visible").wait_for(state="visible")
    page.locator("#clip-column .avchat-stop:visible").wait_for(state="hidden")
    page.wait_for_function("document.querySelector('#player video').readyState >= 2")


def answered(page: Page) -> None:
    """Ask about an example what its label asks."""
    take(page, ONE_OF_TWO)
    ask(page, page.input_value(QUESTION))
    page.locator("#timeline .av-legend", has_text="Picture").wait_for()


def app(page: Page) -> None:
    """Ask, and show what the answer rests on."""
    answered(page)
    page.locator('#talk a[href^="#avchat-evidence-"]').click()
    page.wait_for_selector("#panel section.evidence")


def moments(page: Page) -> None:
    """Find what the example film is asked for."""
    take(page, FILM)
    page.click("#find")
    page.locator("#moments .av-result").first.wait_for()
    page.locator("#find-stop:disabled").wait_for()


def library(page: Page) -> None:
    """Find it among all examples, and play it."""
    page.locator("#tabs [data-tab-id=library]").click()
    page.locator("#library-card", has_text="files,").wait_for()
    page.locator(".avchat-try").first.click()
    page.locator("#library-results .av-go").first.click()
    page.wait_for_selector("#player video")
    page.locator("#timeline .av-legend", has_text="Scene").wait_for()
    page.locator("#clip-column .avchat-stop:visible").wait_for(state="hidden")
    page.wait_for_function("document.querySelector('#player video').readyState >= 2")


def save(page: Page, name: str) -> None:
    """Write what the window shows as a small PNG file."""
    page.mouse.move(0, 0)
    page.evaluate("document.activeElement.blur()")
    page.wait_for_timeout(1500)  # notices fade, the player hides its controls
    picture = Image.open(BytesIO(page.screenshot())).convert("RGB")
    palette = picture.quantize(COLOURS)
    small = picture.quantize(palette=palette)  # dithers: rare colours stay what they are
    small.save(DOCS / f"{name}.png", optimize=True)
    print(f"docs/{name}.png: {(DOCS / f'{name}.png').stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
