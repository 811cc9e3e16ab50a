"""avchat import: the same tensors in our form, or nothing at all."""

import json
import shutil
from pathlib import Path

import public
import pytest
import torch
from public import our_logits, still
from small import build_model

from avchat.bases import given_ears
from avchat.cli import main
from avchat.config import ConfigError, ModelError
from avchat.importing import import_model
from avchat.model import AVChat
from avchat.trainable import Trainable, choose
from avchat.weight_files import read_file


@pytest.fixture(scope="module")
def bunny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return public.write_merged(tmp_path_factory.mktemp("hub") / "Bunny-v1_0-3B", public.merged())


@pytest.mark.slow
def test_an_imported_model_says_the_same(
    bunny: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    target = tmp_path / "ours"
    assert main(["import", str(bunny), str(target), "--json"]) == 0
    done = json.loads(capsys.readouterr().out)
    assert done["tensors"] == 877 and not done["hears"] and done["bases"] == []
    assert "26 layers of siglip-so400m-patch14-384 stored" in done["found"][0]
    stored = read_file(target / "model.safetensors")
    assert {weight.dtype for weight in stored.values()} == {torch.float16}
    theirs, ours = AVChat.from_pretrained(bunny), AVChat.from_pretrained(target)
    assert torch.equal(our_logits(ours, still()), our_logits(theirs, still()))
    assert "Imported" in ours.card and ours.config.name == "Bunny-v1_0-3B"
    # it is one of ours: saved again it is the same, and no longer to be imported
    ours.save_pretrained(tmp_path / "again")
    again = AVChat.from_pretrained(tmp_path / "again")
    assert torch.equal(our_logits(again, still()), our_logits(theirs, still()))
    assert main(["import", str(target), str(tmp_path / "twice")]) == 2
    assert "in avchat's form already" in capsys.readouterr().err


def test_nothing_is_left_where_an_import_fails(bunny: Path, tmp_path: Path) -> None:
    folder = tmp_path / "damaged"
    shutil.copytree(bunny, folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_text("{")
    with pytest.raises(ModelError, match="tokenizer could not be loaded"):
        import_model(str(folder), tmp_path / "out")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    with pytest.raises(ModelError, match="there is something already"):
        import_model(str(bunny), tmp_path / "full")
    (tmp_path / "file").touch()
    with pytest.raises(ModelError, match="cannot be written"):
        import_model(str(bunny), tmp_path / "file" / "out")
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"damaged", "full", "file"}


def test_a_model_that_cannot_hear_learns_to(bunny: Path, tmp_path: Path) -> None:
    """Training its audio projector gets Whisper and saves both senses."""
    model = AVChat.from_pretrained(bunny)
    ears = public.small_whisper(tmp_path / "whisper.pt")
    model.config = given_ears("bunny", model.config, str(ears))
    frozen = Trainable(language="frozen", audio_projector="full", visual_projector="frozen")
    [group] = choose(model, frozen)
    assert group["part"] == "audio_projector" and model.config.hears and model.spec.hears
    assert model.audio.width == public.HEARING
    model.save_pretrained(tmp_path / "hearing")
    loaded = AVChat.from_pretrained(tmp_path / "hearing")
    assert loaded.config.hears
    with pytest.raises(ConfigError, match="hears already"):
        given_ears("it", loaded.config, str(ears))
    name = "mlp.mlp.0.weight"
    ours, theirs = (m.audio_projector.state_dict()[name] for m in (model, loaded))
    assert torch.equal(ours, theirs)


def test_a_model_of_ours_is_not_imported(tmp_path: Path) -> None:
    build_model().save_pretrained(tmp_path / "ours")
    with pytest.raises(ModelError, match="copy the folder"):
        import_model(str(tmp_path / "ours"), tmp_path / "other")
