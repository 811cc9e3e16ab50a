"""The library that the page shows: what is in it, adding, removing, making it anew.

What happens, without the page: `library_tab.py` shows it and `endpoints.py` sends it. Files are
named by the hash of their bytes; where they lie is known here alone.
"""

import hashlib
import secrets
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any, Literal

from avchat.gathering import IndexingError, media_files
from avchat.indexing import Cutting, Step, index
from avchat.library import File, Library, LibraryError
from avchat.ui.app import App
from avchat.ui.opening import ID_BYTES, take
from avchat.ui.progress import Told, silent
from avchat.ui.visitors import Refused, Visitor

EVERY_S = 0.3  # between two looks at how far the files are
FOLDER_DIGITS = 12
State = Literal["queued", "working", "added", "there", "failed", "stopped"]
# Of indexing's states; a file that was moved is there as much as one that was not.
STATES: dict[str, State] = {"unchanged": "there", "moved": "there"}


class Foreign(Refused):
    """The library's vectors were made by another head; it can be made anew."""


@dataclass(frozen=True)
class Status:
    """How far a file is that is being added; share: of it, 0 to 1; reason: why it failed."""

    name: str
    state: State = "queued"
    share: float = 0.0
    reason: str = ""


def opened(app: App, *, create: bool = False) -> Library:
    """Open the library that the page shows.

    Refused where there is none or the app has no head, Foreign where another head made it.
    """
    head = app.engine.shared_head
    if head is None:
        raise Refused("this app has no lookup head: it answers questions and finds nothing")
    with plainly(app):
        library = find_library(app.library_uri)
        if library is None and create:
            library = made(app, app.library_uri)
    if library is None:
        raise Refused("the library is empty: add files to it")
    if library.maker.fingerprint != head.fingerprint:
        name = Path(library.maker.name).name
        raise Foreign(f"this library was made by another model ({name}): it cannot be searched")
    return library


def find_library(uri: str) -> Library | None:
    """Open a library whatever made it; None where there is none."""
    try:
        return Library.open(uri)
    except LibraryError as error:
        if "no library here" in str(error):
            return None
        raise


def made(app: App, uri: str) -> Library:
    """Make an empty library for the app's head."""
    head = app.engine.shared_head
    name = {"head_name": head.name, "fingerprint": head.fingerprint, "width": head.width}
    return Library.open(uri, create=True, **name)


@contextmanager
def plainly(app: App) -> Iterator[None]:
    """Say what is wrong with the library without saying where it lies."""
    try:
        yield
    except LibraryError as error:
        said = str(error).removeprefix(f"{app.library_uri}: ")
        raise Refused(said.replace(app.library_uri, "the library")) from error


def library_ready(app: App, told: Told = silent) -> None:
    """Put the examples into the app's own library, once. Raises Refused, as `opened`."""
    filled = beside(app, ".filled")
    if app.settings.library is not None or (filled.exists() and find_library(app.library_uri)):
        return
    with changing(app, Event()):
        if filled.exists() and find_library(app.library_uri):
            return  # somebody else has waited less
        library = opened(app, create=True)
        for _ in indexed(app, library, [one.path for one in app.examples], told, Event()):
            pass
        filled.touch()


def library_files(app: App, part: str = "") -> dict[str, Any]:
    """List the files whose names contain a text, the folders, and what the library holds in all.

    Raises Refused, as `opened`.
    """
    with plainly(app):
        library = opened(app)
        stats = library.stats()
        files = library.files()
    shown = [file for file in files.values() if part.lower() in Path(file.path).name.lower()]
    return {
        "model": Path(stats["head"]["name"]).name,
        "width": stats["head"]["width"],
        "files": stats["files"],
        "windows": stats["windows"],
        "hours": stats["hours"],
        "megabytes": stats["bytes"] / 1e6,
        "can_change": not app.settings.public,
        "folders": [
            {"id": number, "name": name, "files": count}
            for number, (_, name, count) in folders_of(app, files.values()).items()
        ],
        "list": [
            {
                "id": file.hash,
                "name": Path(file.path).name,
                "duration_s": file.duration_s,
                "has_sound": file.has_sound,
                "windows": file.windows,
                "missing": not Path(file.path).exists(),
            }
            for file in sorted(shown, key=lambda file: Path(file.path).name.lower())
        ],
    }


def folders_of(app: App, files: Sequence[File]) -> dict[str, tuple[Path, str, int]]:
    """Name the folders of files by an id: where they are, what people call them, how many files.

    Uploaded files have a folder each, and count as one.
    """
    counts: dict[Path, int] = {}
    for file in files:
        folder = Path(file.path).parent
        folder = app.added if app.added in folder.parents else folder
        counts[folder] = counts.get(folder, 0) + 1
    ranked = sorted(counts.items(), key=lambda one: (-one[1], one[0].name))
    return {folder_id(path): (path, path.name, count) for path, count in ranked}


def folder_id(path: Path) -> str:
    """Name a folder by what does not tell where it is."""
    return hashlib.sha256(str(path).encode()).hexdigest()[:FOLDER_DIGITS]


def library_add(
    app: App,
    visitor: Visitor,
    paths: Sequence[str | Path],
    told: Told = silent,
    *,
    uploaded: bool = True,
) -> Iterator[list[Status]]:
    """Add files; say how far each is, again and again.

    Args: uploaded: the files go away by themselves, and are kept in a folder of the app; else they
    are files and folders of this machine, and stay where they are. Raises Refused.
    """
    check_may_change(app)
    if not paths:
        raise Refused("choose files to add")
    with visitor.doing(app.settings.per_person) as stop, changing(app, stop, told):
        library = opened(app, create=True)
        files = kept(app, paths) if uploaded else listed(paths)
        try:
            yield from indexed(app, library, files, told, stop)
        finally:
            if uploaded:
                tidy(library, files)


def listed(paths: Sequence[str | Path]) -> list[Path]:
    """List the media files of folders; Refused where there are none."""
    try:
        files = media_files([Path(str(path).strip()).expanduser() for path in paths])
    except IndexingError as error:
        raise Refused("there is no such file or folder on this machine") from error
    if not files:
        raise Refused("there is no video and no sound in this folder")
    return files


def kept(app: App, paths: Sequence[str | Path]) -> list[Path]:
    """Link or copy uploaded files into a folder of the app, each into one of its own."""
    files = []
    for path in map(Path, paths):
        folder = app.added / secrets.token_urlsafe(ID_BYTES)
        folder.mkdir(parents=True)
        files.append(take(path, folder / path.name))
    return files


def tidy(library: Library, files: Sequence[Path]) -> None:
    """Delete the copies of uploaded files that did not get into the library."""
    used = {file.path for file in library.files().values()}
    for file in files:
        if str(file) not in used:
            shutil.rmtree(file.parent, ignore_errors=True)


def indexed(
    app: App, library: Library, files: Sequence[Path], told: Told, stop: Event
) -> Iterator[list[Status]]:
    """Index files in a thread; say how far each is until all are done or it is stopped."""
    head = app.engine.shared_head
    found = {str(file): Status(file.name) for file in files}

    def on_step(step: Step) -> None:
        state = STATES.get(step.state, step.state)
        reason = step.reason.replace(step.path, Path(step.path).name)
        found[step.path] = Status(Path(step.path).name, state, step.share, reason)

    with ThreadPoolExecutor(1) as pool, plainly(app):
        cutting = Cutting(head.window_s, head.window_s / 2)
        work = pool.submit(index, files, library, head, cutting, on_step=on_step, stop=stop)
        try:
            while not work.done():
                done = sum(done_share(one) for one in found.values())
                told("adding to the library", done, len(found))
                yield list(found.values())
                wait([work], EVERY_S)
            work.result()
        finally:
            if not work.done():
                stop.set()
    for path, one in found.items():
        if one.state in ("queued", "working"):
            found[path] = Status(one.name, "stopped")
    yield list(found.values())


def done_share(status: Status) -> float:
    """Return how much of a file is done."""
    return status.share if status.state in ("queued", "working") else 1.0


def library_remove(app: App, visitor: Visitor, ids: Sequence[str]) -> int:
    """Forget files; return how many. Files of this machine stay; uploaded ones are deleted."""
    check_may_change(app)
    with visitor.doing(app.settings.per_person) as stop, changing(app, stop):
        library = opened(app)
        with plainly(app):
            files = library.files()
            gone = [files[one] for one in ids if one in files]
            if not gone:
                raise Refused("there is no such file in the library")
            library.remove(file.path for file in gone)
    for file in gone:
        folder = Path(file.path).parent
        if folder.parent == app.added:
            shutil.rmtree(folder, ignore_errors=True)
    return len(gone)


def library_rebuild(app: App, visitor: Visitor, told: Told = silent) -> Iterator[list[Status]]:
    """Make the library anew, with the app's own head, from those of its files that are there.

    The old one stays until the new one is whole. Raises Refused.
    """
    check_may_change(app)
    if "://" in app.library_uri:
        raise Refused("only a library in a folder of this machine can be made anew from here")
    place = Path(app.library_uri)
    with visitor.doing(app.settings.per_person) as stop, changing(app, stop, told):
        with plainly(app):
            old = find_library(app.library_uri)
            files = [] if old is None else [Path(file.path) for file in old.files().values()]
        files = [file for file in files if file.exists()]
        if not files:
            raise Refused("none of its files is there any more: nothing can be made of them")
        fresh, aside = beside(app, ".new"), beside(app, ".old")
        shutil.rmtree(fresh, ignore_errors=True)
        try:
            library = made(app, str(fresh))
            yield from indexed(app, library, files, told, stop)
            if not stop.is_set() and library.files():
                shutil.rmtree(aside, ignore_errors=True)
                place.rename(aside)
                fresh.rename(place)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
        shutil.rmtree(aside, ignore_errors=True)


def beside(app: App, ending: str) -> Path:
    """Name what lies beside the library's folder."""
    place = Path(app.library_uri)
    return place.with_name(place.name + ending)


def check_may_change(app: App) -> None:
    """Refuse changes where the app is for strangers."""
    if app.settings.public:
        raise Refused("this library can be searched, not changed")


@contextmanager
def changing(app: App, stop: Event, told: Told = silent) -> Iterator[None]:
    """Wait until nobody else changes the library; Refused when it was stopped before."""
    while not app.changing.acquire(timeout=EVERY_S):
        told("waiting until the library is free", 0, 0)
        if stop.is_set():
            raise Refused("stopped: the library is as it was")
    try:
        yield
    finally:
        app.changing.release()
