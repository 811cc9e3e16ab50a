"""A decoder that dies over one file; in a file of its own, since a worker process imports it."""

import os

from avchat import contour, isolation
from avchat.batch_media import serve


def crash_on_b(request: dict) -> isolation.Reply:
    """Die over one file of an order, as a decoder might."""
    if any(part["path"].endswith("b.mp4") for part in request["parts"]):
        os.abort()
    return serve(request)


def crash_on_look(request: dict) -> isolation.Reply:
    """Die when asked about shots, as a decoder of pictures might."""
    if request["what"] == "look":
        os.abort()
    return contour.serve(request)
