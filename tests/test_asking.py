"""What the Ask tab does, without a browser: people, streaming, stop, ranges, evidence, files."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from threading import Event, Thread

import numpy as np
import pytest

from avchat.app_settings import Settings
from avchat.media import MediaError, probe
from avchat.ui import chat_log
from avchat.ui.app import App
from avchat.ui.ask_tab import starter_questions
from avchat.ui.asking import (
    agreed,
    ask,
    compare,
    lanes,
    rewind,
    shows_lanes,
    times_in,
    weigh,
)
from avchat.ui.captions import captions
from avchat.ui.clip_column import export_range
from avchat.ui.clip_values import card
from avchat.ui.clips import Clip, Exchange, Options, clock
from avchat.ui.engine import Engine
from avchat.ui.opening import open_clip, survey
from avchat.ui.progress import silent
from avchat.ui.timeline import Pin
from avchat.ui.visitors import Refused, Visitor, Visitors
from avchat.world.examples import FILM_SCENES, SOUGHT, example_film


@pytest.fixture(scope="module")
def app(bundled: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    """The app over the bundled model."""
    folder = tmp_path_factory.mktemp("app")
    patch = pytest.MonkeyPatch()
    patch.setenv("GRADIO_TEMP_DIR", str(folder))
    settings = Settings(model=bundled)
    app = App(settings, Engine(settings), Visitors(settings), [], folder)
    patch.undo()
    yield app
    app.visitors.close()
    assert not app.visitors.root.exists()


class Request:
    """Who asks, as Gradio says it."""

    def __init__(self, session_hash: str) -> None:
        self.session_hash = session_hash


@pytest.fixture
def opened(app: App, request: pytest.FixtureRequest) -> Callable[..., tuple[Visitor, Clip]]:
    """Open a clip as somebody, by default as the same person each time."""

    def opened(path: Path, who: str = "somebody", **more: object) -> tuple[Visitor, Clip]:
        visitor = app.visitors.of(Request(f"{who} in {request.node.name}"))
        return visitor, open_clip(visitor, path, app.settings, silent, Event(), **more)

    return opened


def asked(app: App, visitor: Visitor, clip: Clip, question: str, **more: object) -> Exchange:
    """Ask a question and wait for the end."""
    sense = more.pop("sense", "both")
    exchange = Exchange(question, sense, Options(**more))
    clip.exchanges.append(exchange)
    *_, last = ask(app, visitor, clip, exchange)
    assert last is exchange
    return exchange


def test_an_answer_grows_and_ends_with_a_receipt(app: App, opened: Callable, clip: Path) -> None:
    visitor, shown = opened(clip)
    exchange = Exchange("describe what you see and hear.")
    shown.exchanges.append(exchange)
    answers = [step.answer for step in ask(app, visitor, shown, exchange)]
    assert len(answers) > 3
    assert all(b.startswith(a) for a, b in zip(answers, answers[1:], strict=False))
    assert exchange.state == "done"
    page = chat_log.messages(shown.exchanges, app.engine.model.config.notice)[-1]["content"]
    assert "Saw 8 frames over 4.0 s and heard 4.0 s of sound." in page
    assert "tokens/s" in page and "toy world" not in page


def test_what_is_encoded_is_encoded_once_for_all(app: App, opened: Callable, clip: Path) -> None:
    one, first = opened(clip, "one")
    two, second = opened(clip, "two")
    asked(app, one, first, "what do you see?")
    asked(app, two, second, "what do you see?")
    [a], [b] = first.talks.values(), second.talks.values()
    assert a is not b and a.features[0] is b.features[0]
    assert not a.media[0].frames.size, "frames at full size are not kept"


def test_people_do_not_see_each_other(
    app: App, opened: Callable, clip: Path, silent_clip: Path
) -> None:
    mine, ours = opened(clip, "me")
    yours, theirs = opened(silent_clip, "you")
    assert mine is not yours and mine.folder != yours.folder
    asked(app, mine, ours, "what do you hear?")
    heard = asked(app, yours, theirs, "what do you hear?")
    assert "this file has no sound track: nothing was heard" in heard.receipt.warnings
    assert [len(ours.exchanges), len(theirs.exchanges)] == [1, 1]
    app.visitors.leave(next(key for key, one in app.visitors.all.items() if one is mine))
    assert not mine.folder.exists() and yours.folder.exists()


def test_one_thing_at_a_time_for_each_person(app: App, opened: Callable, clip: Path) -> None:
    visitor, shown = opened(clip)
    running = Exchange("what do you see?")
    steps = ask(app, visitor, shown, running)
    next(steps)
    refused = asked(app, visitor, shown, "and what do you hear?")
    assert refused.state == "failed" and "one thing at a time" in refused.error
    list(steps)
    assert running.state == "done"


def test_one_question_at_a_time_is_taken_and_answered_once(
    app: App, opened: Callable, clip: Path
) -> None:
    _, shown = opened(clip)
    first = Exchange("what do you see?")
    assert shown.add(first) and not shown.add(Exchange("what do you see?"))
    assert not shown.add(Exchange("what do you hear?"))  # nobody would ever answer the first one
    assert shown.under_way() is first and len(shown.exchanges) == 1
    assert shown.take() is first and shown.take() is None
    shown.exchanges.append(Exchange("refused", state="failed"))
    assert shown.under_way() is first
    first.state = "done"
    assert shown.under_way() is None and shown.add(Exchange("what do you hear?"))


def test_stop_ends_the_answer_and_says_so(app: App, opened: Callable, clip: Path) -> None:
    visitor, shown = opened(clip)
    exchange = Exchange("describe what you see and hear.")
    shown.exchanges.append(exchange)
    steps = ask(app, visitor, shown, exchange)
    next(steps)
    visitor.stop()
    assert len(list(steps)) <= 2
    assert exchange.state == "stopped"
    assert "Stopped." in chat_log.said(exchange, 0, "")
    assert asked(app, visitor, shown, "what do you see?").state == "done"


def test_many_are_answered_side_by_side(app: App, opened: Callable, clip: Path) -> None:
    visitor, alone = opened(clip, "alone")
    wanted = asked(app, visitor, alone, "describe what you see and hear.").answer
    people = [opened(clip, f"person {k}") for k in range(4)]
    said: dict[int, str] = {}

    def talk(number: int) -> None:
        said[number] = asked(app, *people[number], "describe what you see and hear.").answer

    threads = [Thread(target=talk, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert list(said.values()) == [wanted] * 4


@pytest.mark.page
@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"start": 1.0, "end": 9.0, "frames": 0}, "at least 1"),
        ({"start": 2.0}, "its start and its end"),
        ({"start": 3.0, "end": 1.0}, "no range from 3 s to 1 s"),
        ({"start": 50.0, "end": 60.0}, "4.0 s long"),
        ({"transcript": True}, "no Whisper"),
        ({"system": "word " * 5000}, "context"),
    ],
)
def test_what_cannot_be_asked_is_one_line(
    app: App, opened: Callable, clip: Path, more: dict, said: str
) -> None:
    visitor, shown = opened(clip)
    exchange = asked(app, visitor, shown, "what do you see?", **more)
    assert exchange.state == "failed" and said in exchange.error
    assert "\n" not in exchange.error and str(visitor.folder) not in exchange.error
    assert asked(app, visitor, shown, "what do you see?").state == "done"


@pytest.mark.page
def test_a_range_is_asked_about_alone_and_the_talk_goes_on(
    app: App, opened: Callable, clip: Path
) -> None:
    visitor, shown = opened(clip)
    asked(app, visitor, shown, "what do you see?")
    part = asked(app, visitor, shown, "what do you see?", start=1.0, end=3.0)
    assert part.receipt.seen.seconds == pytest.approx(2.0, abs=0.2)
    assert part.turn == 1, "it goes on from the first answer"
    whole = asked(app, visitor, shown, "what do you hear?")
    assert whole.turn == 2 and whole.receipt.heard.seconds == pytest.approx(4.0, abs=0.1)


@pytest.mark.page
def test_taken_back_and_asked_anew(app: App, opened: Callable, clip: Path) -> None:
    visitor, shown = opened(clip)
    asked(app, visitor, shown, "what do you see?")
    second = asked(app, visitor, shown, "what do you hear?")
    asked(app, visitor, shown, "what do you see?", start=0.0, end=2.0)
    rewind(app, shown, 1)
    assert len(shown.exchanges) == 1
    again = asked(app, visitor, shown, "what do you hear?")
    assert (again.answer, again.turn) == (second.answer, 1)
    assert again.receipt.tokens == second.receipt.tokens


@pytest.mark.page
def test_evidence_on_demand(app: App, opened: Callable, clip: Path) -> None:
    visitor, shown = opened(clip)
    asked(app, visitor, shown, "what do you hear?")
    asked(app, visitor, shown, "what do you see?")
    heard, seen = weigh(app, shown, 0), weigh(app, shown, 1)
    plain = app.engine.model.open(clip)
    for question, found in (("what do you hear?", heard), ("what do you see?", seen)):
        "".join(plain.ask(question))
        assert found.lost.sound == pytest.approx(plain.evidence().lost.sound, abs=1e-2)
    panel = chat_log.evidence_panel(shown.exchanges[1], seen)
    assert panel.count("<meter") == 3 and "this answer rests on the picture" in panel
    for number in (-1, 2):
        with pytest.raises(Refused, match="no such answer"):
            weigh(app, shown, number)


@pytest.mark.page
def test_comparing_leaves_the_talk_alone(app: App, opened: Callable, clip: Path) -> None:
    visitor, shown = opened(clip)
    asked(app, visitor, shown, "what do you see?")
    found = list(compare(app, visitor, shown, "what do you hear?", Options()))
    assert [one.sense for one in found] == ["both", "sound", "picture"]
    for one in found:
        plain = app.engine.model.open(clip)
        "".join(plain.ask("what do you see?"))
        assert one.answer == "".join(plain.ask("what do you hear?", one.sense)).strip()
    assert len(shown.exchanges) == 1
    assert asked(app, visitor, shown, "what do you hear?").turn == 1


def test_relevance_over_time(app: App, opened: Callable, clip: Path) -> None:
    visitor, shown = opened(clip)
    assert shows_lanes(app, shown)
    *_, curve = lanes(app, visitor, shown, "what do you hear?")
    assert len(curve.score) == len(shown.embedded.windows)
    assert np.isfinite(curve.sound).all() and np.isfinite(curve.picture).all()


@pytest.mark.page
def test_looking_through_a_clip_gives_way_to_the_next_question(
    app: App, opened: Callable, tmp_path: Path
) -> None:
    film, sought = example_film(tmp_path)
    visitor, shown = opened(film)
    steps = lanes(app, visitor, shown, sought)
    next(steps)
    assert asked(app, visitor, shown, "what do you hear?").state == "done"
    assert len(list(steps)) <= 2 and not shown.embedded.complete
    list(lanes(app, visitor, shown, sought))
    assert shown.embedded.complete and not visitor.asides


@pytest.mark.parametrize(
    ("text", "times"),
    [
        ("It barks at 0:17 and at 1:02:03.", [17.0, 3723.0]),
        ("at 2.5 s, 3 seconds later", [2.5, 3.0]),
        ("five sides, 3 sheep, 12:345, a ratio of 1:2", []),
        ("from 00:01.5 to 0:02.", [1.5, 2.0]),
    ],
)
def test_times_in_answers(text: str, times: list[float]) -> None:
    assert [t for t, *_ in times_in(text)] == times


def test_times_are_links_and_nothing_said_is_html() -> None:
    exchange = Exchange("<img src=x onerror=alert(1)>")
    exchange.answer, exchange.state = "<b>a bark</b> at 0:02 [x](javascript:alert(1))", "answering"
    asked, said = chat_log.messages([exchange], "")
    assert asked["content"].startswith("&lt;img")
    assert "[0:02](#t=2)" in said["content"] and "<b>" not in said["content"]


def test_a_pin_is_solid_where_the_head_agrees(app: App, opened: Callable, tmp_path: Path) -> None:
    film, sought = example_film(tmp_path)
    visitor, shown = opened(film)
    list(lanes(app, visitor, shown, sought))
    exchange = Exchange("when?")
    there, elsewhere = 4.0 * SOUGHT + 2, 4.0 * ((SOUGHT + 5) % FILM_SCENES) + 2
    exchange.answer = f"{sought} {clock(there)} {clock(elsewhere)}"
    exchange.pins = (Pin(there, "", False), Pin(elsewhere, "", False))
    agreed(app, shown, exchange)
    assert [pin.solid for pin in exchange.pins] == [True, False]


def test_captions(app: App, opened: Callable, clip: Path, silent_clip: Path) -> None:
    visitor, shown = opened(clip)
    heard = captions(app, visitor, shown).read_text()
    assert heard.startswith("WEBVTT") and "00:00:00.000 --> " in heard and "[" in heard
    visitor, deaf = opened(silent_clip)
    with pytest.raises(Refused, match="no sound track"):
        captions(app, visitor, deaf)


def test_the_talk_is_written_down(app: App, opened: Callable, clip: Path) -> None:
    visitor, shown = opened(clip)
    asked(app, visitor, shown, "what do you hear?", start=1.0, end=3.0)
    weigh(app, shown, 0)
    text, data = chat_log.as_markdown(shown), json.loads(chat_log.as_json(shown))
    assert "**what do you hear?** (0:01 to 0:03)" in text and "rests on" in text
    [turn] = data["talk"]
    assert turn["range"] == [1.0, 3.0] and turn["evidence"]["says"] in text
    assert str(visitor.folder) not in text + json.dumps(data)


def test_the_card_and_the_questions_suit_the_clip(
    app: App, opened: Callable, clip: Path, silent_clip: Path, sound_clip: Path
) -> None:
    cards = {}
    for name, path in (("both", clip), ("silent", silent_clip), ("sound", sound_clip)):
        visitor, shown = opened(path, name="my &lt;clip&gt;.mp4")
        survey(shown, silent, Event())
        cards[name] = card(shown), starter_questions(shown.info), shown.kind
    assert "0:04, 128x128 h264, sound: aac 16 kHz" in cards["both"][0]
    assert "no sound track" in cards["silent"][0]
    assert not any("hear" in question for question in cards["silent"][1])
    assert not any("see" in question for question in cards["sound"][1])
    assert [kind for *_, kind in cards.values()] == ["video", "video", "audio"]


def test_a_range_is_cut_out(app: App, opened: Callable, clip: Path) -> None:
    visitor, shown = opened(clip)
    out = export_range(app, visitor, (1.0, 2.5))
    assert probe(out).duration_s == pytest.approx(1.5, abs=0.15)
    with pytest.raises(Refused, match="mark a range"):
        export_range(app, visitor, None)


def test_limits(app: App, clip: Path) -> None:
    visitor = app.visitors.of(Request("limits"))
    for limit, said in (({"max_minutes": 0.01}, "length"), ({"max_file_mb": 1}, None)):
        settings = replace(app.settings, **limit)
        if said is None:
            assert open_clip(visitor, clip, settings, silent, Event())
            continue
        with pytest.raises(MediaError, match=said):
            open_clip(visitor, clip, settings, silent, Event())
    assert len(list(visitor.folder.iterdir())) == 1, "what is refused leaves nothing behind"


def test_a_later_clip_takes_the_place_of_one_that_is_being_opened(
    app: App, clip: Path, silent_clip: Path
) -> None:
    visitor = app.visitors.of(Request("hasty"))
    with pytest.raises(Refused, match="open a clip first"):
        visitor.in_view()
    with visitor.opening() as first:
        with pytest.raises(Refused, match="still being opened"):
            visitor.in_view()
        with visitor.opening() as second:
            assert first.is_set() and not second.is_set()
            shown = open_clip(visitor, silent_clip, app.settings, silent, second)
            with pytest.raises(Refused, match="stopped"):
                open_clip(visitor, clip, app.settings, silent, first)
            # a question need not wait until it is surveyed
            assert asked(app, visitor, shown, "what do you see?").state == "done"
    assert visitor.in_view() is shown


def test_of_many_clips_the_oldest_is_forgotten(app: App, clip: Path) -> None:
    visitor = app.visitors.of(Request("many"))
    clips = [open_clip(visitor, clip, app.settings, silent, Event()) for _ in range(8)]
    assert list(visitor.clips) == [one.id for one in clips[2:]]
    assert len(list(visitor.folder.iterdir())) == 6


def test_who_does_nothing_for_long_is_forgotten(app: App, clip: Path) -> None:
    visitor = app.visitors.of(Request("idle"))
    open_clip(visitor, clip, app.settings, silent, Event())
    with visitor.doing(1):
        visitor.last_s -= 60 * app.settings.idle_minutes + 1
        app.visitors.sweep()
        assert visitor.folder.exists(), "something runs for them"
    visitor.last_s -= 60 * app.settings.idle_minutes + 1
    app.visitors.sweep()
    assert not visitor.folder.exists() and not visitor.clips
