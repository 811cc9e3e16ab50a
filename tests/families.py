"""Families of language models in small: random weights, a tokenizer, a chat template, each in the
form that the published ones have (the templates are written anew, to the same effect).
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from small import TIMELINE_CONFIG, WORDS
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from tokenizers.processors import TemplateProcessing
from tokenizers.trainers import BpeTrainer
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from avchat.config import Config, LanguageConfig, LoraConfig

TEXTS = [WORDS, "user assistant system model You are a helpful assistant. Answer in words.\n"] * 20
PADDED = 24  # rows of the vocabulary that no token has, as Phi-2 and Qwen have them
SIZES = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 512,
    "initializer_range": 0.3,  # wide, so that what is shown makes a difference
}
LORA = LoraConfig(r=2, alpha=4, dropout=0.0)
# How GPT-4's and its kin cut text, and GPT-2's.
GPT_4 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
GPT_2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"

CHATML = (
    "{% for m in messages %}{% if loop.first and m['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}{% endif %}"
    "{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# The block of thoughts: none in answers of the past, an empty one in the last answer, and before
# an answer where thinking is switched off.
QWEN_3 = (
    "{%- set ns = namespace(last=-1) %}{%- for m in messages %}{%- if m.role == 'user' %}"
    "{%- set ns.last = loop.index0 %}{%- endif %}{%- endfor %}{%- for m in messages %}"
    "{%- if m.role == 'assistant' %}{%- set said = m.content.split('</think>')[-1].lstrip('\n') %}"
    "{{- '<|im_start|>assistant\n' }}{%- if loop.index0 > ns.last and loop.last %}"
    "{{- '<think>\n\n</think>\n\n' }}{%- endif %}{{- said + '<|im_end|>\n' }}"
    "{%- else %}{{- '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{%- endif %}"
    "{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}"
    "{%- if enable_thinking is defined and enable_thinking is false %}"
    "{{- '<think>\n\n</think>\n\n' }}{%- endif %}{%- endif %}"
)
LLAMA_3 = (
    "{{- bos_token }}{%- if not date_string is defined %}"
    "{%- set date_string = strftime_now('%d %b %Y') %}{%- endif %}"
    "{{- '<|start_header_id|>system<|end_header_id|>\n\nToday Date: ' + date_string }}"
    "{{- '\n\n<|eot_id|>' }}{%- for m in messages %}"
    "{{- '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n' + m['content'] | trim }}"
    "{{- '<|eot_id|>' }}{%- endfor %}{%- if add_generation_prompt %}"
    "{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{%- endif %}"
)
PHI_3 = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] + '<|end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}"
    "{% else %}{{ eos_token }}{% endif %}"
)
PHI_4 = PHI_3.replace("\n", "")
SMOLLM_3 = (
    "{{- '<|im_start|>system\nToday Date: ' + strftime_now('%d %B %Y') + '\n<|im_end|>\n' }}"
    "{%- for m in messages %}{%- if m.role == 'user' %}"
    "{{- '<|im_start|>user\n' + m.content + '<|im_end|>\n' }}{%- else %}"
    "{%- generation %}{{- '<|im_start|>assistant\n<think>\n\n</think>\n' }}"
    "{{- m.content.lstrip('\n') + '<|im_end|>\n' }}{%- endgeneration %}{%- endif %}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n<think>\n\n</think>\n' }}"
    "{%- endif %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}{% for m in messages %}"
    "{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Roles must alternate user/assistant/user/...') }}{% endif %}"
    "{{ '<start_of_turn>' + ('model' if m['role'] == 'assistant' else m['role']) + '\n' }}"
    "{{ m['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}"
    "{{ '[INST] ' + m['content'] + ' [/INST]' }}{% else %}"
    "{{ ' ' + m['content'] + eos_token }}{% endif %}{% endfor %}"
)


@dataclass(frozen=True)
class Family:
    """A family's tokenizer, template and architecture."""

    name: str
    architecture: dict[str, Any]
    template: str | None
    special: tuple[str, ...]
    names: dict[str, str]  # of the tokens that a tokenizer knows by their part
    split: str | None = GPT_4  # None: in SentencePiece's way
    spaces: str = ""  # SentencePiece's: "always" before a stretch of text, or "never"
    plain: tuple[str, ...] = ()  # added tokens that are not special
    rstrip: tuple[str, ...] = ()
    begins: bool = False  # the tokenizer puts bos before what it is given
    ends: tuple[str, ...] = ()  # at which the model's generation ends, beside its eos


FAMILIES = [
    Family(
        "qwen 2.5",
        {"model_type": "qwen2", "tie_word_embeddings": True, "sliding_window": 32768},
        CHATML,
        ("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
        {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"},
        ends=("<|endoftext|>",),
    ),
    Family(
        "qwen 3",
        {"model_type": "qwen3", "head_dim": 16, "tie_word_embeddings": True},
        QWEN_3,
        ("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
        {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"},
        plain=("<think>", "</think>"),
    ),
    Family(
        "llama 3",
        {"model_type": "llama", "rope_theta": 500000.0},
        LLAMA_3,
        (
            "<|begin_of_text|>",
            "<|end_of_text|>",
            "<|start_header_id|>",
            "<|end_header_id|>",
            "<|eom_id|>",
            "<|eot_id|>",
        ),
        {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"},
        begins=True,
        ends=("<|end_of_text|>", "<|eom_id|>"),
    ),
    Family(
        "phi 3",
        {"model_type": "phi3", "sliding_window": 40},
        PHI_3,
        ("<unk>", "<s>", "</s>", "<|endoftext|>", "<|user|>", "<|assistant|>", "<|end|>"),
        {"bos_token": "<s>", "eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"},
        split=None,
        spaces="always",
        rstrip=("</s>", "<|user|>", "<|assistant|>", "<|end|>"),
        ends=("<|end|>", "<|assistant|>"),
    ),
    Family(
        "phi 4 mini",
        {
            "model_type": "phi3",
            "partial_rotary_factor": 0.75,
            "tie_word_embeddings": True,
            "original_max_position_embeddings": 256,
            "rope_parameters": {
                "rope_type": "longrope",
                "rope_theta": 10000.0,
                "short_factor": [1.0] * 6,
                "long_factor": [2.0] * 6,
                "original_max_position_embeddings": 256,
                "partial_rotary_factor": 0.75,
            },
        },
        PHI_4,
        ("<|endoftext|>", "<|user|>", "<|assistant|>", "<|end|>"),
        {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"},
        ends=("<|end|>",),
    ),
    Family(
        "smollm 2",
        {"model_type": "llama", "tie_word_embeddings": True},
        CHATML,
        ("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
        {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "pad_token": "<|im_end|>"},
        split=GPT_2,
    ),
    Family(
        "smollm 3",
        {"model_type": "smollm3", "tie_word_embeddings": True},
        SMOLLM_3,
        ("<|begin_of_text|>", "<|end_of_text|>", "<|im_start|>", "<|im_end|>"),
        {"eos_token": "<|im_end|>"},
        plain=("<think>", "</think>"),
    ),
    Family(
        "gemma",
        {"model_type": "gemma", "head_dim": 16},
        GEMMA,
        ("<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"),
        {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>"},
        split=None,
        spaces="never",
        plain=("\n\n",),
        begins=True,
        ends=("<end_of_turn>",),
    ),
    Family(
        "gemma 2",
        {"model_type": "gemma2", "head_dim": 16, "sliding_window": 40},
        GEMMA,
        ("<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"),
        {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>"},
        split=None,
        spaces="never",
        begins=True,
        ends=("<end_of_turn>",),
    ),
    Family(
        "gemma 3",
        {
            "model_type": "gemma3_text",
            "head_dim": 16,
            "sliding_window": 40,
            "layer_types": ["sliding_attention", "full_attention"],
        },
        GEMMA,
        ("<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"),
        {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>"},
        split=None,
        spaces="never",
        begins=True,
        ends=("<end_of_turn>",),
    ),
    Family(
        "mistral",
        {"model_type": "mistral", "sliding_window": 40},
        MISTRAL,
        ("<unk>", "<s>", "</s>"),
        {"bos_token": "<s>", "eos_token": "</s>"},
        split=None,
        spaces="always",
        begins=True,
    ),
    Family(
        "phi 2",
        {"model_type": "phi"},
        None,
        ("<|endoftext|>",),
        {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"},
        split=GPT_2,
    ),
    Family(
        "llama 2 base",
        {"model_type": "llama"},
        None,
        ("<unk>", "<s>", "</s>"),
        {"bos_token": "<s>", "eos_token": "</s>"},
        split=None,
        spaces="always",
        begins=True,
    ),
]
FAMILY = {family.name: family for family in FAMILIES}


def make_tokenizer(family: Family) -> PreTrainedTokenizerBase:
    """Train a small tokenizer in a family's way."""
    if family.split is None:
        raw = Tokenizer(models.BPE(unk_token="<unk>"))
        swap = normalizers.Replace(" ", "\u2581")
        first = [normalizers.Prepend("\u2581")] if family.spaces == "always" else []
        raw.normalizer = normalizers.Sequence([*first, swap])
        raw.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.Fuse()])
        alphabet = [*map(chr, range(33, 127)), "\n", "\u2581"]
    else:
        raw = Tokenizer(models.BPE())
        raw.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(family.split), behavior="isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
        raw.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
    # Words of a text without splits would be learned as one token: SentencePiece's trainer cuts.
    texts = [word for text in TEXTS for word in text.replace(" ", " \0").split("\0")]
    names = [AddedToken(n, special=True, rstrip=n in family.rstrip) for n in family.special]
    trainer = BpeTrainer(
        vocab_size=400, special_tokens=names, initial_alphabet=alphabet, show_progress=False
    )
    raw.train_from_iterator(texts, trainer)
    raw.add_tokens([AddedToken(name, special=False, normalized=False) for name in family.plain])
    if family.begins:
        bos = family.names["bos_token"]
        raw.post_processor = TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, raw.token_to_id(bos))]
        )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw, clean_up_tokenization_spaces=False, **family.names
    )
    tokenizer.chat_template = family.template
    return tokenizer


def write_family(family: Family, folder: Path) -> Path:
    """Write tokenizer and random weights as a repository of the Hub has them."""
    tokenizer = make_tokenizer(family)
    tokenizer.save_pretrained(folder)
    ids = {part: tokenizer.convert_tokens_to_ids(name) for part, name in family.names.items()}
    known = {f"{part}_id": number for part, number in ids.items()}
    unset = {"bos_token_id": None, "pad_token_id": None}
    settings = {**SIZES, **family.architecture, **unset, **known}
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(
        AutoConfig.for_model(**settings, vocab_size=len(tokenizer) + PADDED)
    )
    ends = [ids["eos_token"], *map(tokenizer.convert_tokens_to_ids, family.ends)]
    model.generation_config.eos_token_id = ends if family.ends else ends[0]
    model.save_pretrained(folder)
    return folder


def family_config(folder: Path, prompt: Any, lora: bool = False) -> Config:
    """Put the small model of the tests on a family's language model."""
    language = LanguageConfig(hub=str(folder), lora=LORA if lora else None)
    return replace(TIMELINE_CONFIG, language=language, prompt=prompt)
