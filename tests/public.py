"""Small checkpoints in exactly the form in which Bunny and Owlet are published, and what they say.

Names, layers, layout of files and precision are theirs (shared/research/peers.md 2.1: 877 tensors);
widths are small. `reply` computes logits from the stored tensors in straight lines, without any
code of ours or of Transformers.
"""

import json
import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from small import TOKENIZER, write_whisper
from torch import Tensor

from avchat.media import Media
from avchat.model import AVChat
from avchat.prompt import Turn

QUESTION, ANSWER = "which object makes the sound?", "the red circle"
NAMES = ("model.hearing_proj.linear_1", "model.hearing_proj.linear_2")  # not the real ones
WIDTH, HEADS, FEED, LAYERS = 64, 4, 128, 32  # phi-2: 2560, 32, 10240, 32
SIGHT, SIGHT_FEED, SIGHT_HEADS = 32, 48, 16  # SigLIP so400m: 1152, 4304, 16
SIGHT_LAYERS, PATCHES, SIDE = 26, 729, 384
HEARING = 16  # Whisper small: 768
ROPE, THETA = 0.5, 10000.0  # of a head's width, phi-2: 0.4
VOCABULARY = len(TOKENIZER)
TOWER = "model.vision_tower.vision_tower.vision_model."
SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives "
    "helpful, detailed, and polite answers to the user's questions."
)
Weights = dict[str, Tensor]

CONFIG = {
    "architectures": ["BunnyPhiForCausalLM"],
    "auto_map": {
        "AutoConfig": "configuration_bunny_phi.BunnyPhiConfig",
        "AutoModelForCausalLM": "modeling_bunny_phi.BunnyPhiForCausalLM",
    },
    "model_type": "bunny-phi",
    "mm_projector_type": "mlp2x_gelu",
    "mm_hidden_size": SIGHT,
    "mm_vision_tower": "google/siglip-so400m-patch14-384",
    "image_aspect_ratio": "pad",
    "hidden_size": WIDTH,
    "intermediate_size": FEED,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": HEADS,
    "hidden_act": "gelu_new",
    "partial_rotary_factor": ROPE,
    "rope_theta": THETA,
    "layer_norm_eps": 1e-5,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 1,
    "pad_token_id": 1,
    "torch_dtype": "float16",
    "vocab_size": VOCABULARY,
}


def linear(weights: Weights, name: str, rows: int, columns: int, bias: bool = True) -> None:
    """Draw a linear layer."""
    weights[f"{name}.weight"] = torch.randn(rows, columns) / math.sqrt(columns)
    if bias:
        weights[f"{name}.bias"] = 0.1 * torch.randn(rows)


def norm(weights: Weights, name: str, width: int) -> None:
    """Draw a layer norm."""
    weights[f"{name}.weight"] = 1 + 0.2 * torch.randn(width)
    weights[f"{name}.bias"] = 0.1 * torch.randn(width)


def phi(vocabulary: int = VOCABULARY, head_bias: bool = False) -> Weights:
    """Draw phi-2's tensors under their names."""
    weights = {"model.embed_tokens.weight": torch.randn(vocabulary, WIDTH)}
    for k in range(LAYERS):
        layer = f"model.layers.{k}"
        for name in ("q_proj", "k_proj", "v_proj", "dense"):
            linear(weights, f"{layer}.self_attn.{name}", WIDTH, WIDTH)
        linear(weights, f"{layer}.mlp.fc1", FEED, WIDTH)
        linear(weights, f"{layer}.mlp.fc2", WIDTH, FEED)
        norm(weights, f"{layer}.input_layernorm", WIDTH)
    norm(weights, "model.final_layernorm", WIDTH)
    linear(weights, "lm_head", vocabulary, WIDTH, bias=head_bias)
    return weights


def siglip(prefix: str = TOWER, layers: int = SIGHT_LAYERS) -> Weights:
    """Draw a SigLIP's tensors: its layers, an unapplied final norm, no head."""
    weights = {f"{prefix}embeddings.position_embedding.weight": torch.randn(PATCHES, SIGHT)}
    weights[f"{prefix}embeddings.patch_embedding.weight"] = 0.05 * torch.randn(SIGHT, 3, 14, 14)
    weights[f"{prefix}embeddings.patch_embedding.bias"] = 0.1 * torch.randn(SIGHT)
    for k in range(layers):
        layer = f"{prefix}encoder.layers.{k}"
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            linear(weights, f"{layer}.self_attn.{name}", SIGHT, SIGHT)
        linear(weights, f"{layer}.mlp.fc1", SIGHT_FEED, SIGHT)
        linear(weights, f"{layer}.mlp.fc2", SIGHT, SIGHT_FEED)
        norm(weights, f"{layer}.layer_norm1", SIGHT)
        norm(weights, f"{layer}.layer_norm2", SIGHT)
    norm(weights, f"{prefix}post_layernorm", SIGHT)
    return weights


def projector(prefix: str, width_in: int = SIGHT, places: tuple[str, str] = ("0", "2")) -> Weights:
    """Draw a projector, Linear, GELU, Linear."""
    weights: Weights = {}
    linear(weights, prefix + places[0], WIDTH, width_in)
    linear(weights, prefix + places[1], WIDTH, WIDTH)
    return weights


def merged(seed: int = 0) -> Weights:
    """Draw all tensors of Bunny-v1_0-3B."""
    torch.manual_seed(seed)
    return {**phi(), **siglip(), **projector("model.mm_projector.")}


def write_merged(folder: Path, weights: Weights, shards: int = 2, **config: object) -> Path:
    """Write a merged model: fp16 shards, index, config, tokenizer, and code that must not run."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({**CONFIG, **config}))
    for name in ("configuration_bunny_phi.py", "modeling_bunny_phi.py"):
        (folder / name).write_text("raise SystemExit('code from a repository was run')\n")
    TOKENIZER.save_pretrained(folder)
    names, index = sorted(weights), {}
    for shard in range(shards):
        file = f"model-{shard + 1:05d}-of-{shards:05d}.safetensors"
        part = names[shard * len(names) // shards : (shard + 1) * len(names) // shards]
        half = {name: weights[name].half().contiguous() for name in part}
        save_file(half, folder / file, metadata={"format": "pt"})
        index.update(dict.fromkeys(part, file))
    size = sum(2 * weight.numel() for weight in weights.values())
    text = json.dumps({"metadata": {"total_size": size}, "weight_map": index})
    (folder / "model.safetensors.index.json").write_text(text)
    return folder


def write_stock(folder: Path, weights: Weights) -> Path:
    """Write a stock phi-2: its own type, a head with a bias."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = len(weights["lm_head.weight"])
    config = {k: v for k, v in CONFIG.items() if not k.startswith(("mm_", "auto_map", "image_"))}
    config |= {"model_type": "phi", "architectures": ["PhiForCausalLM"], "vocab_size": rows}
    (folder / "config.json").write_text(json.dumps(config))
    TOKENIZER.save_pretrained(folder)
    half = {name: weight.half() for name, weight in weights.items()}
    save_file(half, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def write_siglip_base(folder: Path, weights: Weights) -> Path:
    """Write a vision model of 27 layers as the Hub has it, its names from "vision_model." on."""
    folder.mkdir(parents=True, exist_ok=True)
    vision = {
        "model_type": "siglip_vision_model",
        "hidden_size": SIGHT,
        "intermediate_size": SIGHT_FEED,
        "num_hidden_layers": 27,
        "num_attention_heads": SIGHT_HEADS,
        "image_size": SIDE,
        "patch_size": 14,
    }
    (folder / "config.json").write_text(json.dumps(vision))
    save_file({n: w.contiguous() for n, w in weights.items()}, folder / "model.safetensors")
    return folder


def small_whisper(path: Path) -> Path:
    """Write a Whisper of width 16 in openai-whisper's form."""
    return write_whisper(path)


def still(height: int = 384, width: int = 384) -> Media:
    """Make a picture of noise without sound."""
    rng = np.random.default_rng(0)
    return Media(
        frames=rng.integers(0, 256, (1, height, width, 3), np.uint8),
        frame_times_s=np.zeros(1),
        waveform=np.zeros(0, np.float32),
        start_s=0.0,
        duration_s=0.0,
        has_video=True,
        has_audio=False,
    )


@torch.inference_mode()
def our_logits(model: AVChat, media: Media) -> Tensor:
    """Compute all logits [L, V] of a question and its answer on a clip, through our code."""
    [features] = model.encode([media])
    row = model.prompt.build(model.plan(features), [Turn(QUESTION, ANSWER)])
    embeds = model.embed(torch.tensor([row.ids]), model.project([features]))
    return model.language(inputs_embeds=embeds, use_cache=False).logits[0].double()


def hearing(width: int = HEARING) -> Weights:
    """Draw an audio projector under names of our invention."""
    torch.manual_seed(2)
    named: Weights = {}
    linear(named, NAMES[0], WIDTH, width)
    linear(named, NAMES[1], WIDTH, WIDTH)
    return {name: weight.half().float() for name, weight in named.items()}


def write_adapters(folder: Path, base: Path, sight: Path, scale: float = 0.3) -> Weights:
    """Write Bunny's LoRA repository; return the adapters."""
    torch.manual_seed(3)
    folder.mkdir(parents=True)
    targets = ("q_proj", "k_proj", "v_proj", "dense", "fc1", "fc2")
    settings = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": str(base),
        "r": 4,
        "lora_alpha": 8,
        "lora_dropout": 0.05,
        "bias": "none",
        "target_modules": list(targets),
    }
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    adapters: Weights = {}
    for k in range(LAYERS):
        for target in targets:
            part = "mlp" if target.startswith("fc") else "self_attn"
            rows = FEED if target == "fc1" else WIDTH
            columns = FEED if target == "fc2" else WIDTH
            name = f"base_model.model.model.layers.{k}.{part}.{target}.lora_"
            adapters[f"{name}A.weight"] = scale * torch.randn(4, columns) / columns**0.5
            adapters[f"{name}B.weight"] = scale * torch.randn(rows, 4)
    save_file(adapters, folder / "adapter_model.safetensors")
    config = {**CONFIG, "vocab_size": VOCABULARY + 24, "mm_vision_tower": str(sight)}
    (folder / "config.json").write_text(json.dumps(config))
    rest = projector("base_model.model.model.mm_projector.")
    torch.save({n: w.half() for n, w in rest.items()}, folder / "non_lora_trainables.bin")
    return adapters


def write_bases(hub: Path) -> tuple[Path, Path, Weights]:
    """Write phi-2 and SigLIP as their makers published them: a head with a bias, 27 layers."""
    torch.manual_seed(4)
    language = phi(VOCABULARY + 24, head_bias=True)
    language["lm_head.bias"] += 5
    language = {name: weight.half().float() for name, weight in language.items()}
    sight = siglip("vision_model.", layers=27)
    base = write_stock(hub / "phi-2", language)
    tower = write_siglip_base(hub / "siglip-so400m-patch14-384", sight)
    renamed = {n.replace("vision_model.", TOWER): w for n, w in sight.items()}
    return base, tower, {**language, **renamed}


# What follows is the published computation, in straight lines over the stored names.


def patch_features(weights: Weights, image: np.ndarray, layers: int = SIGHT_LAYERS) -> Tensor:
    """See a square picture, uint8 [384, 384, 3]: states [729, D] after so many layers, no norm."""
    w = {name.removeprefix(TOWER): weight for name, weight in weights.items()}
    pixels = torch.tensor(image) / 255
    pixels = ((pixels - 0.5) / 0.5).permute(2, 0, 1)[None]
    x = F.conv2d(
        pixels, w["embeddings.patch_embedding.weight"], w["embeddings.patch_embedding.bias"], 14
    )
    x = x.flatten(2)[0].T + w["embeddings.position_embedding.weight"]
    for k in range(layers):
        p = f"encoder.layers.{k}."
        h = _norm(x, w, p + "layer_norm1", 1e-6)
        q, key, v = (_linear(h, w, f"{p}self_attn.{n}_proj") for n in "qkv")
        q, key, v = (s.view(PATCHES, SIGHT_HEADS, -1).transpose(0, 1) for s in (q, key, v))
        score = (q @ key.mT / math.sqrt(SIGHT // SIGHT_HEADS)).softmax(-1)  # heads 729 729
        mixed = (score @ v).transpose(0, 1).reshape(PATCHES, SIGHT)
        x = x + _linear(mixed, w, p + "self_attn.out_proj")
        h = _linear(_norm(x, w, p + "layer_norm2", 1e-6), w, p + "mlp.fc1")
        x = x + _linear(F.gelu(h, approximate="tanh"), w, p + "mlp.fc2")
    return x.double()


def project(weights: Weights, prefix: str, rows: Tensor, places: str = "02") -> Tensor:
    """Run a projector: Linear, exact GELU, Linear."""
    w = {name: weight.double() for name, weight in weights.items() if name.startswith(prefix)}
    return _linear(F.gelu(_linear(rows, w, prefix + places[0])), w, prefix + places[1])


def reply(weights: Weights, rows: list[Tensor | list[int]]) -> Tensor:
    """Run phi-2 over a sequence of token ids and projected rows; return all logits [L, V]."""
    w = {name: weight.double() for name, weight in weights.items()}
    table = w["model.embed_tokens.weight"]
    x = torch.cat([table[torch.tensor(r)] if isinstance(r, list) else r for r in rows])
    length, head = len(x), WIDTH // HEADS
    turning = int(head * ROPE)
    angles = torch.arange(length)[:, None] / THETA ** (torch.arange(0, turning, 2) / turning)
    cos, sin = angles.double().cos(), angles.double().sin()
    future = torch.ones(length, length).triu(1).bool()
    for k in range(LAYERS):
        p = f"model.layers.{k}."
        h = _norm(x, w, p + "input_layernorm", 1e-5)
        q, key, v = (_linear(h, w, f"{p}self_attn.{n}_proj") for n in "qkv")
        mixed = []
        for columns in torch.arange(WIDTH).split(head):
            a, b = (_turn(side[:, columns], cos, sin) for side in (q, key))
            score = (a @ b.T / math.sqrt(head)).masked_fill(future, -torch.inf)
            mixed.append(score.softmax(-1) @ v[:, columns])
        attended = _linear(torch.cat(mixed, -1), w, p + "self_attn.dense")
        fed = F.gelu(_linear(h, w, p + "mlp.fc1"), approximate="tanh")
        x = x + attended + _linear(fed, w, p + "mlp.fc2")
    return _norm(x, w, "model.final_layernorm", 1e-5) @ w["lm_head.weight"].T


def _turn(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the first columns by position (rotary), halves against halves."""
    half = cos.shape[1]
    a, b, rest = x[:, :half], x[:, half : 2 * half], x[:, 2 * half :]
    return torch.cat([a * cos - b * sin, b * cos + a * sin, rest], -1)


def _linear(x: Tensor, w: Weights, name: str) -> Tensor:
    return x @ w[f"{name}.weight"].T.to(x.dtype) + w[f"{name}.bias"].to(x.dtype)


def _norm(x: Tensor, w: Weights, name: str, eps: float) -> Tensor:
    mean, variance = x.mean(-1, keepdim=True), x.var(-1, keepdim=True, correction=0)
    return (x - mean) / (variance + eps).sqrt() * w[f"{name}.weight"] + w[f"{name}.bias"]
