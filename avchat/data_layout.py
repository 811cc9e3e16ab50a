"""What of a model a check of training data needs: how it lays out conversations, what it sees.

Enters: a model's name. Leaves: its template, its context and, loaded when they are first used, its
two encoders. The language model, which is most of a model, is never loaded.
"""

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from threading import Lock

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AutoConfig, PreTrainedConfig

from avchat.checkpoints import read_checkpoint
from avchat.config import PRESETS, Config, ModelError
from avchat.encoders import (
    AudioEncoder,
    Features,
    Inputs,
    InputSpec,
    VisionEncoder,
    build_audio,
    build_vision,
    encode,
    input_spec,
    log_mels,
    prepare,
    preprocess_frames,
)
from avchat.language import base_config, context_length, load_tokenizer
from avchat.media import Media
from avchat.projectors import Slot, plan
from avchat.prompt import Prompt
from avchat.saved import find_checkpoint, is_unbundled


@dataclass(frozen=True)
class Sight:
    """A model's encoders, and what they make of grey and of silence."""

    vision: VisionEncoder
    audio: AudioEncoder
    spec: InputSpec
    grey: Tensor  # [patches, width]
    silence: Tensor  # [states of a window, width]


@dataclass(frozen=True)
class Layout:
    """A model without its weights. Args: folder: of its checkpoint, None where it has none yet."""

    config: Config
    prompt: Prompt
    context: int  # tokens
    num_patches: int  # of one frame
    folder: Path | None
    lock: Lock = field(default_factory=Lock, compare=False)

    def plan(self, clip: Inputs) -> tuple[Slot, ...]:
        """Lay out a clip's media tokens, from its times alone."""
        return plan(clip, self.config.projector, self.config.frames, self.num_patches)

    @cached_property
    def sight(self) -> Sight:
        """Load the encoders."""
        try:
            vision, audio = build_vision(self.config.vision), build_audio(self.config.audio)
        except OSError as error:
            reason = str(error).splitlines()[0]
            raise ModelError(f"{self.config.name}: an encoder is not here ({reason})") from error
        if self.folder is not None:
            weights = read_checkpoint(self.folder).weights()
            load_part(vision, "vision.", weights)
            load_part(audio, "audio.", weights)
        vision, audio = vision.eval(), audio.eval()
        spec = input_spec(vision, audio, self.config.vision)
        side = spec.image_size
        pixels = preprocess_frames(np.full((1, side, side, 3), 127, np.uint8), spec)
        with torch.inference_mode():
            grey = vision(pixels)[0].float()
            silence = audio(log_mels(np.zeros(spec.window_samples, np.float32), spec))[0].float()
        return Sight(vision, audio, spec, grey, silence)

    def encode(self, media: Media) -> Features:
        """Encode a clip on the CPU; threads take turns."""
        with self.lock, torch.inference_mode():
            sight = self.sight
            return encode([prepare(media, sight.spec)], sight.vision, sight.audio, chunk=8)[0]


def load_part(part: nn.Module, prefix: str, weights: dict[str, Tensor]) -> None:
    """Load the weights of one part of a checkpoint; a base that was not trained has none there."""
    own = {
        name[len(prefix) :]: weight for name, weight in weights.items() if name.startswith(prefix)
    }
    try:
        part.load_state_dict(own, strict=False)
    except RuntimeError as error:
        raise ModelError(f"{prefix[:-1]}: the weights do not fit ({error})") from error


def load_layout(name: str) -> Layout:
    """Find how a model lays out conversations: a preset, a folder or a Hub id; else ModelError."""
    try:
        if is_unbundled(name):
            config, folder, architecture = PRESETS[name], None, None
            tokenizer = load_tokenizer(config.language.hub, config.language.revision)
        else:
            folder = find_checkpoint(name)
            found = read_checkpoint(folder)
            config, tokenizer = found.config, load_tokenizer(found.tokenizer)
            architecture = found.architecture
        context, patches = context_of(config, architecture), patches_of(config)
    except OSError as error:
        reason = str(error).splitlines()[0]
        raise ModelError(f"{name}: a part could not be loaded ({reason})") from error
    return Layout(config, Prompt(config.prompt, tokenizer), context, patches, folder)


def context_of(config: Config, architecture: PreTrainedConfig | None = None) -> int:
    """Tell a language model's context, in tokens. Args: architecture: where it is at hand."""
    language = config.language
    if architecture is not None:
        return context_length(architecture)
    if language.inline is not None:
        return context_length(AutoConfig.for_model(**language.inline))
    return context_length(base_config(language))


def patches_of(config: Config) -> int:
    """Tell how many patches a vision model makes of one frame."""
    size = config.vision.inline
    if size is None:
        base = AutoConfig.from_pretrained(config.vision.hub, revision=config.vision.revision)
        size = base.to_dict()
        size = size.get("vision_config", size)
    return (size["image_size"] // size["patch_size"]) ** 2
