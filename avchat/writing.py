"""A file that is written whole or not at all; one that is there already is kept, unless told."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class ExportError(ValueError):
    """Something that cannot be written; the message is one line in the user's words."""


@contextmanager
def fresh(out: Path, overwrite: bool, source: Path | None = None) -> Iterator[Path]:
    """Give a path to write to, which becomes `out` when all went well.

    Raises ExportError where `out` is there already, is the source, or cannot be written.
    """
    if source is not None and out.exists() and out.samefile(source):
        raise ExportError(f"{out}: this is the source; name another file")
    if out.is_dir():
        raise ExportError(f"{out}: this is a folder, not a file")
    if out.exists() and not overwrite:
        raise ExportError(f"{out}: there is such a file already; --overwrite replaces it")
    try:
        handle, name = tempfile.mkstemp(out.suffix, f".{out.stem}-", out.parent)
    except OSError as error:
        raise ExportError(f"{out}: cannot be written: {error.strerror}") from error
    os.close(handle)
    try:
        yield Path(name)
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(name, 0o666 & ~mask)  # mkstemp makes files that nobody else may read
        os.replace(name, out)
    except OSError as error:
        raise ExportError(f"{out}: cannot be written: {error.strerror or error}") from error
    finally:
        Path(name).unlink(missing_ok=True)
