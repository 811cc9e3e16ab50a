"""`avchat chat --batch IN --out OUT`: questions of a JSON-lines file, answered into another.

Heavy imports stay inside.
"""

import contextlib
import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from avchat.input_error import InputError, say

if TYPE_CHECKING:
    from collections.abc import Iterator

    from avchat.batch_lines import Answers, Survey
    from avchat.batch_run import Chunk
    from avchat.chat_cli import Chat
    from avchat.model import AVChat
    from avchat.transcripts import Transcriber


def chat_batch(verb: "Chat") -> None:
    """Answer all lines that are not answered yet; InputError where none of all could be."""
    # Threads that wait must not spin: decoding needs the cores. Before OpenMP is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    _check(verb)
    from avchat.batch_lines import Answers, BatchError, read_lines, survey
    from avchat.batch_run import Asking, answer_lines, leave_a_core, settings_of, whisper_key

    try:
        found = survey(verb.batch)
        if found.unread:
            say(f"note: nothing reads the fields {', '.join(found.unread)}")
        model, transcriber = _load(verb)
        asking = Asking(
            verb.sense,
            verb.frames,
            verb.temperature,
            verb.top_p,
            verb.seed,
            verb.max_new_tokens,
            None if transcriber is None else whisper_key(transcriber.name),
        )
        answers = Answers(verb.out, settings_of(model, asking))
        lines = read_lines(verb.batch)
        if done := answers.resume(lines):
            say(f"{done} of {found.lines} lines are answered already in {verb.out}")
        chunks = answer_lines(model, lines, asking, transcriber)
        leave_a_core(model)
        _run(verb, found, answers, chunks)
        answers.close()
    except BatchError as error:
        raise InputError(str(error)) from error
    if not answers.answered:
        raise InputError(f"none of the {answers.failed} questions could be answered: {verb.out}")


def _check(verb: "Chat") -> None:
    """Find what is wrong with the arguments before torch and a model are loaded."""
    if verb.video is not None:
        raise InputError("--batch takes files and questions from its lines: leave VIDEO out")
    if verb.out is None:
        raise InputError("--batch needs --out, the file for the answers")
    if (verb.start, verb.end) != (None, None):
        raise InputError('with --batch "start" and "end" stand in the lines of its file')
    if verb.evidence or verb.vtt is not None:
        raise InputError("--evidence and --vtt are for one question: leave them out with --batch")
    if verb.head not in ("auto", "none"):
        raise InputError("--batch looks at each file as a whole: leave --head out")
    if verb.frames is not None and verb.frames < 1:
        raise InputError(f"--frames must be at least 1, not {verb.frames}")
    if verb.max_new_tokens < 1:
        raise InputError(f"--max-new-tokens must be at least 1, not {verb.max_new_tokens}")
    from avchat.batch_lines import SETTINGS

    beside = verb.out.with_name(verb.out.name + SETTINGS)
    for written in (verb.out, beside):
        if _same(verb.batch, written):
            raise InputError(f"{written}: is the file of the questions; name another --out")
    if verb.batch.exists() and not verb.batch.is_file():
        raise InputError(f"{verb.batch}: is read twice, so it must be a plain file, no pipe")
    if verb.out.is_dir() or not verb.out.absolute().parent.is_dir():
        raise InputError(f"{verb.out}: not a file that can be written")


def _same(one: Path, other: Path) -> bool:
    return one.resolve() == other.resolve()


def _load(verb: "Chat") -> "tuple[AVChat, Transcriber | None]":
    """Check how words are drawn, load the model, and what transcribes where that is wanted."""
    with contextlib.redirect_stdout(sys.stderr):  # what libraries print is no answer
        from avchat.config import ModelError
        from avchat.decoding import picker
        from avchat.loading import choices
        from avchat.model import AVChat
        from avchat.prompt import PromptError
        from avchat.transcripts import Transcriber, TranscriptError

        try:
            picker(verb.temperature, verb.top_p, verb.seed)
            how = choices(verb.device, verb.dtype, verb.bits, verb.offload)
            model = AVChat.from_pretrained(verb.model, **how)
            if not verb.transcript and verb.whisper is None:
                return model, None
            chosen = model.transcriber if verb.whisper is None else Transcriber(verb.whisper)
            return model, chosen.load()
        except (ModelError, PromptError, TranscriptError) as error:
            raise InputError(str(error)) from error


def _run(verb: "Chat", found: "Survey", answers: "Answers", chunks: "Iterator[Chunk]") -> None:
    """Answer lines chunk by chunk, with a bar; then say how many and how fast."""
    begin, clips, tokens = time.perf_counter(), 0, 0
    done = answers.answered + answers.failed
    with tqdm(total=found.lines, initial=done, unit="line", file=sys.stderr, disable=None) as bar:
        for chunk in chunks:
            answers.write(chunk.rows)
            clips += chunk.clips
            tokens += sum(row["tokens"]["answer"] for row in chunk.rows if "error" not in row)
            bar.update(len(chunk.rows))
    seconds = time.perf_counter() - begin
    summary = {
        "answered": answers.answered,
        "failed": answers.failed,
        "seconds": round(seconds, 3),
        "clips_per_s": round(clips / seconds, 2),
        "tokens_per_s": round(tokens / seconds, 2),
    }
    say(
        f"{answers.answered} answered, {answers.failed} failed; this run: {seconds:.1f} s, "
        f"{clips / seconds:.1f} clips/s, {tokens / seconds:.1f} tokens/s"
    )
    if verb.json:
        print(json.dumps(summary))
