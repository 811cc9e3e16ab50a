"""Turn a scene into what is seen and heard: pictures and sound as arrays, or a real video file."""

from avchat.world.clip_file import write_clip
from avchat.world.pictures import render_frames
from avchat.world.sounds import render_waveform

__all__ = ["render_frames", "render_waveform", "write_clip"]
