"""Public checkpoints that are not whole, or of another kind: one line that names what is wrong."""

import json
import pickle
import shutil
from pathlib import Path

import public
import pytest
import torch
from public import WIDTH, Weights, hearing, write_adapters
from safetensors.torch import load_file, save_file

from avchat.checkpoints import read_checkpoint
from avchat.config import ModelError
from avchat.model import AVChat


@pytest.fixture(scope="module")
def weights() -> Weights:
    return public.merged()


@pytest.fixture(scope="module")
def bunny(weights: Weights, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return public.write_merged(tmp_path_factory.mktemp("hub") / "Bunny-v1_0-3B", weights)


@pytest.fixture(scope="module")
def stock(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Weights]:
    return public.write_bases(tmp_path_factory.mktemp("stock"))


def small(folder: Path, bunny: Path, **changes: object) -> Path:
    """Copy a checkpoint with another config.json."""
    shutil.copytree(bunny, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))
    return folder


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model_type": "llava"}, "a model of type llava; known are avchat and bunny-phi"),
        ({"mm_projector_type": "linear"}, "projector linear"),
        ({"mm_vision_tower": "openai/clip-vit-large-patch14"}, "vision tower clip-vit-large"),
        ({"use_s2": True}, r"several sizes \(S2\)"),
        ({"hidden_size": 32}, "of another shape"),
        ({"num_hidden_layers": "many"}, "not Bunny's"),
        ({"num_attention_heads": 0}, "Bunny's|heads"),
        ({"partial_rotary_factor": 5}, "partial_rotary_factor must be"),
    ],
)
def test_another_architecture_is_one_line(
    changes: dict, words: str, bunny: Path, tmp_path: Path
) -> None:
    folder = small(tmp_path / "other", bunny, **changes)
    with pytest.raises(ModelError, match=words) as caught:
        AVChat.from_pretrained(folder)
    assert "\n" not in str(caught.value) and str(folder) in str(caught.value)


def test_every_tensor_that_is_missing_or_left_over_is_named(
    weights: Weights, tmp_path: Path
) -> None:
    wrong = {**weights, "model.resampler.query": torch.zeros(4, 4)}
    wrong |= {"model.layers.3.self_attn.Wqkv.weight": torch.zeros(96, WIDTH)}
    gone = ["model.layers.3.self_attn.q_proj.weight", f"{public.TOWER}post_layernorm.bias"]
    for name in gone:
        del wrong[name]
    wrong["model.mm_projector.2.bias"] = torch.zeros(WIDTH + 1)
    folder = public.write_merged(tmp_path / "wrong", wrong)
    with pytest.raises(ModelError) as caught:
        read_checkpoint(folder)
    told = str(caught.value)
    assert all(name in told for name in gone) and "2 missing" in told
    assert "model.resampler.query" in told and "2 left over" in told
    assert "model.mm_projector.2.bias is 65, not 64" in told
    assert "fused" in told


def test_two_audio_projectors_are_left_over_rather_than_guessed(
    weights: Weights, tmp_path: Path
) -> None:
    twice = {name.replace("hearing", "other"): weight for name, weight in hearing().items()}
    folder = public.write_merged(tmp_path / "two", {**weights, **hearing(), **twice})
    with pytest.raises(ModelError, match="8 left over"):
        read_checkpoint(folder)


def test_an_audio_projector_of_no_whispers_width_is_refused(
    weights: Weights, tmp_path: Path
) -> None:
    folder = public.write_merged(tmp_path / "odd", {**weights, **hearing(24)})
    with pytest.raises(ModelError, match="width 24: no Whisper is as wide"):
        read_checkpoint(folder)


def test_settings_that_cannot_be_read_are_one_line(
    stock: tuple[Path, Path, Weights], bunny: Path, tmp_path: Path
) -> None:
    write_adapters(tmp_path / "lora", stock[0], stock[1])
    (tmp_path / "lora" / "adapter_config.json").write_text('{"r": ')
    with pytest.raises(ModelError, match="adapter_config.json: not readable"):
        read_checkpoint(tmp_path / "lora")
    folder = small(tmp_path / "list", bunny)
    (folder / "config.json").write_text("[]")
    with pytest.raises(ModelError, match="config.json: not a configuration"):
        read_checkpoint(folder)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"r": 8}, "lora_A.weight is 4 x 64, not 8 x 64"),
        ({"use_dora": True}, "use_dora, which is not known"),
        ({"bias": "all"}, "train biases"),
        ({"base_model_name_or_path": "/home/them/tuned-phi"}, "/home/them/tuned-phi, is not here"),
    ],
    ids=str,
)
def test_adapters_of_another_kind_are_refused(
    changes: dict, words: str, stock: tuple[Path, Path, Weights], tmp_path: Path
) -> None:
    write_adapters(tmp_path / "lora", stock[0], stock[1])
    path = tmp_path / "lora" / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(ModelError, match=words):
        read_checkpoint(tmp_path / "lora")


def test_a_base_on_the_authors_machine_is_known_by_its_name(
    stock: tuple[Path, Path, Weights], tmp_path: Path
) -> None:
    write_adapters(tmp_path / "lora", Path("/home/them/phi-2"), stock[1])
    assert read_checkpoint(tmp_path / "lora").config.language.hub == "microsoft/phi-2"


@pytest.mark.parametrize("text", ["", '{"a": 1}'])
def test_a_tokenizer_that_is_not_whole_is_one_line(text: str, bunny: Path, tmp_path: Path) -> None:
    folder = small(tmp_path / "words", bunny)
    for path in folder.glob("*token*"):
        path.unlink()
    if text:
        (folder / "tokenizer.json").write_text(text)
    with pytest.raises(ModelError, match="its tokenizer cannot be loaded") as caught:
        AVChat.from_pretrained(folder)
    assert "\n" not in str(caught.value)


def test_a_projector_beside_a_whole_model_is_not_taken_for_it(bunny: Path, tmp_path: Path) -> None:
    folder = small(tmp_path / "both", bunny)
    torch.save(public.projector("model.mm_projector."), folder / "mm_projector.bin")
    assert len(read_checkpoint(folder).names) == 877


@pytest.mark.parametrize("fault", ["shard missing", "cut off", "header", "adapter layer"])
def test_a_damaged_folder_names_its_file(
    fault: str, bunny: Path, stock: tuple[Path, Path, Weights], tmp_path: Path
) -> None:
    folder = tmp_path / "copy"
    if fault == "adapter layer":
        write_adapters(folder, stock[0], stock[1])
        path = folder / "adapter_model.safetensors"
        kept = {n: w for n, w in load_file(path).items() if "layers.7.mlp.fc1" not in n}
        save_file(kept, path)
        words = "layers.7.mlp.fc1.lora_A.weight"
    else:
        shutil.copytree(bunny, folder)
        path = folder / "model-00002-of-00002.safetensors"
        words = path.name
        if fault == "shard missing":
            path.unlink()
        elif fault == "cut off":
            path.write_bytes(path.read_bytes()[:-1000])
        else:
            path.write_bytes(b"\xff" * 8 + path.read_bytes()[8:])
    with pytest.raises(ModelError) as caught:
        AVChat.from_pretrained(folder)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_torch_pickles_are_read_without_running_them(
    weights: Weights, bunny: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "pickles"
    shutil.copytree(bunny, folder, ignore=shutil.ignore_patterns("*.safetensors*"))
    half = {name: weight.half() for name, weight in weights.items()}
    torch.save(half, folder / "pytorch_model.bin")
    loaded = read_checkpoint(folder).weights()
    expected = read_checkpoint(bunny).weights()
    assert loaded.keys() == expected.keys()
    assert all(torch.equal(loaded[name], expected[name]) for name in loaded)

    class Harmful:
        def __reduce__(self) -> tuple:
            return Path.touch, (tmp_path / "was run",)

    with (folder / "pytorch_model.bin").open("wb") as file:
        pickle.dump({"model.embed_tokens.weight": Harmful()}, file)
    with pytest.raises(ModelError, match="could run code"):
        read_checkpoint(folder)
    assert not (tmp_path / "was run").exists()
