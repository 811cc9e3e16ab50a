"""Questions about the clip in view: asked, asked again, compared, weighed.

What happens, without the page: each function takes the app, the person and what they want, and
yields or returns plain data that `ask_tab.py` shows and `endpoints.py` sends.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from avchat.chat import Receipt
from avchat.encoders import Sense
from avchat.evidence import Evidence
from avchat.excerpts import LongConversation
from avchat.media import MediaError
from avchat.moments import Curve, MomentsError
from avchat.prompt import PromptError
from avchat.transcripts import Line, TranscriptError
from avchat.ui.app import App
from avchat.ui.clips import Clip, Exchange, Options
from avchat.ui.engine import Talk
from avchat.ui.progress import Told, silent
from avchat.ui.timeline import Pin
from avchat.ui.visitors import Refused, Stopped, Visitor

# What goes wrong with a question, in words that the person may see.
FAULTS = (PromptError, MediaError, MomentsError, TranscriptError, Refused)
COMPARED: tuple[Sense, ...] = ("both", "sound", "picture")
# 0:17, 1:02:03, 12.5 s, 3 seconds; not 12:34:56:78, nor 5 sides
TIMES = re.compile(
    r"(?<![\d:.])(?:(?:(\d+):)?(\d{1,2}):(\d{2}(?:\.\d+)?)|(\d+(?:\.\d+)?) ?(?:s|sec|seconds?)\b)"
    r"(?![\d:])"
)
LANES_S = 300.0  # longest clip that is looked through for the timeline without being told to


@dataclass(frozen=True)
class Compared:
    """One question under one sense."""

    sense: Sense
    answer: str
    receipt: Receipt


def ask(
    app: App, visitor: Visitor, clip: Clip, exchange: Exchange, told: Told = silent
) -> Iterator[Exchange]:
    """Answer the last exchange of a clip piece by piece; it grows with each step.

    Faults end up in it, in words; nothing is raised.
    """
    stop = exchange.stop
    try:
        with visitor.doing(app.settings.per_person, stop):
            check(app, clip, exchange.options)
            talk = app.engine.talk(clip, exchange.options, told, stop)
            before = talk.turns
            exchange.state = "answering"
            asked = exchange.question, exchange.sense, exchange.options
            for piece in app.engine.pieces(talk, *asked, stop):
                exchange.answer += piece
                yield exchange
            exchange.receipt = talk.receipt
            clip.lines = lines_of(talk, exchange) or clip.lines
            exchange.turn = before if talk.turns > before else None
            exchange.pins = tuple(pins(clip, exchange.answer))
            exchange.state = "stopped" if stop.is_set() else "done"
    except Stopped:
        exchange.state = "stopped"
    except FAULTS as error:
        exchange.state, exchange.error = "failed", str(error)
    finally:
        if exchange.state in ("waiting", "answering"):  # the reader has left
            exchange.state = "stopped"
    yield exchange


def lines_of(talk: Talk, exchange: Exchange) -> tuple[Line, ...]:
    """Return what was written down of a clip for an answer."""
    now = talk.now if isinstance(talk, LongConversation) else talk
    if now is None or not exchange.options.transcript:
        return ()
    return now.lines(exchange.sense) or ()


def check(app: App, clip: Clip, options: Options) -> None:
    """Refuse a question that cannot be asked so."""
    if options.transcript and app.engine.transcriber is None:
        raise Refused("no transcript: this app has no Whisper that writes down what is said")
    if options.frames is not None and options.frames < 1:
        raise Refused(f"the number of frames must be at least 1, not {options.frames}")
    if (options.start is None) != (options.end is None):
        raise Refused("a range needs its start and its end")
    if options.start is not None and not 0 <= options.start < options.end:
        raise Refused(f"there is no range from {options.start:g} s to {options.end:g} s")
    if options.start is not None and clip.info.is_still:
        raise Refused("a still picture has no ranges")


def rewind(app: App, clip: Clip, number: int) -> None:
    """Forget an exchange and all that came after it."""
    gone = clip.exchanges[number:]
    turns = [one.turn for one in gone if one.turn is not None]
    del clip.exchanges[number:]
    if turns:
        for talk in clip.talks.values():
            app.engine.compute(lambda talk=talk: talk.rewind(turns[0]))


def weigh(app: App, clip: Clip, number: int) -> Evidence:
    """Weigh what an answer rests on, once. Refused where that is not possible any more."""
    exchange = clip.exchanges[number] if 0 <= number < len(clip.exchanges) else None
    if exchange is None or exchange.turn is None:
        raise Refused("there is no such answer to weigh")
    if exchange.evidence is None:
        talk = clip.talks[exchange.options.view]
        exchange.evidence = app.engine.evidence(talk, exchange.turn)
    return exchange.evidence


def weigh_alone(app: App, visitor: Visitor, clip: Clip, number: int) -> Evidence | None:
    """Weigh as `weigh` does, as the one thing that is done for a person; None when stopped."""
    with visitor.doing(app.settings.per_person) as stop:
        found = weigh(app, clip, number)
    return None if stop.is_set() else found


def settled(visitor: Visitor) -> Clip:
    """Return the clip in view; Refused while something is being answered about it."""
    clip = visitor.in_view()
    if clip.under_way() is not None:
        raise Refused("one thing at a time: wait for the answer, or stop it")
    return clip


def compare(
    app: App, visitor: Visitor, clip: Clip, question: str, options: Options, told: Told = silent
) -> Iterator[Compared]:
    """Ask one question with both senses, with the sound alone and with the picture alone.

    The talk on the page does not change. Raises one of FAULTS.
    """
    with visitor.doing(app.settings.per_person) as stop:
        check(app, clip, options)
        talk = app.engine.talk(clip, options, told, stop)
        for number, sense in enumerate(COMPARED):
            told("comparing", number, len(COMPARED))
            twin = app.engine.compute(talk.fork)
            answer = "".join(app.engine.pieces(twin, question, sense, options, stop))
            app.engine.drop(twin)
            if stop.is_set():
                return
            yield Compared(sense, answer.strip(), twin.receipt)


def lanes(
    app: App, visitor: Visitor, clip: Clip, text: str, told: Told = silent
) -> Iterator[Curve]:
    """Score the clip's windows against a text as it is looked through: coarse first, then fine.

    It gives way to whatever the person does next. Raises one of FAULTS.
    """
    with visitor.aside() as stop:
        [query] = app.engine.texts([text])
        for embedded in app.engine.embedding(clip, told, stop):
            clip.curve = embedded.curve(query)
            yield clip.curve


def shows_lanes(app: App, clip: Clip) -> bool:
    """Tell whether a clip is looked through without being told to."""
    known = clip.embedded is not None and clip.embedded.complete
    short = not clip.info.is_still and clip.duration_s <= LANES_S
    return app.engine.head is not None and (known or short)


def times_in(text: str) -> list[tuple[float, int, int]]:
    """Find times in an answer: seconds, and where in the text they stand."""
    found = []
    for match in TIMES.finditer(text):
        hours, minutes, seconds, plain = match.groups()
        t = float(plain) if plain else int(hours or 0) * 3600 + int(minutes) * 60 + float(seconds)
        found.append((t, match.start(), match.end()))
    return found


def pins(clip: Clip, answer: str) -> Iterator[Pin]:
    """Make pins of the times that an answer cites, as far as the clip is that long."""
    for t, start, end in times_in(answer):
        if t <= clip.duration_s:
            yield Pin(t, answer[start:end], False)


def agreed(app: App, clip: Clip, exchange: Exchange) -> None:
    """Make those pins solid where the lookup head, asked with the answer's words, finds them, too.

    Only where the clip was looked through; else every pin stays the model's word alone.
    """
    embedded = clip.embedded
    if not exchange.pins or embedded is None or not embedded.complete:
        return
    words = TIMES.sub("", exchange.answer).strip() or exchange.question
    [query] = app.engine.texts([words])
    spans = embedded.find(embedded.curve(np.asarray(query)), top=3).spans
    exchange.pins = tuple(
        replace(pin, solid=any(span.start <= pin.t <= span.end for span in spans))
        for pin in exchange.pins
    )
