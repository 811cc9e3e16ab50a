"""The causal language model and its tokenizer; LoRA by peft; 4 and 8 bit by bitsandbytes.

Enters: a `LanguageConfig`. Leaves: a Transformers model, which takes `inputs_embeds`, and a
tokenizer.
"""

import copy
import ctypes
import logging
import sys
import warnings
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import nn
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from avchat.config import ConfigError, LanguageConfig, LoraConfig
from avchat.quiet import quiet

Bits = Literal[4, 8]

# What peft brings in complains of things that no user of ours can change.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
warnings.filterwarnings("ignore", "`.*gradient_checkpointing.*` is deprecated", FutureWarning)


# Of a language model whose configuration states no context (our choice: what small ones have).
UNKNOWN_CONTEXT = 2048
# Whose keys and values can be kept for the next turn as they are.
LAYER_TYPES = {"full_attention", "sliding_attention"}
# Where a model of several senses keeps its language model, and where that alone has it.
NESTED = {
    r"^language_model\.lm_head": "lm_head",
    r"^(model\.)?language_model\.(model\.)?": "model.",
}


class Window(NamedTuple):
    """How far back a language model sees: tokens; `mixed`: only some of its layers."""

    size: int
    mixed: bool


@dataclass(frozen=True)
class Spread:
    """A language model laid over devices and disk, layer by layer, by Transformers' own dispatch.

    `device_map`: "auto", or where each module lies: a device, "cpu" or "disk". `max_memory`: with
    "auto", bytes by device. `offload`: a folder for what lies on disk; safetensors are read in
    place where they are, so it often stays empty.
    """

    offload: Path
    device_map: str | dict[str, str | int] = "auto"
    max_memory: dict[int | str, int | str] | None = None

    def options(self) -> dict[str, Any]:
        """Return these as `from_pretrained` of Transformers takes them."""
        where = {"device_map": self.device_map, "max_memory": self.max_memory}
        return {**where, "offload_folder": str(self.offload)}


def build_language(
    config: LanguageConfig,
    *,
    dtype: torch.dtype = torch.float32,
    bits: Bits | None = None,
    spread: Spread | None = None,
) -> PreTrainedModel:
    """Build the language model: from the Hub or a folder, or with random weights from `inline`.

    Args: bits: load the weights of a hub model in 4 or 8 bit; embeddings and head stay in `dtype`;
    spread: lay a hub model over devices and disk.
    """
    if config.hub is not None:
        # None would undo what a base that is published in few bits says of itself
        few = {} if bits is None else {"quantization_config": _quantisation(bits, dtype)}
        where = {} if spread is None else spread.options()
        model = _published(config, dtype=dtype, **few, **where)
        if bits is not None:
            return_freed_memory()
        return model
    if spread is not None:
        raise ConfigError("to offload needs a language model from the Hub or a folder")
    if bits is not None:
        raise ConfigError("4 and 8 bit need a language model from the Hub or a folder")
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config.inline), dtype=dtype)
    if config.embedding_std is not None:
        nn.init.normal_(model.get_input_embeddings().weight, std=config.embedding_std)
    return model


def base_config(config: LanguageConfig) -> PreTrainedConfig:
    """Read the configuration of a base: of a model of several senses, that of its language model.

    Raises:
        ConfigError: it is no causal language model that Transformers knows. Nothing that a
        repository brings as code is ever run.
    """
    try:
        found = AutoConfig.from_pretrained(
            config.hub, revision=config.revision, trust_remote_code=False
        )
    except ValueError as error:
        reason = str(error).partition("\n")[0]
        raise ConfigError(
            f"{config.hub}: not a model that Transformers knows ({reason})"
        ) from error
    text = found.get_text_config(decoder=True)
    if type(text) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise ConfigError(f"{config.hub}: a {found.model_type} is not a causal language model")
    if other := set(text.to_dict().get("layer_types") or ()) - LAYER_TYPES:
        kinds = ", ".join(sorted(other))
        raise ConfigError(f"{config.hub}: layers of the kind {kinds} are not supported")
    return text


def _published(config: LanguageConfig, **options: Any) -> PreTrainedModel:
    """Load a base by the class of Transformers for its language model alone."""
    text = base_config(config)
    kind = MODEL_FOR_CAUSAL_LM_MAPPING[type(text)]
    with quiet():
        model, found = kind.from_pretrained(
            config.hub,
            config=text,
            revision=config.revision,
            key_mapping=NESTED,
            output_loading_info=True,
            **options,
        )
    if found["missing_keys"]:
        lost = sorted(found["missing_keys"])
        raise ConfigError(f"{config.hub}: {len(lost)} weights are not in it ({lost[0]}, ...)")
    return model


def context_length(config: PreTrainedConfig) -> int:
    """Tell how many tokens a language model takes.

    One that stretches its positions in longer texts (LongRoPE: Phi-3 and 4 with 128 k) takes what
    it takes unstretched: past that, all kept keys would have to be computed anew.
    """
    text = config.get_text_config(decoder=True)
    stated = getattr(text, "max_position_embeddings", None)  # some call it otherwise (n_positions)
    length = stated or UNKNOWN_CONTEXT
    rope = text.to_dict().get("rope_parameters") or {}
    if rope.get("rope_type") == "longrope":
        length = min(length, rope["original_max_position_embeddings"])
    return length


def window_of(config: PreTrainedConfig) -> Window | None:
    """Tell how far back a language model's layers see; None where they see everything."""
    stated = config.get_text_config(decoder=True).to_dict()
    size, layers = stated.get("sliding_window"), stated.get("layer_types")
    if size is None or (layers is not None and "sliding_attention" not in layers):
        return None
    return Window(size, mixed=layers is not None)


def ends_of(model: nn.Module) -> tuple[int, ...]:
    """List the tokens at which a language model's own generation ends."""
    ends = model.generation_config.eos_token_id
    return () if ends is None else tuple(ends) if isinstance(ends, list) else (ends,)


def restore_language(
    architecture: PreTrainedConfig,
    weights: dict[str, torch.Tensor],
    *,
    dtype: torch.dtype,
    bits: Bits | None = None,
    spread: Spread | None = None,
) -> PreTrainedModel:
    """Build a language model from its architecture and all of its weights.

    Raises:
        ConfigError: weights are missing, of another shape, or some that it does not have.
    """
    with torch.device("meta"):
        kind = type(AutoModelForCausalLM.from_config(architecture))
    try:
        with quiet():
            model, found = kind.from_pretrained(
                None,
                config=architecture,
                state_dict=weights,
                dtype=dtype,
                quantization_config=None if bits is None else _quantisation(bits, dtype),
                output_loading_info=True,
                **({} if spread is None else spread.options()),
            )
    except RuntimeError as error:
        raise ConfigError(f"the language model does not fit its weights ({error})") from error
    if bits is not None:
        return_freed_memory()
    wrong = sorted({*found["missing_keys"], *found["unexpected_keys"]})
    if wrong:
        raise ConfigError(
            f"the language model: {len(wrong)} weights missing or unknown ({wrong[0]}, ...)"
        )
    return model


def save_architecture(model: nn.Module, folder: Path) -> None:
    """Save what `restore_language` builds a model from, beside its weights."""
    architecture = copy.deepcopy(model.config)
    architecture.dtype = model.get_input_embeddings().weight.dtype
    # where its own generation ends is often more than what its configuration says
    architecture.eos_token_id = model.generation_config.eos_token_id
    architecture.save_pretrained(str(folder))


def base_dtype(config: LanguageConfig) -> torch.dtype:
    """Tell in which precision a published base is stored; fp32 where it does not say."""
    if config.hub is None:
        return torch.float32
    return base_config(config).dtype or torch.float32


def check_widths(model: nn.Module) -> None:
    """Refuse 4-bit layers with which bitsandbytes cannot say a word on the CPU: its blocks are 64
    wide there, and only whole ones are unpacked for a single token. Training does not mind.
    """
    for name, layer in model.named_modules():
        if type(layer).__name__ == "Linear4bit" and layer.in_features % 64:
            raise ConfigError(
                f"4 bit on a CPU needs layers as wide as a multiple of 64: not {name}"
            )


def return_freed_memory() -> None:
    """Have glibc give freed memory back to the system.

    After making a model small it keeps what the layers took before: 0.76 GB beside 0.31 GB of
    8-bit weights of SmolLM2-360M, measured on the CPU.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


def is_spread(model: nn.Module) -> bool:
    """Say whether accelerate keeps the parts of a model on their devices: it must not be moved."""
    return getattr(model, "hf_device_map", None) is not None


def is_offloaded(model: nn.Module) -> bool:
    """Say whether some weights are on disk or in another device's memory, read as they are used."""
    return any(weight.is_meta for weight in model.parameters())


def check_bits(bits: int) -> None:
    """Raise ConfigError where a language model cannot be loaded in so many bits here."""
    if bits not in (4, 8):
        raise ConfigError(f"bits must be 4 or 8, not {bits}")
    if find_spec("bitsandbytes") is None:
        raise ConfigError(f"{bits} bit needs bitsandbytes: pip install bitsandbytes")


def _quantisation(bits: Bits, dtype: torch.dtype) -> BitsAndBytesConfig:
    check_bits(bits)
    if bits == 8:
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=["lm_head"])
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=["lm_head"],
    )


def attach_lora(model: PreTrainedModel, lora: LoraConfig) -> nn.Module:
    """Wrap a model with fresh low-rank adapters; only they are trainable afterwards.

    Raises:
        ConfigError: there is no layer that it names.
    """
    from peft import LoraConfig as PeftLora
    from peft import get_peft_model, prepare_model_for_kbit_training

    if is_quantised(model):  # norms in fp32; layers are computed again where a run asks for it
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    settings = PeftLora(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules="all-linear" if lora.targets == ("all-linear",) else list(lora.targets),
        bias="none",
        task_type="CAUSAL_LM",
    )
    try:
        return get_peft_model(model, settings)
    except ValueError as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"no adapters on {', '.join(lora.targets)} ({reason})") from error


def load_lora(model: PreTrainedModel, folder: Path, *, trainable: bool = False) -> nn.Module:
    """Wrap a model with the adapters saved in a folder."""
    from peft import PeftModel

    return PeftModel.from_pretrained(model, str(folder), is_trainable=trainable)


def save_lora(model: nn.Module, folder: Path) -> None:
    """Save the adapters alone."""
    model.save_pretrained(str(folder), save_embedding_layers=False)


def has_lora(model: nn.Module) -> bool:
    """Say whether a model carries peft adapters."""
    return not isinstance(model, PreTrainedModel)  # peft's wrapper is none; its import is slow


def is_quantised(model: nn.Module) -> bool:
    """Say whether a language model's weights are in 4 or 8 bit."""
    return "quantization_config" in model.config.to_dict()


def adapt_linear(module: nn.Module, lora: LoraConfig) -> None:
    """Put fresh low-rank adapters on every linear layer inside a module, in place."""
    from peft import LoraConfig as PeftLora
    from peft import inject_adapter_in_model

    names = [name for name, layer in module.named_modules() if isinstance(layer, nn.Linear)]
    settings = PeftLora(
        r=lora.r, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=names
    )
    inject_adapter_in_model(settings, module)


def plain_weights(module: nn.Module) -> dict[str, torch.Tensor]:
    """Return the state of a module that `adapt_linear` changed as if it had not: adapters folded
    into the weights, under the names of before.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    weights = {
        name.replace(".base_layer.", "."): weight
        for name, weight in module.state_dict().items()
        if ".lora_" not in name
    }
    for name, layer in module.named_modules():
        if isinstance(layer, BaseTunerLayer):
            [adapter] = layer.active_adapters
            weights[f"{name}.weight"] = layer.weight + layer.get_delta_weight(adapter)
    return weights


def merge_lora(model: nn.Module) -> PreTrainedModel:
    """Fold the adapters into the weights and return the bare model."""
    return model.merge_and_unload()


def load_tokenizer(source: str | Path, revision: str | None = None) -> PreTrainedTokenizerBase:
    """Load a tokenizer from the Hub or a folder.

    Raises:
        ConfigError: it is not whole; OSError: it is not here, and there is no network.
    """
    try:
        with quiet():
            return AutoTokenizer.from_pretrained(
                str(source), revision=revision, trust_remote_code=False
            )
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(
            f"{source}: its tokenizer cannot be loaded ({reason}); are all of its files there?"
        ) from error


def adamw_8bit(groups: list[dict], **settings: Any) -> torch.optim.Optimizer:
    """Build AdamW whose state takes 8 bits a number (bitsandbytes)."""
    from bitsandbytes.optim import AdamW8bit

    return AdamW8bit(groups, **settings)
