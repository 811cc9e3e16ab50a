"""Transformers' notes that alarm for nothing, kept back while something of ours is loaded."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from transformers.utils import logging


@contextmanager
def quiet() -> Iterator[None]:
    """Let Transformers speak of errors alone: it lists each weight that is left out on purpose, and
    warns of model types that only avchat knows. Its bars are for terminals.
    """
    told, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    if not sys.stderr.isatty():
        logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(told)
        if bars:
            logging.enable_progress_bar()
