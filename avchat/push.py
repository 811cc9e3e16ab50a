"""A saved model's folder -> a repository of the Hugging Face Hub, as it is.

Enters: a folder that `save_pretrained` wrote and the repository's name. Leaves: what was uploaded.
"""

from pathlib import Path

from huggingface_hub import HfApi, get_token

# HTTPError: httpx's in version 1 of the Hub's client, httpx2's in version 2
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, HTTPError
from huggingface_hub.utils import validate_repo_id

from avchat.config import CONFIG_FILE, Config, ModelError
from avchat.saved import LANGUAGE_FOLDER, WEIGHTS_FILE

IGNORED = [".git/*", ".cache/*"]  # as the Hub's own client leaves out


class PushError(ModelError):
    """A model that cannot be uploaded; one line in the user's words."""


def check_model(folder: Path) -> Config:
    """Read a saved model's config.

    Raises:
        PushError: the folder is none of a model; where one lies below it, it is named.
    """
    if not (folder / CONFIG_FILE).is_file() or not (folder / WEIGHTS_FILE).is_file():
        below = [path for path in ("model", "best") if (folder / path / CONFIG_FILE).is_file()]
        hint = f": {folder / below[0]} is one" if below else ""
        raise PushError(
            f"{folder}: not the folder of a model, which has {CONFIG_FILE} and {WEIGHTS_FILE}{hint}"
        )
    return Config.load(folder)


def files_of(folder: Path) -> dict[str, int]:
    """List what would be uploaded: paths inside the folder, with their sizes in bytes."""
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    names = {path.relative_to(folder).as_posix(): path.stat().st_size for path in found}
    hidden = tuple(pattern.removesuffix("*") for pattern in IGNORED)
    return {name: size for name, size in names.items() if not name.startswith(hidden)}


def left_behind(folder: Path, config: Config) -> list[str]:
    """Name the bases that lie on this machine alone, without which nobody else can load a model."""
    parts = [config.vision.hub, config.audio.hub]
    if not (folder / LANGUAGE_FOLDER).is_dir():
        parts.append(config.language.hub)
    return [hub for hub in parts if hub is not None and Path(hub).exists()]


def check_name(repo_id: str) -> None:
    """Raise PushError where a name cannot be a repository's."""
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        reason = " ".join(str(error).split())
        raise PushError(
            f"{repo_id}: not a repository's name, such as me/my-model ({reason})"
        ) from (error)


def push(folder: Path, repo_id: str, *, private: bool = True) -> str:
    """Upload a saved model as it is, in one commit; return its address.

    Args: private: of a repository that is new; one that exists stays as it is.

    Raises:
        PushError: it is no model, the name is none, there is no token, or the Hub cannot be
        reached or refuses.
    """
    check_model(folder)
    check_name(repo_id)
    if get_token() is None:
        raise PushError(f"{repo_id}: no token for the Hub: run `hf auth login`, or set HF_TOKEN")
    api = HfApi()
    try:
        address = api.create_repo(repo_id, private=private, exist_ok=True)
        api.upload_folder(
            repo_id=address.repo_id,
            folder_path=folder,
            ignore_patterns=IGNORED,
            commit_message="Upload an avchat model",
        )
    except HfHubHTTPError as error:
        raise PushError(f"{repo_id}: the Hub refused ({_first_line(error)})") from error
    except (HTTPError, OSError, ValueError) as error:  # ValueError: a card it cannot read
        raise PushError(f"{repo_id}: not uploaded ({_first_line(error)})") from error
    return str(address)


def _first_line(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
