"""train/pretrain.py and train/finetune.py on a manifest: which weights each setting changes, read
from what was saved; speed and memory settings that must change nothing.
"""

import importlib.util
import json
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file
from small import LANGUAGE, TIMELINE_CONFIG, TOKENIZER, build_model
from staged import LORA, ROOT
from transformers import AutoConfig, AutoModelForCausalLM

from avchat.config import LanguageConfig, ModelError
from avchat.model import AVChat


def load(name: str) -> ModuleType:
    """Import a script of train/ as a module."""
    spec = importlib.util.spec_from_file_location(f"train_{name}", ROOT / "train" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def finetune() -> ModuleType:
    """The script that finetunes."""
    return load("finetune")


SHORT = {"steps": 2, "batch": 4, "tracker": "none", "log_every": 1, "lr": 1e-2}


def run(script: ModuleType, kind: str, folder: Path, manifest: Path, **settings: object) -> Path:
    """Run a script to its end; return the folder of the model."""
    AcceleratorState._reset_state(True)
    config = getattr(script, kind)(output=folder, data=(manifest,), **{**SHORT, **settings})
    script.main(config)
    return folder / "model"


def parts_changed(before: Path, after: Path) -> set[str]:
    """Name the parts of which any saved weight changed."""
    old, new = (load_file(folder / "model.safetensors") for folder in (before, after))
    assert set(new) <= set(old) | {n for n in new if n.startswith("language.")}
    return {name.split(".")[0] for name in new if not torch.equal(new[name], old.get(name))}


@pytest.mark.parametrize(
    ("part", "changed"),
    [
        ("audio", {"audio_projector"}),
        ("visual", {"visual_projector"}),
        ("both", {"audio_projector", "visual_projector"}),
    ],
)
def test_pretraining_trains_projectors_alone(
    part: str, changed: set[str], manifest: Path, small_model: Path, tmp_path: Path
) -> None:
    script = load("pretrain")
    after = run(
        script, "Pretrain", tmp_path, manifest, init=str(small_model), part=part, projectors="full"
    )
    assert parts_changed(small_model, after) == changed
    record = json.loads((tmp_path / "run.json").read_text())
    trained = {name for name, row in record["trained"].items() if row["trained"]}
    assert trained == changed


BOTH = {"visual_projector", "audio_projector"}


@pytest.mark.parametrize(
    ("settings", "changed", "adapter"),
    [
        ({}, {*BOTH, "language"}, False),
        ({"language": "lora", "lora": LORA}, BOTH, True),
        ({"language": "lora", "lora": LORA, "projectors": "frozen"}, set(), True),
        ({"language": "frozen", "projectors": "lora", "lora": LORA}, BOTH, False),
        ({"language": "frozen", "vision_lr": 1e-3}, {*BOTH, "vision"}, False),
        ({"language": "frozen", "audio_lr": 1e-3}, {*BOTH, "audio"}, False),
    ],
    ids=["default", "lora", "adapters alone", "projectors by lora", "vision", "audio"],
)
def test_finetuning_trains_what_is_asked(
    finetune: ModuleType,
    manifest: Path,
    small_model: Path,
    tmp_path: Path,
    settings: dict,
    changed: set[str],
    adapter: bool,
) -> None:
    settings = {"init": str(small_model), "projector_lr": 1e-2, **settings}
    after = run(finetune, "Finetune", tmp_path, manifest, **settings)
    assert parts_changed(small_model, after) == changed
    assert (after / "adapter").is_dir() == adapter
    AVChat.from_pretrained(after)


@pytest.fixture(scope="module")
def based(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved model whose language model is a published one: a folder of the Hub's form."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("based")
    inline = {**LANGUAGE.inline, "vocab_size": len(TOKENIZER)}
    AutoModelForCausalLM.from_config(AutoConfig.for_model(**inline)).save_pretrained(folder / "phi")
    TOKENIZER.save_pretrained(folder / "phi")
    language = LanguageConfig(hub=str(folder / "phi"), lora=LORA)
    config = replace(TIMELINE_CONFIG, language=language)
    AVChat.from_config(config, TOKENIZER, lora=False).save_pretrained(folder / "model")
    return folder / "model"


def losses(folder: Path) -> list[float]:
    rows = [json.loads(x) for x in (folder / "metrics.jsonl").read_text().splitlines()]
    return [row["loss"] for row in rows if "loss" in row]


def test_four_bits_learn_and_go_on_with_their_adapters(
    finetune: ModuleType, manifest: Path, based: Path, tmp_path: Path
) -> None:
    """QLoRA through the script; its adapters then go on, in 4 bit and in full."""
    first = run(finetune, "Finetune", tmp_path / "a", manifest, init=str(based), language="qlora")
    again = {"language": "qlora", "resume": False}
    run(finetune, "Finetune", tmp_path / "b", manifest, init=str(first), **again)
    run(finetune, "Finetune", tmp_path / "c", manifest, init=str(first), language="lora")
    assert losses(tmp_path / "b")[0] < losses(tmp_path / "a")[0]
    assert losses(tmp_path / "c")[0] == pytest.approx(losses(tmp_path / "b")[0], rel=0.2)
    adapter = load_file(first / "adapter" / "adapter_model.safetensors")
    assert any(bool(w.any()) for name, w in adapter.items() if "lora_B" in name)


@pytest.mark.slow
@pytest.mark.parametrize("language", ["lora", "full"])
def test_layers_computed_again_change_nothing(
    finetune: ModuleType, manifest: Path, based: Path, tmp_path: Path, language: str
) -> None:
    still = {"init": str(based), "language": language, "steps": 3, "pack": 300}
    run(finetune, "Finetune", tmp_path / "plain", manifest, **still)
    run(finetune, "Finetune", tmp_path / "again", manifest, **still, checkpointing=True)
    np.testing.assert_allclose(losses(tmp_path / "again"), losses(tmp_path / "plain"), rtol=1e-5)


def test_what_a_run_cannot_start_from_is_one_line(
    finetune: ModuleType, manifest: Path, small_model: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    config = replace(TIMELINE_CONFIG, language=replace(LANGUAGE, inline={**LANGUAGE.inline}))
    build_model(config).save_pretrained(other)
    saved = json.loads((other / "config.json").read_text())
    saved["language"]["inline"]["hidden_size"] = 64
    (other / "config.json").write_text(json.dumps(saved))
    (tmp_path / "llava").mkdir()
    (tmp_path / "llava" / "config.json").write_text('{"model_type": "llava"}')
    for init, said in (
        (other, "does not fit config.json"),
        (tmp_path / "llava", "a model of type llava; known are avchat and bunny-phi"),
        (tmp_path / "nowhere", "no model called"),
        (ROOT / "avchat" / "assets" / "heads" / "tiny", "a lookup head"),
    ):
        with pytest.raises(ModelError, match=said) as raised:
            run(finetune, "Finetune", tmp_path / "run", manifest, init=str(init))
        assert "\n" not in str(raised.value) and len(str(raised.value)) < 600, raised.value
    assert not (tmp_path / "run").exists()
