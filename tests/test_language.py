"""The language model and its tokenizer: published folders, adapters, four bits, and any text."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small import LANGUAGE, TOKENIZER, WORDS
from transformers import PhiConfig, PhiForCausalLM

from avchat.config import BUNNY_LORA, ConfigError, LanguageConfig, LoraConfig
from avchat.language import (
    attach_lora,
    build_language,
    has_lora,
    load_lora,
    load_tokenizer,
    merge_lora,
    save_lora,
)
from avchat.tokenizer import train_tokenizer

PHI = PhiConfig(
    vocab_size=360,
    hidden_size=64,
    intermediate_size=128,
    num_hidden_layers=1,
    num_attention_heads=2,
)
LORA = LoraConfig(r=4, alpha=8, dropout=0.0)


def ids_of(text: str) -> list[int]:
    return TOKENIZER(text, add_special_tokens=False, split_special_tokens=True).input_ids


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random phi in the published form."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("phi")
    PhiForCausalLM(PHI).save_pretrained(path)
    return path


def test_frequent_words_and_times_are_one_token() -> None:
    for word in (" object", " red", " circle", " 0.25s", " 3.75s", "?", " no", " picture", "\n"):
        assert len(ids_of(word)) == 1, word


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=60))
def test_no_text_is_unknown(text: str) -> None:
    assert TOKENIZER.decode(ids_of(text)) == text.lower()


def test_words_are_cut_before_they_are_merged() -> None:
    assert ids_of("red circle?") == ids_of("red") + ids_of(" circle") + ids_of("?")
    assert ids_of("Red CIRCLE") == ids_of("red circle")


def test_the_end_is_not_padding_and_cannot_be_typed() -> None:
    assert TOKENIZER.pad_token_id != TOKENIZER.eos_token_id
    assert not {TOKENIZER.pad_token_id, TOKENIZER.eos_token_id} & set(ids_of("<eos> <pad>"))


def test_a_tokenizer_is_saved_and_trained_the_same_again(tmp_path: Path) -> None:
    TOKENIZER.save_pretrained(tmp_path)
    loaded = load_tokenizer(tmp_path)
    assert loaded("the red star").input_ids == ids_of("the red star")
    assert loaded.eos_token_id == TOKENIZER.eos_token_id
    assert train_tokenizer([WORDS] * 20, 360).get_vocab() == TOKENIZER.get_vocab()


def test_embeddings_of_a_model_from_nothing_are_wide() -> None:
    torch.manual_seed(0)
    model = build_language(LANGUAGE)
    assert isinstance(model, PhiForCausalLM)
    assert model.get_input_embeddings().weight.std().item() == pytest.approx(0.5, rel=0.02)


def test_a_published_model_loads_from_a_folder(folder: Path) -> None:
    ids = torch.tensor([[3, 4, 5]])
    reference = PhiForCausalLM.from_pretrained(folder)
    ours = build_language(LanguageConfig(hub=str(folder)))
    torch.testing.assert_close(ours(ids).logits, reference(ids).logits)
    half = build_language(LanguageConfig(hub=str(folder)), dtype=torch.bfloat16)
    assert half.dtype == torch.bfloat16


def test_all_linear_layers_of_phi_are_bunnys(folder: Path) -> None:
    """The default, which fits every language model, is on phi-2 what Bunny names one by one."""
    found = []
    for lora in (LoraConfig(), BUNNY_LORA):
        model = attach_lora(build_language(LanguageConfig(hub=str(folder))), replace(lora, r=2))
        found.append({name for name, _ in model.named_parameters() if ".lora_" in name})
    assert found[0] == found[1] and len(found[0]) == 2 * 6


def test_only_adapters_are_trainable_and_they_survive_a_folder(
    folder: Path, tmp_path: Path
) -> None:
    config, ids = LanguageConfig(hub=str(folder)), torch.tensor([[3, 4, 5]])
    bare = build_language(config)
    before = bare(ids).logits.detach()
    assert not has_lora(bare)
    model = attach_lora(bare, LORA)
    assert has_lora(model)
    trainable = {name for name, weight in model.named_parameters() if weight.requires_grad}
    assert trainable and all(".lora_" in name for name in trainable)
    torch.testing.assert_close(model(ids).logits, before)  # fresh adapters change nothing
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1)
    changed = model(ids).logits.detach()
    assert not torch.allclose(changed, before)
    save_lora(model, tmp_path / "adapter")
    loaded = load_lora(build_language(config), tmp_path / "adapter")
    torch.testing.assert_close(loaded(ids).logits, changed)
    assert not any(weight.requires_grad for weight in loaded.parameters())
    merged = merge_lora(model)
    assert not has_lora(merged)
    torch.testing.assert_close(merged(ids).logits, changed, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("bits", [4, 8])
def test_bitsandbytes_quantises_layers_but_not_the_head(folder: Path, bits: int) -> None:
    model = build_language(LanguageConfig(hub=str(folder)), bits=bits)
    kinds = {name: type(module).__name__ for name, module in model.named_modules()}
    quantised = {4: "Linear4bit", 8: "Linear8bitLt"}[bits]
    assert kinds["model.layers.0.mlp.fc1"] == quantised
    assert kinds["lm_head"] == "Linear"
    assert model(torch.tensor([[3, 4, 5]])).logits.isfinite().all()


def test_bits_need_published_weights() -> None:
    with pytest.raises(ConfigError, match="4 and 8 bit need a language model from the Hub"):
        build_language(LANGUAGE, bits=4)
