"""Files and folders that somebody names -> the media files that are there, each once."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

# What is taken of a folder; a file that is named is tried whatever its name ends in.
ENDINGS = frozenset(
    ".mp4 .m4v .mov .mkv .webm .avi .mpg .mpeg .ts .mts .m2ts .wmv .flv .3gp .ogv .mxf .vob .gif"
    " .wav .mp3 .m4a .aac .flac .ogg .opus .wma .aiff .aif .amr .ac3".split()
)


class IndexingError(Exception):
    """Say in one line why nothing could be indexed."""


def media_files(paths: Sequence[str | Path]) -> list[Path]:
    """List files and the media files in folders, absolute, in order, each once."""
    found: dict[Path, None] = {}
    for path in (Path(os.path.abspath(path)) for path in paths):
        if not path.exists():
            raise IndexingError(f"{path}: no such file or folder")
        for file in in_folder(path) if path.is_dir() else [path]:
            found[file] = None
    return list(found)


def in_folder(folder: Path) -> Iterator[Path]:
    """Yield the media files in a folder and below; hidden ones are left alone."""
    for at, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if not name.startswith(".") and Path(name).suffix.lower() in ENDINGS:
                yield Path(at) / name
