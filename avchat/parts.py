"""Several parts of one file -> their media, together: in one process, and its pictures in one pass.

A process takes a quarter of a second to start: over the windows of a film, minutes. And windows
that overlap show the same frames, which lie in the same groups of pictures.
"""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from avchat import isolation
from avchat.listing import Wish
from avchat.media import ARRAYS, Limits, Media, MediaError, decode_together, load_media
from avchat.windows import Window

SERVE = "avchat.parts:serve"  # what a process of its own runs
PART_S = 15.0  # seconds that a part may take to decode, beside those of the file


def load_parts(
    path: str | Path,
    windows: Sequence[Window],
    *,
    frames: int,
    size: int | None,
    sound: bool = True,
    keyframes: bool = False,
    isolate: bool = False,
    timeout_s: float = 60.0,
) -> list[Media | MediaError]:
    """Decode windows of a file as `load_media` does; a part that cannot be is its MediaError.

    With `isolate`, a crash or a timeout is every part's MediaError: which of them did it is not
    known.
    """
    request = {
        "path": str(path),
        "parts": [(window.start_s, window.end_s) for window in windows],
        "look": {"frames": frames, "size": size, "sound": sound, "keyframes": keyframes},
    }
    if not isolate:
        return take(request)
    try:
        reply, arrays = isolation.call(
            SERVE,
            request,
            timeout_s=timeout_s + PART_S * len(windows),
            max_bytes=Limits().max_decoded_bytes,
        )
    except isolation.WorkerError as error:
        return [MediaError(f"{Path(path).name}: decoding {error}")] * len(windows)
    return unpacked(reply, arrays)


def take(request: dict) -> list[Media | MediaError]:
    """Decode the parts of a request together, or one by one where that may not be the same."""
    path, parts, look = Path(request["path"]), request["parts"], request["look"]
    size = None if look["size"] is None else (look["size"],) * 2
    wishes = [
        Wish(look["frames"], None, start, end, keyframes=look["keyframes"]) for start, end in parts
    ]
    if sorted(parts) == list(parts):
        with suppress(MediaError):  # of one part, and it is not known of which
            return decode_together(path, wishes, size, look["sound"], Limits())
    return take_each(request)


def take_each(request: dict) -> list[Media | MediaError]:
    """Decode the parts of a request one after the other."""
    taken: list[Media | MediaError] = []
    for start, end in request["parts"]:
        try:
            taken.append(load_media(request["path"], start=start, end=end, **request["look"]))
        except MediaError as error:
            taken.append(error)
    return taken


def serve(request: dict) -> isolation.Reply:
    """Answer `load_parts`, in the process of its own."""
    return packed(take(request))


def packed(taken: Sequence[Media | MediaError]) -> isolation.Reply:
    """Make decoded parts ready to be sent to another process."""
    parts, arrays = [], []
    for one in taken:
        if isinstance(one, MediaError):
            parts.append({"error": str(one)})
            continue
        parts.append({name: value for name, value in vars(one).items() if name not in ARRAYS})
        arrays += [vars(one)[name] for name in ARRAYS]
    return {"parts": parts}, arrays


def unpacked(reply: dict, arrays: Sequence[np.ndarray]) -> list[Media | MediaError]:
    """Read decoded parts that another process has sent."""
    rest = iter(arrays)
    return [
        MediaError(fields["error"])
        if "error" in fields
        else Media(
            *(next(rest) for _ in ARRAYS), **fields | {"warnings": tuple(fields["warnings"])}
        )
        for fields in reply["parts"]
    ]
