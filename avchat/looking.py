"""Windows of a file -> their vectors, batch by batch; the next batch is decoded meanwhile.

Memory is that of a few windows, however long the file is.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING

from avchat.media import Media, MediaError
from avchat.parts import load_parts
from avchat.windows import Window

if TYPE_CHECKING:
    from avchat.heads import Head, Vectors

BATCH = 8  # windows decoded and looked at together: at 16 frames of 384x384, 57 MB

Looked = list[tuple[Window, "Vectors | MediaError"]]


def look(
    head: "Head",
    path: Path,
    windows: Sequence[Window],
    *,
    picture: bool = True,
    sound: bool = True,
    isolate: bool = False,
    stop: Event | None = None,
) -> Iterator[Looked]:
    """Yield windows with what a head makes of them; a window that does not decode is its error.

    Args: picture, sound: which senses to decode; isolate: decode in processes of their own; stop:
    set it to end before the head looks at the next batch.
    """

    def stopped() -> bool:
        return stop is not None and stop.is_set()

    def take(batch: Sequence[Window]) -> list[Media | MediaError]:
        if stopped():
            return []
        frames = head.frames if picture else 0
        return load_parts(
            path, batch, frames=frames, size=head.size, sound=head.hears and sound, isolate=isolate
        )

    batches = [windows[at : at + BATCH] for at in range(0, len(windows), BATCH)]
    with ThreadPoolExecutor(1) as side:
        ahead: Future | None = None
        for place, batch in enumerate(batches):
            ready = ahead or side.submit(take, batch)
            following = batches[place + 1 : place + 2]
            ahead = side.submit(take, following[0]) if following else None
            media = ready.result()
            if stopped():
                return
            kept = [one for one in media if isinstance(one, Media)]
            vectors = iter(head.clips(kept) if kept else [])
            found = [next(vectors) if isinstance(one, Media) else one for one in media]
            yield list(zip(batch, found, strict=True))


def complaint(faults: Sequence[MediaError], done: int) -> tuple[str, ...]:
    """Say in one line that windows did not decode; raise the first fault where none of them did."""
    if faults and len(faults) == done:
        raise faults[0]
    if not faults:
        return ()
    return (f"{len(faults)} of {done} parts could not be decoded: {faults[0]}",)
