"""What happens to a clip in view, without a browser: it is prepared, stopped, kept from."""

from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event
from types import SimpleNamespace

import gradio as gr
import pytest

from avchat.app_settings import Settings
from avchat.export import ExportError
from avchat.ui.app import App
from avchat.ui.asking import ask, weigh_alone
from avchat.ui.captions import captions
from avchat.ui.clip_column import export_range, kept_values, open_steps, said_of, shown_clip
from avchat.ui.clip_values import screen_value
from avchat.ui.clips import Clip, Exchange, Options
from avchat.ui.endpoints import Actions
from avchat.ui.engine import Engine
from avchat.ui.opening import open_clip
from avchat.ui.progress import silent
from avchat.ui.visitors import Refused, Stopped, Visitor, Visitors


@pytest.fixture(scope="module")
def app(bundled: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    """The app over the bundled model, without a page."""
    settings = Settings(model=bundled)
    app = App(settings, Engine(settings), Visitors(settings), [], tmp_path_factory.mktemp("home"))
    yield app
    app.visitors.close()


@pytest.fixture
def opened(app: App, request: pytest.FixtureRequest) -> Callable[..., tuple[Visitor, Clip]]:
    """Open a clip as somebody."""

    def opened(path: Path, **more: object) -> tuple[Visitor, Clip]:
        visitor = app.visitors.welcome(request.node.name)
        return visitor, open_clip(visitor, path, app.settings, silent, Event(), **more)

    return opened


def test_stop_ends_the_preparation_of_a_clip(app: App, opened: Callable, clip: Path) -> None:
    visitor, shown = opened(clip)
    for when in ("decoding", "encoding"):
        app.engine.encoded.clear()
        exchange = Exchange("what do you see?")
        shown.exchanges.append(exchange)

        def told(what: str, *_: float, when: str = when) -> None:
            if what == when:
                visitor.stop()

        list(ask(app, visitor, shown, exchange, told))
        assert exchange.state == "stopped" and not shown.talks
    with shown.lock:  # somebody else prepares it
        stop = Event()
        stop.set()
        with pytest.raises(Stopped):
            app.engine.talk(shown, Options(), silent, stop)
    assert app.engine.talk(shown, Options(), silent, Event()).turns == 0


def test_a_broken_file_leaves_the_clip_before_it_whole(
    app: App, opened: Callable, clip: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_text("no video")
    visitor, shown = opened(clip)
    assert shown.contour is None, "its survey was given up for the next file"
    steps = list(open_steps(app, visitor, broken, "", gr.Progress()))
    assert "error: broken.mp4" in steps[1][1][0].value
    assert visitor.clip is shown and shown.contour is not None


def test_what_is_made_of_a_clip_is_kept(app: App, opened: Callable, clip: Path) -> None:
    visitor, shown = opened(clip, name="my <film>.mp4")
    first, second = (export_range(app, visitor, (0.0, end)) for end in (1.0, 2.0))
    for path in (first, second, first):
        values = kept_values(shown, path)
    assert shown.kept == [first, second] and values.visible
    assert shown_clip(visitor, shown)[7].visible
    assert captions(app, visitor, shown).name == "my_film__captions.vtt"
    before = screen_value(shown)["subtitles"]
    shown.subtitles.write_text("WEBVTT")
    assert screen_value(shown)["subtitles"] != before, "a player shows the new ones"


def test_weighing_is_one_thing_at_a_time(app: App, opened: Callable, clip: Path) -> None:
    visitor, shown = opened(clip)
    exchange = Exchange("what do you see?")
    shown.exchanges.append(exchange)
    list(ask(app, visitor, shown, exchange))
    with visitor.doing(app.settings.per_person), pytest.raises(Refused, match="one thing"):
        weigh_alone(app, visitor, shown, 0)
    assert weigh_alone(app, visitor, shown, 0) is exchange.evidence


def test_no_answer_is_taken_back_while_one_is_given(
    app: App, opened: Callable, clip: Path, request: pytest.FixtureRequest
) -> None:
    _, shown = opened(clip)
    who = SimpleNamespace(session_hash=request.node.name)
    shown.exchanges += [Exchange("what do you see?", state="done"), Exchange("and?")]
    shown.exchanges[1].state = "answering"
    with pytest.raises(gr.Error, match="one thing at a time"):
        Actions(app).rewind(who, 0)
    shown.exchanges[1].state = "done"
    assert Actions(app).rewind(who, 0) == 0


def test_a_fault_does_not_tell_where_files_lie() -> None:
    error = ExportError("/tmp/avchat-x/9f/my film.mp4: cannot be written: No space left on device")
    assert said_of(error) == "my film.mp4: cannot be written: No space left on device"
    assert said_of(Refused("say: a/b")) == "say: a/b"
