"""The command line: `avchat chat | index | find | moments | library | data | merge | push | world |
doctor | demo`.

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
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from tqdm import tqdm
from tyro.conf import Positional, arg, subcommand

from avchat import data_cli, index_cli, lookup_cli, model_cli
from avchat.data_cli import Check, Convert, DataVerb, Split
from avchat.index_cli import Index
from avchat.input_error import InputError, one_line
from avchat.lookup_cli import Find, LibraryVerb
from avchat.model_cli import Merge, Push
from avchat.moments_cli import Moments, moments

if TYPE_CHECKING:
    from avchat.chat import Conversation
    from avchat.excerpts import LongConversation
    from avchat.model import AVChat


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
    head: str = "auto"
    """lookup head that chooses parts of a long file for each question: tiny, a folder, none, or \
auto, the one that comes with the model"""
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
    """Render clips of avchat's toy world, OUT/*.mp4, with questions, OUT/questions.jsonl."""

    out: Positional[Path]
    """folder to write into; made when absent"""
    clips: int
    """how many clips"""
    seed: int
    """the same seed gives the same clips and questions"""
    split: str = "test"
    """train, test, phrasings (wordings held out of training) or combinations (pairs held out)"""
    json: bool = False
    """print one JSON object with what was written"""


@dataclass(frozen=True)
class Doctor:
    """Say what is installed, which devices and models are here, and how to get what is missing."""

    json: bool = False
    """print the report as one JSON object"""


@dataclass(frozen=True)
class Demo:
    """Start the app. Gradio's own variables, such as GRADIO_SERVER_PORT, are honoured."""

    model: str = "tiny"
    """the bundled tiny, the folder of a checkpoint, or a name on the Hub"""


Verb = (
    Annotated[Chat, subcommand("chat")]
    | Annotated[Index, subcommand("index")]
    | Annotated[Find, subcommand("find")]
    | Annotated[LibraryVerb, subcommand("library")]
    | Annotated[Moments, subcommand("moments")]
    | Annotated[DataVerb, subcommand("data", description=data_cli.__doc__)]
    | Annotated[Merge, subcommand("merge")]
    | Annotated[Push, subcommand("push")]
    | Annotated[World, subcommand("world")]
    | Annotated[Doctor, subcommand("doctor")]
    | Annotated[Demo, subcommand("demo")]
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb and return the exit code. `argv` without the program's name; None: sys.argv."""
    logging.basicConfig(stream=sys.stderr, format="%(levelname)s: %(message)s")
    try:
        verb = parse(sys.argv[1:] if argv is None else argv)
        RUN[type(verb)](verb)
        sys.stdout.flush()
    except InputError as error:
        return _fail(str(error))
    except KeyboardInterrupt:
        _say("stopped")
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
    raise InputError(one_line(said.getvalue()))


def chat(verb: Chat) -> None:
    """Answer one question about a file, or all that are typed."""
    _check(verb)
    conversation = _open(verb)
    notice = conversation.model.config.notice
    if notice:
        _say(f"note: {notice}")
    if verb.question is not None:
        _answer(verb, conversation, verb.question)
        return
    _say("ask about the clip; an empty line ends the conversation")
    for question in _typed():
        try:
            _answer(verb, conversation, question)
        except InputError as error:
            _fail(str(error))


def _check(verb: Chat) -> None:
    """Find what is wrong with the arguments and the file before torch and a model are loaded."""
    from avchat.media import MediaError, probe

    if verb.question is None and (verb.json or not sys.stdin.isatty()):
        raise InputError("no question: avchat chat VIDEO QUESTION")
    if verb.question is not None and not verb.question.strip():
        raise InputError("the question is empty")
    if verb.frames is not None and verb.frames < 1:
        raise InputError(f"--frames must be at least 1, not {verb.frames}")
    try:
        probe(verb.video, isolate=True)
    except MediaError as error:
        raise InputError(str(error)) from error


def _open(verb: Chat) -> "Conversation | LongConversation":
    """Load the model, then decode and encode the file."""
    with contextlib.redirect_stdout(sys.stderr):  # what libraries print is no answer
        from avchat.config import ModelError
        from avchat.media import MediaError
        from avchat.model import AVChat
        from avchat.prompt import PromptError

        try:
            model = AVChat.from_pretrained(verb.model)
            if talk := _open_long(verb, model):
                return talk
            return model.open(
                verb.video, frames=verb.frames, start=verb.start, end=verb.end, isolate=True
            )
        except (ModelError, MediaError, PromptError) as error:
            raise InputError(str(error)) from error


def _open_long(verb: Chat, model: "AVChat") -> "LongConversation | None":
    """Embed a long file window by window, where a lookup head is wanted; else None."""
    from avchat.config import PRESETS
    from avchat.excerpts import LongConversation, is_long
    from avchat.heads import BUNDLED, load_head
    from avchat.media import probe

    bundled = verb.model in PRESETS and (BUNDLED / verb.model).is_dir()
    own = verb.model if bundled else "none"
    head = own if verb.head == "auto" else verb.head
    part = (verb.start, verb.end, verb.frames) != (None, None, None)
    if head == "none" or part or not is_long(probe(verb.video, isolate=True), model):
        return None
    with tqdm(unit="window", file=sys.stderr, disable=None) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update()

        return LongConversation(model, load_head(head), verb.video, isolate=True, progress=progress)


def _answer(verb: Chat, conversation: "Conversation | LongConversation", question: str) -> None:
    """Stream one answer, or print it as JSON; the receipt goes to stderr in words."""
    from avchat.prompt import PromptError
    from avchat.receipt import in_words

    try:
        pieces = conversation.ask(
            question,
            verb.sense,
            temperature=verb.temperature,
            top_p=verb.top_p,
            seed=verb.seed,
            max_new_tokens=verb.max_new_tokens,
        )
    except PromptError as error:
        raise InputError(str(error)) from error
    for piece in pieces:
        if not verb.json:
            print(piece, end="", flush=True)
    receipt = conversation.receipt
    assert receipt is not None, "an answer that was read to its end has a receipt"
    if verb.json:
        print(json.dumps(receipt.to_dict()))
        return
    print(flush=True)
    _say(in_words(receipt, conversation.model.config.notice))


def _typed() -> Iterator[str]:
    """Yield the questions that are typed, until an empty line or the end of the input."""
    while True:
        print("? ", end="", file=sys.stderr, flush=True)
        question = sys.stdin.readline().strip()
        if not question:
            return
        yield question


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def world(verb: World) -> None:
    """Render clips with their questions; progress goes to stderr."""
    from avchat.world.dataset import SPLITS, DatasetError, write_dataset

    if verb.clips < 1:
        raise InputError(f"--clips must be at least 1, not {verb.clips}")
    if verb.seed < 0:
        raise InputError(f"--seed must be 0 or more, not {verb.seed}")
    if verb.split not in SPLITS:
        raise InputError(f"no split called {verb.split}: there are {', '.join(SPLITS)}")
    if verb.out.exists() and not verb.out.is_dir():
        raise InputError(f"{verb.out}: not a folder")
    if any(verb.out.glob("*.mp4")):
        # Clips of another seed would be kept, with questions that are not about them.
        raise InputError(f"{verb.out}: there are clips already; name another folder")
    with tqdm(total=verb.clips, unit="clip", file=sys.stderr, disable=None) as bar:
        try:
            clips = write_dataset(
                verb.out, verb.clips, verb.seed, verb.split, progress=lambda *_: bar.update()
            )
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


def doctor(verb: Doctor) -> None:
    """Look around and report; a missing piece is a line of the report, not an error."""
    with contextlib.redirect_stdout(sys.stderr):
        from avchat.doctor import as_text, report

        found = report()
    print(json.dumps(found) if verb.json else as_text(found))


def demo(verb: Demo) -> None:
    """Serve the app until Ctrl-C."""
    from avchat.config import ModelError
    from avchat.ui import launch, make_app

    try:
        app = make_app(verb.model)
    except ModelError as error:
        raise InputError(str(error)) from error
    launch(app)


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
    Push: model_cli.push,
    World: world,
    Doctor: doctor,
    Demo: demo,
}


def _fail(message: str) -> int:
    _say("error: " + " ".join(message.split()))
    return 2


if __name__ == "__main__":
    sys.exit(main())
