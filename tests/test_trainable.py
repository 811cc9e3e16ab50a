"""What a run trains: the exact set of weights that one step changes, for every setting."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small import LANGUAGE, TIMELINE_CONFIG, TOKENIZER, build_model, make_media
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from avchat.collate import collate
from avchat.config import Config, ConfigError, LanguageConfig, LoraConfig
from avchat.language import plain_weights
from avchat.model import AVChat
from avchat.prompt import Turn
from avchat.trainable import Trainable, choose, lines, table

LORA = LoraConfig(r=4, alpha=8, dropout=0.0, targets=("q_proj", "v_proj", "fc1"))
LAYERS = LANGUAGE.inline["num_hidden_layers"]
ADAPTERS = {
    f"language.base_model.model.model.layers.{k}.{at}.lora_{x}.default.weight"
    for k in range(LAYERS)
    for at in ("self_attn.q_proj", "self_attn.v_proj", "mlp.fc1")
    for x in "AB"
}


def part(model: nn.Module, *prefixes: str) -> set[str]:
    return {n for n, _ in model.named_parameters() if n.startswith(prefixes)}


def changed_by_two_steps(model: AVChat, trainable: Trainable) -> set[str]:
    """Train two steps (adapters: B is zero at first, so A has no gradient in the first step)."""
    groups = choose(model, trainable)
    optimizer = torch.optim.SGD([{"params": g["params"], "lr": g["lr"]} for g in groups])
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    clips = [model.prepare(make_media(k)) for k in range(3)]
    turns = [Turn("which object?", "the red circle"), Turn("the sound?", "a blue square.")]
    rows = [model.prompt.build(model.plan(clip), turns) for clip in clips]
    for _ in range(2):
        model(collate(rows, clips)).total.backward()
        optimizer.step()
        optimizer.zero_grad()
    return {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}


def test_frozen_but_for_one_projector() -> None:
    for side in ("visual", "audio"):
        model, other = build_model(), "audio" if side == "visual" else "visual"
        frozen = {f"{other}_projector": "frozen", f"{side}_projector": "full"}
        trainable = Trainable(language="frozen", projector_lr=0.1, **frozen)
        assert changed_by_two_steps(model, trainable) == part(model, f"{side}_projector.")


def test_adapters_and_projectors() -> None:
    model = build_model()
    changed = changed_by_two_steps(model, Trainable(lora=LORA, language_lr=0.1, projector_lr=0.1))
    assert changed == ADAPTERS | part(model, "visual_projector.", "audio_projector.")
    assert model.config.language.lora == LORA


def test_the_whole_language_model() -> None:
    model = build_model()
    changed = changed_by_two_steps(model, Trainable(language="full", projector_lr=0.1))
    assert changed == part(model, "language.", "visual_projector.", "audio_projector.")


def test_adapters_on_projectors_are_saved_as_plain_weights(tmp_path: Path) -> None:
    model = build_model()
    frozen = {name: w.clone() for name, w in model.state_dict().items() if "projector" in name}
    trainable = Trainable(
        language="frozen",
        visual_projector="lora",
        audio_projector="lora",
        lora=LORA,
        projector_lr=0.1,
    )
    changed = changed_by_two_steps(model, trainable)
    wanted = part(model, "visual_projector.", "audio_projector.")
    assert changed == {name for name in wanted if ".lora_" in name} and len(changed) == 12
    model.save_pretrained(tmp_path)
    loaded = AVChat.from_pretrained(tmp_path)
    assert set(plain_weights(loaded.visual_projector)) == set(loaded.visual_projector.state_dict())
    moved = loaded.state_dict()["visual_projector.mlp.mlp.0.weight"]
    assert not torch.equal(moved, frozen["visual_projector.mlp.mlp.0.weight"])
    assert torch.equal(loaded.state_dict()["visual_projector.cells"], model.visual_projector.cells)
    clips = model.encode([make_media(5)])
    for ours, theirs in zip(model.project(clips), loaded.project(clips), strict=True):
        torch.testing.assert_close(ours.visual, theirs.visual, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(ours.audio, theirs.audio, rtol=1e-4, atol=1e-5)


def test_encoders_have_a_rate_of_their_own() -> None:
    model = build_model()
    trainable = Trainable("frozen", 1.0, None, "frozen", "frozen", vision_lr=0.01, audio_lr=0.02)
    groups = choose(model, trainable)
    assert {g["part"]: g["lr"] for g in groups} == {"vision": 0.01, "audio": 0.02}
    # SigLIP's and Whisper's keys have a bias that cancels in the softmax: rounding at most
    changed = changed_by_two_steps(model, trainable)
    assert changed <= part(model, "vision.", "audio.")
    still = part(model, "vision.", "audio.") - changed
    assert all("k_proj.bias" in name for name in still), still


@pytest.fixture
def based(tmp_path: Path) -> Config:
    """A config whose language model is a published one: a folder of the Hub's form."""
    torch.manual_seed(0)
    folder = tmp_path / "phi"
    inline = {**LANGUAGE.inline, "vocab_size": len(TOKENIZER)}
    AutoModelForCausalLM.from_config(AutoConfig.for_model(**inline)).save_pretrained(folder)
    TOKENIZER.save_pretrained(folder)
    return replace(TIMELINE_CONFIG, language=LanguageConfig(hub=str(folder), lora=LORA))


def test_adapters_on_four_bits(based: Config) -> None:
    model = AVChat.from_config(based, TOKENIZER, bits=4, lora=False)
    kinds = {type(layer).__name__ for layer in model.language.modules()}
    assert "Linear4bit" in kinds
    changed = changed_by_two_steps(model, Trainable("qlora", 0.1, projector_lr=0.1))
    assert changed == ADAPTERS | part(model, "visual_projector.", "audio_projector.")
    rows = table(model, choose(model, Trainable("qlora", 0.1)))
    whole = AVChat.from_config(based, TOKENIZER, lora=False)
    plain = sum(p.numel() for p in whole.language.parameters())
    added = sum(p.numel() for n, p in model.named_parameters() if n in ADAPTERS)
    assert rows["language"]["weights"] == plain + added


def test_what_cannot_be_trained_is_said(based: Config) -> None:
    with pytest.raises(ConfigError, match="nothing is trained"):
        choose(build_model(), Trainable("frozen", 1.0, None, "frozen", "frozen"))
    with pytest.raises(ConfigError, match="qlora needs the language model in 4 bit"):
        choose(build_model(), Trainable("qlora"))
    quantised = AVChat.from_config(based, TOKENIZER, bits=4, lora=False)
    with pytest.raises(ConfigError, match="by its adapters alone"):
        choose(quantised, Trainable("full"))
    with pytest.raises(ConfigError, match="adapters of rank 4"):
        choose(AVChat.from_config(based, TOKENIZER), Trainable(lora=replace(LORA, r=8)))


def test_a_model_with_adapters_is_merged_before_all_of_it_is_trained(based: Config) -> None:
    model = AVChat.from_config(based, TOKENIZER)
    choose(model, Trainable("full"))
    assert model.config.language.lora is None
    assert {n for n, p in model.language.named_parameters() if p.requires_grad} == {
        n for n, _ in model.language.named_parameters()
    }


def test_the_table_counts_each_part() -> None:
    model = build_model()
    rows = table(model, choose(model, Trainable("full", 2e-4, projector_lr=2e-5)))
    assert rows["vision"]["trained"] == rows["audio"]["trained"] == 0 < rows["vision"]["weights"]
    assert rows["language"]["trained"] == rows["language"]["weights"]
    said = "\n".join(lines(rows))
    assert "frozen" in said and "0.0002" in said and "2e-05" in said


def test_what_is_trained_is_in_full_precision_on_a_base_in_half() -> None:
    """A step of 1e-5 is lost on a weight of 1 in bf16, whose next number is 1.0078."""
    for trainable in (Trainable("full", vision_lr=1e-5), Trainable("lora", lora=LORA)):
        model = AVChat.from_config(TIMELINE_CONFIG, TOKENIZER, dtype=torch.bfloat16)
        choose(model, trainable)
        kinds = {p.dtype for p in model.parameters() if p.requires_grad}
        assert kinds == {torch.float32}
        frozen = {p.dtype for p in model.language.parameters() if not p.requires_grad}
        assert frozen == ({torch.bfloat16} if trainable.language == "lora" else set())
