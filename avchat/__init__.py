"""Ask a video: answers grounded in what was seen and what was heard."""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"  # as in pyproject.toml; a Space runs this folder without installing it
__all__ = ["AVChat", "Conversation", "__version__"]

_HOMES = {"AVChat": "avchat.model", "Conversation": "avchat.chat"}


def __getattr__(name: str) -> Any:
    """Import the two classes on first use: `import avchat` alone must not load torch."""
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'avchat' has no attribute {name!r}")
