"""The command line: `avchat chat | world | doctor | demo`.

A verb is a dataclass, from which tyro makes the flags and `--help`. Answers and JSON go to stdout,
everything else to stderr. Exit codes: 0 done, 2 the input is at fault (one line that begins
`error:`), 1 our fault (with a traceback), 130 stopped by Ctrl-C.

Heavy imports stay inside the verbs, so that `--help` and a mistyped flag answer at once.
"""

import contextlib
import io
import json as jsonlib
import logging
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from tyro.conf import Positional, arg, subcommand

if TYPE_CHECKING:
    from avchat.chat import Conversation


class InputError(Exception):
    """What the user gave cannot be used; the message is the one line they read."""


@dataclass(frozen=True)
class Chat:
    """Ask a video a question; the answer streams to stdout. Without a question, a conversation."""

    video: Positional[Path]
    """video, sound or picture file"""
    question: Annotated[str | None, Positional, arg(metavar="QUESTION")] = None
    """what to ask; left out on a terminal, questions are read one by one"""
    model: str = "tiny"
    """the bundled tiny, the folder of a checkpoint, or a name on the Hub"""
    sense: Literal["both", "sound", "picture"] = "both"
    """what the model may use of the file"""
    start: Annotated[float | None, arg(metavar="SECONDS")] = None
    """begin here in the file"""
    end: Annotated[float | None, arg(metavar="SECONDS")] = None
    """stop here in the file"""
    frames: Annotated[int | None, arg(metavar="N")] = None
    """frames to look at; the model's own number when left out"""
    temperature: float = 0.0
    """0 takes the likeliest word each time"""
    top_p: float = 1.0
    """with a temperature: draw from the likeliest words that hold this much probability"""
    seed: int = 0
    """with a temperature: the same seed gives the same answer"""
    max_new_tokens: int = 256
    """the longest answer, in tokens"""
    json: bool = False
    """print one JSON object: the answer, what was seen and heard, tokens, seconds"""


@dataclass(frozen=True)
class World:
    """Render clips of avchat's toy world with their questions: OUT/*.mp4 and OUT/questions.jsonl."""

    out: Positional[Path]
    """folder to write into; made when absent"""
    clips: int
    """how many clips"""
    seed: int
    """the same seed gives the same clips and questions"""
    split: str = "test"
    """train, or test with its held-out phrasings and combinations"""
    json: bool = False
    """print one JSON object with what was written"""


@dataclass(frozen=True)
class Doctor:
    """Say what is installed, which devices and models are here, and how to get what is missing."""

    json: bool = False
    """print the report as one JSON object"""


@dataclass(frozen=True)
class Demo:
    """Start the app in the browser. GRADIO_SERVER_PORT and Gradio's other variables are honoured."""

    model: str = "tiny"
    """the bundled tiny, the folder of a checkpoint, or a name on the Hub"""


Verb = (
    Annotated[Chat, subcommand("chat")]
    | Annotated[World, subcommand("world")]
    | Annotated[Doctor, subcommand("doctor")]
    | Annotated[Demo, subcommand("demo")]
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb and return the exit code. `argv` without the program's name; None: sys.argv."""
    logging.basicConfig(stream=sys.stderr, format="%(levelname)s: %(message)s")
    try:
        verb = parse(sys.argv[1:] if argv is None else argv)
        run: Callable[[Any], None] = RUN[type(verb)]
        run(verb)
        sys.stdout.flush()
    except InputError as error:
        return _fail(str(error))
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of our output has left, as in `avchat chat ... | head -1`. Point stdout at
        # nothing, or Python complains once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def parse(argv: Sequence[str]) -> Any:
    """Turn arguments into one of the verbs; InputError in one line when they do not fit."""
    said = io.StringIO()
    config = (tyro.conf.FlagCreatePairsOff, tyro.conf.ConsolidateSubcommandArgs)
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(Verb, prog="avchat", description=__doc__, args=argv, config=config)
    except SystemExit as stop:
        if not stop.code:
            raise
    raise InputError(_one_line(said.getvalue()))


def _one_line(box: str) -> str:
    """Flatten tyro's box around a parsing error: text between rules becomes `a; b`."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", box)
    text = re.sub(r"[\u256d\u256e\u2570\u256f\u2502]", " ", text)  # corners and sides
    first, *rest = [part.strip() for part in re.split(r"\u2500{2,}|\u2500 ", text) if part.strip()]
    parts = rest or [first]  # the first part is the title of the box
    return "; ".join(" ".join(part.split()) for part in parts)


def _fail(message: str) -> int:
    print("error: " + " ".join(message.split()), file=sys.stderr)
    return 2
