"""What the page looks like to everyone: axe-core, widths, focus, motion, languages."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from pages import WAIT_MS, ask

from avchat.ui.player import WORDS as PLAYER_WORDS
from avchat.ui.results import RESULT_WORDS
from avchat.ui.words import WORDS

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = [pytest.mark.page, pytest.mark.timeout(400)]
AXE = Axe()
# A button that is enabled again is pale for a moment.
# What Gradio is still writing is pale, and so is all in it.
IS_WHOLE = """(selector) => {
  const found = document.querySelector(selector);
  for (let one = found; one; one = one.parentElement)
    if (getComputedStyle(one).opacity !== "1") return false;
  return Boolean(found) && !found.disabled;
}"""
# What each tab shows last of all, by its id.
DRAWN = {
    "moments": "#find:visible",
    "library": "#library-card :text('files,')",
    "api": "#call-python .cm-line:has-text('Client')",
}
# What has the focus must show it: by its outline, or a text field by its edge.
UNSEEN_FOCUS = """() => {
  const node = document.activeElement;
  if (node === document.body) return "body";
  if (node.tagName === "VIDEO") return ""; // its controls are the browser's own
  const { outlineStyle, outlineWidth, boxShadow } = getComputedStyle(node);
  const box = node.getBoundingClientRect();
  const name = node.outerHTML.slice(0, 200);
  if (box.bottom < 0 || box.top > innerHeight) return "out of view: " + name;
  const seen = (outlineStyle !== "none" && parseFloat(outlineWidth) >= 1) || boxShadow !== "none";
  return seen ? "" : "no outline: " + name;
}"""
AROUND_FOCUS = """() => {
  const names = [];
  for (let node = document.activeElement; node; node = node.parentElement) names.push(node.id);
  return names;
}"""
MOVING = """() => [...document.querySelectorAll("*")].filter((node) => {
  const { animationDuration, transitionDuration } = getComputedStyle(node);
  return [animationDuration, transitionDuration].some((all) =>
    all.split(",").some((one) => parseFloat(one) > 0.001));
}).map((node) => node.outerHTML.slice(0, 120))"""


def faults(page: "Page") -> list[str]:
    """List what axe-core calls serious or critical; a page wider than the window is, too."""
    found = [
        f"{one['id']}: {node['html'][:200]} {node['any'][:1]}"
        for one in AXE.run(page).response["violations"]
        if one["impact"] in ("serious", "critical")
        for node in one["nodes"]
    ]
    wide = page.evaluate("document.documentElement.scrollWidth - innerWidth")
    return found + ([f"{wide} px too wide"] if wide > 0 else [])


def take_example(page: "Page") -> None:
    """Open the second example and wait until it can be asked about."""
    page.locator("#examples button").nth(1).click()
    page.wait_for_selector("#player video")
    page.locator("#clip-column .avchat-stop:visible").wait_for(state="hidden")


def stages(page: "Page") -> Iterator[str]:
    """Use the page as a visitor would, and name each state that is worth a look."""
    yield "start"
    take_example(page)
    ask(page, page.input_value("#question textarea, #question input"))
    page.locator('#talk a[href^="#avchat-evidence-"]').first.click()
    for part in ("#panel section.evidence h2", "#ask"):
        page.wait_for_function(IS_WHOLE, arg=part, timeout=WAIT_MS)
    yield "evidence"
    page.click("#compare")
    page.locator("#panel .columns > div").nth(2).wait_for(timeout=WAIT_MS)
    for part in ("#panel .columns", "#ask"):
        page.wait_for_function(IS_WHOLE, arg=part, timeout=WAIT_MS)
    page.locator("#settings > button").click()
    page.wait_for_selector("#temperature input")
    yield "comparison and settings"
    tabs = page.locator("#tabs > .tab-wrapper [role=tab]:visible")
    for number in range(1, tabs.count()):
        tabs.nth(number).click()
        place = tabs.nth(number).get_attribute("data-tab-id")
        page.locator(DRAWN[place]).first.wait_for()  # a tab is drawn when it is first seen
        closed = page.locator("#tabs button.label-wrap:not(.open):visible")
        while closed.count():
            label = closed.first.element_handle()
            label.click()
            page.wait_for_function("label => label.classList.contains('open')", arg=label)
        yield tabs.nth(number).inner_text()
    page.locator("#tabs [data-tab-id=moments]").click()
    page.fill("#find-text textarea, #find-text input", "a click")
    page.click("#find")
    page.locator(".av-result").first.wait_for(timeout=WAIT_MS)
    page.locator("#find:enabled").wait_for()
    page.wait_for_timeout(500)  # what was being written is pale until then
    yield "found"


def look(open_page: Callable[..., "Page"], address: str, width: int, **settings: Any) -> None:
    """Look at every state of the page; fail with all that is wrong."""
    page = open_page(address, width=width, **settings)
    wrong = {name: found for name in stages(page) if (found := faults(page))}
    assert not wrong


def test_no_word_is_called_as_a_choice_is() -> None:
    """Gradio translates the value of a choice, too, where a word has its name."""
    choices = {"both", "sound", "picture", "text", "frame", "range", "clip"}
    assert not choices & set(WORDS["en"])


def test_everyone_can_use_it(address: str, open_page: Callable[..., "Page"]) -> None:
    look(open_page, address, 1280)


def test_on_a_dark_phone(address: str, open_page: Callable[..., "Page"]) -> None:
    look(open_page, address + "/?__theme=dark", 390, height=844)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("width", "theme", "locale"),
    [
        (390, "light", "es-ES"),
        (768, "dark", "es-ES"),
        (768, "light", "zh-CN"),
        (1280, "dark", "zh-CN"),
        (2560, "light", "en-US"),
        (2560, "dark", "es-ES"),
    ],
)
def test_every_width_theme_and_language(
    address: str, open_page: Callable[..., "Page"], width: int, theme: str, locale: str
) -> None:
    look(open_page, f"{address}/?__theme={theme}", width, locale=locale)


def test_the_focus_is_seen(address: str, open_page: Callable[..., "Page"]) -> None:
    page = open_page(address)
    take_example(page)
    page.locator("#settings > button").click()
    page.wait_for_selector("#temperature input")
    page.locator("#inputs [role=tab]").first.focus()
    seen: set[str] = set()
    for _ in range(90):
        page.keyboard.press("Tab")
        said = page.evaluate(UNSEEN_FOCUS)
        if said == "body":
            break
        assert not said
        seen |= set(page.evaluate(AROUND_FOCUS))
    assert {"upload", "examples", "timeline", "starters", "ask", "sense", "temperature"} <= seen


def test_nothing_moves_for_those_who_ask_for_it(
    address: str, open_page: Callable[..., "Page"]
) -> None:
    page = open_page(address, reduced_motion="reduce")
    take_example(page)
    assert page.evaluate(MOVING) == []


def test_the_player_stays_in_view(address: str, open_page: Callable[..., "Page"]) -> None:
    for width, height in ((390, 844), (1280, 600)):
        page = open_page(address, width=width, height=height)
        take_example(page)
        page.locator("#settings > button").click()
        page.wait_for_selector("#temperature input")
        page.locator("#reset").scroll_into_view_if_needed()
        box = page.locator("#player video").bounding_box()
        assert box["y"] >= 0 and box["y"] + box["height"] <= height


@pytest.mark.parametrize("words", [WORDS, PLAYER_WORDS, RESULT_WORDS])
def test_every_language_has_every_word(words: dict[str, dict[str, str]]) -> None:
    assert set(words) == {"en", "zh", "es"}
    for language, said in words.items():
        assert set(said) == set(words["en"]), language
        assert all(text.strip() for text in said.values())


@pytest.mark.parametrize(("locale", "language"), [("es-ES", "es"), ("zh-CN", "zh")])
def test_the_page_speaks(
    address: str, open_page: Callable[..., "Page"], locale: str, language: str
) -> None:
    page, words = open_page(address, locale=locale), WORDS[language]
    assert page.evaluate("document.documentElement.lang") == language
    assert page.inner_text("#ask") == words["ask"]
    assert words["tab_moments"] in page.inner_text("#tabs")
    assert page.inner_text("#talk") == words["empty"]
    assert (
        page.get_by_label(words["question"]).get_attribute("placeholder")
        == (words["question_hint"])
    )
    assert PLAYER_WORDS[language]["no_clip"] in page.inner_text("#player")


def test_a_language_that_the_page_does_not_speak_gets_english(
    address: str, open_page: Callable[..., "Page"]
) -> None:
    page = open_page(address, locale="pt-BR")
    assert page.evaluate("document.documentElement.lang") == "en"
    assert page.inner_text("#ask") == WORDS["en"]["ask"]
