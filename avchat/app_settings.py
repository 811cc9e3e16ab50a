"""What the app may do and how much of it: flags of `avchat demo`, variables of a Space.

Every field is a flag (`--max-minutes 10`) and a variable (`AVCHAT_MAX_MINUTES=10`), so that app.py,
which takes no flags, is set alike. Light: no torch, no Gradio.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

VARIABLE = "AVCHAT_"


class SettingsError(Exception):
    """A setting that makes no sense; the message is one line in the user's words."""


@dataclass(frozen=True)
class Settings:
    """Limits and switches of the app."""

    model: str = "tiny"
    """the bundled tiny, the folder of a checkpoint, or a name on the Hub"""
    head: str = "auto"
    """lookup head: tiny, a folder, none, or auto, the one that comes with the model"""
    whisper: str | None = None
    """also offer transcripts by this Whisper: a published name, such as base, or a .pt file; \
left out, by the model's own where it has a whole one"""
    library: Path | None = None
    """the library that the app shows; left out, one of its own beside the example clips"""
    public: bool = False
    """for strangers: no folders of this machine, nothing in the library is changed. A Space is"""
    url: bool = False
    """also open clips by their address on the web; never from addresses of a private network"""
    max_file_mb: int = 200
    """largest file that is taken, in megabytes"""
    max_minutes: float = 60.0
    """longest clip that is taken, in minutes"""
    queue: int = 32
    """how many requests may wait; a further one is told to come back"""
    per_person: int = 1
    """how many questions or searches of one person run or wait at a time"""
    at_once: int = 4
    """how many answers are written side by side, word by word in turn"""
    keep: int = 16
    """conversations whose keys and values stay in memory; others compute them again"""
    idle_minutes: float = 60.0
    """who does nothing for so long is forgotten, with the clips; who closes the tab, at once"""
    auth: str | None = None
    """name:password that visitors must give; several with commas between them"""
    mcp: bool = True
    """the four MCP tools are served; --no-mcp: they are not"""

    def __post_init__(self) -> None:
        """Raise SettingsError where a number makes no sense."""
        whole = ("max_file_mb", "max_minutes", "queue", "per_person", "at_once", "keep")
        for name in (*whole, "idle_minutes"):
            if not vars(self)[name] > 0:
                raise SettingsError(f"{flag(name)} must be above 0, not {vars(self)[name]}")
        for pair in self.users() or ():
            if not all(pair):
                raise SettingsError(f"{flag('auth')}: write name:password")

    def users(self) -> list[tuple[str, str]] | None:
        """Read who may enter, as names with passwords; None: everyone."""
        if self.auth is None:
            return None
        parted = [pair.partition(":") for pair in self.auth.split(",")]
        return [(name, password) for name, _, password in parted]


def flag(name: str) -> str:
    """Name the flag of a field."""
    return "--" + name.replace("_", "-")


def settings_of(environ: Mapping[str, str] = os.environ) -> Settings:
    """Read settings from variables; on a Space the app is for strangers unless told otherwise.

    Raises SettingsError for a variable that cannot be read.
    """
    given: dict[str, object] = {"public": "SPACE_ID" in environ}
    for field in fields(Settings):
        text = environ.get(VARIABLE + field.name.upper())
        if text is not None:
            given[field.name] = read(field.name, str(field.type), text)
    return Settings(**given)


def read(name: str, kind: str, text: str) -> object:
    """Read the value of a variable."""
    switches = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
    try:
        if kind == "bool" or kind == str(bool):
            return switches[text.lower()]
        if kind in ("int", str(int)):
            return int(text)
        if kind in ("float", str(float)):
            return float(text)
    except (KeyError, ValueError) as error:
        said = f"{VARIABLE}{name.upper()}={text}: cannot be read"
        raise SettingsError(said) from error
    return Path(text) if name == "library" else text
