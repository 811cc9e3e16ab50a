"""Published files of weights: sharded, pickled, half here, damaged."""

import json
import random
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from avchat.config import ModelError
from avchat.weight_files import check_whole, read_file, read_header, read_tensors, weight_files

TENSORS = {
    "model.embed.weight": torch.arange(12.0).reshape(3, 4),
    "model.layer.weight": torch.arange(8, dtype=torch.float16),
    "head.bias": torch.tensor([1, 2, 3], dtype=torch.bfloat16),
}


def write_shards(folder: Path, kind: str = "safetensors") -> list[Path]:
    """Write the tensors as a repository with two files and an index does."""
    folder.mkdir(exist_ok=True)
    stem = "model" if kind == "safetensors" else "pytorch_model"
    names = [f"{stem}-0000{i}-of-00002.{kind}" for i in (1, 2)]
    parts: list[dict[str, Tensor]] = [{}, {}]
    weight_map = {}
    for number, (name, tensor) in enumerate(TENSORS.items()):
        parts[number % 2][name] = tensor
        weight_map[name] = names[number % 2]
    for name, part in zip(names, parts, strict=True):
        save_file(part, folder / name) if kind == "safetensors" else torch.save(part, folder / name)
    index = {"metadata": {"total_size": 70}, "weight_map": weight_map}
    (folder / f"{stem}.{kind}.index.json").write_text(json.dumps(index))
    return [folder / name for name in names]


def same(found: dict[str, Tensor]) -> bool:
    """Compare with the tensors that were written, to the bit and the dtype."""
    return found.keys() == TENSORS.keys() and all(
        found[name].dtype == tensor.dtype and torch.equal(found[name], tensor)
        for name, tensor in TENSORS.items()
    )


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_one_file_and_many_give_the_same_tensors(tmp_path: Path, kind: str) -> None:
    shards = write_shards(tmp_path / "many", kind)
    assert weight_files(tmp_path / "many") == shards
    (tmp_path / "one").mkdir()
    if kind == "safetensors":
        save_file(TENSORS, tmp_path / "one/model.safetensors")
    else:
        torch.save(TENSORS, tmp_path / "one/pytorch_model.bin")
    for folder in (tmp_path / "one", tmp_path / "many"):
        check_whole(folder)
        assert same(read_tensors(folder))


def test_a_header_tells_shapes_without_the_values(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "model.safetensors")
    held = read_header(tmp_path / "model.safetensors")
    assert {n: (t.shape, t.count) for n, t in held.items()} == {
        name: (tuple(tensor.shape), tensor.numel()) for name, tensor in TENSORS.items()
    }
    assert held["head.bias"].dtype == "BF16"


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    shards = write_shards(tmp_path)
    shards[1].unlink()
    with pytest.raises(ModelError, match=r"00002-of-00002.*missing.*1 of 2 files.*download") as e:
        check_whole(tmp_path)
    assert "stopped" not in str(e.value)
    marks = tmp_path / ".cache/huggingface/download"
    marks.mkdir(parents=True)
    (marks / "abc.incomplete").write_bytes(b"half")
    with pytest.raises(ModelError, match="was stopped before its end"):
        check_whole(tmp_path)
    shards[0].unlink()
    for index in tmp_path.glob("*.index.json"):
        index.unlink()
    with pytest.raises(ModelError, match=r"no weights here .*stopped before its end"):
        read_tensors(tmp_path)


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_an_index_that_lies_is_refused(tmp_path: Path, kind: str) -> None:
    shards = write_shards(tmp_path, kind)
    [index] = tmp_path.glob("*.index.json")
    weight_map = json.loads(index.read_text())["weight_map"]
    if kind == "safetensors":  # what a pickle holds is not known before it is read
        index.write_text(json.dumps({"weight_map": {**weight_map, "ghost": shards[0].name}}))
        with pytest.raises(ModelError, match="00001-of-00002.*: ghost is not in it"):
            check_whole(tmp_path)
    index.write_text(json.dumps({"weight_map": {"a": f"../{shards[0].name}"}}))
    with pytest.raises(ModelError, match="outside of its folder"):
        check_whole(tmp_path)
    for text in ("{", "[]", '{"weight_map": 3}', "{}"):
        index.write_text(text)
        with pytest.raises(ModelError, match="not an index of weights"):
            weight_files(tmp_path)


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_a_file_that_is_cut_off_anywhere_is_refused(tmp_path: Path, kind: str) -> None:
    path = write_shards(tmp_path, kind)[0]
    whole = path.read_bytes()
    for length in (0, 1, 7, 8, 9, 40, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(ModelError) as error:
            read_tensors(tmp_path)
        assert str(error.value).startswith(str(path)) and "\n" not in str(error.value)
    if kind == "safetensors":
        path.write_bytes(whole + b"!")
        with pytest.raises(ModelError, match=f"{len(whole) + 1} bytes of {len(whole)}.*download"):
            check_whole(tmp_path)


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_damaged_bytes_never_end_in_anything_but_our_error(tmp_path: Path, kind: str) -> None:
    """Bytes in the header, or anywhere: a line of ours, or tensors; never another exception."""
    path = write_shards(tmp_path, kind)[0]
    whole, draw, refused = path.read_bytes(), random.Random(0), 0
    for _ in range(300):
        damaged = bytearray(whole)
        for _ in range(draw.randint(1, 8)):
            damaged[draw.randrange(len(whole))] = draw.randrange(256)
        path.write_bytes(bytes(damaged))
        try:
            read_file(path)
        except ModelError as error:
            assert str(path) in str(error)
            refused += 1
    assert refused > 60  # many a byte is a value, whose damage nobody can see


class Evil:
    """A pickle of this would call a function when it is read."""

    def __reduce__(self) -> tuple:
        return (print, ("code of a stranger runs",))


def test_a_pickle_that_holds_code_is_not_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "pytorch_model.bin"
    for zipped in (True, False):
        torch.save({"a": Evil()}, path, _use_new_zipfile_serialization=zipped)
        with pytest.raises(ModelError, match="could run code; it is not loaded"):
            read_tensors(tmp_path)
    torch.save([torch.zeros(1)], path)
    with pytest.raises(ModelError, match="not a dict of tensors"):
        read_tensors(tmp_path)
    assert not capsys.readouterr().out


def test_what_git_left_in_place_of_a_large_file_is_told(tmp_path: Path) -> None:
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 4990950824\n"
    for name in ("model.safetensors", "pytorch_model.bin"):
        (tmp_path / name).write_text(pointer)
        with pytest.raises(ModelError, match=f"{name}: a pointer of git-lfs.*git lfs pull"):
            check_whole(tmp_path)
        (tmp_path / name).unlink()


def test_a_name_in_two_files_is_refused(tmp_path: Path) -> None:
    shards = write_shards(tmp_path)
    save_file(TENSORS, shards[1])
    with pytest.raises(ModelError, match="is in another file of the folder too"):
        read_tensors(tmp_path)
