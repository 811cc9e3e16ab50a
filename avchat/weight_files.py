"""Files of weights as they are published: one or many, safetensors or torch pickles.

Enters: a folder, or a file. Leaves: tensors by name; or ModelError, a line that names the file and
what to do. Nothing of what a file holds is run.
"""

import json
import math
import pickle
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from avchat.config import ModelError

SAFE_FILE, TORCH_FILE = "model.safetensors", "pytorch_model.bin"
INDEX = ".index.json"  # after either name: which file holds which tensor
AGAIN = "download or copy it again"
POINTER = b"version https://git-lfs"  # how git keeps a large file that it did not fetch
# what torch and safetensors raise on damaged bytes (measured: 3000 random damages of each form)
UNREADABLE = (
    OSError,
    SafetensorError,
    RuntimeError,
    EOFError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    AssertionError,
    OverflowError,
)
ZIP_START, ZIP_END = b"PK\x03\x04", b"PK\x05\x06"  # torch's pickles are zip archives since 1.6
ZIP_TAIL = 22 + 2**16  # bytes: an archive's last record and the longest comment after it
MAX_HEADER = 100_000_000  # bytes: what the safetensors library itself refuses to go past
ITEM_BYTES = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0"), 1),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 2),
    **dict.fromkeys(("U32", "I32", "F32"), 4),
    **dict.fromkeys(("U64", "I64", "F64"), 8),
}


class Stored(NamedTuple):
    """A tensor in a safetensors file: its dtype as the format spells it, and its shape."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def count(self) -> int:
        """Return the number of values."""
        return math.prod(self.shape)


def weight_files(folder: Path) -> list[Path]:
    """List the files that hold a folder's weights, safetensors before pickles, in index order.

    Raises:
        ModelError: there are none, or an index names one that is not here.
    """
    for name in (SAFE_FILE, TORCH_FILE):
        if (folder / (name + INDEX)).is_file():
            return _shards(folder, folder / (name + INDEX))
        if (folder / name).is_file():
            return [folder / name]
    raise ModelError(
        f"{folder}: no weights here ({SAFE_FILE} or {TORCH_FILE}, or an index of several files)"
        f"{_half_way(folder)}; {AGAIN}"
    )


def _shards(folder: Path, index: Path) -> list[Path]:
    names = list(dict.fromkeys(read_index(index).values()))
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise ModelError(
            f"{folder / missing[0]}: missing, though {index.name} names it ({len(missing)} of "
            f"{len(names)} files are missing{_half_way(folder)}); {AGAIN}"
        )
    return [folder / name for name in names]


def read_index(path: Path) -> dict[str, str]:
    """Read an index: name of a tensor -> name of its file, which lies beside the index.

    Raises:
        ModelError: it is no index, or it names a file elsewhere.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        names = {str(key): str(value) for key, value in found["weight_map"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{path}: not an index of weights ({error}); {AGAIN}") from error
    outside = [name for name in names.values() if Path(name).name != name]
    if outside:
        raise ModelError(f"{path}: names a file outside of its folder ({outside[0]})")
    return names


def _half_way(folder: Path) -> str:
    """Say that a download was stopped, where it left its marks (`hf download --local-dir`)."""
    marks = [*folder.glob("*.incomplete"), *folder.glob(".cache/huggingface/download/*.incomplete")]
    return "; a download into this folder was stopped before its end" if marks else ""


def read_header(path: Path) -> dict[str, Stored]:
    """Read what a safetensors file holds, without its values, and check that it is all there.

    Raises:
        ModelError: the header is damaged, or the file is shorter or longer than it says.
    """
    size, header = _header_of(path)
    try:
        entries = json.loads(header)
        entries.pop("__metadata__", None)
        stored = {name: Stored(e["dtype"], tuple(e["shape"])) for name, e in entries.items()}
        ends = [_end(stored[name], *e["data_offsets"]) for name, e in entries.items()]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ModelError(_damaged(path, "its header cannot be read")) from error
    wanted = 8 + len(header) + max(ends, default=0)
    if size != wanted:
        raise ModelError(_damaged(path, f"{size:,} bytes of {wanted:,}"))
    return stored


def _header_of(path: Path) -> tuple[int, bytes]:
    """Read a file's size and the bytes of its header, which begins with its own length."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(8)
            length = int.from_bytes(start, "little")
            if len(start) == 8 and length <= min(size - 8, MAX_HEADER):
                return size, file.read(length)
    except OSError as error:
        raise ModelError(_damaged(path, f"{error.strerror}{_half_way(path.parent)}")) from error
    _refuse_pointer(path)
    raise ModelError(_damaged(path, f"cut off, or no safetensors file; {size:,} bytes"))


def _refuse_pointer(path: Path) -> bytes:
    """Give how a file begins; ModelError where it only points to the weights, or is not here."""
    try:
        with path.open("rb") as file:
            start = file.read(len(POINTER))
    except OSError as error:
        raise ModelError(_damaged(path, f"{error.strerror}{_half_way(path.parent)}")) from error
    if start == POINTER:
        raise ModelError(f"{path}: a pointer of git-lfs, not the weights; run git lfs pull")
    return start


def _end(tensor: Stored, start: int, end: int) -> int:
    """Give where a tensor ends; ValueError where its shape and its bytes disagree."""
    size = ITEM_BYTES.get(tensor.dtype)  # None: a newer type, which the library knows
    if size is not None and end - start != size * tensor.count:
        raise ValueError("a tensor's shape and its bytes disagree")
    return int(end)


def _damaged(path: Path, why: str) -> str:
    return f"{path}: the weights cannot be read ({why}); {AGAIN}"


def check_whole(folder: Path) -> None:
    """Check a folder's weights without reading their values; all that its index names is there.

    Raises:
        ModelError: a file is missing, cut off or damaged. Of an old pickle (no zip archive) only
        reading it tells.
    """
    held = {path.name: _check_file(path) for path in weight_files(folder)}
    index = next((folder / (n + INDEX) for n in (SAFE_FILE, TORCH_FILE) if n not in held), None)
    names = read_index(index) if index is not None and index.is_file() else {}
    for tensor, name in names.items():
        inside = held[name]
        if inside is not None and tensor not in inside:
            raise ModelError(f"{folder / name}: {tensor} is not in it, though the index says so")


def _check_file(path: Path) -> set[str] | None:
    """Check one file; give the names in it, where they can be known without reading it."""
    if path.suffix == ".safetensors":
        return set(read_header(path))
    start = _refuse_pointer(path)
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - ZIP_TAIL))
        if start.startswith(ZIP_START) and ZIP_END not in file.read():
            raise ModelError(_damaged(path, "cut off"))
    return None


def read_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Read names and shapes in a file of weights; ModelError as from `read_file`."""
    if path.suffix == ".safetensors":
        return {name: stored.shape for name, stored in read_header(path).items()}
    return {name: tuple(tensor.shape) for name, tensor in read_file(path, "meta").items()}


def read_file(path: Path, device: str = "cpu") -> dict[str, Tensor]:
    """Read one file of weights, a safetensors file or a torch pickle.

    Args: device: of a pickle's tensors; "meta" for shapes without values.

    Raises:
        ModelError: it is absent, damaged, or a pickle that holds more than tensors.
    """
    if path.suffix != ".safetensors":
        tensors = read_pickle(path, device)
        if isinstance(tensors, dict) and all(isinstance(t, Tensor) for t in tensors.values()):
            return tensors
        raise ModelError(f"{path}: not a dict of tensors by name")
    _check_file(path)
    try:
        return load_file(path)
    except UNREADABLE as error:
        raise ModelError(_damaged(path, _reason(error))) from error


def read_pickle(path: Path, device: str = "cpu") -> Any:
    """Read a torch pickle without running anything in it.

    Args: device: "meta" for shapes without values.

    Raises:
        ModelError: it is absent, damaged, or holds more than tensors and plain data.
    """
    _check_file(path)
    try:
        return torch.load(path, map_location=device, weights_only=True)
    except pickle.UnpicklingError as error:
        raise ModelError(
            f"{path}: damaged, or holds more than tensors, which could run code; it is not loaded"
        ) from error
    except UNREADABLE as error:
        raise ModelError(_damaged(path, _reason(error))) from error


def _reason(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "it ends too early")


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """Read all of a folder's weights, in the dtypes that they are stored in.

    Raises:
        ModelError: as `check_whole`, or two files hold one name.
    """
    check_whole(folder)
    tensors: dict[str, Tensor] = {}
    for path in weight_files(folder):
        part = read_file(path)
        twice = tensors.keys() & part.keys()
        if twice:
            raise ModelError(f"{path}: {min(twice)} is in another file of the folder too")
        tensors |= part
    return tensors
