"""Transformers' notes that alarm for nothing, kept back while something of ours is loaded."""

from collections.abc import Iterator
from contextlib import contextmanager

from transformers.utils import logging


@contextmanager
def quiet() -> Iterator[None]:
    """Let Transformers speak of errors alone: it lists each weight that is left out on purpose, and
    warns of model types that only avchat knows.
    """
    told = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(told)
