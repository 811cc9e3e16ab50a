"""A wish and what came of it: plain data of the tab that finds moments."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from avchat.embedded import Found
from avchat.encoders import Sense
from avchat.moments import Curve

By = Literal["text", "sound", "frame", "range", "clip"]
BYS: tuple[By, ...] = ("text", "sound", "frame", "range", "clip")


@dataclass(frozen=True)
class Wish:
    """What to look for, and how. Its part of a clip is in seconds."""

    by: By = "text"
    text: str = ""
    file: Path | None = None  # a sound, or another clip
    start: float | None = None  # of the range; of a frame, its time
    end: float | None = None
    sense: Sense = "both"
    sound_weight: float | None = None  # 0..1, of `both`; None: the head's own way to join them
    least: float | None = None  # score; None: what counts as clear
    gap_s: float = 0.0  # moments less than this apart are one
    top: int = 5


@dataclass(frozen=True)
class Search:
    """A search as far as it has come."""

    wish: Wish
    number: int  # of the searches in this clip
    curve: Curve
    found: Found  # misses only where nothing is a clear match
    least: float | None
    complete: bool  # False: the clip was not looked through to its end
    warnings: tuple[str, ...] = ()
    pictures: tuple[bytes, ...] = ()  # a JPEG of each span and miss, once it is over
    over: bool = False

    @property
    def ids(self) -> list[str]:
        """Name the spans, then the misses: what travels between browser and server."""
        count = len(self.found.spans) + len(self.found.misses)
        return [f"{self.number}-{k}" for k in range(count)]
