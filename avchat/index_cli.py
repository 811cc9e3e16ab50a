"""The verb that fills a library: `avchat index`. cli.py runs it.

Heavy imports stay inside.
"""

import contextlib
import json
import os
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, Literal

from tqdm import tqdm
from tyro.conf import Positional, arg

from avchat.input_error import InputError
from avchat.lookup_cli import MODELS, load, load_transcriber, one_line, say

if TYPE_CHECKING:
    from avchat.heads import Head, Kind
    from avchat.indexing import Cutting, Report


@dataclass(frozen=True)
class Index:
    """Add videos and sounds, or folders of them, to a library. Stopped, it goes on where it was."""

    paths: Positional[tuple[str, ...]]
    """files and folders"""
    library: str
    """a folder, made when absent, or s3://bucket/name"""
    head: Literal["vlsa", "siglip"] | None = None
    """what makes the vectors: of picture and sound, or SigLIP's of the picture alone; left out, \
the library's own, vlsa for a new one"""
    model: str | None = None
    """the head's weights: a name, a folder or a name on the Hub"""
    cut: Literal["fixed", "shots"] = "fixed"
    """where files are cut: in windows of one length that overlap, or where a new shot begins"""
    window: Annotated[float | None, arg(metavar="SECONDS")] = None
    """length of the windows, of shots at most; left out, what the head knows best"""
    overlap: Annotated[float | None, arg(metavar="SECONDS")] = None
    """of one window with the next; left out, half of it"""
    quick: bool = False
    """look at keyframes alone: many times as fast, for a first look"""
    transcribe: Annotated[str | None, arg(metavar="WHISPER")] = None
    """write down what is said in files that are new to the library, so that find looks there:\
 a published Whisper's name, such as base, or a .pt file"""
    ray: Annotated[str | None, arg(metavar="ADDRESS")] = None
    """over the machines of a Ray cluster: auto, HOST:PORT, ray://HOST:PORT, or local for one of \
this machine; see docs/cluster.md"""
    json: bool = False
    """print one JSON object: what was added, unchanged, moved, and what failed why"""


def index(verb: Index) -> None:
    """Index files and folders; a bar with the time left goes to stderr."""
    if not verb.paths:
        raise InputError("nothing to index: avchat index PATH... --library DIR")
    # PyTorch's threads spin while they wait, for a third of the processor's time, which decoders
    # beside them need (EXPERIMENTS.md): let them sleep. Heard only before PyTorch is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    with one_line(), contextlib.redirect_stdout(sys.stderr):
        from avchat.gathering import IndexingError, media_files
        from avchat.library import Library

        try:
            run = indexer(verb)
            media_files(verb.paths)  # a path that is not there is said before a model is loaded
        except IndexingError as error:
            raise InputError(str(error)) from error
        transcriber = load_transcriber(verb.transcribe)
        kind, model = maker_of(verb)
        head = load(kind, model)
        cutting = cutting_of(verb, head)
        library = Library.open(
            verb.library,
            head_name=model,
            fingerprint=head.fingerprint,
            width=head.width,
            kind=kind,
            create=True,
        )
        with tqdm(unit="file", file=sys.stderr, disable=None) as bar:

            def tell(done: int, total: int) -> None:
                bar.total = total
                bar.update(done - bar.n)

            try:
                report = run(
                    verb.paths, library, head, cutting, transcriber=transcriber, progress=tell
                )
            except IndexingError as error:
                raise InputError(str(error)) from error
    for failure in report.failed:
        say(f"failed: {failure.path}: {failure.reason}")
    if verb.json:
        print(json.dumps({"library": verb.library, "head": head.name, **asdict(report)}))
    else:
        print(
            f"{report.added} added ({report.windows} windows), {report.unchanged} unchanged, "
            f"{report.moved} moved, {len(report.failed)} failed in {report.seconds:.1f} s"
        )


def cutting_of(verb: Index, head: "Head") -> "Cutting":
    """Choose how files are cut: as is asked for, else as the head knows it."""
    from avchat.gathering import IndexingError
    from avchat.indexing import Cutting

    length_s = head.window_s if verb.window is None else verb.window
    overlap_s = length_s / 2 if verb.overlap is None else verb.overlap
    try:
        return Cutting(length_s, overlap_s, verb.quick, verb.cut == "shots")
    except IndexingError as error:
        raise InputError(str(error)) from error


def indexer(verb: Index) -> "Callable[..., Report]":
    """Choose what indexes: this machine, or a cluster, which is asked for before all else."""
    if verb.ray is None:
        from avchat.indexing import index

        return index
    try:
        from avchat import cluster
    except ModuleNotFoundError as error:
        if error.name != "ray":
            raise
        raise InputError('--ray needs Ray: pip install "avchat[cluster]"') from error
    cluster.reach(verb.ray)
    return partial(cluster.index, address=verb.ray)


def maker_of(verb: Index) -> "tuple[Kind, str]":
    """Choose the head: the one that is asked for, else the library's, else vlsa."""
    from avchat.library import Library, LibraryError

    try:
        maker = Library.open(verb.library).maker
    except LibraryError as error:
        if "no library here" not in str(error):
            raise
        maker = None
    kind = verb.head or (maker.kind if maker else "vlsa")
    own = maker.name if maker and maker.kind == kind else MODELS[kind]
    return kind, verb.model or own
