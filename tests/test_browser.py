"""The app in a real browser: what a visitor opens, asks and reads on the page."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import av
import numpy as np
import pytest
from pages import CLICK_STOP_WHEN_IT_CAN_BE, QUESTION, WAIT_MS, ask, mark, open_clip, upload

from avchat.world.casting import draw_scene
from avchat.world.clip_file import write_clip
from avchat.world.questions import every_question

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.timeout(400)


def time_of(page: "Page") -> float:
    """Read where the player is, in seconds."""
    return page.evaluate("document.querySelector('#player video').currentTime")


def at_time(page: "Page", seconds: float, within: float = 0.15) -> None:
    """Wait until the player is at a time."""
    page.wait_for_function(
        "([t, d]) => Math.abs(document.querySelector('#player video').currentTime - t) < d",
        arg=[seconds, within],
    )


def test_upload_ask_read(address: str, open_page: Callable[..., "Page"], clip: Path) -> None:
    page = open_page(address)
    assert "toy world" in page.inner_text("#notice")
    open_clip(page, clip)
    assert "0:04, 128x128 h264, sound: aac 16 kHz" in page.inner_text("#clip-status")
    page.wait_for_function("document.querySelector('#player video').readyState >= 2")
    first = ask(page, "What do you hear?")
    assert "Saw 8 frames over 4.0 s and heard 4.0 s of sound." in first
    assert "the clip was kept in memory" in ask(page, "What do you see?")
    starters = page.inner_text("#starters")
    assert "What do you hear?" in starters and "What do you see?" in starters


def test_right_answers_about_sounds_and_pictures(
    address: str, open_page: Callable[..., "Page"], tmp_path: Path
) -> None:
    rng = np.random.default_rng(11)
    page = open_page(address)
    for kind, family in (("one source", "colour"), ("sounds", "sound_kind")):
        scene = draw_scene(rng, kind)
        [question, *_] = [q for q in every_question(scene, rng) if q.family == family]
        write_clip(scene, tmp_path / f"{kind}.mp4")
        open_clip(page, tmp_path / f"{kind}.mp4")
        assert question.answer in ask(page, question.question).lower()


@pytest.mark.page
def test_the_switch(address: str, open_page: Callable[..., "Page"], clip: Path) -> None:
    page = open_page(address)
    open_clip(page, clip)
    page.get_by_label("Sound only").check()
    assert "The picture was switched off for this question." in ask(page, "what is there?")
    page.get_by_label("Picture only").check()
    assert "The sound was switched off for this question." in ask(page, "what is there?")


@pytest.mark.page
def test_what_an_answer_rests_on_and_what_each_sense_says(
    address: str, open_page: Callable[..., "Page"], clip: Path
) -> None:
    page = open_page(address)
    open_clip(page, clip)
    ask(page, "What do you see?")
    page.get_by_role("link", name="What does this rest on?").click()
    evidence = page.get_by_role("region", name="Evidence")
    evidence.wait_for()
    assert evidence.get_by_role("meter").count() == 3
    assert "this answer rests on the picture" in evidence.inner_text()
    page.fill(QUESTION, "What do you hear?")
    page.click("#compare")
    compared = page.get_by_role("region", name="Comparison")
    compared.get_by_role("heading", name="Picture only").wait_for()
    headings = compared.get_by_role("heading").all_inner_texts()
    assert headings[1:] == ["Sound + picture", "Sound only", "Picture only"]
    assert page.locator("#talk .user").count() == 1, "the talk did not change"


@pytest.mark.page
def test_retry_edit_and_take_back(
    address: str, open_page: Callable[..., "Page"], clip: Path
) -> None:
    page = open_page(address)
    open_clip(page, clip)
    ask(page, "What do you hear?")
    second = ask(page, "What do you see?").split("\n")[0]
    page.locator("#talk").get_by_label("Retry").last.click()
    page.locator("#ask:disabled, #ask button:disabled").wait_for(state="attached")
    page.locator("#ask:enabled, #ask button:enabled").wait_for()
    assert page.locator("#talk .bot").last.inner_text().startswith(second)
    page.locator("#talk").get_by_label("Undo").last.click()
    page.wait_for_function("document.querySelectorAll('#talk .user').length == 1")
    assert page.input_value(QUESTION) == "What do you see?"
    page.locator("#talk").get_by_label("Edit").first.click()
    page.locator("#talk textarea").fill("What do you see?")
    page.locator("#talk").get_by_label("Submit").click()
    page.locator("#talk .bot", has_text=second).wait_for()
    assert page.locator("#talk .user").all_inner_texts() == ["What do you see?"]


def test_seek_by_click_and_by_keyboard(
    address: str, open_page: Callable[..., "Page"], clip: Path
) -> None:
    page = open_page(address)
    open_clip(page, clip)
    page.wait_for_function("document.querySelector('#player video').readyState >= 1")
    slider = page.locator("#timeline [role=slider]")
    box = slider.bounding_box()
    page.mouse.click(box["x"] + box["width"] * 0.75, box["y"] + box["height"] / 2)
    at_time(page, 3.0)
    assert slider.get_attribute("aria-valuetext").startswith("3 seconds of 4 seconds")
    slider.focus()
    page.keyboard.press("Home")
    at_time(page, 0.0)
    page.keyboard.press("ArrowRight")
    page.wait_for_function("document.querySelector('#player video').currentTime > 0.05")
    page.keyboard.press("End")
    at_time(page, 4.0, 0.3)


@pytest.mark.page
def test_a_range_is_asked_about_and_exported(
    address: str, open_page: Callable[..., "Page"], clip: Path
) -> None:
    page = open_page(address)
    open_clip(page, clip)
    assert page.is_disabled("#ask-span")
    mark(page, 0.25, 0.75)
    page.locator("#ask-span:enabled").click()
    page.get_by_text("About 0:01 to 0:03 only").wait_for()
    assert "over 2." in ask(page, "What do you see?")
    assert "(0:01 to 0:03)" in page.locator("#talk .user").last.inner_text()
    page.click("#export-span")
    with page.expect_download() as made:
        page.locator("#exported a").first.click()
    with av.open(str(made.value.path())) as file:
        assert file.duration / 1e6 == pytest.approx(2.0, abs=0.2)
    mark(page, 0.45, 0.7)  # the question follows the mark
    page.get_by_text("About 0:01.8 to 0:02.8 only").wait_for()
    page.locator("#timeline").get_by_role("button", name="Clear").click()
    page.locator("#part").wait_for(state="hidden")
    assert "over 4." in ask(page, "What do you see?")
    assert "to 0:0" not in page.locator("#talk .user").last.inner_text()


@pytest.mark.page
def test_the_talk_and_captions_are_saved(
    address: str, open_page: Callable[..., "Page"], clip: Path
) -> None:
    page = open_page(address)
    open_clip(page, clip)
    ask(page, "What do you hear?")
    read = {}
    for number, (button, ending) in enumerate((("save_md", "md"), ("save_json", "json"))):
        page.click(f"#{button}")
        link = page.locator("#exported a").nth(number)
        with page.expect_download() as made:
            link.click()
        assert made.value.suggested_filename == f"{clip.stem}_talk.{ending}"
        read[ending] = made.value.path().read_text()
    assert "**What do you hear?**" in read["md"]
    assert json.loads(read["json"])["talk"][0]["heard"]["seconds"] == pytest.approx(4, abs=0.1)
    page.click("#save_vtt")
    page.get_by_role("region", name="Transcript").get_by_role("link").first.click()
    at_time(page, 0.0)
    assert page.locator("#player video track").count() == 1
    assert page.locator("#exported a").count() == 3, "what was made before is still there"
    page.locator("#ask:enabled, #ask button:enabled").wait_for()


@pytest.mark.page
def test_relevance_is_drawn_and_settings_are_reset(
    address: str, open_page: Callable[..., "Page"], clip: Path
) -> None:
    page = open_page(address)
    open_clip(page, clip)
    ask(page, "What do you hear?")
    page.locator("#timeline", has_text="best at").wait_for()
    page.get_by_role("button", name="Settings").click()
    page.locator("#max-tokens input[type=number]").fill("2")
    page.keyboard.press("Tab")
    page.wait_for_function("document.querySelector('#max-tokens input[type=range]').value == '2'")
    page.wait_for_timeout(300)  # Gradio's own state follows
    assert "The answer was cut after 2 tokens" in ask(page, "describe what you see and hear.")
    page.click("#reset")
    page.wait_for_function(
        "document.querySelector('#max-tokens input[type=number]').value == '256'"
    )
    assert "was cut" not in ask(page, "describe what you see and hear.")


@pytest.mark.page
def test_a_clip_without_sound(
    address: str, open_page: Callable[..., "Page"], silent_clip: Path
) -> None:
    page = open_page(address)
    open_clip(page, silent_clip)
    assert "no sound track" in page.inner_text("#clip-status")
    assert "hear" not in page.inner_text("#starters")
    assert "This file has no sound track: nothing was heard." in ask(page, "what do you hear?")


@pytest.mark.page
def test_a_sound_without_a_picture(
    address: str, open_page: Callable[..., "Page"], sound_clip: Path
) -> None:
    page = open_page(address)
    open_clip(page, sound_clip)
    page.wait_for_selector("#player audio")
    assert "This file has no picture: nothing was seen." in ask(page, "what do you see?")


def test_a_broken_file(address: str, open_page: Callable[..., "Page"], tmp_path: Path) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_text("not a video")
    page = open_page(address)
    upload(page, broken)
    alert = page.locator("#clip-status [role=alert]")
    alert.wait_for()
    assert alert.inner_text().startswith("error: broken.mp4")
    page.fill(QUESTION, "what is there?")
    page.click("#ask")
    page.get_by_text("error: open a clip first").wait_for()


@pytest.mark.page
def test_a_film_that_no_browser_plays_is_played_and_asked_about(
    address: str, open_page: Callable[..., "Page"], clip: Path, tmp_path: Path
) -> None:
    hevc = tmp_path / "hevc.mp4"
    with av.open(str(clip)) as source, av.open(str(hevc), "w") as target:
        options = {"x265-params": "log-level=none"}
        track = target.add_stream("libx265", rate=16, options=options)
        track.width, track.height, track.pix_fmt = 128, 128, "yuv420p"
        for frame in source.decode(video=0):
            target.mux(track.encode(frame.reformat(format="yuv420p")))
        target.mux(track.encode(None))
    page = open_page(address)
    open_clip(page, hevc)
    assert "hevc" in page.inner_text("#clip-status")
    page.wait_for_function("document.querySelector('#player video').readyState >= 2")
    assert "Saw 8 frames" in ask(page, "what do you see?")


@pytest.mark.page
def test_stop_stops_the_model(address: str, open_page: Callable[..., "Page"], clip: Path) -> None:
    page = open_page(address)
    open_clip(page, clip)
    for _ in range(5):  # a fast machine may have ended the answer before the click arrives
        page.evaluate(CLICK_STOP_WHEN_IT_CAN_BE)
        if "Stopped." in ask(page, "describe what you see and hear."):
            break
    else:
        pytest.fail("five answers ran to their end")
    assert "Saw 8 frames" in ask(page, "what do you see?")


def test_an_example_is_one_click_and_reloading_begins_anew(
    address: str, open_page: Callable[..., "Page"]
) -> None:
    page = open_page(address)
    page.locator("#examples button").nth(1).click()
    page.wait_for_selector("#player video")
    page.wait_for_function(f"document.querySelector('{QUESTION}').value != ''")
    page.click("#ask")
    page.get_by_role("link", name="What does this rest on?").wait_for(timeout=WAIT_MS)
    page.locator("#timeline", has_text="best at").wait_for()  # Gradio complains of cut streams
    page.wait_for_timeout(500)
    page.reload()
    page.wait_for_selector("#ask")
    assert page.locator("#player video").count() == 0
    assert page.locator("#talk .user").count() == 0


@pytest.mark.page
def test_two_visitors(
    address: str, open_page: Callable[..., "Page"], clip: Path, silent_clip: Path
) -> None:
    ours, theirs = open_page(address), open_page(address)
    for page, path in ((ours, clip), (theirs, silent_clip)):
        open_clip(page, path)
    ours.get_by_label("Picture only").check()
    assert "no sound track" in ask(theirs, "what do you hear?")
    assert "The sound was switched off" in ask(ours, "what do you hear?")
    assert theirs.get_by_label("Sound + picture").is_checked()
    assert ours.locator("#talk .user").count() == theirs.locator("#talk .user").count() == 1


@pytest.mark.page
def test_recent_clips_keep_their_talks(
    address: str, open_page: Callable[..., "Page"], clip: Path, silent_clip: Path
) -> None:
    page = open_page(address)
    open_clip(page, clip)
    first = ask(page, "What do you see?")
    open_clip(page, silent_clip)
    assert page.locator("#talk .user").count() == 0
    page.locator("#recent").get_by_label(clip.name).check()
    page.locator("#talk .bot", has_text=first.split("\n")[0]).wait_for()
    assert "sound: aac" in page.inner_text("#clip-status")
    page.wait_for_timeout(500)  # what follows takes nothing of it away
    assert "sound: aac" in page.inner_text("#clip-status")
    assert page.locator("#player video").count() == 1


def test_a_phone_shows_all_of_it(
    address: str, open_page: Callable[..., "Page"], clip: Path
) -> None:
    page = open_page(address, width=390, height=844)
    open_clip(page, clip)
    ask(page, "What do you hear?")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
