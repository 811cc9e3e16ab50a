"""The page's handlers, without a browser: sessions, streaming, stop, errors."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from avchat.model import AVChat
from avchat.ui import page
from avchat.ui.page import Session


@pytest.fixture(scope="module")
def model(model_folder: Path) -> AVChat:
    """The random tiny model."""
    return AVChat.from_pretrained(model_folder)


@pytest.fixture
def open_session(model: AVChat) -> Callable[[Path], Session]:
    """Open a clip as the page does."""

    def opened(path: Path) -> Session:
        session = page.open_clip(model, path, "")[0]
        assert isinstance(session, Session)
        return session

    return opened


def shown(updates: list[Any]) -> list[str]:
    """Read the texts of the conversation out of one step of `answer`."""
    return [turn["content"] for turn in updates[0]]


def test_an_answer_streams_and_ends_with_a_receipt(
    clip: Path, open_session: Callable[[Path], Session]
) -> None:
    steps = [shown(step) for step in page.answer(open_session(clip), "what is seen?", "both")]
    assert len(steps) > 3
    assert steps[0] == ["what is seen?", ""]
    assert "Saw 8 frames over 4.0 s and heard 4.0 s of sound." in steps[-1][1]
    assert "First word after" in steps[-1][1]


def test_two_visitors_never_share_a_clip(
    clip: Path, silent_clip: Path, open_session: Callable[[Path], Session]
) -> None:
    ours, theirs = open_session(clip), open_session(silent_clip)
    asked = [page.answer(ours, "ours", "both"), page.answer(theirs, "theirs", "both")]
    last: list[list[str]] = [[], []]
    for steps in zip(*asked, strict=False):  # their answers are written at the same time
        last = [shown(step) for step in steps]
    assert [texts[0] for texts in last] == ["ours", "theirs"]
    [*_, mine] = page.answer(ours, "again", "both")
    assert "heard 4.0 s" in shown(mine)[-1]
    [*_, other] = page.answer(theirs, "again", "both")
    assert "no sound track" in shown(other)[-1]
    assert len(shown(mine)) == len(shown(other)) == 4


def test_stop_ends_the_answer_and_says_so(
    clip: Path, open_session: Callable[[Path], Session]
) -> None:
    session = open_session(clip)
    steps = page.answer(session, "what is seen?", "both")
    next(steps)
    next(steps)
    page.stop_answer(session)
    rest = [shown(step)[1] for step in steps]
    assert len(rest) <= 2
    assert "Stopped." in rest[-1]
    [*_, after] = page.answer(session, "and now?", "both")
    assert "Stopped." not in shown(after)[-1]


@pytest.mark.parametrize(
    ("sense", "said"),
    [("sound", "The picture was switched off"), ("picture", "The sound was switched off")],
)
def test_the_switch_is_in_the_receipt(
    sense: str, said: str, clip: Path, open_session: Callable[[Path], Session]
) -> None:
    [*_, last] = page.answer(open_session(clip), "what is there?", sense)
    assert said in shown(last)[-1]


def test_what_cannot_be_asked_is_one_line(
    clip: Path, open_session: Callable[[Path], Session]
) -> None:
    [only] = page.answer(None, "what is there?", "both")
    assert "error: open a clip first" in shown(only)[0]
    session = open_session(clip)
    for question, said in ((" ", "question is empty"), ("what " * 1500, "too long")):
        [*_, last] = page.answer(session, question, "both")
        assert f"error: the {said}" in shown(last)[-1] or said in shown(last)[-1]
        assert 'role="alert"' in shown(last)[-1]


def test_a_bad_file_is_one_line_and_no_session(model: AVChat, tmp_path: Path) -> None:
    bad = tmp_path / "notes.mp4"
    bad.write_text("not a video")
    session, status, *_ = page.open_clip(model, bad, "")
    assert session is None
    assert "error: notes.mp4" in status.value and "<p>" not in status.value


def test_nothing_that_a_model_or_visitor_says_is_html(
    clip: Path, open_session: Callable[[Path], Session]
) -> None:
    [first, *_] = page.answer(open_session(clip), "<img src=x onerror=alert(1)>", "both")
    assert shown(first)[0].startswith("&lt;img")
