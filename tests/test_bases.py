"""A preset on other bases: what is loaded, how it is trained and saved, what is refused."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from families import FAMILY, SIZES, make_tokenizer, write_family
from safetensors.torch import load_file, save_file
from siglip import write_siglip
from small import AUDIO, TIMELINE_CONFIG, TOKENIZER, make_media, write_whisper
from transformers import (
    BloomConfig,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    GPT2Config,
    LlamaConfig,
    Siglip2Config,
    Siglip2Model,
)

from avchat.bases import rebased
from avchat.chat import Conversation
from avchat.config import (
    TIMELINE,
    Config,
    ConfigError,
    LanguageConfig,
    LoraConfig,
    ModelError,
    VisionConfig,
)
from avchat.encoders import build_vision
from avchat.language import UNKNOWN_CONTEXT, base_config, build_language, context_length
from avchat.model import AVChat
from avchat.stage import StageConfig, begin
from avchat.trainable import Trainable, choose


def test_a_preset_on_other_bases_is_trained_and_loads_again(tmp_path: Path) -> None:
    """The three flags of train/, with small models in the published forms."""
    write_family(FAMILY["qwen 2.5"], tmp_path / "qwen")
    write_siglip(tmp_path / "siglip2")
    write_whisper(tmp_path / "small.pt")
    run = StageConfig(
        output=tmp_path / "run",
        llm=str(tmp_path / "qwen"),
        vision=str(tmp_path / "siglip2"),
        whisper=str(tmp_path / "small.pt"),
    )
    model = begin(run, "timeline")
    assert model.config.prompt.end == "<|im_end|>" and model.config.frames == TIMELINE.frames
    assert model.config.language.lora == LoraConfig()  # on all linear layers, however called
    model.save_pretrained(tmp_path / "saved")
    kept = Config.load(tmp_path / "saved").prompt
    assert kept == model.config.prompt
    # what the template says later on changes nothing
    (tmp_path / "qwen" / "chat_template.jinja").write_text("{{ messages }}")
    loaded = AVChat.from_pretrained(tmp_path / "saved")
    for one in (model.eval(), loaded):
        talk = Conversation(one, make_media())
        answer = "".join(talk.ask("which object?", max_new_tokens=6))
    assert answer and loaded.prompt == model.prompt


def test_only_a_preset_of_published_parts_can_be_put_on_others(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="only a preset can be put on other bases"):
        rebased("somebody/model", llm="x")
    write_family(FAMILY["phi 2"], tmp_path)
    with pytest.raises(ConfigError, match=r"tiny: its vision was trained with the rest of it"):
        rebased("tiny", llm=str(tmp_path))
    assert rebased("timeline", whisper="large-v3").audio.hub == "large-v3"
    with pytest.raises(ModelError, match="timeline: a part could not be loaded"):
        begin(StageConfig(output=tmp_path, llm=str(tmp_path / "nowhere")), "timeline")


@pytest.mark.parametrize("names", ["language_model.model.", "model.language_model."])
def test_of_a_model_of_several_senses_the_language_model_is_taken(
    names: str, tmp_path: Path
) -> None:
    """Gemma 3 from 4 B on; its weights as they were published, and as they are saved today."""
    family = FAMILY["gemma 3"]
    tokenizer = make_tokenizer(family)
    text = SIZES | family.architecture | {"vocab_size": len(tokenizer), "pad_token_id": 0}
    vision = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
    vision |= {"num_attention_heads": 2, "image_size": 32, "patch_size": 8}
    config = Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=4)
    whole = Gemma3ForConditionalGeneration(config).eval()
    whole.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    stored = "language_model.model."
    assert any(name.startswith(stored) for name in weights)
    renamed = {name.replace(stored, names, 1): weight for name, weight in weights.items()}
    save_file(renamed, tmp_path / "model.safetensors", metadata={"format": "pt"})
    language = LanguageConfig(hub=str(tmp_path))
    ids = torch.tensor([[3, 4, 5, 6]])
    ours = build_language(language).eval()
    torch.testing.assert_close(ours(ids).logits, whole(input_ids=ids).logits)
    assert type(ours).__name__ == "Gemma3ForCausalLM"
    assert context_length(whole.config) == context_length(base_config(language)) == 512


def test_code_that_a_repository_brings_is_never_run(tmp_path: Path) -> None:
    write_family(FAMILY["phi 3"], tmp_path)
    (tmp_path / "modeling_phi3.py").write_text("raise SystemExit('ran')\n")
    path = tmp_path / "config.json"
    settings = json.loads(path.read_text())
    settings["auto_map"] = {
        "AutoConfig": "modeling_phi3.Phi3Config",
        "AutoModelForCausalLM": "modeling_phi3.Phi3ForCausalLM",
    }
    path.write_text(json.dumps(settings))
    model = build_language(LanguageConfig(hub=str(tmp_path)))
    assert type(model).__module__ == "transformers.models.phi3.modeling_phi3"
    path.write_text(json.dumps(settings | {"model_type": "newest"}))
    with pytest.raises(ConfigError, match="not a model that Transformers knows"):
        build_language(LanguageConfig(hub=str(tmp_path)))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"model_type": "t5"}, "a t5 is not a causal language model"),
        ({"layer_types": ["linear_attention"] * 2}, "layers of the kind linear_attention"),
    ],
)
def test_other_kinds_of_models_are_refused(
    change: dict[str, object], reason: str, tmp_path: Path
) -> None:
    write_family(FAMILY["qwen 3"], tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ConfigError, match=reason):
        build_language(LanguageConfig(hub=str(tmp_path)))


def test_a_base_that_is_not_whole_is_refused(tmp_path: Path) -> None:
    write_family(FAMILY["llama 3"], tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ConfigError, match=r"1 weights are not in it \(model.layers.1.mlp.up_proj"):
        build_language(LanguageConfig(hub=str(tmp_path)))


def test_tied_weights_of_a_model_from_nothing_are_saved_once(tmp_path: Path) -> None:
    inline = SIZES | {"model_type": "qwen2", "tie_word_embeddings": True}
    config = replace(TIMELINE_CONFIG, language=LanguageConfig(inline=inline), audio=AUDIO)
    model = AVChat.from_config(config, TOKENIZER).eval()
    model.save_pretrained(tmp_path)
    loaded = AVChat.from_pretrained(tmp_path)
    ids = torch.tensor([[3, 4, 5]])
    torch.testing.assert_close(loaded.language(ids).logits, model.language(ids).logits)


def test_a_tied_base_that_was_trained_whole_needs_the_base_no_more(tmp_path: Path) -> None:
    write_family(FAMILY["qwen 2.5"], tmp_path / "base")
    config = replace(TIMELINE_CONFIG, language=LanguageConfig(hub=str(tmp_path / "base")))
    model = AVChat.from_config(config)
    choose(model, Trainable(language="full"))
    model.eval().save_pretrained(tmp_path / "saved")
    (tmp_path / "base").rename(tmp_path / "gone")
    loaded = AVChat.from_pretrained(tmp_path / "saved")
    ids = torch.tensor([[3, 4, 5]])
    torch.testing.assert_close(loaded.language(ids).logits, model.language(ids).logits)
    other = model.tokenizer.convert_tokens_to_ids("<|endoftext|>")
    assert loaded.prompt.stops(other), "an end of its own generation, which the config has not"


def test_a_context_that_is_called_otherwise_or_not_stated() -> None:
    assert context_length(GPT2Config(n_positions=77)) == 77
    assert context_length(BloomConfig()) == UNKNOWN_CONTEXT
    assert context_length(LlamaConfig(max_position_embeddings=10_485_760)) == 10_485_760


def test_siglip_2_of_any_size_is_refused_and_other_vision_models_too(tmp_path: Path) -> None:
    tower = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
    tower |= {"num_attention_heads": 2}
    text = tower | {"vocab_size": 50, "projection_size": 16}
    naflex = Siglip2Model(Siglip2Config(text_config=text, vision_config=tower))
    naflex.save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=r"any shape \(NaFlex\) is not read: take one of a fixed"):
        build_vision(VisionConfig(hub=str(tmp_path)))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "clip"}))
    with pytest.raises(ConfigError, match="a clip is not a SigLIP or SigLIP 2"):
        build_vision(VisionConfig(hub=str(tmp_path)))


def test_siglip_2_of_a_fixed_size_is_a_siglip(tmp_path: Path) -> None:
    """Its published form: SigLIP's architecture and names, 256 thousand words of Gemma's."""
    write_siglip(tmp_path)
    path = tmp_path / "config.json"
    settings = json.loads(path.read_text())
    assert settings["model_type"] == "siglip"
    encoder = build_vision(VisionConfig(hub=str(tmp_path), layer=-2))
    assert (encoder.num_patches, encoder.width) == (16, 32)
