"""Frames and sound to features, by a SigLIP vision model and a Whisper encoder.

`Media -> prepare -> Inputs -> encode -> Features`. `prepare` is arithmetic on the CPU and fits a
data worker; `encode` runs the networks on all clips of a batch at once, with gradients if wanted.

Legend: T frames, P patches of a frame, C colours, W Whisper windows, M mel bands, S audio states,
D width, B rows of a batch.
"""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoConfig, SiglipConfig, SiglipVisionConfig, SiglipVisionModel
from whisper.audio import HOP_LENGTH, log_mel_spectrogram
from whisper.model import AudioEncoder as WhisperEncoder

from avchat.config import AudioConfig, ConfigError, VisionConfig
from avchat.media import Media
from avchat.quiet import quiet
from avchat.whisper_weights import load_encoder

STATE_SAMPLES = 2 * HOP_LENGTH  # Whisper's second convolution halves the 100 Hz mel frames
STATES_HZ = 50
PAD_GREY = 127  # int(0.5 * 255), the border that LLaVA and Bunny were trained with

Sense = Literal["both", "sound", "picture", "none"]
SENSES: tuple[Sense, ...] = ("both", "sound", "picture", "none")


@dataclass(frozen=True)
class InputSpec:
    """How the encoders want their input: picture side in pixels, mel bands, states of a window."""

    image_size: int
    fit: str
    resample: str
    num_mels: int
    window_states: int
    hears: bool = True  # False: sound is left out

    @property
    def window_samples(self) -> int:
        """Return the samples of one Whisper window at 16 kHz."""
        return self.window_states * STATE_SAMPLES


@dataclass(frozen=True)
class Inputs:
    """One clip, ready for the encoders. A sense that is absent or switched off is None."""

    pixels: Tensor | None  # float [T, C, side, side], in -1..1
    mels: Tensor | None  # float [W, M, 2 * states of a window]
    num_states: int  # audio states that sound, over all windows
    frame_times_s: tuple[float, ...]  # on the file's clock
    start_s: float
    duration_s: float

    def only(self, sense: Sense) -> "Inputs":
        """Return this clip without the sense that is switched off."""
        clip = (
            self if sense in ("both", "picture") else replace(self, pixels=None, frame_times_s=())
        )
        return clip if sense in ("both", "sound") else replace(clip, mels=None, num_states=0)

    def to(self, device: torch.device | str) -> "Inputs":
        """Return this clip on a device."""
        return replace(self, pixels=_to(self.pixels, device), mels=_to(self.mels, device))


@dataclass(frozen=True)
class Features:
    """What the encoders saw and heard in one clip. A sense that is absent or off is None."""

    visual: Tensor | None  # [T, P, D]
    audio: Tensor | None  # [S, D], 50 states a second from start_s on
    frame_times_s: tuple[float, ...]
    start_s: float
    duration_s: float

    @property
    def num_states(self) -> int:
        """Return the number of audio states."""
        return 0 if self.audio is None else len(self.audio)

    def only(self, sense: Sense) -> "Features":
        """Return these features without the sense that is switched off."""
        clip = (
            self if sense in ("both", "picture") else replace(self, visual=None, frame_times_s=())
        )
        return clip if sense in ("both", "sound") else replace(clip, audio=None)

    def to(self, device: torch.device | str) -> "Features":
        """Return these features on a device."""
        return replace(self, visual=_to(self.visual, device), audio=_to(self.audio, device))


def lacking(frame_times_s: tuple[float, ...], num_states: int, sense: str) -> str:
    """Name the one sense that a sample is about and its clip lacks; empty where all is well."""
    if sense == "sound" and not num_states:
        return "sound"
    return "picture" if sense == "picture" and not frame_times_s else ""


def _to(tensor: Tensor | None, device: torch.device | str) -> Tensor | None:
    return None if tensor is None else tensor.to(device)


class VisionEncoder(nn.Module):
    """A SigLIP vision model that gives the patch features of one chosen layer.

    Args: layer: None for the last layer and the final norm, else as in `VisionConfig.layer`. Layers
    above the chosen one are dropped: they would be computed for nothing.
    """

    def __init__(self, siglip: SiglipVisionModel, layer: int | None = None) -> None:
        super().__init__()
        self.siglip = siglip
        self.final_norm = layer is None
        if layer is not None:
            num_layers = len(siglip.encoder.layers)
            kept = num_layers + 1 + layer if layer < 0 else layer
            if not 0 < kept <= num_layers:
                raise ConfigError(f"config: vision layer {layer} of a model with {num_layers}")
            siglip.encoder.layers = siglip.encoder.layers[:kept]
        self.width = siglip.config.hidden_size
        self.image_size = siglip.config.image_size
        self.num_patches = (self.image_size // siglip.config.patch_size) ** 2

    def forward(self, pixels: Tensor) -> Tensor:
        """Encode pictures [B, C, side, side] to patch features [B, P, D]."""
        states = self.siglip.embeddings(pixels.to(self.siglip.dtype))
        states = self.siglip.encoder(inputs_embeds=states).last_hidden_state
        return self.siglip.post_layernorm(states) if self.final_norm else states


class AudioEncoder(nn.Module):
    """A Whisper encoder over whole windows."""

    def __init__(self, whisper: WhisperEncoder) -> None:
        super().__init__()
        self.whisper = whisper
        self.window_states, self.width = whisper.positional_embedding.shape
        self.num_mels = whisper.conv1.in_channels

    def forward(self, mels: Tensor) -> Tensor:
        """Encode log-mel windows [B, M, 2 * states] to states [B, states, D]."""
        return self.whisper(mels.to(self.whisper.conv1.weight.dtype))


def build_vision(config: VisionConfig) -> VisionEncoder:
    """Build the vision encoder: from the Hub or a folder, or with random weights from `inline`."""
    if config.inline is not None:
        siglip = SiglipVisionModel(SiglipVisionConfig(**config.inline))
    else:
        # A SigLIP repository holds both towers; the pooling head and the text tower are not used.
        base = AutoConfig.from_pretrained(config.hub, revision=config.revision)
        if not isinstance(base, SiglipConfig | SiglipVisionConfig):
            raise ConfigError(_refusal(str(config.hub), base.model_type))
        vision = base if isinstance(base, SiglipVisionConfig) else base.vision_config
        vision.vision_use_head = False
        with quiet():
            siglip = SiglipVisionModel.from_pretrained(
                config.hub, revision=config.revision, config=vision, dtype=torch.float32
            )
    return VisionEncoder(siglip, config.layer)


def _refusal(hub: str, model_type: str) -> str:
    """Say why a vision model is none that frames can be given to."""
    fixed = "take one of a fixed size, such as google/siglip2-so400m-patch14-384"
    if model_type.startswith("siglip2"):
        return f"vision {hub}: a SigLIP 2 for pictures of any shape (NaFlex) is not read: {fixed}"
    return f"vision {hub}: a {model_type} is not a SigLIP or SigLIP 2: {fixed}"


def build_audio(config: AudioConfig) -> AudioEncoder:
    """Build the audio encoder: a published Whisper's, or with random weights from `inline`."""
    if config.inline is not None:
        return AudioEncoder(WhisperEncoder(**config.inline))
    return AudioEncoder(load_encoder(str(config.hub), config.revision))


def deaf_audio() -> AudioEncoder:
    """Build an encoder of no layers, which hears nothing: it stands where a Whisper would, which a
    model that was never taught to hear need not fetch.
    """
    return AudioEncoder(WhisperEncoder(n_mels=80, n_ctx=1500, n_state=8, n_head=1, n_layer=0))


def input_spec(vision: VisionEncoder, audio: AudioEncoder, config: VisionConfig) -> InputSpec:
    """Collect how two encoders want their input."""
    return InputSpec(
        image_size=vision.image_size,
        fit=config.fit,
        resample=config.resample,
        num_mels=audio.num_mels,
        window_states=audio.window_states,
    )


def preprocess_frames(frames: np.ndarray | Tensor, spec: InputSpec) -> Tensor:
    """Resize and scale frames, uint8 [T, H, W, C] -> float [T, C, side, side] in -1..1."""
    pixels = torch.as_tensor(frames).permute(0, 3, 1, 2)
    height, width = pixels.shape[-2:]
    if spec.fit == "pad" and height != width:
        side = max(height, width)
        left, top = (side - width) // 2, (side - height) // 2
        borders = (left, side - width - left, top, side - height - top)
        pixels = F.pad(pixels, borders, value=PAD_GREY)
    size = (spec.image_size, spec.image_size)
    if pixels.shape[-2:] != size and spec.resample == "area":
        pixels = F.interpolate(pixels.float(), size, mode="area")
    elif pixels.shape[-2:] != size:
        # in 8 bits, as Pillow does it: SigLIP and Bunny saw pictures rounded between the two passes
        pixels = F.interpolate(pixels, size, mode="bicubic", antialias=True)
    return pixels.float() / 127.5 - 1.0


def log_mels(waveform: np.ndarray | Tensor, spec: InputSpec) -> Tensor:
    """Cut mono 16 kHz sound in Whisper windows, float [samples] -> [W, M, 2 * states].

    Each window is padded and turned to log-mel by itself: Whisper clamps to the maximum of what it
    is called on, and a loud window (or a neighbour in a batch) must not change a quiet one.
    """
    sound = torch.as_tensor(waveform, dtype=torch.float32)
    windows = F.pad(sound, (0, -len(sound) % spec.window_samples)).split(spec.window_samples)
    return torch.stack([log_mel_spectrogram(window, spec.num_mels) for window in windows])


def prepare(media: Media, spec: InputSpec) -> Inputs:
    """Make one decoded clip ready for the encoders."""
    has_picture, has_sound = len(media.frames) > 0, spec.hears and len(media.waveform) > 0
    return Inputs(
        pixels=preprocess_frames(media.frames, spec) if has_picture else None,
        mels=log_mels(media.waveform, spec) if has_sound else None,
        num_states=-(-len(media.waveform) // STATE_SAMPLES) if has_sound else 0,
        frame_times_s=tuple(float(time) for time in media.frame_times_s) if has_picture else (),
        start_s=float(media.start_s),
        duration_s=float(media.duration_s),
    )


def encode(
    clips: list[Inputs], vision: VisionEncoder, audio: AudioEncoder, chunk: int = 256
) -> list[Features]:
    """Encode clips together; the padding of each clip's last window is dropped.

    Args: chunk: frames, or windows, that go through a network at once.
    """
    frames = [clip.pixels for clip in clips if clip.pixels is not None]
    windows = [clip.mels for clip in clips if clip.mels is not None]
    # iterators: each clip takes its own rows below, in order
    visual = iter(_in_chunks(vision, frames, chunk))
    states = iter(_in_chunks(audio, windows, chunk))
    features = []
    for clip in clips:
        heard = None
        if clip.mels is not None:
            heard = next(states).flatten(0, 1)[: clip.num_states]  # [W, states, D] -> [S, D]
        seen = None if clip.pixels is None else next(visual)
        features.append(Features(seen, heard, clip.frame_times_s, clip.start_s, clip.duration_s))
    return features


def _in_chunks(network: nn.Module, parts: list[Tensor], chunk: int) -> list[Tensor]:
    """Run a network over the rows of all parts; give each part its own rows back."""
    if not parts:
        return []
    rows = torch.cat([network(piece) for piece in torch.cat(parts).split(chunk)])
    return list(rows.split([len(part) for part in parts]))
