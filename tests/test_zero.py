"""ZeroGPU: what computes in a fork, with everything pickled, says what it says here.

The platform cannot be had: a fork with a pipe stands for its worker, as `spaces` makes one.
"""

import multiprocessing
import os
import pickle
from collections import Counter
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from threading import Event
from typing import Any

import gradio as gr
import numpy as np
import pytest
import torch
from joined import write_joined

from avchat.app_settings import Settings
from avchat.media import load_media
from avchat.projectors import PooledFeatures
from avchat.ui import zero
from avchat.ui.app import App
from avchat.ui.captions import heard
from avchat.ui.clips import Clip, Options
from avchat.ui.engine import Engine
from avchat.ui.opening import open_clip
from avchat.ui.progress import silent
from avchat.ui.visitors import Refused, Visitor, Visitors


def in_a_fork(work: Callable, calls: Counter) -> Callable:
    """Have a generator run in a fork of this process: all that passes is pickled."""

    def side(pipe: Connection, order: bytes) -> None:
        for result in work(*pickle.loads(order)):
            pipe.send_bytes(pickle.dumps(result))
        pipe.close()
        os._exit(0)

    def results(*args: Any) -> Iterator[Any]:
        calls[args[0]] += 1
        ours, theirs = multiprocessing.Pipe()
        order = pickle.dumps(args)
        fork = multiprocessing.get_context("fork").Process(target=side, args=(theirs, order))
        fork.start()
        theirs.close()
        try:
            while ours.poll(60):
                yield pickle.loads(ours.recv_bytes())
            pytest.fail(f"{args[0]} hangs in its fork")
        except EOFError:
            return
        finally:
            fork.kill()
            fork.join()

    return results


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Counter:
    """Put forks in the place of the platform; count what is called."""
    counted: Counter = Counter()
    monkeypatch.setattr(zero, "ON", True)
    monkeypatch.setattr(zero, "run", in_a_fork(zero.run, counted))
    return counted


@pytest.fixture(scope="module")
def here(bundled: str) -> Engine:
    """The engine as it is anywhere else."""
    return Engine(Settings(model=bundled))


@pytest.fixture
def there(bundled: str, calls: Counter) -> Engine:
    """The engine on the platform."""
    return Engine(Settings(model=bundled))


@pytest.fixture
def opened(tmp_path: Path) -> Callable[[Path], Clip]:
    """Open a clip as a person of one's own does."""

    def open_one(path: Path) -> Clip:
        folder = tmp_path / f"person{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        return open_clip(Visitor(folder), path, Settings(), silent, Event())

    return open_one


def asked(engine: Engine, clip: Clip, question: str, sense: str = "both", **more: Any) -> Any:
    """Ask a question; return the answer and what it rests on."""
    options = Options(**more)
    talk = engine.talk(clip, options, silent, Event())
    answer = "".join(engine.pieces(talk, question, sense, options, Event()))
    receipt = talk.receipt
    return answer, receipt.seen, receipt.heard, receipt.tokens, receipt.warnings


def test_two_turns_say_the_same_and_the_second_encodes_nothing(
    here: Engine, there: Engine, calls: Counter, clip: Path, opened: Callable[[Path], Clip]
) -> None:
    ours, theirs = opened(clip), opened(clip)
    for question, sense in (("What do you hear?", "both"), ("And what is seen?", "picture")):
        assert asked(there, theirs, question, sense) == asked(here, ours, question, sense)
    assert calls == {"encode": 1, "say": 2}
    [(media, features)] = there.encoded.values()
    assert isinstance(features, PooledFeatures) and not media.frames.size
    assert {features.visual.device.type, features.audio.device.type} == {"cpu"}
    again = opened(clip)  # the same file, by somebody else: found by its bytes
    drawn = {"temperature": 1.5, "seed": 3}
    said = asked(there, again, "What is there?", **drawn)
    assert said == asked(here, opened(clip), "What is there?", **drawn)
    assert calls["encode"] == 1


def test_evidence_is_the_same(
    here: Engine, there: Engine, clip: Path, opened: Callable[[Path], Clip]
) -> None:
    found = []
    for engine in (here, there):
        own = opened(clip)
        asked(engine, own, "What do you hear?")
        asked(engine, own, "What do you see?")
        found.append(engine.evidence(own.talks[Options().view], 0))
    assert found[0].verdict == found[1].verdict
    assert vars(found[0].lost) == pytest.approx(vars(found[1].lost), abs=1e-3)


def test_a_stop_ends_the_answer_and_keeps_what_was_said(
    there: Engine, calls: Counter, clip: Path, opened: Callable[[Path], Clip]
) -> None:
    talk, stop = there.talk(opened(clip), Options(), silent, Event()), Event()
    pieces = there.pieces(talk, "Describe everything.", "both", Options(), stop)
    begun = next(pieces)
    stop.set()
    assert not list(pieces)
    assert talk.turns == 1 and talk.receipt.answer == begun.strip()
    left = there.pieces(talk, "And now?", "both", Options(), Event())
    next(left)
    left.close()  # the tab is closed
    assert talk.turns == 2 and calls["say"] == 2
    assert not multiprocessing.active_children()


def test_a_long_file_is_looked_through_and_asked_about(
    here: Engine, there: Engine, opened: Callable[[Path], Clip], tmp_path: Path
) -> None:
    scenes = [(12, "red", 300.0), (12, "green", None), (12, "blue", 900.0)]
    film = write_joined(tmp_path / "film.mp4", scenes)
    ours, theirs = opened(film), opened(film)
    for question in ("the red circle", "a drum"):
        assert asked(there, theirs, question) == asked(here, ours, question)
    talks = [one.talks[Options().view] for one in (ours, theirs)]
    assert [x.start for x in talks[0].excerpts] == [x.start for x in talks[1].excerpts]


def test_captions_of_sounds_are_the_models(
    here: Engine, there: Engine, calls: Counter, clip: Path, opened: Callable[[Path], Clip]
) -> None:
    said = []
    for engine in (here, there):
        app = App(Settings(), engine, Visitors(Settings()), [], clip.parent)
        said.append(list(heard(app, opened(clip), silent, Event())))
        app.visitors.close()
    assert said[0] == said[1] != []
    assert calls["encode"] == calls["say"] == 1, "nothing is computed in the process without a GPU"


def test_lookup_gives_the_same_vectors(
    here: Engine, there: Engine, calls: Counter, clip: Path, opened: Callable[[Path], Clip]
) -> None:
    for engine in (here, there):
        texts = engine.texts(["a red circle", "a drum"])
        [*_, file] = engine.embedding(opened(clip), silent, Event())
        if engine is here:
            wanted = texts, file.vectors["both"]
    np.testing.assert_allclose(texts, wanted[0], atol=1e-5)
    np.testing.assert_allclose(file.vectors["both"], wanted[1], atol=1e-5)
    assert calls["texts"] == calls["clips"] == 1


def test_bf16_survives_the_way() -> None:
    rows = torch.randn(3, 4).bfloat16()
    clip = PooledFeatures(rows, None, None, (0.5,), 0, 0.0, 1.0)
    back = zero.unpacked(pickle.loads(pickle.dumps(zero.packed(clip))))
    assert back.visual.dtype == torch.bfloat16 and torch.equal(back.visual, rows)
    assert back.audio is None and back.frame_times_s == (0.5,)


def test_a_call_asks_for_what_the_clip_takes(clip: Path) -> None:
    short, long = load_media(clip, frames=2), load_media(clip, frames=60)
    assert 10 < zero.seconds("encode", [short]) < zero.seconds("encode", [long]) < 30
    assert zero.seconds("clips", [long] * 1000) == zero.LONGEST_S

    def ask(tokens: int, room: int) -> int:
        view = zero.View((), None, "")
        asked = zero.Asked(view, "both", (1,) * tokens, 1, room, (0.0, 1.0, None))
        return zero.seconds("say", asked)

    assert ask(100, 64) < ask(2000, 64) < ask(2000, 512) <= zero.LONGEST_S


def test_what_the_platform_refuses_is_a_line() -> None:
    with pytest.raises(Refused, match="^quota exceeded, see here$"), zero.in_words():
        raise gr.Error('quota exceeded, <a href="x">see here</a>')
