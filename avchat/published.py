"""What public models weigh and how they are built, for when the Hub cannot be asked.

A table, nothing else. Sizes are bytes of the files that are fetched; where each is from stands
with it. tests/test_sizes.py builds every architecture and compares it with the files' sizes.
"""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Published:
    """A repository of the Hub. `architecture`: as Transformers' AutoConfig takes it."""

    files: dict[str, int]
    source: str
    architecture: dict[str, Any]


@dataclass(frozen=True)
class PublishedWhisper:
    """A model that openai-whisper fetches: one file; the encoder's numbers."""

    file: str
    size: int
    n_mels: int
    n_state: int
    n_head: int
    n_layer: int

    @property
    def encoder(self) -> dict[str, int]:
        """Return what whisper's AudioEncoder is built from; a window has 1500 states."""
        sizes = {"n_state": self.n_state, "n_head": self.n_head, "n_layer": self.n_layer}
        return {"n_mels": self.n_mels, "n_ctx": 1500, **sizes}


# microsoft/phi-2's config.json, as peers.md 2.1 quotes it for Bunny
PHI_2 = {
    "model_type": "phi",
    "vocab_size": 51200,
    "hidden_size": 2560,
    "intermediate_size": 10240,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "partial_rotary_factor": 0.4,
    "max_position_embeddings": 2048,
    "dtype": "float16",
}
BUNNY = {**PHI_2, "vocab_size": 50295}  # the merged models: peers.md 2.1
BUNNY_FILES = {
    "model-00001-of-00002.safetensors": 4_990_950_824,
    "model-00002-of-00002.safetensors": 1_373_673_760,
}
# Linear 768 x 2560 and 2560 x 2560 with biases in 16 bit: the sound's projector of Owlet
AUDIO_FILE = "the sound's projector"  # only a model that hears has it
AUDIO_PROJECTOR_BYTES = 2 * (768 * 2560 + 2560 + 2560 * 2560 + 2560)

PUBLISHED = {
    "microsoft/phi-2": Published(
        {
            "model-00001-of-00002.safetensors": 4_995_584_424,
            "model-00002-of-00002.safetensors": 563_832_976,
        },
        "the first file as public listings quote it; both hold the 5,559,367,680 bytes that the "
        "published index names, and their headers",
        PHI_2,
    ),
    "google/siglip-so400m-patch14-384": Published(
        {"model.safetensors": 3_511_950_624},
        "public listings of the repository; both towers, of which one is used",
        {
            "model_type": "siglip_vision_model",
            "hidden_size": 1152,
            "intermediate_size": 4304,
            "num_hidden_layers": 27,
            "num_attention_heads": 16,
            "image_size": 384,
            "patch_size": 14,
        },
    ),
    "BAAI/Bunny-v1_0-3B": Published(
        BUNNY_FILES, "a public listing of the repository; peers.md 2.1", BUNNY
    ),
    "phronetic-ai/owlet-phi-2": Published(
        BUNNY_FILES, "papers.md 1.1: 4.99 + 1.37 GB; taken to be Bunny's to the byte", BUNNY
    ),
    "phronetic-ai/owlet-phi-2-audio": Published(
        {**BUNNY_FILES, AUDIO_FILE: AUDIO_PROJECTOR_BYTES},
        "not read anywhere: owlet-phi-2's files and the projector that the paper adds",
        BUNNY,
    ),
    "HuggingFaceTB/SmolLM2-360M-Instruct": Published(
        {"model.safetensors": 723_674_912},
        "public listings of the repository",
        {
            "model_type": "llama",
            "vocab_size": 49152,
            "hidden_size": 960,
            "intermediate_size": 2560,
            "num_hidden_layers": 32,
            "num_attention_heads": 15,
            "num_key_value_heads": 5,
            "max_position_embeddings": 8192,
            "tie_word_embeddings": True,
            "dtype": "bfloat16",
        },
    ),
    "Qwen/Qwen2.5-0.5B-Instruct": Published(
        {"model.safetensors": 988_097_824},
        "public listings of the repository",
        {
            "model_type": "qwen2",
            "vocab_size": 151936,
            "hidden_size": 896,
            "intermediate_size": 4864,
            "num_hidden_layers": 24,
            "num_attention_heads": 14,
            "num_key_value_heads": 2,
            "max_position_embeddings": 32768,
            "tie_word_embeddings": True,
            "dtype": "bfloat16",
        },
    ),
}

# Owlet's and Bunny's own form: a SigLIP tower and phi-2 in one file; Whisper comes beside it.
MERGED = ("BAAI/Bunny-v1_0-3B", "phronetic-ai/owlet-phi-2", "phronetic-ai/owlet-phi-2-audio")

# bytes: a public listing of a cluster's copies (all but turbo); sizes: openai-whisper's own table
WHISPER = {
    "tiny": PublishedWhisper("tiny.pt", 75_572_083, 80, 384, 6, 4),
    "tiny.en": PublishedWhisper("tiny.en.pt", 75_571_315, 80, 384, 6, 4),
    "base": PublishedWhisper("base.pt", 145_262_807, 80, 512, 8, 6),
    "base.en": PublishedWhisper("base.en.pt", 145_261_783, 80, 512, 8, 6),
    "small": PublishedWhisper("small.pt", 483_617_219, 80, 768, 12, 12),
    "small.en": PublishedWhisper("small.en.pt", 483_615_683, 80, 768, 12, 12),
    "medium": PublishedWhisper("medium.pt", 1_528_008_539, 80, 1024, 16, 24),
    "medium.en": PublishedWhisper("medium.en.pt", 1_528_006_491, 80, 1024, 16, 24),
    "large-v1": PublishedWhisper("large-v1.pt", 3_086_999_982, 80, 1280, 20, 32),
    "large-v2": PublishedWhisper("large-v2.pt", 3_086_999_982, 80, 1280, 20, 32),
    "large-v3": PublishedWhisper("large-v3.pt", 3_087_371_615, 128, 1280, 20, 32),
    "large": PublishedWhisper("large-v3.pt", 3_087_371_615, 128, 1280, 20, 32),
    "large-v3-turbo": PublishedWhisper("large-v3-turbo.pt", 1_617_941_637, 128, 1280, 20, 32),
    "turbo": PublishedWhisper("large-v3-turbo.pt", 1_617_941_637, 128, 1280, 20, 32),
}
