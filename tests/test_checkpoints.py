"""Bunny's and Owlet's published forms: every tensor has its place, and our logits are theirs."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import public
import pytest
import torch
import torch.nn.functional as F
import whisper
from PIL import Image
from public import (
    ANSWER,
    NAMES,
    PATCHES,
    QUESTION,
    SYSTEM,
    TOKENIZER,
    VOCABULARY,
    Weights,
    our_logits,
    still,
)
from small import make_media
from torch import Tensor, nn
from transformers import WhisperConfig
from transformers.models.whisper.modeling_whisper import WhisperEncoder
from whisper.audio import log_mel_spectrogram, pad_or_trim

from avchat.chat import Conversation
from avchat.checkpoints import read_checkpoint
from avchat.collate import collate
from avchat.config import ModelError
from avchat.model import AVChat
from avchat.prompt import IGNORE, Turn


@pytest.fixture(scope="module")
def weights() -> Weights:
    """Draw Bunny's tensors, rounded to the precision in which they are stored."""
    return {name: weight.half().float() for name, weight in public.merged().items()}


@pytest.fixture(scope="module")
def bunny(weights: Weights, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return public.write_merged(tmp_path_factory.mktemp("hub") / "Bunny-v1_0-3B", weights)


@pytest.fixture(scope="module")
def model(bunny: Path) -> AVChat:
    return AVChat.from_pretrained(bunny)


def test_what_was_found_is_said(bunny: Path, capsys: pytest.CaptureFixture) -> None:
    AVChat.from_pretrained(bunny)
    assert f"{bunny}: vision: 26 layers of siglip-so400m" in capsys.readouterr().err


@pytest.fixture(scope="module")
def seen(weights: Weights) -> Tensor:
    """Compute the picture's visual tokens [729, D] as published."""
    states = public.patch_features(weights, still().frames[0])
    return public.project(weights, "model.mm_projector.", states)


def text_ids(text: str) -> list[int]:
    return TOKENIZER(text, add_special_tokens=False).input_ids


def their_logits(weights: Weights, *media: Tensor) -> Tensor:
    """Compute the same from the published prompt and the stored tensors."""
    asked, said = text_ids(f"\n{QUESTION} ASSISTANT:"), text_ids(f" {ANSWER}")
    ids = [text_ids(f"{SYSTEM} USER: "), *media, asked, said, [TOKENIZER.eos_token_id]]
    return public.reply(weights, ids)


def assert_same(ours: Tensor, theirs: Tensor) -> None:
    """32 layers in fp32 against fp64: sums differ in the sixth digit."""
    assert ours.shape == theirs.shape
    torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-4 * float(theirs.abs().max()))


def test_the_published_form_has_877_tensors(weights: Weights, bunny: Path) -> None:
    assert len(weights) == 877
    found = read_checkpoint(bunny)
    assert len(found.names) == 877
    assert "lm_head.bias" not in weights and ("language.lm_head.bias", VOCABULARY) in found.zeros


@pytest.mark.slow
def test_a_merged_bunny_says_what_its_tensors_say(
    weights: Weights, model: AVChat, seen: Tensor
) -> None:
    assert len(seen) == PATCHES
    assert_same(our_logits(model, still()), their_logits(weights, seen))
    assert model.vision.siglip.post_layernorm.weight.std() > 0.1  # stored, loaded, not applied


def test_its_prompt_is_the_published_one_over_turns(model: AVChat) -> None:
    [features] = model.encode([still()])
    row = model.prompt.build(model.plan(features), [Turn("one?", "two"), Turn("three?", "four")])
    text = TOKENIZER.decode([token for token in row.ids if token >= 0])
    # no BOS; the next turn follows the end token at once (conv_bunny); the tokenizer lower-cases
    end = TOKENIZER.eos_token
    assert text == (
        f"{SYSTEM} USER: \none? ASSISTANT: two{end}USER: three? ASSISTANT: four{end}".lower()
    )
    assert sum(token < 0 for token in row.ids) == PATCHES


def test_the_end_is_trained_though_it_is_also_the_padding(model: AVChat) -> None:
    assert model.language.config.eos_token_id == model.language.config.pad_token_id
    rows = [model.prompt.build(None, [Turn(QUESTION, text)]) for text in ("red", "a red circle")]
    batch = collate(rows, [])
    end = TOKENIZER.eos_token_id
    for row, labels in zip(rows, batch.labels.tolist(), strict=True):
        trained = [label for label in labels if label != IGNORE]
        assert trained[-1] == end and len(trained) == sum(x != IGNORE for x in row.labels)


def test_a_picture_that_is_not_square_is_padded_with_grey(model: AVChat) -> None:
    media = still(height=90, width=200)
    square = Image.new("RGB", (200, 200), (127, 127, 127))
    square.paste(Image.fromarray(media.frames[0]), (0, 55))
    pixels = np.asarray(square.resize((384, 384), Image.BICUBIC)).astype(np.float64)
    ours = (model.prepare(media).pixels[0].permute(1, 2, 0).double().numpy() + 1) * 127.5
    assert np.abs(ours - pixels).max() < 1.01  # of 255: rounding between the two passes


def test_what_it_was_not_taught_to_hear_is_said(model: AVChat) -> None:
    media = replace(make_media(frames=2), frames=np.zeros((2, 8, 8, 3), np.uint8))
    media = replace(media, frame_times_s=np.array([0.5, 1.5]))
    talk = Conversation(model, media)
    "".join(talk.ask(QUESTION, max_new_tokens=2))
    assert talk.receipt.heard.track and talk.receipt.heard.seconds == 0
    assert talk.receipt.tokens.audio == 0 and talk.receipt.tokens.visual == 2 + PATCHES
    assert any("never taught to hear" in warning for warning in talk.receipt.warnings)
    assert talk.receipt.model == "Bunny-v1_0-3B"


@pytest.mark.slow
def test_all_27_layers_and_a_head_may_be_stored(
    weights: Weights, seen: Tensor, tmp_path: Path
) -> None:
    torch.manual_seed(1)
    last = {n: w for n, w in public.siglip(layers=27).items() if "layers.26." in n}
    head = {f"{public.TOWER}head.probe": torch.randn(1, 1, public.SIGHT)}
    folder = public.write_merged(tmp_path / "all", {**weights, **last, **head}, shards=3)
    found = read_checkpoint(folder)
    assert "17 tensors above them are not used" in " ".join(found.found)
    assert_same(our_logits(AVChat.from_pretrained(folder), still()), their_logits(weights, seen))


@pytest.fixture(scope="module")
def ears(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return public.small_whisper(tmp_path_factory.mktemp("ears") / "whisper-small.pt")


def states_of(ears: Path, waveform: np.ndarray) -> Tensor:
    """Hear as openai-whisper does: one window of 30 s, of which the sounding part counts."""
    mels = log_mel_spectrogram(pad_or_trim(torch.from_numpy(waveform)))
    with torch.inference_mode():
        states = whisper.load_model(str(ears), device="cpu").encoder(mels[None])[0]
    return states[: -(-len(waveform) // 320)].double()


@pytest.mark.slow
def test_owlet_audio_hears_through_a_projector_of_unknown_name(
    weights: Weights, ears: Path, tmp_path: Path
) -> None:
    all_weights = {**weights, **public.hearing()}
    folder = public.write_merged(tmp_path / "owlet", all_weights, mm_audio_tower=str(ears))
    found = read_checkpoint(folder)
    assert f"{NAMES[0]}.weight and {NAMES[1]}.weight, 16 -> 64 -> 64" in " ".join(found.found)
    model = AVChat.from_pretrained(folder)
    media = make_media(frames=2, duration_s=3.0)
    media = replace(
        media,
        frames=np.repeat(still().frames, 2, 0) // np.array([1, 3], np.uint8)[:, None, None, None],
    )
    rows = torch.stack([public.patch_features(weights, frame) for frame in media.frames])
    pooled = torch.cat([rows.mean(1), rows.mean(0)])  # 2 temporal, 729 spatial
    visual = public.project(weights, "model.mm_projector.", pooled)
    states = states_of(ears, media.waveform)
    heard = F.adaptive_avg_pool1d(states.T, 64).T
    audio = public.project(all_weights, "model.hearing_proj.linear_", heard, "12")
    assert_same(our_logits(model, media), their_logits(weights, visual, audio))


def test_a_whisper_that_is_stored_inside_is_used(weights: Weights, tmp_path: Path) -> None:
    """In Transformers' names, as such models keep it; its own computation is the oracle."""
    torch.manual_seed(6)
    dims = {"d_model": 128, "encoder_layers": 2, "encoder_attention_heads": 2}
    heard = WhisperEncoder(WhisperConfig(**dims, encoder_ffn_dim=512, num_mel_bins=80)).eval()
    for name, weight in heard.named_parameters():
        if "embed_positions" not in name:
            weight.data = weight.data.half().float()
    inside = {f"model.audio_tower.encoder.{n}": w for n, w in heard.state_dict().items()}
    all_weights = {**weights, **public.hearing(128), **inside}
    model = AVChat.from_pretrained(public.write_merged(tmp_path / "owlet", all_weights))
    mels = torch.randn(1, 80, 3000)
    with torch.inference_mode():
        theirs = heard.half().float()(mels).last_hidden_state
        ours = model.audio(mels)
    torch.testing.assert_close(ours, theirs, atol=2e-3, rtol=0)
    del all_weights["model.audio_tower.encoder.layers.1.fc2.bias"]
    broken = public.write_merged(tmp_path / "broken", all_weights)
    with pytest.raises(ModelError, match="1 missing: model.audio_tower.encoder.*mlp.2.bias"):
        read_checkpoint(broken)


@pytest.fixture(scope="module")
def stock(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Weights]:
    return public.write_bases(tmp_path_factory.mktemp("stock"))


def stored_projector(path: Path, prefix: str) -> Weights:
    stored = torch.load(path, weights_only=True)
    return {n.replace(prefix, "model.mm_projector."): w.float() for n, w in stored.items()}


@pytest.mark.slow
def test_adapters_over_stock_phi_2_drop_the_bias_of_its_head(
    stock: tuple[Path, Path, Weights], tmp_path: Path
) -> None:
    base, tower, weights = stock
    folder = tmp_path / "bunny-phi-2-siglip-lora"
    adapters = public.write_adapters(folder, base, tower)
    projector = stored_projector(
        folder / "non_lora_trainables.bin", "base_model.model.model.mm_projector."
    )
    folded = {**weights, **projector}
    for name in [n for n in adapters if ".lora_A." in n]:
        b = adapters[name.replace("lora_A", "lora_B")]
        place = name.removeprefix("base_model.model.").replace(".lora_A", "")
        folded[place] = folded[place] + 8 / 4 * b @ adapters[name]
    visual = public.patch_features(folded, still().frames[0])
    visual = public.project(folded, "model.mm_projector.", visual)
    model = AVChat.from_pretrained(folder)
    theirs = their_logits(folded, visual)  # `reply` knows no bias of the head
    assert_same(our_logits(model, still()), theirs)
    model.merge()
    assert_same(our_logits(model, still()), theirs)


def write_projector(folder: Path, base: Path, tower: Path) -> None:
    """Write Bunny's pretrain repository: a projector alone."""
    torch.manual_seed(5)
    config = {
        **public.CONFIG,
        "_name_or_path": str(base),
        "vocab_size": VOCABULARY + 24,
        "mm_vision_tower": str(tower),
    }
    (folder / "config.json").write_text(json.dumps(config))
    projector = public.projector("model.mm_projector.")
    torch.save({n: w.half() for n, w in projector.items()}, folder / "mm_projector.bin")


def test_a_projector_alone_names_its_bases(
    stock: tuple[Path, Path, Weights], tmp_path: Path
) -> None:
    write_projector(tmp_path, stock[0], stock[1])
    found = read_checkpoint(tmp_path)
    assert found.config.language.hub == found.tokenizer == str(stock[0])
    assert (found.config.vision.hub, found.config.vision.layer) == (str(stock[1]), -2)
    assert found.config.language.lora is None and not found.config.hears
    assert set(found.weights()) == {
        "language.lm_head.bias",
        *(f"visual_projector.mlp.mlp.{k}.{n}" for k in "02" for n in ("weight", "bias")),
    }
    assert not found.weights()["language.lm_head.bias"].any()


@pytest.mark.slow
def test_a_projector_alone_stands_over_stock_phi_2(
    stock: tuple[Path, Path, Weights], tmp_path: Path
) -> None:
    base, tower, weights = stock
    write_projector(tmp_path, base, tower)
    projector = stored_projector(tmp_path / "mm_projector.bin", "model.mm_projector.")
    visual = public.patch_features(weights, still().frames[0])
    visual = public.project(projector, "model.mm_projector.", visual)
    model = AVChat.from_pretrained(tmp_path)
    assert_same(our_logits(model, still()), their_logits(weights, visual))


def test_the_rows_of_the_vocabulary_are_those_of_the_tensors(
    weights: Weights, tmp_path: Path
) -> None:
    """The merged model has 50295 rows; a config.json may go on saying 51200."""
    folder = public.write_merged(tmp_path / "rows", weights, vocab_size=VOCABULARY + 905)
    assert read_checkpoint(folder).architecture.vocab_size == VOCABULARY


def test_in_four_bits_only_the_language_models_layers_are_small(bunny: Path) -> None:
    model = AVChat.from_pretrained(bunny, bits=4)
    kinds = {name: type(part).__name__ for name, part in model.named_modules()}
    assert {k for n, k in kinds.items() if n.endswith(("q_proj", "fc1")) and "language" in n} == {
        "Linear4bit"
    }
    for part in (model.vision, model.visual_projector, model.language.lm_head):
        layers = [layer for layer in part.modules() if isinstance(layer, nn.Linear)]
        assert layers and {type(layer) for layer in layers} <= {
            nn.Linear,
            nn.modules.linear.NonDynamicallyQuantizableLinear,
        }
    talk = Conversation(model, still())
    "".join(talk.ask(QUESTION, max_new_tokens=3))
    assert talk.receipt.tokens.visual == PATCHES and talk._threads["both"].ids


def test_bf16_says_no_nan_where_fp16_would_overflow(bunny: Path) -> None:
    model = AVChat.from_pretrained(bunny, dtype=torch.bfloat16)
    assert our_logits(model, still()).isfinite().all()
    with pytest.raises(ModelError, match="fp16 is not offered"):
        AVChat.from_pretrained(bunny, dtype=torch.float16)
