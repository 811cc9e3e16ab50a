"""Configurations: saved and read back, refused in words, and never asked for by a preset's name."""

import ast
import json
from dataclasses import replace
from pathlib import Path

import pytest

from avchat.config import OWLET, PRESETS, TIMELINE, TINY, Config, ConfigError

PACKAGE = Path(__file__).resolve().parent.parent / "avchat"


@pytest.mark.parametrize("name", PRESETS)
def test_save_and_load_give_the_same_config(name: str, tmp_path: Path) -> None:
    PRESETS[name].save(tmp_path)
    assert Config.load(tmp_path) == PRESETS[name]


def test_presets_are_what_the_papers_and_the_plan_say() -> None:
    assert set(PRESETS) == {"tiny", "owlet", "timeline"}
    assert (OWLET.frames, OWLET.projector.layout, OWLET.projector.audio_tokens) == (
        100,
        "pooled",
        64,
    )
    assert OWLET.language.lora is not None
    assert (OWLET.language.lora.r, OWLET.language.lora.alpha) == (128, 256)
    assert TIMELINE.projector.layout == TINY.projector.layout == "timeline"
    assert TINY.notice and not OWLET.notice


def test_no_code_asks_for_a_presets_name() -> None:
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Compare):
                parts = [node.left, *node.comparators]
                names = {part.value for part in parts if isinstance(part, ast.Constant)}
                assert not names & set(PRESETS) - {"timeline"}, f"{path.name}:{node.lineno}"


def test_a_part_is_either_on_the_hub_or_inline() -> None:
    with pytest.raises(ConfigError, match="vision needs exactly one of hub and inline"):
        replace(TINY, vision=replace(TINY.vision, hub="google/siglip"))
    with pytest.raises(ConfigError, match="language needs exactly one"):
        replace(TINY, language=replace(TINY.language, inline=None))


def test_impossible_values_are_refused() -> None:
    with pytest.raises(ConfigError, match="need the timeline layout"):
        replace(OWLET, projector=replace(OWLET.projector, time_embedding=True))
    with pytest.raises(ConfigError, match="frames must be at least 1"):
        replace(TINY, frames=0)


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not readable as a configuration"):
        Config.load(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "phi"}')
    with pytest.raises(ConfigError, match="not a configuration of an avchat model"):
        Config.load(tmp_path)
    data = TINY.to_dict()
    data["projector"]["pools"] = 3
    (tmp_path / "config.json").write_text(json.dumps(data))
    with pytest.raises(ConfigError, match="ProjectorConfig has no field pools"):
        Config.load(tmp_path)
    del data["projector"]["pools"], data["name"]
    (tmp_path / "config.json").write_text(json.dumps(data))
    with pytest.raises(ConfigError, match="name"):
        Config.load(tmp_path)
