"""A person's clip: what is known of it, what was asked about it, and what of it is kept.

Plain data. `opening.py` makes one, `asking.py` and `finding.py` use it.
"""

import html
import re
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Lock
from typing import Any, Literal

from avchat.chat import Conversation, Receipt
from avchat.contour import Contour
from avchat.embedded import EmbeddedFile
from avchat.encoders import Sense
from avchat.evidence import Evidence
from avchat.excerpts import LongConversation
from avchat.media import MediaInfo
from avchat.moments import Curve
from avchat.transcripts import Line
from avchat.ui.searches import Search
from avchat.ui.timeline import Pin

Kind = Literal["video", "audio", "image"]
State = Literal["waiting", "answering", "done", "stopped", "failed"]
LONGEST_STEM = 40  # characters of a name; file systems take 255 bytes
UNDER_WAY = ("waiting", "answering")


@dataclass(frozen=True)
class Options:
    """How a question is asked. What changes the model's view of the clip makes a talk of its own:
    see `view`.
    """

    start: float | None = None  # seconds: the range that is asked about
    end: float | None = None
    frames: int | None = None  # None: as many as the model was trained with
    system: str = ""
    transcript: bool = False
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    max_new_tokens: int = 256  # the longest description of 300 scenes of the world took 71

    @property
    def view(self) -> tuple:
        """Return what talks differ in."""
        return self.start, self.end, self.frames, self.system, self.transcript


@dataclass
class Exchange:
    """A question and its answer, as it grows."""

    question: str
    sense: Sense = "both"
    options: Options = Options()
    answer: str = ""
    state: State = "waiting"
    error: str = ""
    receipt: Receipt | None = None
    evidence: Evidence | None = None
    pins: tuple[Pin, ...] = ()
    turn: int | None = None  # its number in the model's conversation; None: it is not in it
    stop: Event = field(default_factory=Event)
    taken: bool = False  # whether its answer was begun: it is answered once


@dataclass
class Clip:
    """One file that a person has opened."""

    id: str
    path: Path
    name: str  # as the person knows it
    info: MediaInfo
    size_bytes: int
    hash: str  # of its bytes
    shown: Path  # what the browser plays: the file, or a copy in a form that it can play
    kind: Kind
    suggestion: str = ""  # a question that suits it, of an example
    contour: Contour | None = None
    embedded: EmbeddedFile | None = None
    curve: Curve | None = None  # of the latest question or search
    lines: tuple[Line, ...] = ()  # what is said, or heard, as far as somebody asked for it
    subtitles: Path | None = None  # the same as WebVTT
    search: Search | None = None
    kept: list[Path] = field(default_factory=list)  # made of it for the person to take away
    exchanges: list[Exchange] = field(default_factory=list)
    note: str = ""  # why the last question was not taken, for as long as another is under way
    talks: dict[tuple, "Conversation | LongConversation"] = field(default_factory=dict)
    lock: Lock = field(default_factory=Lock)  # of its talks: one is made at a time
    looking: Lock = field(default_factory=Lock)  # one at a time embeds it
    asking: Lock = field(default_factory=Lock)  # of its exchanges: one is added at a time

    @property
    def duration_s(self) -> float:
        """Return how long it is; measured, as soon as it is known, where the file does not say."""
        return self.info.duration_s if self.contour is None else self.contour.duration_s

    @property
    def stem(self) -> str:
        """Return what files that are made of it are called after."""
        return re.sub(r"\W+", "_", Path(self.name).stem)[:LONGEST_STEM] or "clip"

    def keep(self, path: Path) -> None:
        """Note a file that the person may take away."""
        if path not in self.kept:
            self.kept.append(path)

    def under_way(self) -> Exchange | None:
        """Return the question that waits for its answer, or is being answered; None without."""
        return next((one for one in self.exchanges if one.state in UNDER_WAY), None)

    def add(self, exchange: Exchange) -> bool:
        """Add a question; False where one is under way: it would wait behind it unseen."""
        with self.asking:
            if self.under_way() is not None:
                return False
            self.exchanges.append(exchange)
            self.note = ""
            return True

    def take(self) -> Exchange | None:
        """Take the question that waits for its answer, to answer it; None without."""
        with self.asking:
            waiting = (one for one in self.exchanges if one.state == "waiting" and not one.taken)
            found = next(waiting, None)
            if found is not None:
                found.taken = True
            return found

    def card(self) -> str:
        """Describe it in one line of HTML: length, size, codecs, sound."""
        info = self.info
        parts = [f"<strong>{html.escape(self.name)}</strong>"]
        if not info.is_still:
            parts.append(clock(self.duration_s))
        if info.has_video:
            parts.append(f"{info.width}x{info.height} {info.video_codec}".strip())
        rate = f" {info.sample_rate / 1000:g} kHz" if info.sample_rate else ""
        parts.append(
            f"sound: {info.audio_codec}{rate}" if info.has_audio else "<em>no sound track</em>"
        )
        parts.append(f"{self.size_bytes / 1e6:.1f} MB")
        return ", ".join(parts)

    def to_dict(self) -> dict[str, Any]:
        """Describe it as plain data; what is absent is None."""
        info = self.info
        picture = f"{info.width}x{info.height} {info.video_codec}".strip()
        return {
            "name": self.name,
            "kind": self.kind,
            "length_s": None if info.is_still else round(self.duration_s, 3),
            "length": None if info.is_still else clock(self.duration_s),
            "picture": picture if info.has_video else None,
            "sound": info.audio_codec if info.has_audio else None,
            "bytes": self.size_bytes,
        }


def moment(seconds: float) -> str:
    """Write a moment to a tenth of a second: 0:07.4; a whole second as `clock` does."""
    tenths = round(10 * seconds)
    return clock(tenths // 10) + (f".{tenths % 10}" if tenths % 10 else "")


def clock(seconds: float) -> str:
    """Write seconds as people do: 0:07, 12:34, 1:02:03."""
    whole = int(round(seconds))
    hours, minutes = whole // 3600, whole // 60 % 60
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"
