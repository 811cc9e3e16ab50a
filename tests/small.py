"""Small random parts for tests: a model that nobody trained, and clips that nobody filmed."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from transformers import PhiConfig, PhiForCausalLM
from whisper.model import ModelDimensions, Whisper
from whisper.tokenizer import get_tokenizer

from avchat.config import (
    OWLET,
    TINY,
    AudioConfig,
    Config,
    LanguageConfig,
    LoraConfig,
    VisionConfig,
    VLSAConfig,
)
from avchat.language import train_tokenizer
from avchat.media import Media
from avchat.model import AVChat
from avchat.vlsa import VLSA

WORDS = (
    "which object makes the sound? the red circle, a blue square or the green star. "
    "no picture no sound 0.25s 0.75s 1.25s 1.75s 2.25s 2.75s 3.25s 3.75s\n"
)
TOKENIZER = train_tokenizer([WORDS] * 20, 360)

VISION = VisionConfig(
    inline={
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "image_size": 32,
        "patch_size": 8,
        "vision_use_head": False,
    },
    fit="stretch",
    resample="area",
)
AUDIO = AudioConfig(inline={"n_mels": 80, "n_ctx": 50, "n_state": 16, "n_head": 2, "n_layer": 1})
LANGUAGE = LanguageConfig(
    inline={
        "model_type": "phi",
        "vocab_size": 360,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "max_position_embeddings": 512,
        # wide, so that random models say something that depends on what they are shown
        "initializer_range": 0.3,
    },
    embedding_std=0.5,
)
TIMELINE_CONFIG = Config(
    name="small",
    vision=VISION,
    audio=AUDIO,
    language=LANGUAGE,
    projector=replace(TINY.projector, audio_bins=5),
    prompt=TINY.prompt,
    frames=4,
)
POOLED_CONFIG = replace(
    TIMELINE_CONFIG,
    name="small pooled",
    projector=replace(OWLET.projector, audio_tokens=6),
    prompt=OWLET.prompt,
)


SMALL_HEAD = VLSAConfig(
    kind="features",
    projector=TIMELINE_CONFIG.projector,
    vision_width=16,
    audio_width=16,
    num_patches=16,
    frames=4,
    width=32,
    depth=2,
    heads=2,
    feed=64,
    decoder_width=16,
    decoder_depth=1,
    decoder_heads=2,
    vocab_size=len(TOKENIZER),
    max_text=12,
    masked_global=False,
    video_text=True,
    clip_text=True,
    embedding_std=0.5,
)


WHISPER_DIMS = {
    "n_mels": 80,
    "n_audio_ctx": 1500,
    "n_audio_state": 16,
    "n_audio_head": 2,
    "n_audio_layer": 1,
    "n_vocab": 51865,
    "n_text_ctx": 24,
    "n_text_state": 16,
    "n_text_head": 2,
    "n_text_layer": 1,
}


def write_whisper(path: Path) -> Path:
    """Save a whole Whisper with random weights, as the published ones are."""
    torch.manual_seed(0)
    whisper = Whisper(ModelDimensions(**WHISPER_DIMS))
    # Sure of its nonsense, as a trained one is of its words: else it tries six temperatures.
    whisper.decoder.token_embedding.weight.data *= 4
    whisper.decoder.positional_embedding.data.normal_(std=30)  # PyTorch leaves it as it is found
    torch.save({"dims": WHISPER_DIMS, "model_state_dict": whisper.state_dict()}, path)
    return path


def write_speaker(
    path: Path, script: Sequence[float | str], *, sure: float = 20.0, no_speech: float = 0.0
) -> Path:
    """Save a whole Whisper that says a script in every window, whatever it hears.

    Args: script: a number is a time in the window, a string a text; sure: logit of each token of
    it, over 0 of all others; no_speech: the probability of that. The decoder's layer adds nothing,
    so each place of the sequence gives what its positional embedding holds: a token of the script,
    which alone has something in one dimension.
    """
    width, words = 32, get_tokenizer(True)
    ids: list[int] = []
    for part in script:
        time = isinstance(part, float)
        ids += [words.timestamp_begin + round(part * 50)] if time else words.encode(part)
    ids.append(words.eot)
    wide = {"n_audio_state": width, "n_text_state": width, "n_text_ctx": 2 * len(ids) + 8}
    torch.manual_seed(0)
    whisper = Whisper(ModelDimensions(**WHISPER_DIMS | wide))
    decoder, places = whisper.decoder, {token: k for k, token in enumerate(sorted(set(ids)), 1)}
    assert len(places) < width, "a dimension for each token"
    for layer in (decoder.blocks[0].attn.out, decoder.blocks[0].cross_attn.out):
        layer.weight.data.zero_(), layer.bias.data.zero_()
    decoder.blocks[0].mlp[2].weight.data.zero_(), decoder.blocks[0].mlp[2].bias.data.zero_()
    height = (width - 1) ** 0.5  # of one dimension alone, after the layer norm
    table, order = decoder.token_embedding.weight.data.zero_(), decoder.positional_embedding.data
    for token, place in places.items():
        table[token, place] = sure / height
    order.zero_()[1:, places[words.eot]] = 1e4
    for k, token in enumerate(ids, 2):  # the first two places are in front of language and task
        order[k] = 1e4 * torch.eye(width)[places[token]]
    if no_speech:
        odds = no_speech / (1 - no_speech) * len(table)
        order[0, 0], table[words.no_speech, 0] = 1e4, float(np.log(odds)) / height
    torch.save({"dims": vars(whisper.dims), "model_state_dict": whisper.state_dict()}, path)
    return path


def build_model(config: Config = TIMELINE_CONFIG, seed: int = 0) -> AVChat:
    """Build a random model in evaluation mode."""
    torch.manual_seed(seed)
    return AVChat.from_config(config, TOKENIZER).eval()


def build_based(base: Path) -> AVChat:
    """Build a model whose language model is a published folder, with adapters that do something."""
    torch.manual_seed(0)
    PhiForCausalLM(
        PhiConfig(**TIMELINE_CONFIG.language.inline | {"hidden_size": 64})
    ).save_pretrained(base)
    TOKENIZER.save_pretrained(base)
    lora = LoraConfig(r=2, alpha=4, dropout=0.0, targets=("q_proj", "fc1"))
    config = replace(TIMELINE_CONFIG, language=LanguageConfig(hub=str(base), lora=lora))
    return stirred(AVChat.from_config(config).eval())


def stirred(model: AVChat) -> AVChat:
    """Give fresh adapters weights, as if they had learned."""
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1)
    return model


def make_media(
    seed: int = 0,
    *,
    frames: int = 4,
    duration_s: float = 2.0,
    picture: bool = True,
    sound: bool = True,
    start_s: float = 0.0,
) -> Media:
    """Make a clip of noise: frames at the centres of equal parts, sound for the whole duration."""
    rng = np.random.default_rng(seed)
    shape = (frames if picture else 0, 40, 48, 3)
    times = start_s + (np.arange(shape[0]) + 0.5) * duration_s / frames
    samples = round(duration_s * 16_000) if sound else 0
    return Media(
        frames=rng.integers(0, 256, shape, dtype=np.uint8),
        frame_times_s=times,
        waveform=0.1 * rng.standard_normal(samples).astype(np.float32),
        start_s=start_s,
        duration_s=duration_s,
        has_video=picture,
        has_audio=sound,
    )


def small_head(config: VLSAConfig = SMALL_HEAD) -> VLSA:
    """Build a lookup head with random weights."""
    torch.manual_seed(0)
    return VLSA(config, TOKENIZER)
