"""How far something has come: a bar with the time left, on a terminal."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm import tqdm


@contextmanager
def bar(what: str) -> Iterator[Callable[[int, int], None]]:
    """Give what is told how much is done, of how much; elsewhere than on a terminal it is still."""
    with tqdm(desc=what, disable=not sys.stderr.isatty()) as shown:

        def told(done: int, of: int) -> None:
            if not shown.n:
                shown.initial = done  # what is there already took no time now
            shown.total = of
            shown.update(done - shown.n)

        yield told
