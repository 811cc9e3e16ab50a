"""A preset on other bases: one that is trained from projectors without weights.

Enters: a preset's name and the names of published models. Leaves: a `Config`.
"""

from dataclasses import dataclass, replace

from avchat.config import (
    PRESETS,
    AudioConfig,
    Config,
    ConfigError,
    LanguageConfig,
    LoraConfig,
)
from avchat.language import load_tokenizer
from avchat.templates import prompt_config


@dataclass(frozen=True)
class Bases:
    """Published models to stand in for a preset's own; empty: the preset's."""

    llm: str = ""
    """Causal language model: a Hub id or a folder; its own chat template is used."""
    vision: str = ""
    """SigLIP or SigLIP 2 of a fixed size: a Hub id or a folder."""
    whisper: str = ""
    """A name of openai-whisper, a .pt file, or a Hub id or folder in Transformers' form."""

    def __bool__(self) -> bool:
        return bool(self.llm or self.vision or self.whisper)


def rebased(name: str, bases: Bases) -> Config:
    """Put a preset on other bases.

    Raises:
        ConfigError: it is no preset, one whose parts are its own, or the language model's chat
        template cannot be used; OSError: a tokenizer cannot be loaded.
    """
    if name not in PRESETS:
        raise ConfigError(f"{name}: only a preset can be put on other bases ({', '.join(PRESETS)})")
    config = PRESETS[name]
    if bases.llm:
        lora = None if config.language.lora is None else LoraConfig()
        config = replace(
            config,
            language=LanguageConfig(hub=bases.llm, lora=lora),
            prompt=prompt_config(load_tokenizer(bases.llm)),
        )
    if bases.vision:
        vision = replace(config.vision, hub=bases.vision, revision=None, inline=None)
        config = replace(config, vision=vision)
    if bases.whisper:
        config = replace(config, audio=AudioConfig(hub=bases.whisper))
    for part in ("vision", "audio", "language"):
        if getattr(config, part).inline is not None:
            raise ConfigError(
                f"{name}: its {part} was trained with the rest of it and fits nothing else; "
                "take --init timeline"
            )
    return config
