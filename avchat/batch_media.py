"""Several short files -> their media, decoded by one process of its own.

A process for each file costs as much as decoding a clip of a few seconds (measured: 55 ms of the
processor a clip of the world, 26 of them decoding). So short files share one. It is still not this
process; and where it crashes or takes too long, each file is decoded again by itself, so that a
bad file is its own fault alone.
"""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from avchat import isolation, pictures
from avchat.media import Limits, Media, MediaError, load_media
from avchat.parts import packed, unpacked

SERVE = "avchat.batch_media:serve"  # what a process of its own runs
MOST_FILES = 16  # of one process
MOST_BYTES = 4_000_000  # of them on disk: past that a process of its own costs nothing beside
TIMEOUT_S = 60.0  # for each file, as `load_media` has it


@dataclass(frozen=True)
class Part:
    """A file, or its part from `start` to `end` seconds."""

    path: str
    start: float | None = None
    end: float | None = None


def in_orders(parts: Sequence[Part]) -> Iterator[list[Part]]:
    """Cut parts, in their order, in lists that one process decodes: short files together."""
    order: list[Part] = []
    size = 0
    for part in parts:
        num_bytes = 0
        with suppress(OSError):  # it is not there, or has no name that can be: decoding says so
            num_bytes = Path(part.path).stat().st_size
        if order and (len(order) == MOST_FILES or size + num_bytes > MOST_BYTES):
            yield order
            order, size = [], 0
        order.append(part)
        size += num_bytes
    if order:
        yield order


def load_order(parts: Sequence[Part], frames: int) -> list[Media | MediaError]:
    """Decode each part as `load_media` does, in one process; one that cannot be is its MediaError.

    Args: frames: of each.
    """
    request = {"frames": frames, "parts": [vars(part) for part in parts]}
    try:
        reply, arrays = isolation.call(
            SERVE,
            request,
            timeout_s=TIMEOUT_S * len(parts),
            max_bytes=Limits().max_decoded_bytes,
        )
    except isolation.WorkerError as error:
        if len(parts) == 1:
            return [MediaError(f"{Path(parts[0].path).name}: decoding {error}")]
        return [media for part in parts for media in load_order([part], frames)]
    return unpacked(reply, arrays)


def serve(request: dict) -> isolation.Reply:
    """Answer `load_order`, in the process of its own."""
    taken: list[Media | MediaError] = []
    if len(request["parts"]) > 1:
        pictures.CORES = 1  # of this process: others decode beside it, and threads cost a third
    for part in request["parts"]:
        where = {"start": part["start"], "end": part["end"]}
        try:
            taken.append(load_media(part["path"], frames=request["frames"], **where))
        except (MediaError, OSError) as error:
            taken.append(MediaError(str(error)))
    return packed(taken)
