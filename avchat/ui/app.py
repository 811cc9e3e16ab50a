"""What the parts of the page share: settings, models, people, example clips, the library."""

from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock

from avchat.app_settings import Settings
from avchat.ui.engine import Engine
from avchat.ui.visitors import Visitors


@dataclass(frozen=True)
class Example:
    """A clip to try, what its button says, and a picture from its middle as a thumbnail."""

    path: Path
    label: str
    thumbnail: Path
    question: str  # that fits it
    sought: str = ""  # what is to be found in it, of a film


@dataclass
class App:
    """One running app."""

    settings: Settings
    engine: Engine
    visitors: Visitors
    examples: list[Example]
    home: Path  # of example clips and of the app's own library
    changing: Lock = field(default_factory=Lock)  # held by whoever changes the library

    @property
    def library_uri(self) -> str:
        """Say where the library is that the page shows."""
        chosen = self.settings.library
        return str(self.home / "library" if chosen is None else chosen)

    @property
    def added(self) -> Path:
        """Say where files lie that people add to the library by uploading them."""
        return self.home.with_name("added")
