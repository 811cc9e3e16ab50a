"""Ask a video: answers grounded in what was seen and what was heard."""

from importlib import import_module
from importlib.metadata import version
from typing import Any

__version__ = version("avchat")
__all__ = ["AVChat", "Conversation", "__version__"]

_HOMES = {"AVChat": "avchat.model", "Conversation": "avchat.chat"}


def __getattr__(name: str) -> Any:
    """Import the two classes when they are first used: `import avchat` alone must not load torch."""
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'avchat' has no attribute {name!r}")
