"""Long work, told of in words with the time that is left: for `gr.Progress`."""

from collections.abc import Callable
from time import monotonic

import gradio as gr

Told = Callable[[str, float, float], None]  # what is being done, how much is done, of how much
BAR = gr.Progress()  # the default of a handler, by which Gradio knows who wants one
SURE_S = 1.0  # sooner, nothing is said of the time that is left


def silent(what: str, done: float, total: float) -> None:
    """Tell nobody."""


def teller(progress: gr.Progress) -> Told:
    """Make what long work calls; the bar shows the share, the words the time that is left."""
    began: dict[str, float] = {}

    def tell(what: str, done: float, total: float) -> None:
        spent = monotonic() - began.setdefault(what, monotonic())
        left = ""
        if spent > SURE_S and 0 < done < total:
            left = f", about {spent * (total - done) / done:.0f} s left"
        progress(done / total if total else None, desc=f"{what}{left}")

    return tell
