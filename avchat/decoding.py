"""Windows of one file -> a `Media` each, decoded together in a process of their own.

A process a window would spend more time starting than decoding; a process for a whole film would
hold all of it. So a few windows go together, and a file that crashes a decoder takes no more along.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from avchat import isolation
from avchat.media import ARRAYS, Limits, Media, MediaError, MediaInfo, load_media

SERVE = "avchat.decoding:serve"
TIMEOUT_S = 60  # and for each window:
WINDOW_TIMEOUT_S = 15
STRETCH = 0.1  # of a window's length


@dataclass(frozen=True)
class Window:
    """A part of a file, in seconds of its clock; a still picture is from 0 to 0."""

    start_s: float
    end_s: float


@dataclass(frozen=True)
class Take:
    """How a window is decoded."""

    frames: int
    size: int  # pixels a side
    keyframes: bool = False
    sound: bool = True


def cut_windows(
    path: Path, info: MediaInfo, *, length_s: float, overlap_s: float, shots: bool = False
) -> list[Window]:
    """Cut a file in windows of one length that overlap; the last one ends with the file.

    The last one is shorter, or up to `STRETCH` longer: the tracks of a clip of 8 s often end some
    hundredths later. A file that does not say its length is one window.
    """
    starts = [0.0]
    while starts[-1] + (1 + STRETCH) * length_s < info.duration_s:
        starts.append(len(starts) * (length_s - overlap_s))
    ends = [start + length_s for start in starts[:-1]] + [info.duration_s]
    return [Window(start, end) for start, end in zip(starts, ends, strict=True)]


def decode_windows(
    path: Path, windows: Sequence[Window], take: Take, *, whole: bool = False
) -> list[Media | MediaError]:
    """Decode windows of a file in one process; a window of which nothing decodes is its error.

    `whole`: there is one window, the file. Raises MediaError when the process crashes or hangs.
    """
    limits = Limits()
    parts = [(None, None)] if whole else [(window.start_s, window.end_s) for window in windows]
    request = {"path": str(path), "parts": parts, "take": asdict(take)}
    try:
        reply, arrays = isolation.call(
            SERVE,
            request,
            timeout_s=TIMEOUT_S + WINDOW_TIMEOUT_S * len(parts),
            max_bytes=limits.max_decoded_bytes,
        )
    except isolation.WorkerError as error:
        raise MediaError(f"{path.name}: decoding {error}") from error
    pieces = iter(arrays)
    return [
        MediaError(fields["error"])
        if "error" in fields
        else Media(
            **{name: next(pieces) for name in ARRAYS},
            **fields | {"warnings": tuple(fields["warnings"])},
        )
        for fields in reply["clips"]
    ]


def serve(request: dict) -> isolation.Reply:
    """Answer `decode_windows`, in the process of its own."""
    clips, arrays = [], []
    for start, end in request["parts"]:
        try:
            media = load_media(request["path"], start=start, end=end, **request["take"])
        except MediaError as error:
            clips.append({"error": str(error)})
            continue
        clips.append({name: value for name, value in vars(media).items() if name not in ARRAYS})
        arrays += [vars(media)[name] for name in ARRAYS]
    return {"clips": clips}, arrays
