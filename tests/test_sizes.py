"""What a model weighs, counted before it is here, against models that are really built."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small import AUDIO, TIMELINE_CONFIG, TOKENIZER, VISION, build_based, write_whisper
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PhiConfig, PhiForCausalLM
from whisper.model import AudioEncoder, TextDecoder

from avchat.config import OWLET, TIMELINE, AudioConfig, Config, LanguageConfig
from avchat.language import build_language
from avchat.model import AVChat
from avchat.published import MERGED, PUBLISHED, WHISPER
from avchat.sizes import Unknown, count, free_cpu, free_memory, memory, precision_of

# wide enough that the small things (norms, biases, tables of 4-bit codes) are small
WIDE = PhiConfig(
    vocab_size=len(TOKENIZER),
    hidden_size=256,
    intermediate_size=1024,
    num_hidden_layers=3,
    num_attention_heads=4,
    max_position_embeddings=512,
)


def bytes_of(*modules: nn.Module) -> int:
    """Add up what modules hold, their float buffers too: what Whisper's sinusoids are."""
    tensors = [t for m in modules for t in (*m.parameters(), *m.buffers())]
    return sum(t.nbytes for t in tensors if t.is_floating_point())


@pytest.fixture(scope="module")
def phi(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random phi in the published form, wide enough to be worth counting."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("sizes") / "phi"
    PhiForCausalLM(WIDE).save_pretrained(path)
    TOKENIZER.save_pretrained(path)
    return path


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("config", [TIMELINE_CONFIG, None], ids=["small", "tiny"])
def test_a_built_model_has_the_bytes_that_were_counted(
    config: Config | None, dtype: torch.dtype
) -> None:
    model = AVChat.from_pretrained("tiny", dtype=dtype)
    if config is not None:
        model = AVChat.from_config(config, TOKENIZER, dtype=dtype)
    need = memory(count(model.config), *precision_of(dtype, None))
    assert need.vision == sum(w.nbytes for w in model.vision.parameters())
    assert need.audio == bytes_of(model.audio)
    assert need.projectors == bytes_of(model.visual_projector, model.audio_projector)
    assert need.language == sum(w.nbytes for w in model.language.parameters())
    assert need.total == need.weights + need.work + need.process + need.cache


@pytest.mark.parametrize("bits", [4, 8])
def test_a_quantised_model_has_nearly_the_bytes_that_were_counted(phi: Path, bits: int) -> None:
    """Within 1 %: bitsandbytes keeps a few tables more (codes of 16 numbers for each layer)."""
    config = replace(TIMELINE_CONFIG, language=LanguageConfig(hub=str(phi)))
    need = memory(count(config), *precision_of(torch.bfloat16, bits))
    model = build_language(config.language, dtype=torch.bfloat16, bits=bits)
    held = sum(t.nbytes for t in model.state_dict().values())
    assert need.language == pytest.approx(held, rel=0.01)
    full = memory(count(config), "bf16").language
    assert need.language < {4: 0.45, 8: 0.65}[bits] * full


def test_keys_and_values_have_the_bytes_that_were_counted(phi: Path) -> None:
    config = replace(TIMELINE_CONFIG, language=LanguageConfig(hub=str(phi)))
    model, length = AutoModelForCausalLM.from_pretrained(phi), 40
    kept = model(torch.arange(length)[None], use_cache=True).past_key_values
    held = sum(t.nbytes for layer in kept.layers for t in (layer.keys, layer.values))
    counts = count(config)
    assert held == 4 * counts.cache * length
    assert memory(counts, "fp32").cache == 4 * counts.cache * 512


def test_grouped_heads_and_a_tied_head_are_counted_once() -> None:
    inline = {
        "model_type": "qwen2",
        "vocab_size": 300,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "tie_word_embeddings": True,
        "max_position_embeddings": 128,
    }
    language = LanguageConfig(inline=inline)
    counts = count(replace(TIMELINE_CONFIG, language=language))
    model = build_language(language)
    held = sum(weight.numel() for weight in model.parameters())
    assert counts.linear + counts.language == held
    kept = model(torch.arange(7)[None], use_cache=True).past_key_values
    values = sum(t.numel() for layer in kept.layers for t in (layer.keys, layer.values))
    assert values == 7 * counts.cache


def test_a_layer_of_the_vision_model_that_is_dropped_is_not_counted() -> None:
    whole = count(TIMELINE_CONFIG)
    cut = count(replace(TIMELINE_CONFIG, vision=replace(VISION, layer=-2)))
    assert cut.vision < whole.vision and cut.linear == whole.linear


def test_whisper_is_counted_from_a_file_without_its_values(tmp_path: Path) -> None:
    path = write_whisper(tmp_path / "w.pt")
    config = replace(TIMELINE_CONFIG, audio=AudioConfig(hub=str(path)))
    model = AVChat.from_config(config, TOKENIZER)
    assert 4 * count(config).audio == bytes_of(model.audio)
    assert count(replace(config, audio=AUDIO)).audio != count(config).audio


@pytest.mark.parametrize("name", [n for n in PUBLISHED if "siglip" not in n and n not in MERGED])
def test_the_table_of_language_models_agrees_with_the_files(name: str) -> None:
    """16 bit a value and one header a file: so the architectures and the sizes are both right."""
    published = PUBLISHED[name]
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**published.architecture))
    held = 2 * sum(weight.numel() for weight in model.parameters())
    assert 0 < sum(published.files.values()) - held < 60_000


def test_the_table_of_bunny_agrees_with_the_files() -> None:
    """The tower of 26 layers, the projector and phi-2 with 50295 words, all in 16 bit."""
    published = PUBLISHED["BAAI/Bunny-v1_0-3B"]
    counts = count(OWLET, AutoConfig.for_model(**published.architecture))
    visual = 1152 * 2560 + 2560 + 2560 * 2560 + 2560
    no_bias = 50295  # its head has none, phi-2's has
    held = 2 * (counts.vision + visual + counts.linear + counts.language - no_bias)
    assert 0 < sum(published.files.values()) - held == 115_336  # the two headers: peers.md 2.1
    audio = PUBLISHED["phronetic-ai/owlet-phi-2-audio"].files["the sound's projector"]
    assert audio == 2 * (counts.projectors - visual)


@pytest.mark.parametrize("name", WHISPER)
def test_the_table_of_whispers_agrees_with_the_files(name: str) -> None:
    """16 bit a value, but for names and shapes: both halves are built."""
    known = WHISPER[name]
    words = 51864 if name.endswith(".en") else 51866 if known.n_mels == 128 else 51865
    layers = 4 if "turbo" in name else known.n_layer
    with torch.device("meta"):
        encoder = AudioEncoder(**known.encoder)
        decoder = TextDecoder(words, 448, known.n_state, known.n_head, layers)
    values = sum(w.numel() for m in (encoder, decoder) for w in m.parameters())
    stored = 2 * (values + encoder.positional_embedding.numel())
    assert stored < known.size < 1.01 * stored + 400_000


def test_small_models_take_less_and_say_so() -> None:
    """What the README's table rests on: orders that must hold whatever is tuned."""
    counts = count(TIMELINE)
    sizes = [memory(counts, p).total for p in ("fp32", "bf16", "8 bit", "4 bit")]
    assert sizes == sorted(sizes, reverse=True)
    assert memory(counts, "4 bit", "fp32").total > memory(counts, "4 bit").total


def test_adapters_are_counted_in_full(tmp_path: Path) -> None:
    from avchat.loading import plan_of

    model = build_based(tmp_path / "phi")
    model.save_pretrained(tmp_path / "saved")
    held = sum(w.numel() for n, w in model.named_parameters() if ".lora_" in n)
    plan = plan_of(str(tmp_path / "saved"))
    assert plan.adapters == held > 0
    bare = plan.count()
    assert memory(bare, "bf16").language - memory(replace(bare, adapters=0), "bf16").language == (
        4 * held
    )


def test_an_architecture_that_nobody_knows_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    config = replace(TIMELINE_CONFIG, language=LanguageConfig(hub="some/one"))
    with pytest.raises(Unknown, match="some/one: how it is built is not known here"):
        count(config)


def write_machine(root: Path, *, cgroup: str, files: dict[str, str]) -> None:
    """Write as much of /proc and /sys as is read."""
    files = {"proc/meminfo": "MemTotal: 9000 kB\nMemAvailable:    8000 kB\n", **files}
    for name, text in {**files, "proc/self/cgroup": cgroup}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_free_memory_is_the_machines_or_the_containers(tmp_path: Path) -> None:
    here = free_memory(torch.device("cpu"))
    assert here is not None and 0 < here == pytest.approx(free_cpu(), rel=0.2)
    assert free_cpu(tmp_path) is None  # no Linux
    write_machine(tmp_path, cgroup="0::/\n", files={})
    assert free_cpu(tmp_path) == 8000 * 1024
    base = "sys/fs/cgroup/a"
    version2 = {
        f"{base}/memory.max": "max\n",
        f"{base}/memory.current": "7000000\n",
        f"{base}/b/memory.max": "6000000\n",
        f"{base}/b/memory.current": "5000000\n",
        f"{base}/b/memory.stat": "anon 1\ninactive_file 2000000\n",
    }
    write_machine(tmp_path, cgroup="0::/a/b\n", files=version2)
    assert free_cpu(tmp_path) == 3_000_000
    base = "sys/fs/cgroup/memory"
    version1 = {
        f"{base}/memory.limit_in_bytes": "4000000\n",  # in a container its own folder is the root
        f"{base}/memory.usage_in_bytes": "1500000\n",
    }
    write_machine(tmp_path, cgroup="4:memory:/far/away\n0::/\n", files=version1)
    assert free_cpu(tmp_path) == 2_500_000
