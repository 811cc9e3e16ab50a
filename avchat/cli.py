"""The command line: `avchat chat | index | find | moments | library | data | merge | import |
push | world | doctor | demo`.

A verb is a dataclass, from which tyro makes the flags and `--help`. Answers and JSON go to stdout,
everything else to stderr. Exit codes: 0 done, 2 the input is at fault (one line that begins
`error:`), 1 our fault (with a traceback), 130 stopped by Ctrl-C.

Heavy imports stay inside the verbs, so that `--help` and a mistyped flag answer at once.
"""

import contextlib
import io
import json
import logging
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import tyro
from tqdm import tqdm
from tyro.conf import Positional, subcommand

from avchat import data_cli, index_cli, lookup_cli, model_cli
from avchat.app_settings import Settings, SettingsError
from avchat.chat_cli import Chat, chat
from avchat.data_cli import Check, Convert, DataVerb, Split
from avchat.index_cli import Index
from avchat.input_error import InputError, in_one_line, one_line, say
from avchat.lookup_cli import Find, LibraryVerb
from avchat.model_cli import Import, Merge, Push
from avchat.moments_cli import Moments, moments


@dataclass(frozen=True)
class World:
    """Render clips of avchat's toy world, OUT/*.mp4, with questions, OUT/questions.jsonl."""

    out: Positional[Path]
    """folder to write into; made when absent"""
    clips: int | None = None
    """how many clips"""
    seed: int | None = None
    """the same seed gives the same clips and questions"""
    split: str = "test"
    """train, test, phrasings (wordings held out of training) or combinations (pairs held out)"""
    benchmark: bool = False
    """the public benchmark: 1000 fixed clips, checked; the same command goes on if stopped"""
    json: bool = False
    """print one JSON object with what was written"""


@dataclass(frozen=True)
class Doctor:
    """Say what is installed, which devices and models are here, and how to get what is missing."""

    model: str | None = None
    """of this model instead: what will be fetched, how large it is, and whether it fits into \
memory; a preset, a folder, or a name on the Hub"""
    json: bool = False
    """print the report as one JSON object"""


DEMO = "Start the app. Gradio's own variables, such as GRADIO_SERVER_PORT, are honoured."

Verb = (
    Annotated[Chat, subcommand("chat")]
    | Annotated[Index, subcommand("index")]
    | Annotated[Find, subcommand("find")]
    | Annotated[LibraryVerb, subcommand("library")]
    | Annotated[Moments, subcommand("moments")]
    | Annotated[DataVerb, subcommand("data", description=data_cli.__doc__)]
    | Annotated[Merge, subcommand("merge")]
    | Annotated[Import, subcommand("import")]
    | Annotated[Push, subcommand("push")]
    | Annotated[World, subcommand("world")]
    | Annotated[Doctor, subcommand("doctor")]
    | Annotated[Settings, subcommand("demo", description=DEMO)]
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb and return the exit code. `argv` without the program's name; None: sys.argv."""
    logging.basicConfig(stream=sys.stderr, format="%(levelname)s: %(message)s")
    try:
        verb = parse(sys.argv[1:] if argv is None else argv)
        RUN[type(verb)](verb)
        sys.stdout.flush()
    except InputError as error:
        say(in_one_line(error))
        return 2
    except KeyboardInterrupt:
        say("stopped")
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
    except SettingsError as error:
        raise InputError(str(error)) from error
    raise InputError(one_line(said.getvalue()))


def world(verb: World) -> None:
    """Render clips with their questions; progress goes to stderr."""
    from avchat.world.benchmark import CLIPS, SEED, SPLIT, write_benchmark
    from avchat.world.dataset import DatasetError, write_dataset

    if verb.benchmark:
        if (verb.clips, verb.seed, verb.split) != (None, None, SPLIT):
            raise InputError("--benchmark has its own clips: leave --clips, --seed, --split out")
        verb = replace(verb, clips=CLIPS, seed=SEED)
    check_world(verb)
    with tqdm(total=verb.clips, unit="clip", file=sys.stderr, disable=None) as bar:

        def told(*_: int) -> None:
            bar.update()

        try:
            if verb.benchmark:
                clips = write_benchmark(verb.out, told)
            else:
                clips = write_dataset(verb.out, verb.clips, verb.seed, verb.split, told)
        except DatasetError as error:
            raise InputError(str(error)) from error
        except OSError as error:
            raise InputError(
                f"{verb.out}: no clips can be written there ({error.strerror})"
            ) from error
    questions = sum(len(clip.asked) for clip in clips)
    written = {"folder": str(verb.out), "clips": len(clips), "questions": questions}
    if verb.json:
        print(json.dumps({**written, "seed": verb.seed, "split": verb.split}))
    else:
        print(f"{len(clips)} clips and {questions} questions in {verb.out}")


def check_world(verb: World) -> None:
    """Raise InputError for what no clips can be rendered of, or into."""
    from avchat.world.dataset import SPLITS

    if verb.clips is None or verb.seed is None:
        raise InputError("world needs --clips and --seed, or --benchmark")
    if verb.clips < 1:
        raise InputError(f"--clips must be at least 1, not {verb.clips}")
    if verb.seed < 0:
        raise InputError(f"--seed must be 0 or more, not {verb.seed}")
    if verb.split not in SPLITS:
        raise InputError(f"no split called {verb.split}: there are {', '.join(SPLITS)}")
    if verb.out.exists() and not verb.out.is_dir():
        raise InputError(f"{verb.out}: not a folder")
    if not verb.benchmark and any(verb.out.glob("*.mp4")):
        # Clips of another seed would be kept, with questions that are not about them.
        raise InputError(f"{verb.out}: there are clips already; name another folder")


def doctor(verb: Doctor) -> None:
    """Look around and report; a missing piece is a line of the report, not an error."""
    with contextlib.redirect_stdout(sys.stderr):
        if verb.model is None:
            from avchat.doctor import as_text, report

            found = report()
        else:
            from avchat.config import ModelError
            from avchat.doctor_model import as_text, report_model

            try:
                found = report_model(verb.model)
            except ModelError as error:
                raise InputError(str(error)) from error
    print(json.dumps(found) if verb.json else as_text(found))


def demo(verb: Settings) -> None:
    """Serve the app until Ctrl-C."""
    from avchat.ui import FAULTS, launch, make_app

    try:
        app, page = make_app(verb)
    except FAULTS as error:
        raise InputError(str(error)) from error
    launch(app, page)


RUN: dict[type, Callable[[Any], None]] = {
    Chat: chat,
    Index: index_cli.index,
    Find: lookup_cli.find,
    LibraryVerb: lookup_cli.library,
    Moments: moments,
    Check: data_cli.check,
    Convert: data_cli.convert,
    Split: data_cli.split,
    Merge: model_cli.merge,
    Import: model_cli.import_,
    Push: model_cli.push,
    World: world,
    Doctor: doctor,
    Settings: demo,
}


if __name__ == "__main__":
    sys.exit(main())
