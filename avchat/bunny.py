"""Where each tensor of Bunny and Owlet belongs: their names -> ours, by name and shape alone.

Enters: the names and shapes in a published checkpoint and its config.json. Leaves: a `Placed`; or
ModelError with every tensor that is missing, left over or of another shape.

Source: BAAI-DCAI/Bunny, bunny/model (builder.py, language_model/bunny_phi.py,
multimodal_encoder/siglip/siglip_encoder.py, multimodal_projector/builder.py).
"""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    PhiConfig,
    PhiForCausalLM,
    PreTrainedConfig,
    SiglipVisionConfig,
    SiglipVisionModel,
)
from whisper.model import AudioEncoder as WhisperEncoder

from avchat.config import AudioConfig, ModelError, VisionConfig
from avchat.whisper_weights import encoder_names

Shapes = dict[str, tuple[int, ...]]


class UnknownForm(ValueError):
    """A checkpoint that is not in a form that we know; the message says what of it is not."""


TOWER = "model.vision_tower.vision_tower.vision_model."
PROJECTOR = "model.mm_projector."
OURS = {"tower": "vision.siglip.", "projector": "visual_projector.mlp.mlp."}
HEARING = "audio_projector.mlp.mlp."
EARS = "audio.whisper."
HEAD_WIDTH = 64  # of every published Whisper
PHI_FIELDS = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "hidden_act",
    "max_position_embeddings",
    "rope_theta",
    "partial_rotary_factor",
    "layer_norm_eps",
    "qk_layernorm",
    "tie_word_embeddings",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
)
# What a tower's tensors do not show: picture side in pixels, attention heads, layers as published.
TOWERS = {"siglip-so400m-patch14-384": (384, 16, 27)}
WHISPERS = {384: "tiny", 512: "base", 768: "small", 1024: "medium", 1280: "large-v3"}


@dataclass
class Placed:
    """Where the tensors of a checkpoint go. `unused`: known, and of no use to the features."""

    names: dict[str, str] = field(default_factory=dict)  # theirs -> ours
    unused: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)  # by their names
    other: list[str] = field(default_factory=list)  # of another shape, in words
    found: list[str] = field(default_factory=list)  # what to tell the user

    def put(self, shapes: Shapes, theirs: str, ours: str, expected: Shapes) -> None:
        """Place the tensors of one part, whose names differ by their beginning."""
        for name, shape in expected.items():
            if theirs + name not in shapes:
                self.missing.append(theirs + name)
                continue
            if shapes[theirs + name] != shape:
                there = _times(shapes[theirs + name])
                self.other.append(f"{theirs}{name} is {there}, not {_times(shape)}")
            self.names[theirs + name] = ours + name

    def left(self, shapes: Shapes) -> Shapes:
        """Return what has no place yet."""
        return {n: s for n, s in shapes.items() if n not in self.names and n not in self.unused}

    def check(self, where: object, shapes: Shapes) -> None:
        """Raise ModelError unless every tensor has a place and every place its tensor."""
        left = sorted(self.left(shapes))
        faults = {"missing": self.missing, "left over": left, "of another shape": self.other}
        told = [f"{len(n)} {what}: {', '.join(n)}" for what, n in faults.items() if n]
        if any(".Wqkv." in name for name in left):
            told.append("its attention is fused, as in Bunny's first release: fetch it again")
        if told:
            raise ModelError(f"{where}: not every tensor has its place; {'; '.join(told)}")


def phi_config(raw: dict[str, Any]) -> PreTrainedConfig:
    """Build phi-2's configuration from a `bunny-phi` one, which repeats it under the same names."""
    config = PhiConfig(**{name: raw[name] for name in PHI_FIELDS if name in raw})
    if not 0 < config.rope_parameters["partial_rotary_factor"] <= 1:
        raise UnknownForm("partial_rotary_factor must be above 0 and at most 1")
    if config.num_attention_heads < 1 or config.hidden_size % config.num_attention_heads:
        raise UnknownForm(f"{config.num_attention_heads} heads share no {config.hidden_size}")
    return config


def place_phi(placed: Placed, shapes: Shapes, config: PreTrainedConfig) -> None:
    """Place phi-2. Bunny's head has no bias, stock phi-2's has one: it is zero."""
    with torch.device("meta"):
        expected = _shapes(PhiForCausalLM(config))
    del expected["lm_head.bias"]
    placed.put(shapes, "", "language.", expected)


def place_projector(placed: Placed, shapes: Shapes, width: int, prefix: str = PROJECTOR) -> None:
    """Place the visual projector: Linear, GELU, Linear."""
    first = shapes.get(f"{prefix}0.weight", (width, 0))
    expected = {
        "0.weight": (width, first[-1]),
        "0.bias": (width,),
        "2.weight": (width, width),
        "2.bias": (width,),
    }
    placed.put(shapes, prefix, OURS["projector"], expected)


def place_adapters(
    placed: Placed, shapes: Shapes, config: PreTrainedConfig, targets: tuple[str, ...], rank: int
) -> None:
    """Place low-rank adapters, A [rank, in] and B [out, rank], of every layer and target."""
    width, inner = config.hidden_size, config.intermediate_size
    for layer in range(config.num_hidden_layers):
        for target in targets:
            part = "mlp" if target.startswith("fc") else "self_attn"
            rows = inner if target == "fc1" else width
            columns = inner if target == "fc2" else width
            name = f"layers.{layer}.{part}.{target}.lora_"
            expected = {"A.weight": (rank, columns), "B.weight": (rows, rank)}
            placed.put(shapes, f"base_model.model.model.{name}", name, expected)


def tower_name(raw: dict[str, Any]) -> str:
    """Read which SigLIP a checkpoint was trained with; UnknownForm where we do not know it."""
    name = str(raw.get("mm_vision_tower", "")).rstrip("/").rsplit("/", 1)[-1]
    if name not in TOWERS or raw.get("use_s2"):
        kind = f"{name} in several sizes (S2)" if raw.get("use_s2") else name or "none named"
        raise UnknownForm(f"vision tower {kind}: only {', '.join(TOWERS)} is known")
    return name


def tower_hub(raw: dict[str, Any]) -> str:
    """Tell where the tower is to be had: in the folder that is named, if it is here, or the Hub."""
    named = str(raw.get("mm_vision_tower"))
    return named if Path(named).is_dir() else f"google/{tower_name(raw)}"


def place_tower(placed: Placed, shapes: Shapes, raw: dict[str, Any]) -> VisionConfig:
    """Place a stored SigLIP, or say where to get it.

    The features are the state before the last layer of 27, without the final norm. Weights saved
    before Bunny's commit 1fc6e4b hold 26 layers and no pooling head, later ones all 27: what stands
    above the features is not used.
    """
    side, heads, published = TOWERS[tower_name(raw)]
    own = {n.removeprefix(TOWER): s for n, s in shapes.items() if n.startswith(TOWER)}
    if not own:
        return VisionConfig(hub=tower_hub(raw), layer=-2)
    above = re.compile(rf"encoder\.layers\.{published - 1}\.|head\.")
    placed.unused += [TOWER + name for name in own if above.match(name)]
    patch = own.get("embeddings.patch_embedding.weight", (0, 3, 14, 14))
    inline = {
        "hidden_size": patch[0],
        "num_hidden_layers": published - 1,
        "num_attention_heads": heads,
        "intermediate_size": own.get("encoder.layers.0.mlp.fc1.bias", (0,))[0],
        "image_size": side,
        "patch_size": patch[-1],
        "vision_use_head": False,
    }
    with torch.device("meta"):
        expected = _shapes(SiglipVisionModel(SiglipVisionConfig(**inline)))
    placed.put(shapes, TOWER, OURS["tower"], expected)
    placed.found.append(
        f"vision: {published - 1} layers of {tower_name(raw)} stored"
        + (f"; {len(placed.unused)} tensors above them are not used" if placed.unused else "")
    )
    return VisionConfig(inline=inline, layer=published - 1)


def place_ears(placed: Placed, shapes: Shapes) -> AudioConfig | None:
    """Place a stored Whisper encoder, known by its first convolution; None where there is none."""
    left = placed.left(shapes)
    starts = [n for n, s in left.items() if n.endswith("conv1.weight") and len(s) == 3]
    if len(starts) != 1:
        return None
    prefix = starts[0].removesuffix("conv1.weight")
    names = encoder_names(left, prefix)
    width, mels, _ = left[starts[0]]
    inline = {
        "n_mels": mels,
        "n_ctx": left.get(f"{prefix}embed_positions.weight", (1500,))[0],
        "n_state": width,
        "n_head": width // HEAD_WIDTH,
        "n_layer": len({ours.split(".")[1] for ours in names.values() if "blocks." in ours}),
    }
    with torch.device("meta"):
        expected = _shapes(WhisperEncoder(**inline))
    theirs = {ours: name for name, ours in names.items()}
    for ours, shape in expected.items():
        placed.put(shapes, theirs.get(ours, prefix + ours), EARS + ours, {"": shape})
    placed.found.append(f"a Whisper encoder of {inline['n_layer']} layers, as {prefix}*")
    return AudioConfig(inline=inline)


def place_hearing(
    placed: Placed, shapes: Shapes, raw: dict[str, Any], width: int
) -> AudioConfig | None:
    """Find an audio projector among what is left: a two-layer MLP into the language model.

    Its names are not published, so it is known by its shapes: A [h, audio width], B [width, h],
    each with a bias. Returns None where there is none: the model was not taught to hear.
    """
    ears = place_ears(placed, shapes)
    left = placed.left(shapes)
    matrices = [name for name, shape in left.items() if len(shape) == 2]
    pairs = [
        (a, b)
        for a in matrices
        for b in matrices
        if a != b and left[b] == (width, left[a][0]) and _biased(left, a) and _biased(left, b)
    ]
    if len(pairs) != 1:
        return None
    (first, second) = pairs[0]
    for name, place in ((first, "0"), (second, "2")):
        placed.names[name] = f"{HEARING}{place}.weight"
        placed.names[_bias(name)] = f"{HEARING}{place}.bias"
    heard = left[first][1]
    placed.found.append(
        f"audio projector: {first} and {second}, {heard} -> {left[first][0]} -> {width}"
    )
    return ears or AudioConfig(hub=_whisper(raw, heard))


def _whisper(raw: dict[str, Any], width: int) -> str:
    """Name the Whisper that an audio projector was trained on: by config.json, else by width."""
    named = [v for v in raw.values() if isinstance(v, str) and "whisper" in v.lower()]
    if named:
        return named[0].removeprefix("openai/whisper-")
    if width not in WHISPERS:
        raise UnknownForm(f"an audio projector of width {width}: no Whisper is as wide")
    return WHISPERS[width]


def _biased(shapes: Shapes, name: str) -> bool:
    return shapes.get(_bias(name)) == shapes[name][:1]


def _bias(name: str) -> str:
    return name.removesuffix("weight") + "bias"


def _shapes(module: nn.Module) -> Shapes:
    return {name: tuple(weight.shape) for name, weight in module.state_dict().items()}


def _times(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
