"""Sound -> what is said in it, line by line with times, by a whole Whisper: encoder and decoder.

Legend: S samples at 16 kHz.
"""

import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from whisper import Whisper, available_models, load_model

from avchat.media import SAMPLE_RATE, MediaError, load_media

PIECE_S = 300.0  # of a file, decoded and written down at a time: 19 MB
CUT_OFF_S = 1.0  # a line that ends so near the end of its piece may have been cut by it
SILENCE = 1e-4  # peak of a sound track, of 1.0, below which nothing can be heard; as in chat


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


class Transcriber:
    """A published Whisper by its name, or a .pt file of that form; loaded when first needed."""

    def __init__(self, name_or_pt_file: str | Path, device: str | None = None) -> None:
        """Args: device: None for CUDA where there is one."""
        self.name, self.device = str(name_or_pt_file), device

    @cached_property
    def whisper(self) -> Whisper:
        """Load the model; TranscriptError says why it cannot be had."""
        if self.name not in available_models() and not Path(self.name).is_file():
            names = ", ".join(available_models())
            raise TranscriptError(
                f"no Whisper called {self.name}, and no such file; known: {names}"
            )
        try:
            return load_model(self.name, device=self.device)
        except OSError as error:  # no network, no room, no permission
            raise TranscriptError(f"Whisper {self.name} cannot be had: {error}") from error
        except NO_MODEL as error:
            why = f"{error}".partition("\n")[0]
            raise TranscriptError(f"{self.name}: not a Whisper model ({why})") from error

    def load(self) -> "Transcriber":
        """Load the model now, to know before any work is done whether it can be had."""
        self.whisper.eval()
        return self

    def file_lines(self, path: str | Path, end_s: float, *, isolate: bool = False) -> list[Line]:
        """Write down what is said in a file up to `end_s`, in pieces, so that memory stays flat.

        A line that the end of a piece may have cut is heard again, whole, with the next piece.
        What of the sound cannot be decoded is left out.
        """
        said: list[Line] = []
        at = 0.0
        while at < end_s:
            until = min(at + PIECE_S, end_s)
            try:
                media = load_media(path, frames=0, start=at, end=until, isolate=isolate)
                new = self.lines(media.waveform, at)
            except MediaError:
                new = []
            if until < end_s and new and new[-1].end > until - CUT_OFF_S:
                # At least half a piece further on: a line that never ends must not stop the walk.
                until = max(at + PIECE_S / 2, new[-1].start)
                new = [line for line in new if line.end <= until]
            said += new
            at = until
        return said

    def lines(self, waveform: np.ndarray, start_s: float = 0.0) -> list[Line]:
        """Write down what is said in a part: mono 16 kHz float32 [S], which begins at `start_s`.

        Nothing is said in silence, which is not given to the model: it would invent words.
        """
        if not len(waveform) or float(np.abs(waveform).max()) < SILENCE:
            return []
        with torch.inference_mode():
            said = self.whisper.transcribe(
                np.ascontiguousarray(waveform, np.float32),
                fp16=self.whisper.device.type == "cuda",
                # An invention in one window must not be the premise of the next.
                condition_on_previous_text=False,
                verbose=None,
            )
        end_s = start_s + len(waveform) / SAMPLE_RATE
        return tidy(
            [
                Line(start_s + float(part["start"]), start_s + float(part["end"]), part["text"])
                for part in said["segments"]
            ],
            end_s,
        )


def tidy(lines: Sequence[Line], end_s: float) -> list[Line]:
    """Strip texts, cut lines at `end_s`, drop the empty ones, put them in order."""
    cut = [Line(line.start, min(line.end, end_s), " ".join(line.text.split())) for line in lines]
    kept = [line for line in cut if line.text and line.start < line.end]
    return sorted(kept, key=lambda line: (line.start, line.end))


def in_window(lines: Sequence[Line], start: float, end: float) -> str:
    """Return what is said from `start` to `end` seconds; a line belongs where its middle lies.

    So windows side by side share the lines out, and none is cut in two.
    """
    return " ".join(line.text for line in lines if start <= (line.start + line.end) / 2 < end)
