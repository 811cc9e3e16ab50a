"""What a model is made of: frozen dataclasses, saved beside the weights, and three presets.

Enters: keyword arguments, a dict or a `config.json`. Leaves: a `Config`. Nothing is built here.
A part (vision, audio, language) is either `hub` (a name that its library can load, or a folder)
with its `revision`, or `inline` (the part's own configuration, built with random weights).
"""

import json
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

CONFIG_FILE = "config.json"
MODEL_TYPE = "avchat"
VLSA_TYPE = "avchat-vlsa"


class ModelError(ValueError):
    """A model that cannot be had; the message is one line in the user's words."""


class ConfigError(ModelError):
    """A configuration that cannot be used."""


@dataclass(frozen=True)
class VisionConfig:
    """A SigLIP vision model and how frames are made ready for it."""

    hub: str | None = None
    revision: str | None = None
    inline: dict[str, Any] | None = None
    # None: the last layer after the model's final norm. -2: the state before the last layer,
    # without the norm, which is what Bunny's projector was trained on.
    layer: int | None = None
    # "pad" adds grey borders until the frame is square (as LLaVA, Bunny do); "stretch" does not.
    fit: Literal["pad", "stretch"] = "pad"
    resample: Literal["bicubic", "area"] = "bicubic"


@dataclass(frozen=True)
class AudioConfig:
    """A Whisper encoder. `hub` is a name that openai-whisper knows, a .pt file of that form, or a
    repository or folder in the form of Transformers.
    """

    hub: str | None = None
    revision: str | None = None
    inline: dict[str, int] | None = None


@dataclass(frozen=True)
class LoraConfig:
    """Low-rank adapters; the defaults are Bunny's (r 128, alpha 256, dropout 0.05)."""

    r: int = 128
    alpha: int = 256
    dropout: float = 0.05
    # All linear layers but the head, whatever they are called: on phi-2 these are Bunny's.
    targets: tuple[str, ...] = ("all-linear",)


@dataclass(frozen=True)
class LanguageConfig:
    """A causal language model; its tokenizer comes from the same place or from the checkpoint."""

    hub: str | None = None
    revision: str | None = None
    inline: dict[str, Any] | None = None
    # Spread of the token embeddings of a model built from nothing. The usual 0.02 is meant for
    # widths of 768 and more: at 128 the embedding drowned in the random attention output and
    # attributes did not bind (measured: colour 0.17 with 0.02, 1.0 with 0.5).
    embedding_std: float | None = None
    lora: LoraConfig | None = None


@dataclass(frozen=True)
class ProjectorConfig:
    """How features become rows of the language model: pooling in front of two two-layer MLPs."""

    layout: Literal["pooled", "timeline"] = "timeline"
    # timeline: the patches of a frame become grid x grid tokens; "stack" concatenates the patches
    # of a cell, "mean" averages them. pooled has one token a frame and one a patch instead.
    grid: int = 2
    patches: Literal["stack", "mean"] = "mean"
    # timeline: audio tokens of one time slot. pooled: audio tokens of the whole clip.
    audio_tokens: int = 4
    # Averaged stretches of sound that are laid side by side in one audio token.
    audio_bins: int = 4
    hidden: int | None = None  # width inside the MLP; None: the language model's width
    input_norm: bool = False
    # Brings media tokens to one size. Encoders that are trained from nothing let them grow to ten
    # times the token embeddings; then what the language model adds to them hardly counts.
    output_norm: bool = False
    # Adds a learned function of the token's centre time (seconds since the start of the part).
    time_embedding: bool = False
    # timeline: adds a learned vector for the token's cell of the grid. Without it a small language
    # model has to count tokens to tell top left from bottom right.
    cell_embedding: bool = False


@dataclass(frozen=True)
class PromptConfig:
    """The words around media and turns. prompt.py is the only reader."""

    opening: str = ""  # before the media
    slot_time: str = " {:.2f}s"  # time on the file's clock, before the tokens of a slot
    no_picture: str = " no picture"
    no_sound: str = " no sound"
    # a transcript, where one is asked for: it follows the media, a line with its seconds each
    transcript: str = "\nTranscript of the speech (seconds):\n"
    transcript_line: str = "[{:.1f}-{:.1f}] {}\n"
    no_speech: str = " no speech"  # instead, where nothing is said
    after_media: str = ""  # after the media; a conversation without media does not have it
    first_question: str = ""  # between the media and the first question
    next_question: str = ""  # before each later question
    before_answer: str = ""
    answer: str = " "  # belongs to the answer's first token and is trained
    after_answer: str = ""  # between an answer and its end, and trained
    end: str | None = None  # the token that ends an answer; None: the tokenizer's eos_token
    # Names of special tokens in the pieces above are these tokens (what users type never is).
    special: bool = False


@dataclass(frozen=True)
class Config:
    """A whole model. `notice` goes with every answer: what these weights cannot do."""

    name: str
    vision: VisionConfig
    audio: AudioConfig
    language: LanguageConfig
    projector: ProjectorConfig
    prompt: PromptConfig
    frames: int = 16  # frames sampled from a clip, and time slots of a clip without a picture
    notice: str = ""
    # False: the audio projector was never trained. Sound is not encoded until a run trains it.
    hears: bool = True

    def __post_init__(self) -> None:
        for part in ("vision", "audio", "language"):
            value = getattr(self, part)
            if (value.hub is None) == (value.inline is None):
                raise ConfigError(f"config: {part} needs exactly one of hub and inline")
        if self.projector.layout == "pooled" and (
            self.projector.time_embedding or self.projector.cell_embedding
        ):
            raise ConfigError("config: time_embedding and cell_embedding need the timeline layout")
        if self.frames < 1:
            raise ConfigError(f"config: frames must be at least 1, not {self.frames}")

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, ready for JSON."""
        return {"model_type": MODEL_TYPE, **asdict(self)}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "Config":
        """Build a config from `to_dict` data; an unknown or missing field is a ConfigError."""
        data = {key: value for key, value in data.items() if key != "model_type"}
        language = dict(data.get("language", {}))
        if language.get("lora") is not None:
            lora = _build(LoraConfig, language["lora"])
            language["lora"] = replace(lora, targets=tuple(lora.targets))
        parts = {
            "vision": _build(VisionConfig, data.get("vision", {})),
            "audio": _build(AudioConfig, data.get("audio", {})),
            "language": _build(LanguageConfig, language),
            "projector": _build(ProjectorConfig, data.get("projector", {})),
            "prompt": _build(PromptConfig, data.get("prompt", {})),
        }
        return _build(cls, {**data, **parts})

    def save(self, folder: Path) -> None:
        """Write `config.json` into a folder."""
        text = json.dumps(self.to_dict(), indent=2)
        (folder / CONFIG_FILE).write_text(text + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> "Config":
        """Read `config.json` from a folder; ConfigError when it is absent or not one of ours."""
        return cls.from_dict(_read(folder / CONFIG_FILE, MODEL_TYPE, "an avchat model"))


def _read(path: Path, model_type: str, what: str) -> dict[str, Any]:
    """Read a configuration of a kind, without the name of the kind."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: not readable as a configuration ({error})") from error
    if not isinstance(data, dict) or data.pop("model_type", None) != model_type:
        raise ConfigError(f"{path}: not a configuration of {what}")
    return data


def _build(kind: type, data: dict[str, Any]) -> Any:
    """Call a dataclass with a dict, naming the fields that it does not have or that it misses."""
    known = {entry.name for entry in fields(kind)}
    unknown = sorted(set(data) - known)
    if unknown:
        raise ConfigError(f"config: {kind.__name__} has no field {', '.join(unknown)}")
    try:
        return kind(**data)
    except TypeError as error:
        raise ConfigError(f"config: {error}") from error


@dataclass(frozen=True)
class VLSAConfig:
    """A lookup head (P2, VLSA). The defaults are the paper's where it states one; where it is
    silent they are papers.md 3.3's, marked "ours".
    """

    kind: Literal["features", "pixels"] = "pixels"
    base: str | None = None  # features: the model whose frozen encoders give the patches
    base_fingerprint: str | None = None  # of those encoders' weights
    # features: as in the base's ProjectorConfig. Its widths and patches come with the encoders.
    projector: ProjectorConfig | None = None
    vision_width: int = 0
    audio_width: int = 0
    num_patches: int = 0
    frames: int = 8
    width: int = 768  # ViT-Base
    depth: int = 12
    heads: int = 12
    feed: int = 3072
    decoder_width: int = 512  # ours: MAE's
    decoder_depth: int = 8  # ours
    decoder_heads: int = 8  # ours
    max_text: int = 40
    vocab_size: int = 30522
    mask_text: float = 0.15
    mask_video: float = 0.75
    mask_audio: float = 0.75
    local: bool = True  # the loss of masked patches
    audio_global: bool = True  # the two losses that match the sound with picture and text
    weight_global: float = 5.0  # the paper's lambda
    masked_global: bool = True  # ours: global tokens of the masked patches, as CAV-MAE takes them
    temperature: float = 0.07  # ours
    learn_temperature: bool = False
    hard_negatives: bool = False  # ours, off: the likeliest wrong partner instead of a random one
    video_text: bool = False  # ours, off: a direct term of picture and text
    clip_text: bool = False  # ours, off: a term of picture with sound, encoded together, and text
    embedding_std: float = 0.02
    window_s: float = 8.0  # length of the clips it was trained on (ours)
    # Cosine of text and clip below which a hit is no good match; measured after training.
    threshold: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, ready for JSON."""
        return {"model_type": VLSA_TYPE, **asdict(self)}

    def save(self, folder: Path) -> None:
        """Write `config.json` into a folder."""
        text = json.dumps(self.to_dict(), indent=2)
        (folder / CONFIG_FILE).write_text(text + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> "VLSAConfig":
        """Read `config.json` from a folder; ConfigError when it is absent or not a head's."""
        data = _read(folder / CONFIG_FILE, VLSA_TYPE, "a lookup head")
        if data.get("projector") is not None:
            data["projector"] = _build(ProjectorConfig, data["projector"])
        return _build(cls, data)


# Bunny's and Owlet's words (bunny/conversation.py, conv_bunny; Owlet's model card).
BUNNY_PROMPT = PromptConfig(
    opening="A chat between a curious user and an artificial intelligence assistant. The assistant "
    "gives helpful, detailed, and polite answers to the user's questions. USER: ",
    first_question="\n",
    next_question="USER: ",
    before_answer=" ASSISTANT:",
)

# Few tokens, since this preset learns on two cores. A space before the first word of questions and
# answers makes a word the same token wherever it stands.
TINY_PROMPT = PromptConfig(first_question=" ", next_question=" ", before_answer="\n")

SIGLIP = VisionConfig(hub="google/siglip-so400m-patch14-384", layer=-2)
BUNNY_LORA = LoraConfig(targets=("q_proj", "k_proj", "v_proj", "dense", "fc1", "fc2"))
PHI_2 = LanguageConfig(hub="microsoft/phi-2", lora=BUNNY_LORA)

TINY = Config(
    name="tiny",
    frames=8,
    vision=VisionConfig(
        inline={
            "hidden_size": 96,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "intermediate_size": 288,
            "image_size": 64,
            "patch_size": 8,
            "vision_use_head": False,
        },
        fit="stretch",
        resample="area",
    ),
    audio=AudioConfig(
        # 200 states at 50 Hz: a window of 4 s
        inline={"n_mels": 80, "n_ctx": 200, "n_state": 96, "n_head": 4, "n_layer": 2}
    ),
    language=LanguageConfig(
        inline={
            "model_type": "phi",
            "vocab_size": 768,
            "hidden_size": 160,
            "num_hidden_layers": 5,
            "num_attention_heads": 5,
            "intermediate_size": 640,
            "partial_rotary_factor": 0.5,
            "max_position_embeddings": 1024,
            "initializer_range": 0.06,
        },
        embedding_std=0.5,
    ),
    projector=ProjectorConfig(
        grid=2,
        patches="stack",
        audio_tokens=1,
        audio_bins=25,
        input_norm=True,
        output_norm=True,
        time_embedding=True,
        cell_embedding=True,
    ),
    prompt=TINY_PROMPT,
    notice="the bundled tiny model knows only the toy world of `avchat world`: on any other video "
    "its answers mean nothing",
)

OWLET = Config(
    name="owlet",
    frames=100,
    vision=SIGLIP,
    audio=AudioConfig(hub="small"),
    language=PHI_2,
    # How 1500 Whisper states become 64 tokens is not told; adaptive averages are our choice.
    projector=ProjectorConfig(layout="pooled", audio_tokens=64, audio_bins=1),
    prompt=BUNNY_PROMPT,
)

TIMELINE = Config(
    name="timeline",
    frames=16,
    vision=SIGLIP,
    audio=AudioConfig(hub="small"),
    language=PHI_2,
    # 16 slots of 25 + 4 tokens and about 5 tokens of time: 540 of phi-2's 2048 positions.
    projector=ProjectorConfig(grid=5, patches="mean", audio_tokens=4, audio_bins=4),
    prompt=BUNNY_PROMPT,
)

PRESETS = {config.name: config for config in (TINY, OWLET, TIMELINE)}
