"""Sound -> what is said in it, line by line with times, by a whole Whisper: encoder and decoder.

Legend: S samples at 16 kHz.
"""

import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from threading import Event

import numpy as np
import torch
from whisper import Whisper, available_models, load_model
from whisper.audio import N_FRAMES
from whisper.model import AudioEncoder

from avchat.media import SAMPLE_RATE, MediaError, load_media
from avchat.whisper_weights import load_whisper

PIECE_S = 300.0  # of a file, decoded and written down at a time: 19 MB
CUT_OFF_S = 1.0  # a line that ends so near the end of its piece may have been cut by it
SILENCE = 1e-4  # peak of a sound track, of 1.0, below which nothing can be heard
SHORTEST_S = 0.1  # of sound in which something may be said: our choice, less than a syllable takes
MARGIN_S = 0.5  # by how much Whisper's times may be wrong: our choice

# Whisper's own defaults. A window is taken for one without speech where it holds that for likely
# and its own words for unlikely; words that repeat themselves (length of the text over that of its
# zlib) are tried again at higher temperatures, and kept by Whisper however that ends: not here.
NO_SPEECH = 0.6
LOGPROB = -1.0
COMPRESSION = 2.4

# What torch and Whisper raise over a file that is something else.
NO_MODEL = (RuntimeError, LookupError, TypeError, ValueError, EOFError, pickle.UnpicklingError)


class TranscriptError(ValueError):
    """A transcript that cannot be had; the message is one line in the user's words."""


@dataclass(frozen=True)
class Line:
    """Something said, in seconds on the file's clock."""

    start: float
    end: float
    text: str


def whole_whisper(name: str, device: str | None = None) -> Whisper:
    """Load a Whisper with its decoder; TranscriptError says why it cannot be had."""
    known = name in available_models() or Path(name).is_file()
    if not known and not Path(name).is_dir() and "/" not in name:
        names = ", ".join(available_models())
        raise TranscriptError(f"no Whisper called {name}, and no such file; known: {names}")
    try:
        if known:
            whisper = load_model(name, device=device)
        else:  # in the form of Transformers
            device = device or ("cuda" if torch.cuda.is_available() else "cpu")
            whisper = load_whisper(name).to(device)
    except OSError as error:  # no network, no room, no permission
        raise TranscriptError(f"Whisper {name} cannot be had: {error}") from error
    except pickle.UnpicklingError as error:  # its text gives advice that nobody should follow
        raise TranscriptError(f"{name}: not a Whisper model") from error
    except NO_MODEL as error:
        why = f"{error}".partition("\n")[0]
        raise TranscriptError(f"{name}: not a Whisper model ({why})") from error
    if whisper.dims.n_audio_ctx * 2 != N_FRAMES:
        window_s = whisper.dims.n_audio_ctx / 50
        raise TranscriptError(
            f"{name}: hears {window_s:g} s at a time; only a Whisper of 30 s can transcribe"
        )
    return whisper


class Transcriber:
    """A published Whisper by its name, a .pt file, or in Transformers' form; loaded when needed."""

    def __init__(
        self,
        name_or_pt_file: str | Path,
        device: str | None = None,
        encoder: AudioEncoder | None = None,
    ) -> None:
        """Args: device: None for CUDA where there is one; encoder: that Whisper's own, where it is
        in memory already: it takes the place of a second one, and its device is the device.
        """
        self.name, self.device, self.encoder = str(name_or_pt_file), device, encoder

    @cached_property
    def whisper(self) -> Whisper:
        """Load the model; TranscriptError says why it cannot be had."""
        if self.encoder is None:
            return whole_whisper(self.name, self.device)
        whisper = whole_whisper(self.name, "cpu")
        whisper.encoder = self.encoder
        return whisper

    def load(self) -> "Transcriber":
        """Load the model now, to know before any work is done whether it can be had."""
        self.whisper.eval()
        return self

    def file_lines(
        self,
        path: str | Path,
        end_s: float,
        *,
        isolate: bool = False,
        stop: Event | None = None,
    ) -> list[Line]:
        """Write down what is said in a file up to `end_s`, in pieces, so that memory stays flat.

        A line that the end of a piece may have cut is heard again, whole, with the next piece.
        What of the sound cannot be decoded is left out, and so is what follows once `stop` is set.
        """

        def hear(start: float, end: float) -> list[Line]:
            if stop is not None and stop.is_set():
                return []
            try:
                media = load_media(path, frames=0, start=start, end=end, isolate=isolate)
            except MediaError:
                return []
            return self.lines(media.waveform, start)

        return in_pieces(hear, end_s)

    def wave_lines(self, waveform: np.ndarray, start_s: float = 0.0) -> list[Line]:
        """Write down what is said in a part of any length, as `lines` does, in pieces."""

        def hear(start: float, end: float) -> list[Line]:
            piece = waveform[round(start * SAMPLE_RATE) : round(end * SAMPLE_RATE)]
            return self.lines(piece, start)

        return later(in_pieces(hear, len(waveform) / SAMPLE_RATE), start_s)

    def lines(self, waveform: np.ndarray, start_s: float = 0.0) -> list[Line]:
        """Write down what is said in a part: mono 16 kHz float32 [S], which begins at `start_s`.

        Nothing is said in silence, which is not given to the model: it would invent words. What it
        invents all the same is dropped where that can be told: see the constants above. The same
        sound gives the same lines, whatever was drawn from PyTorch's generator before.
        """
        if len(waveform) < SHORTEST_S * SAMPLE_RATE or not audible(waveform):
            return []
        device = self.whisper.device
        self.whisper.decoder.to(device)  # an encoder that the model lent may have moved since
        drawn = [device.index] if device.type == "cuda" else []
        with torch.inference_mode(), torch.random.fork_rng(drawn):
            torch.manual_seed(0)  # it draws at the temperatures above 0
            said = self.whisper.transcribe(
                np.ascontiguousarray(waveform, np.float32),
                fp16=device.type == "cuda",
                no_speech_threshold=NO_SPEECH,
                logprob_threshold=LOGPROB,
                compression_ratio_threshold=COMPRESSION,
                # An invention in one window must not be the premise of the next.
                condition_on_previous_text=False,
                verbose=None,
            )
        kept = [
            Line(float(part["start"]), float(part["end"]), part["text"])
            for part in said["segments"]
            if part["compression_ratio"] <= COMPRESSION
            and audible(waveform, part["start"] - MARGIN_S, part["end"] + MARGIN_S)
        ]
        return later(tidy(kept, len(waveform) / SAMPLE_RATE), start_s)


def audible(waveform: np.ndarray, start_s: float = 0.0, end_s: float | None = None) -> bool:
    """Tell whether there is more than silence in a stretch of sound, float [S]."""
    last = len(waveform) if end_s is None else round(end_s * SAMPLE_RATE)
    stretch = waveform[max(0, round(start_s * SAMPLE_RATE)) : last]
    return float(np.abs(stretch).max(initial=0.0)) >= SILENCE


def in_pieces(hear: Callable[[float, float], list[Line]], end_s: float) -> list[Line]:
    """Collect what is heard from 0 to `end_s` in pieces, so that memory stays flat.

    A line that the end of a piece may have cut is heard again, whole, with the next piece.
    """
    said: list[Line] = []
    at = 0.0
    while at < end_s:
        until = min(at + PIECE_S, end_s)
        new = hear(at, until)
        if until < end_s and new and new[-1].end > until - CUT_OFF_S:
            # At least half a piece further on: a line that never ends must not stop the walk.
            until = max(at + PIECE_S / 2, new[-1].start)
            new = [line for line in new if line.end <= until]
        said += new
        at = until
    return said


def later(lines: Sequence[Line], by_s: float) -> list[Line]:
    """Move lines on the clock."""
    return [Line(line.start + by_s, line.end + by_s, line.text) for line in lines]


def tidy(lines: Sequence[Line], end_s: float) -> list[Line]:
    """Strip texts, cut lines at `end_s`, drop those without a word, put them in order.

    Music is written as notes and dots by Whisper: nothing is said in it.
    """
    cut = [Line(line.start, min(line.end, end_s), " ".join(line.text.split())) for line in lines]
    kept = [line for line in cut if any(map(str.isalnum, line.text)) and line.start < line.end]
    return sorted(kept, key=lambda line: (line.start, line.end))


def in_window(lines: Sequence[Line], start: float, end: float) -> str:
    """Return what is said from `start` to `end` seconds; a line belongs where its middle lies.

    So windows side by side share the lines out, and none is cut in two.
    """
    return " ".join(line.text for line in lines if start <= (line.start + line.end) / 2 < end)


def vtt(lines: Sequence[Line]) -> str:
    """Turn lines into WebVTT. What would end a cue or begin a tag in it is escaped."""
    parts = ["WEBVTT\n"]
    for number, line in enumerate(lines, 1):
        text = " ".join(line.text.split()).replace("&", "&amp;").replace("<", "&lt;")
        text = text.replace(">", "&gt;")  # "-->" would be read as a timing
        parts.append(f"{number}\n{vtt_time(line.start)} --> {vtt_time(line.end)}\n{text}\n")
    return "\n".join(parts)


def vtt_time(seconds: float) -> str:
    """Write seconds as 01:02:03.456."""
    total = round(seconds * 1000)
    minutes, rest = divmod(total, 60_000)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{rest // 1000:02d}.{rest % 1000:03d}"
