"""Write a scene as a real video file: H.264 and AAC in mp4, the same layout for every clip."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter

from avchat.world.pictures import PICTURE, render_frames
from avchat.world.scenes import DURATION_S, Scene
from avchat.world.sounds import SAMPLE_RATE, render_waveform

FPS = 16
FRAMES = int(DURATION_S * FPS)
_AUDIO_BITS_S = 80_000
_AUDIO_OPTIONS = {"aac_coder": "fast"}  # faster than the default, and closer here
# One thread and no version strings: the same scene gives the same bytes on the same libx264.
_VIDEO_OPTIONS = {"crf": "18", "preset": "veryfast", "threads": "1"}
_FILE_OPTIONS = {"movflags": "+faststart", "fflags": "+bitexact"}


def write_clip(scene: Scene, path: str | Path) -> None:
    """Render a scene to a 4 s mp4 file: 128x128 at 16 fps, mono sound at 16 kHz.

    The AAC encoder's 64 ms of priming are written as negative times, which every player skips.
    """
    write_film([scene], path)


def write_film(scenes: Sequence[Scene], path: str | Path) -> None:
    """Render scenes to one file, one after the other, 4 s each; see `write_clip`."""
    with av.open(str(path), "w", format="mp4", options=_FILE_OPTIONS) as file:
        pictures = file.add_stream("libx264", rate=FPS, options=_VIDEO_OPTIONS)
        pictures.width = pictures.height = PICTURE
        pictures.pix_fmt = "yuv420p"
        sound = file.add_stream("aac", rate=SAMPLE_RATE, layout="mono", options=_AUDIO_OPTIONS)
        sound.bit_rate = _AUDIO_BITS_S
        convert = VideoReformatter()  # one for all frames: making its tables takes most of the time
        for place, scene in enumerate(scenes):
            for number, picture in enumerate(render_frames(scene, np.arange(FRAMES) / FPS)):
                frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
                # AREA: each pair of colour differences is the mean of its 2x2 pixels
                frame = convert.reformat(frame, format="yuv420p", interpolation=Interpolation.AREA)
                frame.pts, frame.time_base = place * FRAMES + number, Fraction(1, FPS)
                file.mux(pictures.encode(frame))
            waveform = render_waveform(scene)
            frame = av.AudioFrame.from_ndarray(waveform[None], format="fltp", layout="mono")
            frame.sample_rate, frame.time_base = SAMPLE_RATE, Fraction(1, SAMPLE_RATE)
            frame.pts = place * len(waveform)
            file.mux(sound.encode(frame))
        file.mux(pictures.encode(None))
        file.mux(sound.encode(None))
