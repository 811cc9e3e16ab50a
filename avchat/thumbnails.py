"""Frames of a window -> a small JPEG that a library keeps.

Legend: T frames, H and W pixels.
"""

import io

import numpy as np
from PIL import Image

from avchat.library_table import MAX_THUMBNAIL
from avchat.media import MediaInfo

THUMBNAIL_SIDE = 160  # pixels
QUALITIES = (80, 60, 40, 20, 5)  # of JPEG, until it is small enough


def thumbnail(frames: np.ndarray, info: MediaInfo) -> bytes:
    """Make a small JPEG, in its true proportions, of the middle frame of uint8 [T, H, W, 3]."""
    if not len(frames):
        return b""
    scale = THUMBNAIL_SIDE / max(info.width, info.height)
    size = max(1, round(info.width * scale)), max(1, round(info.height * scale))
    picture = Image.fromarray(frames[len(frames) // 2]).resize(size)
    for quality in QUALITIES:
        file = io.BytesIO()
        picture.save(file, "JPEG", quality=quality)
        if file.tell() <= MAX_THUMBNAIL:
            break
    return file.getvalue()
