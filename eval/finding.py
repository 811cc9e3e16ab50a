"""How fast is a library? `python eval/speed.py find`: avchat's find against exact scans.

One table of vectors as wide as the bundled head's is written and indexed as `avchat index` does it,
then asked through `find`, answers with their reasons included. Beside it what is exact: over the
same vectors in memory, faiss's flat index and a NumPy scan; and `find` without its index. Recall@10
counts how many of the exact ten nearest windows are among the ten found. The vectors are made,
since a million clips cannot be rendered here: normal, with the mean and the covariance of the
head's own vectors of some clips. What is alike in a real library lies closer together than that,
and is easier to find.
"""

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
from tqdm import tqdm

from avchat.heads import Head, load_head
from avchat.library import Library
from avchat.library_find import Query, find
from avchat.media import load_media
from avchat.world.casting import draw_kind, draw_scene
from avchat.world.clip_file import write_clip

PIECE = 50_000  # rows written at a time
IN_A_ROW = 50  # queries
WINDOW_S, MOST_S = 8.0, 600.0  # length of a made window, and of the film that it is of


@dataclass(frozen=True)
class FindSpeed:
    """Time of a find in a library of many windows, and how much it finds."""

    vectors: int = 1_000_000
    queries: int = 200
    model: str = "tiny"
    """The head whose vectors are imitated."""
    clips: int = 400
    """Clips of the world from which their mean and covariance are taken."""
    seed: int = 0
    folder: Path | None = None
    """Where the library is made (default: a folder that is removed)."""
    json: bool = False
    """Print one JSON object instead of a table."""


def main(args: FindSpeed) -> None:
    """Make a library, ask it, print a table or JSON."""
    import faiss  # of the dev extra; `speed.py media`, which imports this file, needs it not

    vectors, queries = make_vectors(args)
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        began = time.perf_counter()
        library = write(Path(folder) / "library", vectors)
        written_s = time.perf_counter() - began
        library.tend()
        built_s = time.perf_counter() - began - written_s
        library = Library.open(Path(folder) / "library")

        def by_avchat(query: np.ndarray, exact: bool = False) -> list[int]:
            found = find(library, Query(((query, 1.0),)), top=10, fold=2.0, exact=exact)
            return [int(hit.hash) for hit in found]

        flat = faiss.IndexFlatIP(vectors.shape[1])
        flat.add(vectors)
        ways = {
            "avchat": by_avchat,
            "faiss flat": lambda query: flat.search(query[None], 10)[1][0].tolist(),
            "NumPy scan": lambda query: nearest(vectors, query),
            "no index": partial(by_avchat, exact=True),
        }
        result = measure(ways, queries)
    result |= {"vectors": args.vectors, "width": vectors.shape[1], "written_s": written_s}
    result |= {"index_built_s": built_s}
    print(json.dumps(result) if args.json else table(result))


def make_vectors(args: FindSpeed) -> tuple[np.ndarray, np.ndarray]:
    """Make unit vectors float32 [vectors, D] and queries as the head's of other clips would be."""
    mean, root = shape_of(load_head(args.model), args.clips, args.seed)
    rng = np.random.default_rng(args.seed)
    made = np.empty((args.vectors + args.queries, len(mean)), np.float32)
    for start in range(0, len(made), PIECE):
        part = made[start : start + PIECE]
        part[:] = mean + rng.normal(size=part.shape).astype(np.float32) @ root
        part /= np.linalg.norm(part, axis=1, keepdims=True)
    return made[: args.vectors], made[args.vectors :]


def shape_of(head: Head, clips: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Embed clips of the world; return the mean [D] of their vectors and a root [D, D] of their
    covariance.
    """
    rng = np.random.default_rng([17, seed])
    vectors = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp4"
        for _ in tqdm(range(clips), desc="embed", disable=not sys.stderr.isatty()):
            write_clip(draw_scene(rng, draw_kind(rng)), path)
            media = load_media(path, frames=head.frames, size=head.size)
            vectors.append(head.clips([media])[0].both)
    found = np.stack(vectors)
    sizes, axes = np.linalg.eigh(np.cov(found.T))
    return found.mean(axis=0), (np.sqrt(np.clip(sizes, 0, None))[:, None] * axes.T).astype("f4")


def write(folder: Path, vectors: np.ndarray) -> Library:
    """Write a library in which each vector is the one window of a file."""
    width = vectors.shape[1]
    library = Library.open(folder, head_name="made", fingerprint="made", width=width, create=True)
    schema = library.table.schema
    starts = range(0, len(vectors), PIECE)
    for start in tqdm(starts, desc="write", disable=not sys.stderr.isatty()):
        part = vectors[start : start + PIECE]
        names = [str(start + k) for k in range(len(part))]
        begins = np.arange(len(part)) * WINDOW_S / 2 % MOST_S  # all alike, they would pack oddly
        values = pa.FixedSizeListArray.from_arrays(pa.array(part.ravel()), width)
        columns = {
            "hash": names,
            "path": names,
            "clip": names,
            "both": values,
            "start_s": begins,
            "end_s": begins + WINDOW_S,
            "duration_s": [MOST_S] * len(part),
        }
        empty = {
            field.name: pa.nulls(len(part), field.type)
            for field in schema
            if field.name not in columns
        }
        columns |= empty
        library.table.add(pa.table({n: columns[n] for n in schema.names}, schema=schema))
    return library


def nearest(vectors: np.ndarray, query: np.ndarray) -> list[int]:
    """Scan all vectors for the ten nearest."""
    scores = vectors @ query
    best = np.argpartition(-scores, 10)[:10]
    return best[np.argsort(-scores[best])].tolist()


def measure(ways: dict[str, Callable[[np.ndarray], list[int]]], queries: np.ndarray) -> dict:
    """Ask all ways the same queries, some in a row, in turn; time each and compare what it finds.

    In a row, as a scan of all vectors leaves none of another way's in the processor's cache. The
    first of them are asked twice, since a library reads the cells of its index when they are first
    asked for; what the very first costs is told by itself.
    """
    first = {name: timed(way, queries[0])[0] for name, way in ways.items()}
    for query in queries[:IN_A_ROW]:
        ways["avchat"](query)
    exact = [set(ways["NumPy scan"](query)) for query in queries]
    spent: dict[str, list[float]] = {name: [] for name in ways}
    right: dict[str, list[float]] = {name: [] for name in ways}
    with tqdm(total=len(queries), desc="find", disable=not sys.stderr.isatty()) as bar:
        for start in range(0, len(queries), IN_A_ROW):
            some = range(start, min(start + IN_A_ROW, len(queries)))
            for name, way in ways.items():
                for number in some:
                    took_ms, found = timed(way, queries[number])
                    spent[name].append(took_ms)
                    right[name].append(len(exact[number] & set(found)) / 10)
            bar.update(len(some))
    return {
        "ways": {
            name: {
                "p50_ms": statistics.median(times),
                "p95_ms": float(np.quantile(times, 0.95)),
                "first_ms": first[name],
                "recall@10": statistics.mean(right[name]),
            }
            for name, times in spent.items()
        },
        "times_faster_than": {
            name: statistics.median(spent[name]) / statistics.median(spent["avchat"])
            for name in ways
            if name != "avchat"
        },
    }


def timed(way: Callable[[np.ndarray], list[int]], query: np.ndarray) -> tuple[float, list[int]]:
    """Ask one way once: (milliseconds, what it found)."""
    began = time.perf_counter()
    found = way(query)
    return 1000 * (time.perf_counter() - began), found


def table(result: dict) -> str:
    """Lay the result out for reading."""
    lines = [
        f"{result['vectors']:,} vectors of width {result['width']}: written in "
        f"{result['written_s']:.0f} s, indexed in {result['index_built_s']:.0f} s"
    ]
    for name, way in result["ways"].items():
        lines.append(
            f"  {name:12} p50 {way['p50_ms']:8.1f} ms   p95 {way['p95_ms']:8.1f} ms   "
            f"first {way['first_ms']:8.1f} ms   recall@10 {way['recall@10']:.3f}"
        )
    ratios = (f"{ratio:.1f} times {name}" for name, ratio in result["times_faster_than"].items())
    lines.append(f"  speed of avchat: {', '.join(ratios)}")
    return "\n".join(lines)
