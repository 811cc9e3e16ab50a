"""A small SigLIP with random weights, in the files that the published ones come in."""

import json
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import SiglipConfig, SiglipModel

TOWER = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}
WORDS = "a red green blue yellow circle square star triangle moves left right dog barks".split()
SPECIAL = ["<pad>", "</s>", "<unk>"]


def write_siglip(folder: Path, seed: int = 0) -> Path:
    """Write config, weights, tokenizer and preprocessor of a SigLIP of 32 pixels a side."""
    torch.manual_seed(seed)
    vision = TOWER | {"image_size": 32, "patch_size": 8}
    text = TOWER | {"vocab_size": 200, "max_position_embeddings": 16, "projection_size": 32}
    model = SiglipModel(SiglipConfig(text_config=text, vision_config=vision))
    with torch.no_grad():
        for weight in model.parameters():  # wide, so that what is seen makes a difference
            weight.add_(0.3 * torch.randn_like(weight))
    model.save_pretrained(folder)
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=200, special_tokens=SPECIAL, unk_token="<unk>")
    tokenizer.train_from_iterator([" ".join(WORDS)] * 20, trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {
        "tokenizer_class": "SiglipTokenizer",
        "eos_token": "</s>",
        "pad_token": "</s>",
        "unk_token": "<unk>",
        "model_max_length": 16,
        "do_lower_case": True,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(names))
    processor = {
        "image_processor_type": "SiglipImageProcessor",
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
        "resample": 3,
        "size": {"height": 32, "width": 32},
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return folder
