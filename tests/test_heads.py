"""Heads: SigLIP's vectors against its own model step by step, and what cannot be loaded."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from siglip import write_siglip
from small import make_media
from transformers import AutoImageProcessor, SiglipModel

from avchat.heads import SIGLIP, HeadError, SiglipHead, canonical, load_head


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_siglip(tmp_path_factory.mktemp("siglip"))


@pytest.fixture(scope="module")
def head(folder: Path) -> SiglipHead:
    loaded = load_head(str(folder), "siglip")
    assert isinstance(loaded, SiglipHead)
    return loaded


def test_a_clip_is_the_mean_of_its_frames_through_siglips_own_processor(
    folder: Path, head: SiglipHead
) -> None:
    media = make_media(frames=3, seed=1)
    model = SiglipModel.from_pretrained(folder).eval()
    processor = AutoImageProcessor.from_pretrained(folder)
    pixels = processor(list(media.frames), return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        rows = model.vision_model(pixel_values=pixels).pooler_output.double().numpy()
    mean = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).mean(axis=0)
    [vectors] = head.clips([media])
    assert vectors.sound is None and vectors.both is vectors.picture
    assert vectors.picture.dtype == np.float32 and vectors.picture.shape == (head.width,)
    np.testing.assert_allclose(vectors.picture, mean / np.linalg.norm(mean), atol=2e-3)


def test_clips_together_are_as_one_by_one(head: SiglipHead) -> None:
    clips = [
        make_media(frames=2, seed=1),
        make_media(picture=False, seed=2),
        make_media(frames=5, seed=3),
    ]
    together = head.clips(clips)
    assert together[1].picture is None and together[1].both is None
    for clip, vectors in zip(clips, together, strict=True):
        [alone] = head.clips([clip])
        if vectors.picture is not None:
            np.testing.assert_allclose(vectors.picture, alone.picture, atol=1e-5)
    assert head.clips([clips[1]])[0].both is None
    assert abs(together[0].both @ together[2].both) < 0.9999, "what is seen makes a difference"


def test_texts_are_those_of_the_text_tower(folder: Path, head: SiglipHead) -> None:
    texts = ["A red circle, moves left!", "dog barks " * 30]
    vectors = head.texts(texts)
    assert vectors.dtype == np.float32 and vectors.shape == (2, head.width)
    model = SiglipModel.from_pretrained(folder).eval()
    for text, vector in zip(texts, vectors, strict=True):
        with torch.no_grad():
            row = model.text_model(input_ids=torch.tensor([head.ids(text)])).pooler_output[0]
        np.testing.assert_allclose(vector, (row / row.norm()).numpy(), atol=1e-5)
    ids = head.ids("a red circle")
    assert len(ids) == head.max_tokens and ids[-1] == head.tokenizer.eos_token_id
    assert head.ids("A  red, circle!") == ids != head.ids("a red square")
    assert canonical(" It's a Dog -- barking. ") == "its a dog barking"


def test_a_fingerprint_is_of_the_weights(folder: Path, head: SiglipHead, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "same")
    assert SiglipHead(str(tmp_path / "same")).fingerprint == head.fingerprint
    other = SiglipHead(str(write_siglip(tmp_path / "other", seed=1)))
    assert other.fingerprint != head.fingerprint


def test_what_cannot_be_loaded_is_one_clear_line(folder: Path, tmp_path: Path) -> None:
    for missing in ("config.json", "tokenizer.json", "model.safetensors"):
        shutil.copytree(folder, tmp_path / missing)
        (tmp_path / missing / missing).unlink()
    shutil.copytree(folder, tmp_path / "clip")
    (tmp_path / "clip" / "config.json").write_text(json.dumps({"model_type": "clip"}))
    shutil.copytree(folder, tmp_path / "cut")
    weights = tmp_path / "cut" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    said = {
        str(tmp_path / "config.json"): "config.json is missing",
        str(tmp_path / "tokenizer.json"): "tokenizer.json is missing",
        str(tmp_path / "model.safetensors"): "weights",
        str(tmp_path / "clip"): "of type clip",
        str(tmp_path / "cut"): "cannot be loaded",
        SIGLIP: f"hf download {SIGLIP}",
        "nowhere": "no such folder",
    }
    for name, words in said.items():
        with pytest.raises(HeadError) as caught:
            load_head(name, "siglip")
        assert words in str(caught.value) and name in str(caught.value)
        assert "\n" not in str(caught.value)
