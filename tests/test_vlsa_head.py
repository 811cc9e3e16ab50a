"""Lookup heads on disk, what they are trained on, how they are measured."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from small import SMALL_HEAD, TIMELINE_CONFIG, TOKENIZER, small_head

from avchat.captions import read_captions, world_batch
from avchat.config import ConfigError
from avchat.data import DataError
from avchat.heads import HeadError, VlsaHead
from avchat.media import load_media
from avchat.metrics import ranks, retrieval
from avchat.model import AVChat
from avchat.pool import Pool
from avchat.saved import fingerprint
from avchat.vlsa import VLSA
from avchat.world.captions import Caption, caption, draw_gallery
from avchat.world.clip_file import write_clip

ROOT = Path(__file__).resolve().parent.parent
TEXTS = ["the red circle", "a blue square or the sound", "the red circle", "green", "a star?"]


# Files ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save a small chat model, whose encoders heads are tested with."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("chat") / "model"
    AVChat.from_config(TIMELINE_CONFIG, TOKENIZER).save_pretrained(folder)
    return folder


def test_a_head_is_saved_and_refuses_other_encoders(chat: Path, tmp_path: Path) -> None:
    encoders = AVChat.from_pretrained(chat)
    own = {n: w for n, w in encoders.state_dict().items() if n.startswith(("vision.", "audio."))}
    model = small_head(replace(SMALL_HEAD, base=str(chat), base_fingerprint=fingerprint(own)))
    model.save_pretrained(tmp_path / "head")
    loaded = VLSA.from_pretrained(tmp_path / "head")
    torch.testing.assert_close(loaded.embed_texts(TEXTS), model.eval().embed_texts(TEXTS))
    scene, _ = draw_gallery(1, 1)[0]
    write_clip(scene, tmp_path / "a.mp4")
    found = VlsaHead("a", loaded)
    vectors = found.clips([load_media(tmp_path / "a.mp4", frames=found.frames, size=found.size)])[0]
    assert all(np.linalg.norm(v) == pytest.approx(1, abs=1e-4) for v in vars(vectors).values())
    # pooled by the same encoders in the chat model
    features = encoders.encode([load_media(tmp_path / "a.mp4", frames=found.frames)])
    torch.testing.assert_close(
        loaded.embed_clips(features).sound[0], torch.from_numpy(vectors.sound), rtol=1e-3, atol=1e-4
    )
    with pytest.raises(HeadError, match="trained on other encoders"):
        VlsaHead("a", small_head(replace(SMALL_HEAD, base=str(chat), base_fingerprint="0" * 16)))
    model.save_pretrained(tmp_path / "half", half=True)
    half = VLSA.from_pretrained(tmp_path / "half").embed_texts(TEXTS)
    torch.testing.assert_close(half, model.embed_texts(TEXTS), rtol=0, atol=5e-3)


def test_a_folder_that_is_no_head_is_refused(chat: Path) -> None:
    with pytest.raises(ConfigError, match="not a configuration of a lookup head"):
        VLSA.from_pretrained(chat)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 1: not JSON"),
        ('{"media": "a.mp4"}', "line 1: needs a caption, a text"),
        ('{"media": "a.mp4", "caption": "x", "of": "smell"}', "of must be one of"),
        ('{"media": "a.mp4", "caption": "x"}', "1 captions; matching needs at least two"),
    ],
)
def test_bad_captions_are_named(tmp_path: Path, line: str, message: str) -> None:
    (tmp_path / "captions.jsonl").write_text(line + "\n")
    with pytest.raises(DataError, match=message):
        read_captions(tmp_path / "captions.jsonl")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["features", "pixels"])  # pixels: the paper's full size
def test_a_head_is_trained_on_a_manifest(chat: Path, tmp_path: Path, kind: str) -> None:
    rows = []
    for k, (scene, line) in enumerate(draw_gallery(3, 3)):
        write_clip(scene, tmp_path / f"{k}.mp4")
        rows.append(json.dumps({"media": f"{k}.mp4", "caption": line.text}))
    (tmp_path / "captions.jsonl").write_text("\n".join(rows))
    options = ["--data", str(tmp_path / "captions.jsonl"), "--kind", kind, "--steps", "1"]
    options += ["--init", str(chat), "--output", str(tmp_path / "run"), "--batch", "2"]
    options += ["--tokenizer", str(chat / "tokenizer")]
    run = [sys.executable, "train/vlsa.py", *options]
    done = subprocess.run(run, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "audio_text" in done.stderr and "video_text" not in done.stderr
    first = VLSA.from_pretrained(tmp_path / "run" / "model")
    assert first.config.kind == kind
    if kind == "features":
        go_on_with(first, run, tmp_path)


def go_on_with(first: VLSA, run: list[str], folder: Path) -> None:
    """Train the head that a run made further, on another pair and single frames."""
    run = [*run, "--head", str(folder / "run" / "model"), "--output", str(folder / "second")]
    run += ["--video-text", "--stills", "1", "--lr", "1e-9"]
    done = subprocess.run(run, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and "video_text" in done.stderr, done.stderr[-2000:]
    second = VLSA.from_pretrained(folder / "second" / "model")
    assert second.config == replace(first.config, video_text=True)
    kept = {name: x for name, x in first.state_dict().items() if not name.startswith("matchers.")}
    for name, weight in kept.items():  # hardly changed at this rate: it did not begin anew
        assert torch.allclose(weight, second.state_dict()[name], atol=1e-5), name
    torch.manual_seed(5)
    AVChat.from_config(TIMELINE_CONFIG, TOKENIZER).save_pretrained(folder / "other")
    done = subprocess.run(
        [*run, "--init", str(folder / "other")], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 2 and "was trained on other encoders" in done.stderr


def test_some_clips_of_a_batch_keep_one_frame_alone() -> None:
    model = AVChat.from_pretrained("tiny")
    pool = Pool(model, 8, 0)
    whole = world_batch(small_head(), pool, 0, 8)
    part = world_batch(small_head(), pool, 0, 8, stills=0.5)
    assert torch.equal(whole.ids, part.ids)
    lengths = [(len(a.visual), len(b.visual)) for a, b in zip(whole.clips, part.clips, strict=True)]
    assert {b for _, b in lengths} == {1, model.config.frames} and all(a > 1 for a, _ in lengths)
    for a, b in zip(whole.clips, part.clips, strict=True):
        place = a.frame_times_s.index(b.frame_times_s[0])
        assert torch.equal(b.visual, a.visual[place : place + len(b.visual)])
        assert torch.equal(a.audio, b.audio)


# Measures ---------------------------------------------------------------------------------------


def test_ranks_by_hand() -> None:
    scores = np.array([[3.0, 1, 2], [5, 4, 4], [1, 1, 1]])
    assert ranks(scores).tolist() == [1, 2.5, 2]
    both = np.array([[False, True, True], [True, False, False], [True, True, True]])
    assert ranks(scores, both).tolist() == [2, 1, 1]
    found = retrieval(ranks(scores), 3)
    assert found["R@1"] == pytest.approx(1 / 3) and found["median_rank"] == 2
    with pytest.raises(ValueError, match="1 of 9 scores are not numbers"):
        ranks(np.where(scores == 5, np.nan, scores))
    with pytest.raises(ValueError, match="no right answer"):
        ranks(scores, np.zeros((3, 3), bool))


def test_constant_scores_are_no_better_than_chance() -> None:
    assert ranks(np.ones((100, 100))).tolist() == [50.5] * 100


# Captions of the world --------------------------------------------------------------------------


def test_a_gallery_has_one_right_answer_for_each_caption() -> None:
    for about in ("both", "sound"):
        gallery = draw_gallery(5, 60, about)
        truth = [[line.fits(scene) for scene, _ in gallery] for _, line in gallery]
        assert np.array_equal(truth, np.eye(60, dtype=bool))
    assert draw_gallery(5, 60) == draw_gallery(5, 60) != draw_gallery(6, 60)


def test_a_caption_is_true_of_its_own_clip_and_names_what_it_says() -> None:
    rng = np.random.default_rng(0)
    for scene, _ in draw_gallery(2, 80):
        for about in ("both", "picture", "sound"):
            line = caption(scene, rng, about)
            assert line.fits(scene)
            assert all(name in line.text for name, _ in line.seen)
            assert (line.heard is None) == (about == "picture")
            assert all(sound in line.text for sound in line.heard or ())
    assert not Caption("", (("red circle", "flash"),), None).fits(replace(scene, objects=()))
