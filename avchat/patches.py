"""Local patches of a clip for VLSA: what each token holds, where it is, and whether it is there.

Two kinds. `PixelPatches` is the paper's: 16x16 pixels of 8 frames, 16x16 squares of a
log-frequency spectrogram. `FeaturePatches` is ours, for use: what the chat model's frozen encoders
saw and heard, pooled as its projectors pool it, so that one encoding serves both.

Legend: B clips, T frames, N tokens, P values of a patch, D width.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from avchat.config import ProjectorConfig
from avchat.encoders import Features
from avchat.media import SAMPLE_RATE, Media
from avchat.projectors import AudioProjector, Pooled, VisualProjector, plan

PATCH = 16
FRAMES, SIDE = 8, 224  # P2: 8 frames of 224x224
BANDS = 256  # a spectrogram is 256 x 256 (P2)
RATE, WINDOW, HOP = 11_025, 1022, 256  # P2: 11 kHz (11,025: papers.md 2.1), STFT 1022, hop 256
SPECTROGRAM_S = BANDS * HOP / RATE  # 5.94 s
LOWEST_HZ = 20.0  # ours: where the logarithmic scale begins


class Local(NamedTuple):
    """The local tokens of one sense of all clips, padded on the right."""

    rows: Tensor  # [B, N, P] what the patches hold, which masked ones are to be told
    content: Tensor  # [B, N, D]
    position: Tensor  # [B, N, D]
    there: Tensor  # bool [B, N]


@dataclass(frozen=True)
class PixelClip:
    """A clip as `PixelPatches` reads it; an absent sense is None."""

    frames: Tensor | None  # float [8, 3, 224, 224], in -1..1
    spectrogram: Tensor | None  # float [256, 256], bands from low to high, then time

    def to(self, device: torch.device | str) -> "PixelClip":
        """Return this clip on a device."""
        moved = (None if x is None else x.to(device) for x in (self.frames, self.spectrogram))
        return PixelClip(*moved)


def spectrogram(waveform: Tensor) -> Tensor:
    """Turn mono 16 kHz sound [samples] into a log-frequency spectrogram [256, 256] (P2, 4.1).

    Only the first 5.94 s fit; shorter sound is followed by silence. Ours: the resampling (by
    Fourier transform), bands spaced evenly on a logarithmic scale from 20 Hz to 5.5 kHz,
    log(1 + 1000 x) of the magnitudes.
    """
    # 441 samples for each 640; 0.1 s of silence at the end, so that nothing wraps around
    blocks = math.ceil(BANDS * HOP / 441 + 0.1 * RATE / 441)
    sound, samples = torch.zeros(640 * blocks), math.ceil(SPECTROGRAM_S * SAMPLE_RATE)
    sound[: min(samples, len(waveform))] = waveform[:samples]
    spectrum = torch.fft.rfft(sound)[: 441 * blocks // 2 + 1]
    # the last tenth fades out: a sharp edge would ring through the whole top band
    edge = len(spectrum) // 10
    spectrum[-edge:] *= torch.hann_window(2 * edge)[edge:]
    sound = torch.fft.irfft(spectrum, n=441 * blocks)[: BANDS * HOP] * (441 / 640)
    bins = torch.stft(
        sound, WINDOW, HOP, window=torch.hann_window(WINDOW), return_complex=True
    ).abs()[:, :BANDS]  # 512 x 256
    wanted = LOWEST_HZ * (RATE / 2 / LOWEST_HZ) ** (torch.arange(BANDS) / (BANDS - 1))
    places = wanted / (RATE / 2) * (len(bins) - 1)
    below = places.floor().long().clamp(max=len(bins) - 2)
    part = (places - below)[:, None]
    return torch.log1p(1000 * ((1 - part) * bins[below] + part * bins[below + 1]))


def pixel_clip(media: Media) -> PixelClip:
    """Make a clip of 224x224 frames ready for `PixelPatches`; a short one repeats its last
    frame.
    """
    frames = sound = None
    if len(media.frames):
        order = np.minimum(np.arange(FRAMES), len(media.frames) - 1)
        frames = torch.from_numpy(media.frames[order]).permute(0, 3, 1, 2) / 127.5 - 1.0
    if len(media.waveform):
        sound = spectrogram(torch.from_numpy(media.waveform))
    return PixelClip(frames, sound)


def squares(pictures: Tensor, patch: int = PATCH) -> Tensor:
    """Cut pictures [B, C, H, W] into patches [B, H/patch * W/patch, C * patch * patch]."""
    batch, colours, height, width = pictures.shape
    cut = pictures.view(batch, colours, height // patch, patch, width // patch, patch)
    return cut.permute(0, 2, 4, 1, 3, 5).reshape(batch, -1, colours * patch * patch)


class PixelPatches(nn.Module):
    """Pixels and spectrogram, one linear layer each, with learned positions."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.per_frame = (SIDE // PATCH) ** 2  # 196
        self.video_values, self.audio_values = 3 * PATCH**2, PATCH**2
        self.video, self.audio = nn.Linear(3 * PATCH**2, width), nn.Linear(PATCH**2, width)
        self.video_position = nn.Parameter(0.02 * torch.randn(FRAMES * self.per_frame, width))
        self.audio_position = nn.Parameter(0.02 * torch.randn((BANDS // PATCH) ** 2, width))

    def forward(self, clips: list[PixelClip]) -> tuple[Local, Local]:
        """Cut clips into video tokens [B, 1568, D] and audio tokens [B, 256, D]."""
        seen = [k for k, clip in enumerate(clips) if clip.frames is not None]
        heard = [k for k, clip in enumerate(clips) if clip.spectrogram is not None]
        frames = [squares(clips[k].frames).flatten(0, 1) for k in seen]  # [8 * 196, 768] each
        sounds = [squares(clips[k].spectrogram[None, None])[0] for k in heard]
        return (
            self._local(len(clips), seen, frames, self.video, self.video_position),
            self._local(len(clips), heard, sounds, self.audio, self.audio_position),
        )

    def _local(
        self, count: int, which: list[int], rows: list[Tensor], layer: nn.Linear, position: Tensor
    ) -> Local:
        held = layer.weight.new_zeros((count, len(position), layer.in_features))
        there = torch.zeros(count, len(position), dtype=torch.bool, device=held.device)
        for k, values in zip(which, rows, strict=True):
            held[k], there[k] = values, True
        return Local(held, layer(held), position.expand(count, -1, -1), there)


class FeaturePatches(nn.Module):
    """Frozen features, pooled and projected as a chat model does it, with projectors of its own.

    A chat model's projectors fit in by `load_state_dict`, and are a good place to begin.
    """

    def __init__(
        self,
        config: ProjectorConfig,
        vision_width: int,
        audio_width: int,
        num_patches: int,
        width: int,
        frames: int,
    ) -> None:
        super().__init__()
        self.config, self.frames, self.num_patches = config, frames, num_patches
        self.per_frame = config.grid**2
        self.visual = VisualProjector(config, vision_width, width, num_patches)
        self.audio = AudioProjector(config, audio_width, width)
        self.video_values = self.visual.mlp.mlp[0].in_features
        self.audio_values = self.audio.mlp.mlp[0].in_features

    def forward(self, clips: list[Features]) -> tuple[Local, Local]:
        """Pool and project clips to video tokens and audio tokens."""
        slots = [plan(clip, self.config, self.frames, self.num_patches) for clip in clips]
        video = self._local(len(clips), self.visual, self.visual.rows(clips, slots))
        return video, self._local(len(clips), self.audio, self.audio.rows(clips, slots))

    def _local(
        self, count: int, projector: VisualProjector | AudioProjector, pooled: Pooled
    ) -> Local:
        """Pad pooled rows to [B, N, P], N at least 1, and project them."""
        mlp = projector.mlp
        longest = max([1, *(len(rows) for rows in pooled.rows)])
        held = mlp.mlp[0].weight.new_zeros((count, longest, mlp.mlp[0].in_features))
        times = torch.zeros(count, longest, dtype=torch.float64)
        there = torch.zeros(count, longest, dtype=torch.bool, device=held.device)
        for k, rows, times_s in zip(*pooled, strict=True):
            held[k, : len(rows)], times[k, : len(rows)] = rows.to(held.dtype), times_s
            there[k, : len(rows)] = True
        position = mlp.position(times.flatten()).view(count, longest, -1)
        if isinstance(projector, VisualProjector) and projector.cells is not None:
            whole = -(-longest // self.per_frame) * self.per_frame
            position = position + projector.cells_of(whole)[:longest]
        return Local(held, mlp.content(held), position, there)
