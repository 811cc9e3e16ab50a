"""A preset on other bases: one that is trained from projectors without weights.

Enters: a preset's name and the names of published models. Leaves: a `Config`.
"""

from dataclasses import replace

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


def given_ears(name: str, config: Config, whisper: str) -> Config:
    """Name the Whisper by which a model is to learn to hear; ConfigError where it hears already."""
    if config.hears:
        raise ConfigError(
            f"{name}: hears already, with {config.audio.hub or 'an encoder of its own'}; --whisper "
            "is for presets, and for models that were never taught to hear"
        )
    return replace(config, audio=AudioConfig(hub=whisper))


def rebased(name: str, *, llm: str = "", vision: str = "", whisper: str = "") -> Config:
    """Put a preset on other bases; an empty name leaves the preset's own.

    Args: llm: a causal language model; vision: a SigLIP or SigLIP 2 of a fixed size; whisper: a
    name of openai-whisper, or a Whisper in Transformers' form. Each a Hub id or a folder.

    Raises:
        ConfigError: it is no preset, one whose parts are its own, or the language model's chat
        template cannot be used; OSError: a tokenizer cannot be loaded.
    """
    if name not in PRESETS:
        raise ConfigError(f"{name}: only a preset can be put on other bases ({', '.join(PRESETS)})")
    config = PRESETS[name]
    if llm:
        lora = None if config.language.lora is None else LoraConfig()
        config = replace(
            config,
            language=LanguageConfig(hub=llm, lora=lora),
            prompt=prompt_config(load_tokenizer(llm)),
        )
    if vision:
        vision = replace(config.vision, hub=vision, revision=None, inline=None)
        config = replace(config, vision=vision)
    if whisper:
        config = replace(config, audio=AudioConfig(hub=whisper))
    for part in ("vision", "audio", "language"):
        if getattr(config, part).inline is not None:
            raise ConfigError(
                f"{name}: its {part} was trained with the rest of it and fits nothing else; "
                "take --init timeline"
            )
    return config
