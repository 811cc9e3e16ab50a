"""Questions about a file, answered on the command line. cli.py runs this verb: `avchat chat`.

Heavy imports stay inside.
"""

import contextlib
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tqdm import tqdm
from tyro.conf import Positional, arg

from avchat.batch_cli import chat_batch
from avchat.input_error import InputError, in_one_line, say

if TYPE_CHECKING:
    from avchat.chat import Conversation
    from avchat.excerpts import LongConversation
    from avchat.model import AVChat


@dataclass(frozen=True)
class Chat:
    """Ask a video a question; the answer streams to stdout. Without a question, a conversation.
    With --batch, answer the questions of a file into another."""

    video: Annotated[Path | None, Positional, arg(metavar="VIDEO")] = None
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
    batch: Annotated[Path | None, arg(metavar="IN.jsonl")] = None
    """answer the questions of a file, a JSON object a line: "video" (relative to that file), \
"question" and, where wanted, "id", "sense", "start", "end"; VIDEO and QUESTION are left out"""
    out: Annotated[Path | None, arg(metavar="OUT.jsonl")] = None
    """with --batch: the answers, a line each in the same order; the same command goes on where it \
was stopped"""


def chat(verb: Chat) -> None:
    """Answer one question about a file, or all that are typed, or those of a file of questions."""
    if verb.batch is not None:
        chat_batch(verb)
        return
    _check(verb)
    conversation = _open(verb)
    notice = conversation.model.config.notice
    if notice:
        say(f"note: {notice}")
    if verb.question is not None:
        _answer(verb, conversation, verb.question)
        return
    say("ask about the clip; an empty line ends the conversation")
    for question in _typed():
        try:
            _answer(verb, conversation, question)
        except InputError as error:
            say(in_one_line(error))


def _check(verb: Chat) -> None:
    """Find what is wrong with the arguments and the file before torch and a model are loaded."""
    from avchat.media import MediaError, probe

    if verb.out is not None:
        raise InputError("--out is for the answers of --batch")
    if verb.video is None:
        raise InputError("no file: avchat chat VIDEO QUESTION (see avchat chat --help)")
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
    say(in_words(receipt, conversation.model.config.notice))


def _typed() -> Iterator[str]:
    """Yield the questions that are typed, until an empty line or the end of the input."""
    while True:
        print("? ", end="", file=sys.stderr, flush=True)
        question = sys.stdin.readline().strip()
        if not question:
            return
        yield question
