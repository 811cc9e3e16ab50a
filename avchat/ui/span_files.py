"""Found moments -> files to take away: a table, chapters, an edit list, clips in a zip."""

import tempfile
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from threading import Event

from avchat.cuts import cut_isolated
from avchat.export import ExportError, write_chapters, write_csv, write_edl
from avchat.media import MediaInfo
from avchat.moments import Span
from avchat.ui.clips import Clip
from avchat.ui.progress import Told, silent
from avchat.ui.visitors import Stopped

FORMS = ("csv", "vtt", "edl", "zip")


def write_spans(
    clip: Clip,
    spans: Sequence[Span],
    form: str,
    title: str,
    folder: Path,
    told: Told = silent,
    stop: Event | None = None,
) -> Path:
    """Write moments of a clip into a folder, in one of FORMS; ExportError says why not.

    Args: title: what they are called in chapters and edit lists; stop: ends the cutting of clips,
    and no file is written.
    """
    if form not in FORMS:
        raise ExportError(f"no form called {form}: it is one of {', '.join(FORMS)}")
    if not spans:
        raise ExportError("nothing to export: tick some results first")
    folder.mkdir(exist_ok=True)
    stem = clip.stem
    out = folder / f"{stem}_moments.{form}"
    writers: dict[str, Callable[[], None]] = {
        "csv": lambda: write_csv(out, spans, clip.name, overwrite=True),
        "vtt": lambda: write_chapters(out, spans, title, overwrite=True),
        "edl": lambda: write_edl(out, spans, named(clip), title, overwrite=True),
        "zip": lambda: write_clips(clip, spans, out, stem, told, stop or Event()),
    }
    writers[form]()
    return out


def named(clip: Clip) -> MediaInfo:
    """Return what is known of a clip, by the name that the person knows."""
    return replace(clip.info, path=clip.name)


def write_clips(
    clip: Clip, spans: Sequence[Span], out: Path, stem: str, told: Told, stop: Event
) -> None:
    """Cut each span exactly into a file of its own, encoded anew, and put them all in a zip."""
    ending = ".mp4" if clip.info.has_video else ".m4a"
    with tempfile.TemporaryDirectory(dir=out.parent) as folder:
        whole = Path(folder) / out.name
        with zipfile.ZipFile(whole, "w", zipfile.ZIP_STORED) as target:  # clips are packed already
            for rank, span in enumerate(spans, 1):
                told("cutting", rank - 1, len(spans))
                name = f"{rank:02d}_{stem}_{span.start:.1f}-{span.end:.1f}{ending}"
                part = Path(folder) / name
                done = cut_isolated(clip.path, span.start, span.end, part, exact=True, stop=stop)
                if done is None:
                    raise Stopped("stopped: no clips were cut")
                target.write(part, name)
        whole.replace(out)
