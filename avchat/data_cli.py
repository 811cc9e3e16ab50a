"""Check training data, convert it from and to the forms of other trainers, split it by clip.

cli.py runs these verbs: `avchat data check | convert | split`. Heavy imports stay inside.
"""

import contextlib
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tqdm import tqdm
from tyro.conf import Positional, arg, subcommand

from avchat.input_error import InputError

Form = Literal[
    "avchat",
    "llava",
    "videollama2",
    "video-salmonn-2",
    "video-salmonn-2-plus",
    "video-chatgpt-raw",
    "video-chatgpt",
    "ms-swift",
    "llama-factory",
]
Table = Literal["msrvtt", "audiocaps", "clotho", "sounddescs", "valor"]


@dataclass(frozen=True)
class Check:
    """Say what would go wrong in training. Several manifests are parts that must share no clip."""

    manifests: Positional[tuple[Path, ...]]
    """files of JSON lines: conversations, or captions"""
    model: str = "tiny"
    """the model that is to be trained, whose context counts: tiny, a folder, a name on the Hub"""
    exact: bool = False
    """tell copies by their bytes alone: no encoder of the model runs"""
    json: bool = False
    """print one JSON object: faults, notes, token budgets, what the answers are like"""


@dataclass(frozen=True)
class Convert:
    """Convert training data; what cannot be carried over is counted on stderr."""

    source: Annotated[Path, Positional, arg(metavar="SRC")]
    """a JSON list, JSON lines, a table of captions; of speech, a folder, a table or \
hub:NAME[:CONFIG][:SPLIT]"""
    target: Annotated[Path, Positional, arg(metavar="DST")]
    """the file to write: JSON lines when it is avchat's or ends in .jsonl, else a JSON list"""
    read_as: Annotated[Form | Table | Literal["speech"], arg(name="from")]
    """the form of SRC; avchat is a manifest, speech what the package datasets reads"""
    write_as: Annotated[Form, arg(name="to")]
    """the form of DST; tables of captions and speech become avchat's alone"""
    media_root: Annotated[Path | None, arg(metavar="DIR")] = None
    """the folder that paths of the other form are relative to, the file's own when left out; from \
avchat to avchat, those of SRC"""
    limit: Annotated[int | None, arg(metavar="N")] = None
    """read N samples and no more"""


@dataclass(frozen=True)
class Split:
    """Split a manifest by clip, told by content: DIR/train.jsonl and DIR/validation.jsonl."""

    manifest: Positional[Path]
    """a file of JSON lines: conversations, or captions"""
    output: Annotated[Path, arg(metavar="DIR")]
    """folder to write into; made when absent"""
    validation: float = 0.1
    """share of the clips that are kept from training"""
    seed: int = 0
    """the same seed gives the same parts"""
    json: bool = False
    """print one JSON object: clips and samples of each part"""


DataVerb = (
    Annotated[Check, subcommand("check")]
    | Annotated[Convert, subcommand("convert")]
    | Annotated[Split, subcommand("split")]
)


def check(verb: Check) -> None:
    """Check manifests; a bar goes to stderr, what was found to stdout."""
    if not verb.manifests:
        raise InputError("nothing to check: avchat data check M.jsonl...")
    with one_line(), tqdm(unit="clip", file=sys.stderr, disable=None) as bar:
        from avchat import data_check
        from avchat.data_layout import load_layout
        from avchat.data_report import as_json, as_text

        def tell(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        report = data_check.check(
            verb.manifests, lambda: load_layout(verb.model), copies=not verb.exact, progress=tell
        )
    print(json.dumps(as_json(report)) if verb.json else "\n".join(as_text(report)))
    if report.faults:
        names = ", ".join(map(str, verb.manifests))
        count = f"{len(report.faults)} fault" + "s" * (len(report.faults) > 1)
        raise InputError(f"{names}: training would go wrong ({count})")


def convert(verb: Convert) -> None:
    """Convert a file."""
    if verb.limit is not None and verb.limit < 1:
        raise InputError(f"--limit must be at least 1, not {verb.limit}")
    with one_line():
        from avchat import data_conversion

        tally = data_conversion.convert(
            verb.source, verb.target, verb.read_as, verb.write_as, verb.media_root, verb.limit
        )
    if tally.line():
        print(f"note: {tally.line()}", file=sys.stderr)
    print(f"{tally.carried} samples in {verb.target}")


def split(verb: Split) -> None:
    """Split a manifest."""
    if not 0 < verb.validation < 1:
        raise InputError(f"--validation must be between 0 and 1, not {verb.validation}")
    with one_line():
        from avchat import data_split

        report = data_split.split(verb.manifest, verb.output, verb.validation, verb.seed)
    if verb.json:
        print(json.dumps(report))
        return
    for part in report.values():
        texts = f" and {part['texts']} texts" if part["texts"] else ""
        print(f"{part['samples']} samples of {part['clips']} clips{texts} in {part['file']}")


@contextlib.contextmanager
def one_line() -> Iterator[None]:
    """Turn the faults of data and models into an InputError; what libraries print is no answer."""
    from avchat.config import ModelError
    from avchat.data import DataError

    with contextlib.redirect_stdout(sys.stderr):
        try:
            yield
        except (DataError, ModelError) as error:
            raise InputError(str(error)) from error
