"""What is said in the parts of a clip, for a conversation about them.

Enters: decoded media and a Whisper. Leaves: lines, each sound transcribed once in a process; as
many of them as the language model's context holds.
"""

import hashlib
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Sequence
from threading import Lock

from avchat.media import Media
from avchat.prompt import Prompt
from avchat.transcripts import Line, Transcriber, later

KEPT = 64  # sounds whose lines are kept, some kilobytes each: our choice
SPARE = 0.25  # of the context is left to later questions and answers: our choice

_lines: OrderedDict[tuple[str, bytes], list[Line]] = OrderedDict()  # the latest used is the last
# One at a time: Whisper's decoder keeps its keys and values in hooks, which two would share.
_turn = Lock()


def spoken(parts: Sequence[Media], transcriber: Transcriber) -> tuple[Line, ...]:
    """Write down what is said in parts of a file, on its clock.

    TranscriptError says why that cannot be done. The same sound with the same Whisper is not
    transcribed again, by whichever conversation.
    """
    said: list[Line] = []
    for part in parts:
        key = transcriber.name, hashlib.sha256(part.waveform.tobytes()).digest()
        with _turn:
            if key not in _lines:
                _lines[key] = transcriber.wave_lines(part.waveform)
            _lines.move_to_end(key)
            found = _lines[key]
            while len(_lines) > KEPT:
                _lines.popitem(last=False)
        said += later(found, part.start_s)
    return tuple(said)


def fitting(
    lines: Sequence[Line], prompt: Prompt, taken: int, context: int
) -> tuple[Line, ...] | None:
    """Keep the lines from the first on that fit; None where there are some and none does.

    Args: taken: tokens of media, of the talk so far and of the question; context: of the model.
    """
    if not lines:
        return ()
    room = context - round(SPARE * context) - taken
    counts = range(1, len(lines) + 1)
    fit = bisect_right(counts, room, key=lambda k: len(prompt.transcript_ids(lines[:k])))
    return tuple(lines[:fit]) or None


def seconds(lines: Sequence[Line] | None) -> float:
    """Add up how long something is said."""
    return sum(line.end - line.start for line in lines or ())
