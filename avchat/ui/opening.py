"""A file that somebody gives -> their clip in view: probed, in a form that browsers play, surveyed.

MediaError says in one line why a file cannot be used; nothing of it is decoded in this process.
"""

import mimetypes
import os
import secrets
import shutil
from contextlib import ExitStack
from pathlib import Path
from threading import Event

from avchat.app_settings import Settings
from avchat.contour import contour
from avchat.heads import sha256_of
from avchat.media import Limits, MediaInfo, probe
from avchat.preview import make_preview, plays_in_browsers
from avchat.ui.clips import Clip, Kind
from avchat.ui.progress import Told
from avchat.ui.visitors import Refused, Visitor

ID_BYTES = 8
LONGEST_NAME = 40  # characters; file systems take 255 bytes, and a cut adds its times to it


def open_clip(
    visitor: Visitor,
    path: Path,
    settings: Settings,
    told: Told,
    stop: Event,
    *,
    name: str = "",
    suggestion: str = "",
    watched: bool = True,
) -> Clip:
    """Take a file in view: a link or copy of it lies in the person's folder from now on.

    Args: name: as the person knows it; suggestion: a question that suits it; watched: a
    browser is to play it, if need be from a copy. Raises MediaError, Refused when it was stopped.
    """
    info = probe(path, limits=limits_of(settings), isolate=True)
    number = secrets.token_urlsafe(ID_BYTES)
    folder = visitor.folder / number
    folder.mkdir()
    with ExitStack() as undo:
        undo.callback(shutil.rmtree, folder, ignore_errors=True)
        own = take(path, folder / file_name(name or path.name))
        plays = not watched or plays_in_browsers(own, info)
        shown = own if plays else copied(own, info, told, stop)
        clip = Clip(
            number,
            own,
            name or path.name,
            info,
            own.stat().st_size,
            sha256_of([own]),
            shown,
            kind_of(info),
            suggestion,
        )
        if stop.is_set():
            raise Refused("stopped: no clip was opened")
        undo.pop_all()  # it is taken: the folder stays
    visitor.show(clip)
    return clip


def copied(own: Path, info: MediaInfo, told: Told, stop: Event) -> Path:
    """Make the copy that browsers play; Refused when it was stopped."""
    what = "making a copy that browsers play"
    told(what, 0, 1)
    folder = own.parent / "shown"  # of its own: the file may be called as the copy is
    folder.mkdir()
    made = make_preview(
        own,
        info,
        folder / own.stem,
        progress=lambda done, total: told(what, done, total),
        stop=stop,
    )
    if made is None:
        raise Refused("stopped: no clip was opened")
    return made


def survey(clip: Clip, told: Told, stop: Event) -> None:
    """Find out how loud a clip is over time and where its shots change, once."""
    with clip.lock:
        if clip.contour is None and not clip.info.is_still:
            clip.contour = contour(
                clip.path,
                clip.info,
                progress=lambda done, total: told("surveying", done, total),
                stop=stop,
            )


def limits_of(settings: Settings) -> Limits:
    """Say how large and how long a file may be."""
    return Limits(
        max_file_bytes=settings.max_file_mb * 1_000_000, max_duration_s=60 * settings.max_minutes
    )


def take(path: Path, own: Path) -> Path:
    """Link a file into a folder that is served, or copy it where that cannot be."""
    try:
        os.link(path, own)
    except OSError:  # another file system, or one without links
        shutil.copyfile(path, own)
    return own


def file_name(name: str) -> str:
    """Name a file so that it can be served: what an ending calls a page or a program is none here.

    Files of a visitor's folder are shown by the browser, not downloaded, so that videos play.
    """
    stem, ending = os.path.splitext(Path(name).name)
    kind = mimetypes.guess_type(f"file{ending}")[0] or ""
    media = kind.startswith(("video/", "audio/", "image/")) and kind != "image/svg+xml"
    return stem[:LONGEST_NAME] + (ending.lower() if media else "")


def kind_of(info: MediaInfo) -> Kind:
    """Say what shows it: a video player, a sound player, a picture."""
    if not info.has_video:
        return "audio"
    return "image" if info.is_still else "video"
