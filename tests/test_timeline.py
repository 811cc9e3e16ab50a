"""The player and the timeline in a real browser, on a page mounted below a path of another app."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from axe_playwright_python.sync_playwright import Axe
from player_page import CAPTIONS, NAME, build, lanes, serve

from avchat.ui.player import WORDS, shown
from avchat.ui.timeline import KEEP, drawn

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = [pytest.mark.page, pytest.mark.timeout(400)]
WAIT_MS = 60_000


@pytest.fixture(scope="module")
def address(
    clip: Path, sound_clip: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """The page's address."""
    folder = tmp_path_factory.mktemp("with space & more")
    broken, captions = folder / "broken.mp4", folder / "captions.vtt"
    broken.write_text("no video")
    captions.write_text(CAPTIONS)
    page = build(clip, sound_clip, broken, captions)
    with serve(page, [clip.parent, sound_clip.parent, folder]) as address:
        yield address


@pytest.fixture
def open_page(browser: "Browser", address: str) -> Iterator[Callable[..., "Page"]]:
    """Open the page with the clip; no error of a script may pass, and nothing may leave here."""
    contexts, faults, asked = [], [], []

    def opened(width: int = 1280, **settings: str) -> "Page":
        context = browser.new_context(viewport={"width": width, "height": 900}, **settings)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(WAIT_MS)
        page.on(
            "console",
            lambda said: (
                faults.append(f"{said.text} {said.location}") if said.type == "error" else None
            ),
        )
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(address)
        page.click("#load")
        page.wait_for_function("window.avchatPlayer && avchatPlayer.duration() > 0")
        page.wait_for_selector(".av-track svg")
        return page

    yield opened
    for context in contexts:
        context.close()
    assert not faults
    own = (address.removesuffix("below/"), "data:", "blob:")
    assert not [url for url in asked if not url.startswith(own)]


def at(page: "Page") -> float:
    """Where the player is, in seconds."""
    return page.evaluate("avchatPlayer.time()")


def wait_at(page: "Page", seconds: float) -> None:
    """Wait until the player is at a time, to a hundredth."""
    page.wait_for_function(f"Math.abs(avchatPlayer.time() - {seconds}) < 0.011")


def point(page: "Page", share: float) -> tuple[float, float]:
    """A point of the timeline, as a share of its length."""
    box = page.locator(".av-track").bounding_box()
    assert box is not None
    return box["x"] + 1 + share * (box["width"] - 2), box["y"] + box["height"] / 2


def wait_told(page: "Page", text: str) -> None:
    """Wait until Python has heard of a range."""
    told = "document.querySelector('#told textarea, #told input').value"
    page.wait_for_function(f"{told} === {text!r}")


def test_a_click_seeks_at_once(open_page: Callable[..., "Page"]) -> None:
    page = open_page()
    page.mouse.click(*point(page, 0.5))
    assert at(page) == pytest.approx(2.0, abs=0.05)
    assert page.get_attribute(".av-track", "aria-valuetext") == "2 seconds of 4 seconds"
    head = page.evaluate("parseFloat(document.querySelector('.av-playhead').style.left)")
    assert head == pytest.approx(50, abs=1)
    page.locator(".av-pin").nth(1).click()
    wait_at(page, 1.02)
    assert page.locator(".av-pin").evaluate_all("pins => pins.map(pin => pin.ariaLabel)") == [
        "0:01: it rings (the search agrees)",
        "0:01: a bell (the model alone says so)",
        "0:04: it ends (the model alone says so)",
    ]
    # the clip's name is text, never HTML
    assert page.get_attribute("#player video", "aria-label") == f"Clip: {NAME}"


def test_the_slider_is_worked_by_keys_and_speaks(open_page: Callable[..., "Page"]) -> None:
    page = open_page()
    slider = page.get_by_role("slider", name="Place in the clip")
    slider.focus()
    for key, where, words in [
        ("ArrowRight", 0.2, "0.2 seconds"),
        ("PageUp", 1.0, "1 second"),
        ("End", 4.0, "4 seconds"),
        ("ArrowLeft", 3.8, "3.8 seconds"),
        ("PageDown", 3.0, "3 seconds"),
        ("Home", 0.0, "0 seconds"),
    ]:
        page.keyboard.press(key)
        wait_at(page, where)
        assert slider.get_attribute("aria-valuetext") == f"{words} of 4 seconds"
        assert float(slider.get_attribute("aria-valuenow") or -1) == where
    page.keyboard.press("PageUp")
    wait_at(page, 0.8)
    page.keyboard.press("[")
    page.keyboard.press("PageUp")
    wait_at(page, 1.6)
    page.keyboard.press("]")
    wait_told(page, "0.8 1.6")
    assert page.inner_text(".av-marked") == "Marked: 0:00.8 to 0:01.6"
    page.keyboard.press("Escape")
    wait_told(page, "None None")
    assert page.locator(".av-range").is_hidden()


def test_a_drag_marks_a_range(open_page: Callable[..., "Page"]) -> None:
    page = open_page()
    page.mouse.move(*point(page, 0.75))
    page.mouse.down()
    page.mouse.move(*point(page, 0.25), steps=5)
    page.mouse.up()
    page.wait_for_function("document.querySelector('#told textarea, #told input').value")
    start, end = map(float, page.input_value("#told textarea, #told input").split())
    assert (start, end) == (pytest.approx(1.0, abs=0.05), pytest.approx(3.0, abs=0.05))
    assert at(page) == pytest.approx(start, abs=0.011)
    page.click(".av-clear")
    wait_told(page, "None None")
    # Python may mark the same range twice
    for _ in range(2):
        page.click("#mark")
        wait_told(page, "1.0 2.0")
        page.click(".av-clear")
        wait_told(page, "None None")
    # without a drag, for who cannot drag
    page.evaluate("avchatPlayer.seek(0.5)")
    wait_at(page, 0.5)
    page.get_by_role("button", name="Start here").click()
    page.evaluate("avchatPlayer.seek(2)")
    wait_at(page, 2)
    page.get_by_role("button", name="End here").click()
    wait_told(page, "0.5 2.0")
    page.click("#nothing")
    wait_told(page, "None None")
    assert page.locator(".av-body").is_hidden()


SEE_DRAWINGS = """() => {
  window.drawings = [];
  new MutationObserver(() => drawings.push({
    shape: [...document.querySelectorAll(".av-line")].map((line) => line.getAttribute("d")).join(),
    focus: document.activeElement.className,
    head: document.querySelector(".av-playhead").style.left,
  })).observe(document.querySelector(".av-track"), { childList: true });
}"""


def test_lanes_stream_under_a_focus_that_stays(open_page: Callable[..., "Page"]) -> None:
    page = open_page()
    page.evaluate("avchatPlayer.seek(2)")
    wait_at(page, 2)
    page.click("#stream")
    for focused in (".av-pin", ".av-track"):
        page.locator(focused).last.focus()
        page.evaluate(SEE_DRAWINGS)
        page.wait_for_function("new Set(drawings.map((drawing) => drawing.shape)).size >= 3")
        drawings = page.evaluate("drawings")
        assert {drawing["focus"] for drawing in drawings} == {focused.removeprefix(".")}
        assert {drawing["head"] for drawing in drawings} == {"50%"}
    legend = page.inner_text(".av-legend")
    assert "Sound fits the question, best at 0:0" in legend and "dashed: threshold" in legend
    assert "Scene changes, 0:02 0:03" in legend and "V my own" in legend


def test_links_and_spans(open_page: Callable[..., "Page"]) -> None:
    page = open_page()
    before = page.url
    page.get_by_role("link", name="0:02", exact=True).click()
    wait_at(page, 2.5)
    page.get_by_role("link", name="0:01-0:02").click()
    wait_at(page, 1.5)
    page.wait_for_function("document.querySelector('#player video').paused")
    assert at(page) == pytest.approx(1.5, abs=0.011)
    assert page.url == before
    for _ in range(2):  # the same wish of Python's, twice
        page.click("#again")
        wait_at(page, 1.4)
        page.wait_for_function("document.querySelector('#player video').paused")
        page.evaluate("document.dispatchEvent(new CustomEvent('avchat:seek', {detail: {t: 3}}))")
        wait_at(page, 3)


def test_keys_of_the_whole_page(open_page: Callable[..., "Page"]) -> None:
    page = open_page()
    page.evaluate(
        "window.by = []; document.addEventListener('avchat:result', e => by.push(e.detail.by))"
    )
    page.keyboard.press("End")  # the focus is on a button that does not use this key
    wait_at(page, 4)
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press(",")
    wait_at(page, 3.96)
    page.keyboard.press("j")
    wait_at(page, 0)
    page.keyboard.press("]")  # an end at the very start marks nothing
    page.keyboard.press("n")
    page.keyboard.press("p")
    assert page.evaluate("by") == [1, -1]
    page.keyboard.press("k")
    page.wait_for_function("!document.querySelector('#player video').paused")
    page.keyboard.press("Space")
    page.wait_for_function("document.querySelector('#player video').paused")
    page.keyboard.press("Home")
    wait_at(page, 0)
    page.keyboard.press("/")
    page.keyboard.type("jkl ./[?")
    assert page.input_value("#question textarea, #question input") == "jkl ./[?"
    page.keyboard.press("Escape")
    page.wait_for_function("document.querySelector('#stopped textarea, #stopped input').value")
    page.get_by_label("two").focus()  # a widget's own keys are its own
    page.keyboard.press("Space")
    page.keyboard.press("l")
    assert page.get_by_label("two").is_checked()
    assert at(page) == 0 and page.evaluate("document.querySelector('#player video').paused")


def test_the_keys_can_be_switched_off(open_page: Callable[..., "Page"]) -> None:
    page = open_page()
    page.keyboard.press("?")
    page.get_by_label("Use these keys on the whole page").uncheck()
    page.get_by_role("button", name="Close").click()
    for again in (False, True):
        if again:
            page.reload()
            page.click("#load")
            page.wait_for_function("window.avchatPlayer && avchatPlayer.duration() > 0")
        page.evaluate("document.activeElement.blur()")
        page.keyboard.press("l")
        page.keyboard.press("?")
        page.wait_for_timeout(100)
        assert at(page) == 0 and page.locator("dialog[open]").count() == 0
        page.locator(".av-track").focus()  # the slider is no shortcut
        page.keyboard.press("End")
        wait_at(page, 4)
        page.evaluate("avchatPlayer.seek(0)")
        wait_at(page, 0)


def test_other_clips(open_page: Callable[..., "Page"]) -> None:
    page = open_page()
    page.evaluate("avchatPlayer.seek(1)")
    wait_at(page, 1)
    page.evaluate("document.querySelector('#player video').was = 'here'")
    page.click("#captions")
    page.wait_for_function("document.querySelector('video').textTracks[0]?.cues?.length === 1")
    # the clip was not loaded again
    assert page.evaluate("document.querySelector('#player video').was") == "here" and at(page) == 1
    page.click("#sound")
    page.wait_for_selector("#player audio[controls]")
    page.wait_for_function("avchatPlayer.duration() > 0")
    assert page.locator("#player video").count() == 0
    assert page.inner_text(".av-row") == "no sound track"
    page.click("#broken")
    page.get_by_text("This browser cannot play broken.mp4.").wait_for()
    page.click("#nothing")
    page.get_by_text(WORDS["en"]["no_clip"]).wait_for()
    assert page.get_by_text("cannot play").count() == 0


def test_touch(open_page: Callable[..., "Page"]) -> None:
    page = open_page(390, has_touch=True)
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    page.touchscreen.tap(*point(page, 0.75))
    wait_told_time = "Math.abs(avchatPlayer.time() - 3) < 0.1"
    page.wait_for_function(wait_told_time)


CONTRAST = """() => {
  const style = getComputedStyle(document.querySelector(".av-skin"));
  const light = (name) => {
    const hex = style.getPropertyValue(name).trim();
    const parts = [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16) / 255);
    const linear = parts.map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2];
  };
  const ground = light("--av-ground");
  return Object.fromEntries(["ink", "quiet", "edge", "0", "1", "2", "3", "head", "mark"].map(
    (name) => {
      const pair = [light("--av-" + name), ground].sort((a, b) => b - a);
      return [name, (pair[0] + 0.05) / (pair[1] + 0.05)];
    }));
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_everyone_can_use_it(open_page: Callable[..., "Page"], scheme: str) -> None:
    page = open_page(color_scheme=scheme)
    assert page.evaluate("document.body.classList.contains('dark')") == (scheme == "dark")
    contrast = page.evaluate(CONTRAST)
    assert min(contrast.values()) >= 3 and min(contrast["ink"], contrast["quiet"]) >= 4.5, contrast
    for opened in (False, True):
        if opened:
            page.get_by_role("button", name="Keys").click()
        found = Axe().run(page).response["violations"]
        ours = [
            f"{fault['id']}: {node['html'][:200]}"
            for fault in found
            if fault["impact"] in ("serious", "critical")
            for node in fault["nodes"]
        ]
        assert not ours


def test_every_language_says_everything(open_page: Callable[..., "Page"]) -> None:
    def slots(text: str) -> set[str]:
        return {part.split("}")[0] for part in text.split("{")[1:]}

    for language, words in WORDS.items():
        assert list(words) == list(WORDS["en"]), language
        assert all(slots(words[name]) == slots(text) for name, text in WORDS["en"].items())
        assert all(words.values())
    page = open_page(locale="es-ES")
    page.mouse.click(*point(page, 0.5))
    assert page.get_attribute(".av-track", "aria-valuetext") == "2 segundos de 4 segundos"
    assert page.get_by_role("button", name="Inicio aqu\u00ed").is_visible()


def test_values_are_plain_json() -> None:
    value = lanes(8)
    assert value["lanes"][0]["scores"][5] is None and "range" not in value
    assert drawn(1.0, key="k", span=None)["range"] is None
    assert drawn(1.0, key="k", span=(0.0, 0.5))["range"] == [0.0, 0.5]
    assert drawn(1.0, key="k", span=KEEP) == drawn(1.0, key="k")
    url = shown(Path("/tmp/a b#?.mp4"), "video", "x", key="k")["url"]
    assert url == "gradio_api/file=/tmp/a%20b%23%3F.mp4"
