"""Encoders: the same numbers as their reference implementations; a clip never changes another."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from small import AUDIO, TIMELINE_CONFIG, VISION, build_model, make_media
from transformers import (
    SiglipConfig,
    SiglipModel,
    SiglipTextConfig,
    SiglipVisionConfig,
    SiglipVisionModel,
)
from whisper.audio import log_mel_spectrogram
from whisper.model import AudioEncoder as WhisperEncoder
from whisper.model import ModelDimensions, Whisper

from avchat.config import AudioConfig, ConfigError, VisionConfig
from avchat.encoders import (
    Inputs,
    InputSpec,
    VisionEncoder,
    build_audio,
    build_vision,
    encode,
    log_mels,
    preprocess_frames,
)

SPEC = InputSpec(image_size=32, fit="stretch", resample="area", num_mels=80, window_states=50)


def test_area_resize_by_two_is_the_mean_of_four_pixels() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
    means = frames.reshape(3, 32, 2, 32, 2, 3).mean((2, 4)).transpose(0, 3, 1, 2)
    expected = torch.tensor(means / 127.5 - 1, dtype=torch.float32)
    torch.testing.assert_close(preprocess_frames(frames, SPEC), expected, atol=1e-6, rtol=0)


def test_frames_of_the_right_size_are_only_scaled() -> None:
    frames = np.arange(32 * 32 * 3, dtype=np.uint8).reshape(1, 32, 32, 3)
    pixels = preprocess_frames(frames, SPEC)
    assert pixels.shape == (1, 3, 32, 32)
    assert pixels[0, 2, 0, 1] == frames[0, 0, 1, 2] / 127.5 - 1


def test_padding_puts_grey_borders_around_a_wide_frame() -> None:
    frames = np.full((1, 32, 64, 3), 255, np.uint8)
    pixels = preprocess_frames(frames, replace(SPEC, fit="pad"))
    grey = 127 / 127.5 - 1
    assert torch.allclose(pixels[:, :, :8], torch.tensor(grey))
    assert torch.allclose(pixels[:, :, 8:24], torch.tensor(1.0))
    assert torch.allclose(pixels[:, :, 24:], torch.tensor(grey))


def test_bicubic_resize_is_close_to_pillows() -> None:
    image = pytest.importorskip("PIL.Image")
    frame = np.random.default_rng(0).integers(0, 256, (48, 48, 3), dtype=np.uint8)
    pixels = preprocess_frames(frame[None], replace(SPEC, resample="bicubic"))
    reference = image.fromarray(frame).resize((32, 32), image.Resampling.BICUBIC)
    ours = (pixels[0].permute(1, 2, 0).numpy() + 1) * 127.5
    assert np.abs(ours - np.asarray(reference, dtype=np.float32)).max() <= 1.01  # rounding


@pytest.fixture(scope="module")
def siglip() -> SiglipVisionModel:
    torch.manual_seed(0)
    return SiglipVisionModel(SiglipVisionConfig(**{**VISION.inline, "num_hidden_layers": 3})).eval()


def test_the_last_layer_is_transformers_output(siglip: SiglipVisionModel) -> None:
    pixels = torch.randn(2, 3, 32, 32)
    encoder = VisionEncoder(siglip)
    assert (encoder.width, encoder.num_patches) == (16, 16)
    torch.testing.assert_close(encoder(pixels), siglip(pixels).last_hidden_state)


def test_layer_minus_two_is_transformers_hidden_state(siglip: SiglipVisionModel) -> None:
    pixels = torch.randn(2, 3, 32, 32)
    expected = siglip(pixels, output_hidden_states=True).hidden_states[-2]
    encoder = VisionEncoder(siglip, layer=-2)
    torch.testing.assert_close(encoder(pixels), expected)
    assert len(encoder.siglip.encoder.layers) == 2  # the last one is not even kept
    with pytest.raises(ConfigError, match="layer -9"):
        VisionEncoder(siglip, layer=-9)


@pytest.mark.parametrize("seconds", [0.001, 0.5, 1.0, 2.35])
def test_windows_are_whispers_own_and_padding_is_dropped(seconds: float) -> None:
    audio = build_audio(AUDIO)
    wave = np.random.default_rng(0).standard_normal(int(seconds * 16_000)).astype(np.float32)
    clip = Inputs(None, log_mels(wave, SPEC), -(-len(wave) // 320), (), 0.0, seconds)
    features = encode([clip], build_vision(VISION), audio)[0]
    states = []
    for start in range(0, len(wave), 16_000):  # windows of 50 states, 320 samples each
        window = torch.zeros(16_000)
        window[: len(wave[start : start + 16_000])] = torch.tensor(wave[start : start + 16_000])
        sounding = -(-len(wave[start : start + 16_000]) // 320)
        states.append(audio.whisper(log_mel_spectrogram(window)[None])[0, :sounding])
    assert features.visual is None
    assert len(features.audio) == features.num_states == int(np.ceil(len(wave) / 320))
    torch.testing.assert_close(features.audio, torch.cat(states))


def test_a_loud_window_does_not_change_a_quiet_one() -> None:
    quiet = 0.001 * np.random.default_rng(0).standard_normal(16_000).astype(np.float32)
    alone = log_mels(quiet, SPEC)
    beside = log_mels(np.concatenate([quiet, 1000 * quiet]), SPEC)
    assert torch.equal(alone[0], beside[0])


def test_a_batch_is_the_same_as_one_by_one() -> None:
    model = build_model()
    media = [
        make_media(0),
        make_media(1, sound=False),
        make_media(2, picture=False, duration_s=1.3),
        make_media(3, frames=2, duration_s=0.4),
    ]
    together = model.encode(media, chunk=3)
    for clip, expected in zip(media, together, strict=True):
        alone = model.encode([clip])[0]
        assert (alone.visual is None) == (expected.visual is None) == (not clip.has_video)
        assert (alone.audio is None) == (expected.audio is None) == (not clip.has_audio)
        for one, other in ((alone.visual, expected.visual), (alone.audio, expected.audio)):
            if one is not None:
                torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("sense", "seen", "heard"),
    [("both", 1, 1), ("sound", 0, 1), ("picture", 1, 0), ("none", 0, 0)],
)
def test_a_sense_that_is_off_is_gone(sense: str, seen: bool, heard: bool) -> None:
    model = build_model()
    inputs = model.prepare(make_media())
    muted = inputs.only(sense)
    assert (muted.pixels is not None, muted.mels is not None) == (seen, heard)
    assert (bool(muted.frame_times_s), bool(muted.num_states)) == (seen, heard)
    features = model.encode([inputs])[0].only(sense)
    assert (features.visual is not None, features.audio is not None) == (seen, heard)
    assert model.plan(features) == model.plan(muted)


def test_a_published_siglip_loads_from_a_folder(tmp_path: Path) -> None:
    """Both towers and the pooling head are in such a folder; ours is its vision tower."""
    torch.manual_seed(0)
    vision = {**VISION.inline, "vision_use_head": True}
    text = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
    text |= {"num_attention_heads": 2, "vocab_size": 50, "projection_size": 16}
    config = SiglipConfig(
        text_config=SiglipTextConfig(**text).to_dict(),
        vision_config=SiglipVisionConfig(**vision).to_dict(),
    )
    published = SiglipModel(config).eval()
    published.save_pretrained(tmp_path)
    ours = build_vision(VisionConfig(hub=str(tmp_path)))
    pixels = torch.randn(1, 3, 32, 32)
    torch.testing.assert_close(ours(pixels), published.vision_model(pixels).last_hidden_state)


def test_a_published_whisper_loads_from_a_file(tmp_path: Path) -> None:
    dims = ModelDimensions(80, 50, 16, 2, 1, 60, 8, 16, 2, 1)
    published = Whisper(dims)
    path = tmp_path / "small.pt"
    torch.save({"dims": dims.__dict__, "model_state_dict": published.state_dict()}, path)
    audio = build_audio(AudioConfig(hub=str(path)))
    mels = torch.randn(1, 80, 100)
    torch.testing.assert_close(audio(mels), published.encoder(mels))
    with pytest.raises(ConfigError, match=r"audio nope.*tiny.en"):
        build_audio(AudioConfig(hub="nope"))


def test_random_parts_are_the_reference_classes() -> None:
    model = build_model(TIMELINE_CONFIG)
    assert isinstance(model.vision.siglip, SiglipVisionModel)
    assert isinstance(model.audio.whisper, WhisperEncoder)
