"""Who is here: for each person the clip in view, the talk about it, and the files that are served.

Nothing of one person is reachable from another: a person is found by Gradio's session alone, and
files lie in a folder whose name cannot be guessed. Whoever closes the tab is forgotten at once;
whoever does nothing for long (a program that never says goodbye), after a while.
"""

import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Lock
from time import monotonic

import gradio as gr

from avchat.app_settings import Settings
from avchat.language import return_freed_memory
from avchat.ui.clips import Clip

RECENT = 6  # clips of a person that can be gone back to: our choice
TOKEN_BYTES = 16
GLANCE_S = 0.1  # between two looks at whether to go on waiting


class Refused(ValueError):
    """What cannot be done, in one line in the user's words: no path, no name of code."""


class Stopped(Refused):
    """What the person has ended, or what has ended because something else took its place."""


@contextmanager
def holding(lock: Lock, stop: Event, said: str = "stopped") -> Iterator[None]:
    """Hold a lock; Stopped, with these words, where the event is set while others hold it."""
    while not lock.acquire(timeout=GLANCE_S):
        if stop.is_set():
            raise Stopped(said)
    try:
        yield
    finally:
        lock.release()


@dataclass
class Visitor:
    """One person's things."""

    folder: Path
    clips: dict[str, Clip] = field(default_factory=dict)  # by id; the latest is the last
    clip: Clip | None = None  # the one in view
    stops: set[Event] = field(default_factory=set)  # of what runs or waits for this person
    openings: set[Event] = field(default_factory=set)  # of clips that are being opened
    unseen: set[Event] = field(default_factory=set)  # of those whose clip is not in view yet
    latest: Event | None = None  # of the opening that began last
    passing: set[Event] = field(default_factory=set)  # of what ends when another clip is shown
    asides: set[Event] = field(default_factory=set)  # of what nobody waits for
    last_s: float = field(default_factory=monotonic)
    lock: Lock = field(default_factory=Lock)

    def show(self, clip: Clip) -> None:
        """Put a clip in view; the oldest of many is forgotten with its files."""
        with self.lock:
            self.clips.pop(clip.id, None)
            self.clips[clip.id] = clip
            self.unseen.clear()
            if clip is not self.clip:
                for event in self.passing:
                    event.set()
            self.clip = clip
            while len(self.clips) > RECENT:
                gone = self.clips.pop(next(iter(self.clips)))
                shutil.rmtree(self.folder / gone.id, ignore_errors=True)

    def in_view(self) -> Clip:
        """Return the clip in view; Refused where there is none."""
        if self.clip is None:
            opening = "the clip is still being opened: ask again in a moment"
            raise Refused(opening if self.openings else "open a clip first")
        return self.clip

    def is_idle(self, since_s: float) -> bool:
        """Tell whether nothing was done since a time, and nothing runs."""
        return self.last_s < since_s and not (self.stops or self.openings or self.asides)

    def stop(self) -> None:
        """End everything that runs or waits for this person."""
        with self.lock:
            for event in self.stops | self.openings | self.asides:
                event.set()

    @contextmanager
    def opening(self) -> Iterator[Event]:
        """Open a clip for this person, until the event is set: a later one takes its place.

        Other things may be done meanwhile: a question waits until the clip is ready.
        """
        stop = Event()
        with self.lock:
            for event in self.openings:
                event.set()
            self.openings.add(stop)
            self.unseen.add(stop)
            self.latest = stop
        try:
            yield stop
        finally:
            self.last_s = monotonic()
            with self.lock:
                self.openings.discard(stop)
                self.unseen.discard(stop)

    @contextmanager
    def aside(self) -> Iterator[Event]:
        """Do what nobody waits for, until the event is set: whatever is done next sets it."""
        stop = Event()
        with self.lock:
            self.asides.add(stop)
        try:
            yield stop
        finally:
            with self.lock:
                self.asides.discard(stop)

    @contextmanager
    def doing(
        self, most: int, stop: Event | None = None, *, passing: bool = False
    ) -> Iterator[Event]:
        """Do one thing for this person, until the event is set; Refused while others run.

        Args: most: how many may run at a time; stop: an event that was made before, for what had
        to wait; passing: it is of use for the clip in view alone, and ends when another is shown.
        """
        stop = stop or Event()
        with self.lock:
            if len(self.stops - {stop}) >= most:
                raise Refused("one thing at a time: wait for the last one, or stop it")
            self.stops.add(stop)
            self.passing |= {stop} if passing else set()
            for event in self.asides:
                event.set()
        try:
            yield stop
        finally:
            self.last_s = monotonic()
            with self.lock:
                self.stops.discard(stop)
                self.passing.discard(stop)


class Visitors:
    """Everyone who is here."""

    def __init__(self, settings: Settings) -> None:
        """Make the folder that files are served from; it goes when the app ends."""
        self.settings = settings
        base = Path(os.environ.get("GRADIO_TEMP_DIR") or tempfile.gettempdir())
        base.mkdir(parents=True, exist_ok=True)
        self.root = Path(tempfile.mkdtemp(prefix="avchat-", dir=base)).resolve()
        self.all: dict[str, Visitor] = {}  # by Gradio's session
        self.lock = Lock()

    def of(self, request: gr.Request) -> Visitor:
        """Find who is asking, or welcome them; gr.Error for a request without a session."""
        if not request.session_hash:  # all such requests would be one person
            raise gr.Error("a session is needed: send a session_hash", print_exception=False)
        return self.welcome(request.session_hash)

    def welcome(self, session: str) -> Visitor:
        """Find who has a session, or make one who has it from now on."""
        self.sweep()
        with self.lock:
            found = self.all.get(session)
            if found is None:
                folder = self.root / secrets.token_urlsafe(TOKEN_BYTES)
                folder.mkdir()
                found = self.all[session] = Visitor(folder)
            found.last_s = monotonic()
            return found

    @contextmanager
    def guest(self) -> Iterator[Visitor]:
        """Welcome who asks once, without a session; forget them and their files afterwards."""
        session = f"guest {secrets.token_urlsafe(TOKEN_BYTES)}"
        try:
            yield self.welcome(session)
        finally:
            self.leave(session)

    def leave(self, session: str | None) -> None:
        """Forget a person: stop what runs for them, delete their files."""
        with self.lock:
            gone = self.all.pop(session, None)
        if gone is not None:
            gone.stop()
            gone.clips.clear()
            gone.clip = None
            shutil.rmtree(gone.folder, ignore_errors=True)
            return_freed_memory()  # else glibc keeps megabytes for each who comes

    def sweep(self) -> None:
        """Forget who did nothing for long and has nothing running."""
        since = monotonic() - 60 * self.settings.idle_minutes
        with self.lock:
            idle = [key for key, one in self.all.items() if one.is_idle(since)]
        for key in idle:
            self.leave(key)

    def close(self) -> None:
        """Delete everything: the app ends."""
        for key in list(self.all):
            self.leave(key)
        with suppress(OSError):
            shutil.rmtree(self.root)
