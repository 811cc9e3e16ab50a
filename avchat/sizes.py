"""How much memory a model takes, counted from its architecture before any weight is here.

Enters: a `Config`. Leaves: `Counts`, values by part, from modules built on the meta device; then
bytes in each precision. The sum is what stays in memory and what an answer adds; files that are
read are mapped, and their pages are not counted.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig
from transformers.models.siglip import SiglipVisionConfig

from avchat.config import AudioConfig, Config, ModelError, VisionConfig
from avchat.encoders import (
    AudioEncoder,
    VisionEncoder,
    build_audio,
    build_vision,
    deaf_audio,
)
from avchat.fetching import ask_hub, cached_folder
from avchat.language import context_length
from avchat.projectors import AudioProjector, VisualProjector
from avchat.published import PUBLISHED, WHISPER
from avchat.weight_files import read_pickle

Precision = Literal["fp32", "bf16", "8 bit", "4 bit"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
# nf4 without double quantisation, as language.py asks for it: half a byte a value and a float32
# scale for each 64 of them. 8 bit: a byte a value and a float32 scale for each output.
NF4_BLOCK = 64
# Allowances of our own choice for what is not weights, stated so that they can be argued with.
CHUNK = 32  # frames that go through the vision encoder at once, as AVChat.encode does
WINDOWS = 2  # Whisper windows: a minute of sound
PREFILL = 2048  # tokens of a long prompt
# Bytes of Python, torch, Transformers and what decodes files: `avchat chat` with tiny held at most
# 757 MB on the CPU, 737 MB more than is counted for it. A CUDA context takes about as much.
PROCESS = 740_000_000


class Unknown(ModelError):
    """An architecture that cannot be known before it is fetched."""


@dataclass(frozen=True)
class Counts:
    """Values by part; `linear` are the weights that 8 and 4 bit make smaller, all else is not."""

    vision: int
    audio: int
    projectors: int
    linear: int
    outputs: int  # of those layers, all together
    language: int  # the language model's other values: embeddings, head, norms, biases
    adapters: int  # LoRA, which stays in fp32
    cache: int  # keys and values of one token
    context: int  # tokens
    vision_work: int  # values while a chunk of frames is encoded, and what is kept of all frames
    audio_work: int
    language_work: int


@dataclass(frozen=True)
class Memory:
    """Bytes of a model in one precision; `cache` with a full context."""

    vision: int
    audio: int
    projectors: int
    language: int
    cache: int
    work: int
    process: int = PROCESS

    @property
    def weights(self) -> int:
        """Return the bytes of all weights."""
        return self.vision + self.audio + self.projectors + self.language

    @property
    def least(self) -> int:
        """Return what loading and a short conversation need."""
        return self.weights + self.work + self.process

    @property
    def total(self) -> int:
        """Return what a conversation that fills the context needs."""
        return self.least + self.cache

    def on_top(self, *, full: bool = False) -> int:
        """Return what a process needs that has imported the libraries already, as this one has.

        Args: full: with a full context.
        """
        return (self.total if full else self.least) - self.process

    def to_dict(self) -> dict[str, int]:
        """Return bytes by part, with their sums, ready for JSON."""
        sums = {"weights": self.weights, "least": self.least, "total": self.total}
        return {**self.__dict__, **sums}


def architecture(name: str, revision: str | None = None) -> PreTrainedConfig:
    """Read how a base is built: from a folder, the cache, avchat's table or the Hub (config.json).

    Raises:
        Unknown: none of them tells.
    """
    folder = cached_folder(name, revision)
    if folder is None and name in PUBLISHED:
        return AutoConfig.for_model(**PUBLISHED[name].architecture)
    answer = ask_hub(name, revision) if folder is None else None
    if answer is not None and answer.files is None:
        raise Unknown(f"{name}: how it is built is not known here, since {answer.silence}")
    try:  # False: Transformers would ask at the keyboard whether to run a repository's code
        source = str(folder or name)
        return AutoConfig.from_pretrained(source, revision=revision, trust_remote_code=False)
    except (OSError, ValueError) as error:
        reason = next(iter(str(error).splitlines()), "no reason given")
        raise Unknown(f"{name}: how it is built cannot be read ({reason})") from error


def _vision(config: VisionConfig) -> VisionEncoder:
    inline = config.inline
    if inline is None:
        base = architecture(config.hub, config.revision)
        tower = getattr(base, "vision_config", base)
        if not isinstance(tower, SiglipVisionConfig):
            raise Unknown(f"{config.hub}: no SigLIP, so its size is not known")
        inline = {**tower.to_dict(), "vision_use_head": False}
    return build_vision(replace(config, hub=None, revision=None, inline=inline))


def _audio(config: AudioConfig) -> AudioEncoder:
    inline = config.inline
    if inline is None and config.hub in WHISPER:
        inline = WHISPER[config.hub].encoder
    elif inline is None and Path(config.hub).is_file():
        inline = _whisper_in(Path(config.hub))
    elif inline is None:
        inline = _whisper_of(architecture(config.hub, config.revision))
    return build_audio(replace(config, hub=None, revision=None, inline=inline))


def _whisper_in(path: Path) -> dict[str, int]:
    """Read how a Whisper is built from a file in openai-whisper's form, without its values."""
    try:
        dims = read_pickle(path, "meta")["dims"]
        names = ("n_ctx", "n_state", "n_head", "n_layer")
        return {"n_mels": dims["n_mels"], **{n: dims[f"n_audio_{n[2:]}"] for n in names}}
    except (KeyError, TypeError) as error:
        raise ModelError(f"{path}: not a Whisper in openai-whisper's form") from error


def _whisper_of(base: PreTrainedConfig) -> dict[str, int]:
    """Turn Transformers' numbers of a Whisper into openai-whisper's."""
    if base.model_type != "whisper":
        raise Unknown(f"a {base.model_type} is no Whisper, so its size is not known")
    return {
        "n_mels": base.num_mel_bins,
        "n_ctx": base.max_source_positions,
        "n_state": base.d_model,
        "n_head": base.encoder_attention_heads,
        "n_layer": base.encoder_layers,
    }


def count(config: Config, language: PreTrainedConfig | None = None, adapters: int = 0) -> Counts:
    """Count a model's values by building it on the meta device, where nothing takes memory.

    Args: language: the architecture where it is not the config's base; adapters: values of LoRA.

    Raises:
        Unknown: an architecture is not here, and the Hub cannot be asked.
    """
    if language is None and config.language.inline is not None:
        language = AutoConfig.for_model(**config.language.inline)
    language = language or architecture(config.language.hub, config.language.revision)
    with torch.device("meta"):
        vision = _vision(config.vision)
        audio = _audio(config.audio) if config.hears else deaf_audio()
        model = _language(language)
        width = model.get_input_embeddings().embedding_dim
        projectors = nn.ModuleList(
            [
                VisualProjector(config.projector, vision.width, width, vision.num_patches),
                AudioProjector(config.projector, audio.width, width),
            ]
        )
    linear = [
        layer
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Linear) and not name.endswith("lm_head")
    ]
    weights = sum(layer.weight.numel() for layer in linear)
    text = language.get_text_config()
    return Counts(
        vision=_values(vision),
        audio=_values(audio) + sum(buffer.numel() for buffer in audio.buffers()),  # its sinusoids
        projectors=_values(projectors),
        linear=weights,
        outputs=sum(layer.out_features for layer in linear),
        language=_values(model) - weights,
        adapters=adapters,
        cache=_cache(text),
        context=context_length(language),
        vision_work=_vision_work(vision, config.frames),
        audio_work=WINDOWS * audio.window_states * 12 * audio.width,
        language_work=_language_work(text),
    )


def _language(architecture: PreTrainedConfig) -> nn.Module:
    try:
        return AutoModelForCausalLM.from_config(architecture)
    except ValueError as error:
        kind = architecture.model_type
        raise Unknown(f"a {kind} is no causal language model, so its size is not known") from error


def _cache(text: PreTrainedConfig) -> int:
    """Count the keys and values of one token, as if no layer forgot any."""
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    head = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return 2 * text.num_hidden_layers * heads * head


def _values(module: nn.Module) -> int:
    """Count weights; a tensor with two names, such as a tied head, once."""
    return sum(weight.numel() for weight in module.parameters())


def _vision_work(vision: VisionEncoder, frames: int) -> int:
    """Count a layer's states of one chunk (four as wide as the model, two as its MLP), and what is
    kept of all frames."""
    inner = vision.siglip.config.intermediate_size
    chunk = min(CHUNK, frames) * vision.num_patches * (4 * vision.width + 2 * inner)
    return chunk + frames * vision.num_patches * vision.width


def _language_work(text: PreTrainedConfig) -> int:
    """Count a layer's states of a long prompt and the logits of its last token."""
    inner = getattr(text, "intermediate_size", None) or 4 * text.hidden_size
    tokens = min(PREFILL, context_length(text))
    return tokens * (4 * text.hidden_size + 2 * inner) + text.vocab_size


def memory(counts: Counts, precision: Precision, rest: Literal["fp32", "bf16"] = "bf16") -> Memory:
    """Turn counts into bytes. Whisper, the projectors and adapters are in fp32 whatever is asked.

    Args: rest: with 8 and 4 bit, the precision of all that stays unquantised.
    """
    quantised = precision in ("8 bit", "4 bit")
    item = 4 if (rest if quantised else precision) == "fp32" else 2
    linear = {
        "8 bit": counts.linear + 4 * counts.outputs,
        "4 bit": counts.linear // 2 + 4 * counts.linear // NF4_BLOCK,
    }.get(precision, item * counts.linear)
    work = max(item * counts.vision_work, 4 * counts.audio_work, item * counts.language_work)
    return Memory(
        vision=item * counts.vision,
        audio=4 * counts.audio,
        projectors=4 * counts.projectors,
        language=linear + item * counts.language + 4 * counts.adapters,
        cache=item * counts.cache * counts.context,
        work=work,
    )


def precision_of(dtype: torch.dtype, bits: int | None) -> tuple[Precision, Any]:
    """Name a choice of dtype and bits: the precision, and that of what is not quantised."""
    rest = "fp32" if dtype == torch.float32 else "bf16"
    return (rest if bits is None else f"{bits} bit"), rest


def free_memory(device: torch.device) -> int | None:
    """Read how many bytes are free on a device; None where the system does not say."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return free_cpu() if device.type == "cpu" else None


def free_cpu(root: Path = Path("/")) -> int | None:
    """Read what this process may still take of the CPU's memory: the machine's and its cgroups'.

    Args: root: of the file systems /proc and /sys.
    """
    limits = [_available(root / "proc/meminfo"), *_cgroup_limits(root)]
    known = [limit for limit in limits if limit is not None]
    return min(known, default=None)


def _available(path: Path) -> int | None:
    """Read MemAvailable (Linux alone has it): free, or taken by what can be dropped."""
    if not path.is_file():
        return None
    fields = dict(line.split(":", 1) for line in path.read_text().splitlines() if ":" in line)
    return 1024 * int(fields["MemAvailable"].split()[0]) if "MemAvailable" in fields else None


def _cgroup_limits(root: Path) -> list[int | None]:
    """Read what each cgroup that holds this process leaves, in both versions of cgroups."""
    path = root / "proc/self/cgroup"
    lines = path.read_text().splitlines() if path.is_file() else []
    limits: list[int | None] = []
    for _, kind, inside in (line.split(":", 2) for line in lines if line.count(":") >= 2):
        if kind not in ("", "memory"):
            continue
        base = root / "sys/fs/cgroup" / kind
        names = ("memory.limit_in_bytes", "memory.usage_in_bytes")
        limit, usage = names if kind else ("memory.max", "memory.current")
        below = base / inside.strip("/")
        for folder in (below, *below.parents):
            limits.append(_left(folder, limit, usage))
            if folder == base:  # inside a container the path may lead nowhere; its root counts
                break
    return limits


def _left(folder: Path, limit: str, usage: str) -> int | None:
    """Give a cgroup's limit less what it holds; files' pages that can be dropped are not held."""
    if not (folder / limit).is_file() or not (folder / usage).is_file():
        return None
    most = (folder / limit).read_text().strip()
    stat = folder / "memory.stat"
    pairs = [line.split() for line in stat.read_text().splitlines()] if stat.is_file() else []
    cold = next((int(value) for name, value in pairs if name == "inactive_file"), 0)
    held = int((folder / usage).read_text())
    return None if most == "max" else max(0, int(most) - held + min(cold, held))
