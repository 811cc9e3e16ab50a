"""Adapters folded in: the merged folder says the same, stands by itself, and can be trained on."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from small import TIMELINE_CONFIG, build_based, build_model, make_media, stirred
from torch import Tensor
from transformers import BitsAndBytesConfig, PhiForCausalLM

from avchat import cli
from avchat.collate import collate
from avchat.config import LoraConfig, ModelError
from avchat.language import attach_lora, has_lora
from avchat.merging import merge
from avchat.model import AVChat
from avchat.prompt import Turn
from avchat.saved import without_peft

ROOT = Path(__file__).resolve().parent.parent

LORA = LoraConfig(r=2, alpha=4, dropout=0.0, targets=("q_proj", "fc1"))


def inline_with_adapters() -> AVChat:
    """Build a model on no base, with adapters that do something."""
    model = build_model()
    language = replace(TIMELINE_CONFIG.language, lora=LORA)
    model.config = replace(model.config, language=replace(model.config.language, lora=LORA))
    assert language.hub is None
    model.language = attach_lora(model.language, LORA)
    return stirred(model).eval()


@pytest.fixture(params=["inline", "hub"])
def saved(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A saved model with adapters, on no base or on a published one."""
    model = inline_with_adapters() if request.param == "inline" else build_based(tmp_path / "phi")
    model.save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"


@torch.inference_mode()
def logits_of(model: AVChat) -> Tensor:
    """Compute the logits of a whole forward, picture and sound included."""
    clip = model.encode([make_media()])[0]
    row = model.prompt.build(model.plan(clip), [Turn("which object?", "the red circle")])
    assert len(clip.visual) and len(clip.audio)
    embeds = model.embed(collate([row], [clip]).ids, model.project([clip]))
    return model.language(inputs_embeds=embeds).logits


def test_a_merged_model_says_the_same_without_its_base(saved: Path, tmp_path: Path) -> None:
    before = AVChat.from_pretrained(saved)
    expected = logits_of(before)
    with torch.no_grad(), before.language.disable_adapter():
        assert float((logits_of(before) - expected).abs().max()) > 0.1  # the adapters do something
    done = merge(str(saved), tmp_path / "merged")
    shutil.rmtree(tmp_path / "phi", ignore_errors=True)
    merged = AVChat.from_pretrained(tmp_path / "merged")
    assert not has_lora(merged.language) and merged.config.language.lora is None
    torch.testing.assert_close(logits_of(merged), expected, rtol=1e-4, atol=1e-4)
    assert done.dtype == "float32" and done.folding < 1e-3 and done.rounding < 1e-3
    assert sorted(path.name for path in tmp_path.glob("new-*")) == []
    merged.save_pretrained(tmp_path / "again")  # what needs no base is saved so that it needs none
    again = AVChat.from_pretrained(tmp_path / "again")
    assert torch.equal(logits_of(again), logits_of(merged))


def test_sixteen_bits_are_written_where_they_are_wished(saved: Path, tmp_path: Path) -> None:
    done = merge(str(saved), tmp_path / "merged", "bf16")
    with safe_open(tmp_path / "merged" / "model.safetensors", "pt") as file:
        kinds = {name: file.get_slice(name).get_dtype() for name in file.keys()}
    assert {kind for name, kind in kinds.items() if name.startswith("language.")} == {"BF16"}
    assert {kind for name, kind in kinds.items() if "projector" in name} == {"F32"}
    assert done.dtype == "bfloat16" and done.folding < 1e-3 < done.rounding < 0.5
    exact = logits_of(AVChat.from_pretrained(saved))
    rounded = logits_of(AVChat.from_pretrained(tmp_path / "merged"))
    assert 0 < float((exact - rounded).abs().max()) < 0.05 * float(exact.abs().max())


def test_as_is_is_the_precision_of_the_base(tmp_path: Path) -> None:
    model = build_based(tmp_path / "phi")
    model.save_pretrained(tmp_path / "saved")
    PhiForCausalLM.from_pretrained(tmp_path / "phi", dtype=torch.float16).save_pretrained(
        tmp_path / "phi"
    )
    assert merge(str(tmp_path / "saved"), tmp_path / "merged").dtype == "float16"


def test_a_merged_model_takes_new_adapters_in_four_bits_and_keeps_its_own_weights(
    tmp_path: Path,
) -> None:
    """QLoRA on a merged model, merged again: full weights are carried along, not the packed."""
    build_based(tmp_path / "phi").save_pretrained(tmp_path / "saved")
    merge(str(tmp_path / "saved"), tmp_path / "merged")
    shutil.rmtree(tmp_path / "phi")
    once = AVChat.from_pretrained(tmp_path / "merged")
    model = AVChat.from_pretrained(tmp_path / "merged", bits=4, trainable=True, adapters=False)
    kinds = {type(module).__name__ for module in model.language.modules()}
    assert "Linear4bit" in kinds
    model.config = replace(model.config, language=replace(model.config.language, lora=LORA))
    model.language = attach_lora(model.language, LORA)
    stirred(model).save_pretrained(tmp_path / "second")
    twice = AVChat.from_pretrained(tmp_path / "second")
    with twice.language.disable_adapter():
        torch.testing.assert_close(logits_of(twice), logits_of(once))
    expected = logits_of(twice)
    merge(str(tmp_path / "second"), tmp_path / "final")
    final = AVChat.from_pretrained(tmp_path / "final")
    torch.testing.assert_close(logits_of(final), expected, rtol=1e-4, atol=1e-4)


def test_a_whole_language_model_that_lost_a_weight_is_refused(tmp_path: Path) -> None:
    """Transformers would give it random numbers and say so in a warning."""
    build_based(tmp_path / "phi").save_pretrained(tmp_path / "saved")
    merge(str(tmp_path / "saved"), tmp_path / "merged")
    config = tmp_path / "merged" / "language" / "config.json"
    said = config.read_text()
    for other, reason in (
        (said.replace('hidden_layers": 2', 'hidden_layers": 3'), "weights missing or unknown"),
        (said.replace('intermediate_size": 64', 'intermediate_size": 32'), "does not fit"),
    ):
        assert other != said
        config.write_text(other)
        with pytest.raises(ModelError, match=reason) as error:
            AVChat.from_pretrained(tmp_path / "merged")
        assert "\n" not in str(error.value)


def test_what_cannot_be_merged_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    model = build_based(tmp_path / "phi")
    model.save_pretrained(tmp_path / "saved")
    source, target = str(tmp_path / "saved"), tmp_path / "merged"
    weight = next(w for n, w in model.named_parameters() if "lora_B" in n)
    torch.nn.init.constant_(weight, torch.nan)
    model.save_pretrained(tmp_path / "broken")
    with pytest.raises(ModelError, match="logits would differ by nan"):
        merge(str(tmp_path / "broken"), target)
    (tmp_path / "file").write_text("a file")
    with pytest.raises(ModelError, match="cannot be written"):
        merge(source, tmp_path / "file" / "below")
    with pytest.raises(ModelError, match="something already"):
        merge(source, tmp_path / "file")
    assert (tmp_path / "file").read_text() == "a file" and not target.exists()
    packed = PhiForCausalLM.from_pretrained(
        tmp_path / "phi", quantization_config=BitsAndBytesConfig(load_in_4bit=True)
    )
    packed.save_pretrained(tmp_path / "packed")
    config = tmp_path / "saved" / "config.json"
    named = json.dumps(str(tmp_path / "phi")), json.dumps(str(tmp_path / "packed"))
    config.write_text(config.read_text().replace(*named))
    with pytest.raises(ModelError, match="published in few bits"):
        merge(source, target)
    assert not target.exists() and not list(tmp_path.glob("new-*"))


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    """What a run leaves: three models that differ."""
    folder = tmp_path / "run"
    for number, name in enumerate(("model", "best", "checkpoints/step-00000002/model")):
        model = inline_with_adapters()
        model.config = replace(model.config, frames=4 + number)
        model.save_pretrained(folder / name)
    return folder


@pytest.mark.parametrize(
    ("below", "flag", "taken", "frames"),
    [
        ("", [], "model", 4),
        ("", ["--best"], "best", 5),
        ("checkpoints/step-00000002", [], "checkpoints/step-00000002/model", 6),
        ("best", [], "best", 5),
    ],
)
def test_the_model_that_is_taken_is_said(
    run_folder: Path,
    below: str,
    flag: list[str],
    taken: str,
    frames: int,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ["merge", str(run_folder / below), str(tmp_path / "merged"), *flag, "--json"]
    (tmp_path / "merged").mkdir()  # an empty folder is as good as none
    assert cli.main(words) == 0
    stdout, stderr = capsys.readouterr()
    said = json.loads(stdout)
    assert said["source"] == str(run_folder / taken) and f"taking {said['source']}\n" in stderr
    assert said["lora"]["r"] == 2 and said["folding"] < 1e-3
    assert AVChat.from_pretrained(tmp_path / "merged").config.frames == frames
    assert cli.main(words) == 2
    assert "something already; name another folder" in capsys.readouterr().err


def test_merge_answers_bad_input_in_one_line(
    run_folder: Path, model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(run_folder / "model")
    shutil.copytree(run_folder / "best", tmp_path / "plain")
    (tmp_path / "empty").mkdir()
    target = str(tmp_path / "merged")
    for words, said in (
        ([str(run_folder)], "no model in model/ (a finished run's); there is "),
        ([str(tmp_path / "empty")], "nor any other"),
        ([str(tmp_path / "empty"), "--best"], "no model in best/"),
        ([str(tmp_path / "plain"), "--best"], "--best is for the folder of a run"),
        ([str(model_folder)], "no adapters, so there is nothing to merge"),
        (["tiny"], "tiny: no adapters"),
        (["nope"], "no model called nope"),
    ):
        assert cli.main(["merge", words[0], target, *words[1:]]) == 2
        stdout, stderr = capsys.readouterr()
        last = stderr.splitlines()[-1]
        assert last.startswith("error: ") and said in last and stdout == ""
        assert stderr.count("error: ") == 1 and not Path(target).exists()


@pytest.mark.slow
def test_a_run_is_merged_and_trained_on_through_the_real_scripts(
    manifest: Path, tmp_path: Path
) -> None:
    """LoRA, merge, LoRA on what was merged, load: no projector is lost, no base is mistaken."""
    short = ("--steps", "2", "--batch", "2", "--lr", "1e-2", "--tracker", "none")
    lora = ("--language", "lora", "--lora.r", "4", "--lora.alpha", "8")

    def finetune(output: str, *words: str) -> Path:
        done = subprocess.run(
            [sys.executable, "train/finetune.py", "--data", str(manifest), *words, *lora, *short]
            + ["--output", str(tmp_path / output)],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return tmp_path / output

    first = finetune("first", "--tiny")
    assert cli.main(["merge", str(first), str(tmp_path / "merged")]) == 0
    merged = AVChat.from_pretrained(tmp_path / "merged")
    expected = logits_of(AVChat.from_pretrained(first / "model"))
    torch.testing.assert_close(logits_of(merged), expected, rtol=1e-3, atol=1e-3)
    assert "## Merged adapters" in merged.card and "stage finetune" in merged.card
    shutil.rmtree(first)
    second = AVChat.from_pretrained(
        finetune("second", "--init", str(tmp_path / "merged")) / "model"
    )
    assert has_lora(second.language) and second.config.language.lora.r == 4
    before = dict(merged.named_parameters())
    for name, weight in second.named_parameters():
        if name.startswith("language.") and ".lora_" not in name:
            assert torch.equal(weight, before[without_peft(name)]), name
    learned = [w for name, w in second.named_parameters() if "lora_B" in name]
    assert learned and all(float(w.detach().abs().max()) > 0 for w in learned)
    projector = second.visual_projector.mlp.mlp[0].weight
    assert not torch.equal(projector, merged.visual_projector.mlp.mlp[0].weight)
    for said in ("/merged`; bases: none", "## Before that", "### Merged adapters"):
        assert said in second.card
