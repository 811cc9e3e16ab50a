"""What of a model is here and what is to be fetched, with sizes: known before anything is.

Enters: the name of a part. Leaves: a `Source`, its files with their bytes. The Hub is asked only
for what is not here, with a short time-out; what it does not answer comes from `published.py`, or
is not known.
"""

import json
import os
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from huggingface_hub import constants, get_token, try_to_load_from_cache
from huggingface_hub.errors import HFValidationError

from avchat.config import CONFIG_FILE, ModelError
from avchat.published import PUBLISHED, WHISPER
from avchat.weight_files import INDEX, SAFE_FILE, TORCH_FILE, weight_files

TIMEOUT_S = 3.0  # for one small answer of the Hub
# of Bunny's repositories that hold no whole model
ALONE = (
    "adapter_model.safetensors",
    "adapter_model.bin",
    "non_lora_trainables.bin",
    "mm_projector.bin",
)
TOKENS = ("tokenizer", "vocab", "merges", "special_tokens", "added_tokens", "generation_config")


class File(NamedTuple):
    """A file of a source; `size` in bytes, None where nobody says."""

    name: str
    size: int | None
    here: bool


@dataclass(frozen=True)
class Source:
    """One repository, folder or file that a model is loaded from."""

    part: str  # what it brings: model, vision, audio, language
    name: str
    files: tuple[File, ...]  # none: what it holds is not known
    known: str  # who says so: here, the Hub, avchat's table, nobody
    get: str  # how to get it by hand
    note: str = ""
    unreachable: bool = False  # it cannot be fetched now, as far as this machine can tell
    folder: Path | None = None  # where the weights lie, in a form that weight_files.py checks

    @property
    def here(self) -> bool:
        """Say whether nothing is to be fetched."""
        return self.known == "here" or (bool(self.files) and all(f.here for f in self.files))

    @property
    def size(self) -> int | None:
        """Return the bytes of all files, None where one is not known."""
        return _total([file.size for file in self.files])

    @property
    def missing(self) -> int | None:
        """Return the bytes that are to be fetched, None where they are not known."""
        return _total([file.size for file in self.files if not file.here])


def _total(sizes: list[int | None]) -> int | None:
    known = [size for size in sizes if size is not None]
    return sum(known) if len(known) == len(sizes) else None


class Answer(NamedTuple):
    """What the Hub says of a repository: bytes by file name; or why it says nothing."""

    files: dict[str, int | None] | None
    silence: str = ""
    down: bool = False  # it cannot be reached at all, rather than being slow or at fault
    gated: bool = False


def ask_hub(name: str, revision: str | None = None) -> Answer:
    """Ask the Hub for a repository's files.

    Raises:
        ModelError: there is no such repository, or this user may not see it.
    """
    if name.count("/") > 1 or name.startswith((".", "/")):
        return Answer(None, "it is no folder, and no name on the Hub")
    if constants.HF_HUB_OFFLINE:
        return Answer(None, "HF_HUB_OFFLINE is set", down=True)
    at = f"/revision/{quote(revision, safe='')}" if revision else ""
    url = f"{constants.ENDPOINT}/api/models/{quote(name)}{at}?blobs=true"
    token = get_token()
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        request = urllib.request.Request(url, headers=headers)
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as reply:
            said = json.load(reply)
    except urllib.error.HTTPError as error:
        if error.code in (401, 403, 404):
            raise ModelError(
                f"no model called {name}: not found on the Hub; check its name, or if it is "
                "private: hf auth login"
            ) from error
        return Answer(None, f"the Hub answers with error {error.code}")
    except (OSError, ValueError) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        slow = isinstance(reason, (TimeoutError, ValueError))
        return Answer(None, f"the Hub cannot be reached ({reason})", down=not slow)
    files = {entry["rfilename"]: entry.get("size") for entry in said.get("siblings", [])}
    return Answer(files, gated=bool(said.get("gated")))


def cached_folder(name: str, revision: str | None = None) -> Path | None:
    """Find the folder of a repository in the Hub's cache on this machine, or the folder itself."""
    if Path(name).is_dir():
        return Path(name)
    try:
        found = try_to_load_from_cache(name, CONFIG_FILE, revision=revision)
    except HFValidationError:
        return None
    return Path(found).parent if isinstance(found, str) else None


def base_source(part: str, name: str, revision: str | None = None) -> Source:
    """List what Transformers loads of a base: its weights in one form, tokenizer and config."""
    return _source(part, name, revision, whole=False)


def model_source(name: str) -> Source:
    """List a repository that is fetched whole: a model of avchat's own form, or Bunny's."""
    return _source("model", name, None, whole=True)


def _source(part: str, name: str, revision: str | None, *, whole: bool) -> Source:
    get = f"hf download {name} --local-dir DIR"
    folder = cached_folder(name, revision)
    complete = _files_here(folder) if folder is not None else ()
    if complete or Path(name).is_dir():
        model = any(file.name not in ALONE for file in complete)
        checked = folder if model or _names_weights(folder) else None
        return Source(part, name, complete, "here", get, folder=checked)
    answer = ask_hub(name, revision)
    note = "asks for consent: read its page on the Hub, then hf auth login" if answer.gated else ""
    if answer.files is not None:
        sizes, known = answer.files if whole else _needed(answer.files), "the Hub"
    else:
        sizes = dict(PUBLISHED[name].files) if name in PUBLISHED else {}
        known, note = "avchat's table" if sizes else "nobody", answer.silence
    files = [File(n, size, _is_cached(name, n, revision)) for n, size in sizes.items()]
    return Source(part, name, tuple(files), known, get, note, answer.down)


def _files_here(folder: Path) -> tuple[File, ...]:
    """List the weights in a folder where they are all there, else nothing."""
    alone = [folder / name for name in ALONE if (folder / name).is_file()]
    try:
        paths = weight_files(folder)
    except ModelError:
        paths = alone
    return tuple(File(path.name, path.stat().st_size, True) for path in paths)


def _names_weights(folder: Path) -> bool:
    """Say whether a folder has an index: then a file that it names is missing."""
    return any((folder / (name + INDEX)).is_file() for name in (SAFE_FILE, TORCH_FILE))


def _needed(files: dict[str, int | None]) -> dict[str, int | None]:
    """Pick what Transformers fetches: safetensors before pickles, in the top folder."""
    top = {name: size for name, size in files.items() if "/" not in name}
    safe = SAFE_FILE in top or SAFE_FILE + INDEX in top
    stem, kind = ("model", ".safetensors") if safe else (TORCH_FILE.removesuffix(".bin"), ".bin")
    return {
        name: size
        for name, size in top.items()
        if (name.startswith(stem) and (name.endswith(kind) or name.endswith(kind + INDEX)))
        or name == CONFIG_FILE
        or name.startswith(TOKENS)
    }


def _is_cached(name: str, file: str, revision: str | None) -> bool:
    return isinstance(try_to_load_from_cache(name, file, revision=revision), str)


def whisper_source(name: str) -> Source:
    """List the one file that openai-whisper fetches for a name, or reads."""
    if Path(name).is_file():
        file = File(Path(name).name, Path(name).stat().st_size, True)
        return Source("audio", name, (file,), "here", "")
    if Path(name).is_dir() or name.count("/") == 1:  # in Transformers' form
        return base_source("audio", name)
    home = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "whisper"
    if name not in WHISPER:
        return Source("audio", f"whisper {name}", (), "nobody", "")
    known = WHISPER[name]
    path = home / known.file
    here = path.is_file()
    file = File(known.file, path.stat().st_size if here else known.size, here)
    get = f"copy {known.file} into {home}"
    return Source("audio", f"whisper {name}", (file,), "here" if here else "avchat's table", get)
