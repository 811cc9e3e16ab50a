"""The sound of a file -> one mono wave at 16 kHz, each sample at its true time on the file's clock.

Shapes: S samples.
"""

from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np

from avchat.container import (
    MediaError,
    clock_origin,
    decode,
    drain,
    is_indexed,
    open_file,
    read_packets,
    seek,
    sound_stream,
)

SAMPLE_RATE = 16_000  # samples a second: what Whisper was trained on
PREROLL_S = 0.2  # decoded before a part begins, so that codecs with memory have settled
GAP_S = 0.05  # a stamp this far from where the last sample ended is believed; less is jitter
BACK_S = 1.0  # a stamp this far back is damage, not an overlap


@dataclass(frozen=True)
class Sound:
    """The sound of one part of a file."""

    waveform: np.ndarray  # float32 [S]; sample 0 sounds where the part begins
    heard_s: float  # how much of it was decoded: silence that fills gaps is not counted
    damaged: int  # packets that could not be decoded


class Track:
    """Pieces of resampled sound with their places, in samples from the start of the part."""

    def __init__(self, horizon_s: float) -> None:
        self.pieces: list[tuple[int, np.ndarray]] = []
        self.horizon_s = horizon_s  # no stamp beyond this is believed
        self.next_s = 0.0  # where the next frame is expected
        self.place = 0
        self.kind: tuple | None = None  # what the resampler was made for
        self.resampler: av.AudioResampler | None = None

    def add(self, frame: av.AudioFrame, time_s: float | None) -> None:
        """Append a decoded frame that begins at `time_s`, seconds from the start of the part."""
        kind = (frame.format.name, frame.layout.name, frame.sample_rate)
        if time_s is None or time_s > self.horizon_s:
            time_s = self.next_s
        ahead = time_s - self.next_s
        jump = ahead > GAP_S or -BACK_S < ahead < -GAP_S
        if kind != self.kind or jump or self.resampler is None:
            self.flush()
            # 16-bit, as whisper.load_audio: libav then takes the mean of the channels; to float it
            # adds their powers, which is louder than 1.
            self.resampler = av.AudioResampler("s16", "mono", SAMPLE_RATE)
            self.kind = kind
            if jump or not self.pieces:
                self.next_s = time_s
            self.place = round(self.next_s * SAMPLE_RATE)
        self.next_s += frame.samples / frame.sample_rate
        self.take(self.resampler.resample(frame))

    def take(self, resampled: list[av.AudioFrame]) -> None:
        """Lay resampled frames down one after the other."""
        for frame in resampled:
            piece = frame.to_ndarray()[0]
            self.pieces.append((self.place, piece))
            self.place += len(piece)

    def flush(self) -> None:
        """Take what the resampler still holds; the next frame begins anew."""
        if self.resampler is not None:
            self.take(self.resampler.resample(None))
        self.resampler = None

    def lay_out(self, length: int | None) -> np.ndarray:
        """Return float32 [S] in -1..1: pieces at their places, silence between, the rest cut."""
        total = max((place + len(piece) for place, piece in self.pieces), default=0)
        total = max(0, total if length is None else min(length, total))
        wave = np.zeros(total, np.float32)
        for place, piece in self.pieces:
            first, last = max(0, place), min(total, place + len(piece))
            if first < last:
                wave[first:last] = piece[first - place : last - place] * np.float32(1 / 32768)
        return wave


def read_sound(
    path: Path, start: float, end: float | None, horizon_s: float, longest_s: float
) -> Sound:
    """Decode the default sound track from `start` to `end`, seconds on the file's clock.

    A track that starts late is laid down late; what sounds before `start` is cut; a gap is silent.
    `horizon_s` is where the file ends: what claims to sound later is not believed. More than
    `longest_s` of sound raises MediaError.
    """
    damaged = 0
    track = Track(horizon_s - start)
    with open_file(path) as container:
        stream = sound_stream(container)
        origin = float(clock_origin(container))
        if start > PREROLL_S and is_indexed(container):
            seek(container, stream, start - PREROLL_S + origin)
        for packet in read_packets(container, stream):
            time = None if packet.pts is None else float(packet.pts * packet.time_base) - origin
            if time is not None and end is not None and time >= end:
                break
            if time is not None and time < start - PREROLL_S:
                continue
            frames = decode(packet)
            damaged += frames is None
            for frame in frames or []:
                damaged += not add_frame(track, frame, origin + start)
            if track.next_s > longest_s:
                raise MediaError(f"{path.name}: longer than the limit of {longest_s:g} s")
        for frame in drain(stream):
            add_frame(track, frame, origin + start)
    track.flush()
    wave = track.lay_out(None if end is None else round((end - start) * SAMPLE_RATE))
    heard = sum(
        max(0, min(len(wave), place + len(piece)) - max(0, place)) for place, piece in track.pieces
    )
    return Sound(wave, heard / SAMPLE_RATE, damaged)


def add_frame(track: Track, frame: av.AudioFrame, zero_s: float) -> bool:
    """Append one decoded frame if it is sound; `zero_s` is the stamp at which the part begins."""
    if not frame.samples or not frame.sample_rate:
        return False
    try:
        track.add(frame, None if frame.time is None else frame.time - zero_s)
    except (av.FFmpegError, ValueError):  # a rate or layout that no resampler takes
        track.resampler = None
        return False
    return True
