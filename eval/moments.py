"""Measure `avchat moments`: a film of world clips, one after the other, is asked for each of some.

    python eval/moments.py --model tiny --queries 50

Each query is a caption that is true of one clip of the film alone. It is found when one of the
first `--top` spans lies mostly within that clip, or covers most of it.
"""

import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import numpy as np
from tqdm import tqdm

from avchat.embedded import EmbeddedFile
from avchat.evaluation.costs import RENDER, Cost
from avchat.evaluation.items import EvalError
from avchat.evaluation.records import Row
from avchat.evaluation.report import json_of
from avchat.evaluation.tables import cost_line
from avchat.heads import load_head
from avchat.metrics import interval_of
from avchat.moments import Span, moments
from avchat.script import run_script
from avchat.world.captions import draw_gallery
from avchat.world.clip_file import write_film
from avchat.world.scenes import DURATION_S


@dataclass(frozen=True)
class FilmMoments:
    """Measure how often the right seconds of a film are found."""

    model: str = "tiny"
    """The bundled head (tiny) or the folder of one."""
    clips: int = 150
    """Length of the film, in clips of 4 s."""
    queries: int = 50
    top: int = 3
    seed: int = 1
    once: bool = False
    """Look through the film once for all queries, as the app does, and not for each anew, coarse
    then fine, as `avchat moments` does: the same spans (tests/test_embedded.py), many times faster.
    """
    json: bool = False
    """Print one JSON object and nothing else."""


def main(run: FilmMoments) -> None:
    """Make the film, ask, print."""
    check(run)
    head = load_head(run.model)
    gallery = draw_gallery(run.seed, run.clips)
    asked = np.random.default_rng(run.seed).permutation(run.clips)[: run.queries]
    found, firsts, spent, cost = [], [], [], Cost(clips=run.clips)
    with tempfile.TemporaryDirectory() as folder:
        film = Path(folder) / "film.mp4"
        with cost.timed(RENDER):
            write_film([scene for scene, _ in gallery], film)
        known = EmbeddedFile(head, film) if run.once else None
        if known is not None:
            with cost.timed("embed"):
                list(known.embed())
        for place in tqdm(asked, desc="moments", disable=not sys.stderr.isatty()):
            began, text = perf_counter(), gallery[place][1].text
            if known is None:
                spans = moments(head, film, text, top=run.top).spans
            else:
                spans = known.find(known.curve(head.texts([text])[0]), top=run.top).spans
            spent.append(perf_counter() - began)
            cost.add("search", spent[-1])
            right = [is_at(span, DURATION_S * place, DURATION_S * (place + 1)) for span in spans]
            found.append(any(right))
            firsts.append(any(right[:1]))
    interval = interval_of(
        lambda x: float(x.mean()), np.array(found), list(map(str, asked)), draws=1000, seed=0
    )
    report = {
        "model": run.model,
        "film_s": run.clips * DURATION_S,
        "queries": len(found),
        f"in_top_{run.top}": float(np.mean(found)),
        "interval": interval,
        "first": float(np.mean(firsts)),
        "seconds_a_query": float(np.median(spent)),
        "cost": cost.found(),
    }
    print(json_of(report) if run.json else table(report))


def check(run: FilmMoments) -> None:
    """Raise EvalError for a film or a search that cannot be."""
    for name in ("clips", "queries", "top"):
        if getattr(run, name) < 1:
            raise EvalError(f"--{name} must be at least 1, not {getattr(run, name)}")
    if run.seed < 0:
        raise EvalError(f"--seed must be 0 or more, not {run.seed}")


def is_at(span: Span, start_s: float, end_s: float) -> bool:
    """Tell whether a span and a clip share more than half of the shorter of the two."""
    shared = min(span.end, end_s) - max(span.start, start_s)
    return shared > min(span.end - span.start, end_s - start_s) / 2


def table(report: Row) -> str:
    """Lay the report out for reading."""
    lines = [f"{name:18s} {value}" for name, value in report.items() if name != "cost"]
    return "\n".join([*lines, cost_line(report)])


if __name__ == "__main__":
    run_script(main, FilmMoments, __doc__)
