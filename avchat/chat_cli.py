"""Questions about a file, answered on the command line. cli.py runs this verb: `avchat chat`.

Heavy imports stay inside.
"""

import contextlib
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tqdm import tqdm
from tyro.conf import Positional, arg

from avchat.batch_cli import chat_batch
from avchat.input_error import InputError, in_one_line, say

if TYPE_CHECKING:
    from avchat.chat import Conversation
    from avchat.excerpts import LongConversation
    from avchat.model import AVChat
    from avchat.transcripts import Transcriber


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
    evidence: bool = False
    """also say what the answer rests on: the sound, the picture, both, or the question alone"""
    transcript: bool = False
    """have what is said written down by the model's own Whisper, and answer from that, too"""
    whisper: Annotated[str | None, arg(metavar="WHISPER")] = None
    """the same by another Whisper: a published name, such as base, or a .pt file"""
    vtt: Annotated[Path | None, arg(metavar="FILE")] = None
    """write the transcript as WebVTT"""
    overwrite: bool = False
    """with --vtt: replace a file that is there already"""
    bits: Literal[4, 8] | None = None
    """hold the language model in 4 or 8 bit (bitsandbytes); the rest stays in --dtype"""
    dtype: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """auto: fp32 on the CPU, bf16 elsewhere; fp16 is refused, since phi-2 overflows in it"""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, ...; auto takes a GPU where there is one"""
    offload: Annotated[Path | None, arg(metavar="DIR")] = None
    """layers of the language model that do not fit into memory stay on disk; DIR is for those \
that must be written again; slow, the same answers"""
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
    if verb.vtt is not None:
        _check_vtt(verb.vtt, verb)
    try:
        probe(verb.video, isolate=True)
    except MediaError as error:
        raise InputError(str(error)) from error


def _check_vtt(out: Path, verb: Chat) -> None:
    """Find what is wrong with the file for a transcript before there is one."""
    if verb.sense == "picture":
        raise InputError("--vtt needs what is heard: it does not go with --sense picture")
    if not out.parent.is_dir():
        raise InputError(f"{out}: there is no folder {out.parent}")
    if out.is_dir():
        raise InputError(f"{out}: this is a folder, not a file")
    if out.exists() and verb.video.exists() and out.samefile(verb.video):
        raise InputError(f"{out}: this is the source; name another file")
    if out.exists() and not verb.overwrite:
        raise InputError(f"{out}: there is such a file already; --overwrite replaces it")


def _open(verb: Chat) -> "Conversation | LongConversation":
    """Load the model, then decode and encode the file."""
    with contextlib.redirect_stdout(sys.stderr):  # what libraries print is no answer
        from avchat.config import ModelError
        from avchat.loading import choices
        from avchat.media import MediaError
        from avchat.model import AVChat
        from avchat.prompt import PromptError
        from avchat.transcripts import TranscriptError

        try:
            how = choices(verb.device, verb.dtype, verb.bits, verb.offload)
            model = AVChat.from_pretrained(verb.model, **how)
            transcript = _transcriber(verb, model)
            if talk := _open_long(verb, model, transcript):
                return talk
            part = {"frames": verb.frames, "start": verb.start, "end": verb.end}
            return model.open(verb.video, isolate=True, transcript=transcript, **part)
        except (ModelError, MediaError, PromptError, TranscriptError) as error:
            raise InputError(str(error)) from error


def _transcriber(verb: Chat, model: "AVChat") -> "Transcriber | None":
    """Choose what transcribes, where that is wanted, and load it before the file is decoded."""
    from avchat.media import probe
    from avchat.transcripts import Transcriber

    if not verb.transcript and verb.whisper is None and verb.vtt is None:
        return None
    chosen = model.transcriber if verb.whisper is None else Transcriber(verb.whisper)
    return chosen.load() if probe(verb.video, isolate=True).has_audio else chosen


def _open_long(
    verb: Chat, model: "AVChat", transcript: "Transcriber | None"
) -> "LongConversation | None":
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

        return LongConversation(
            model,
            load_head(head),
            verb.video,
            isolate=True,
            progress=progress,
            transcript=transcript,
        )


def _answer(verb: Chat, conversation: "Conversation | LongConversation", question: str) -> None:
    """Stream one answer, or print it as JSON; the receipt goes to stderr in words."""
    from avchat.prompt import PromptError
    from avchat.receipt import in_words
    from avchat.transcripts import TranscriptError

    try:
        pieces = conversation.ask(
            question,
            verb.sense,
            temperature=verb.temperature,
            top_p=verb.top_p,
            seed=verb.seed,
            max_new_tokens=verb.max_new_tokens,
        )
    except (PromptError, TranscriptError) as error:
        raise InputError(str(error)) from error
    for piece in pieces:
        if not verb.json:
            print(piece, end="", flush=True)
    receipt = conversation.receipt
    assert receipt is not None, "an answer that was read to its end has a receipt"
    if not verb.json:
        print(flush=True)
        say(in_words(receipt, conversation.model.config.notice))
    found = _weigh(verb, conversation)
    if verb.json:
        weighed = {"evidence": found} if verb.evidence else {}
        print(json.dumps({**receipt.to_dict(), **weighed}))
    elif found is not None:
        say(f"Evidence: {found['says']}.")
    if verb.vtt is not None:
        _write_vtt(verb.vtt, receipt.transcript)


def _weigh(verb: Chat, conversation: "Conversation | LongConversation") -> dict[str, Any] | None:
    """Weigh the last answer where that is wanted and it has words."""
    from avchat.prompt import PromptError

    if not verb.evidence:
        return None
    try:
        return conversation.evidence().to_dict()
    except PromptError as error:
        say(f"note: {error}")
        return None


def _write_vtt(out: Path, transcript: str | None) -> None:
    """Write the transcript; of a long file, that of the parts the last answer rests on."""
    from avchat.export import write_text
    from avchat.writing import ExportError

    if transcript is None:
        say(f"{out} was not written: there was nothing to listen to")
        return
    try:
        write_text(out, transcript, overwrite=True)  # checked before the first question
    except ExportError as error:
        raise InputError(str(error)) from error


def _typed() -> Iterator[str]:
    """Yield the questions that are typed, until an empty line or the end of the input."""
    while True:
        print("? ", end="", file=sys.stderr, flush=True)
        question = sys.stdin.readline().strip()
        if not question:
            return
        yield question
