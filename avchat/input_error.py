"""The fault of the one who typed: what the command line answers with `error:` and exit code 2."""

import re
import sys


class InputError(Exception):
    """What the user gave cannot be used; the message is the one line they read."""


def one_line(box: str) -> str:
    """Flatten tyro's box around a parsing error: text between rules becomes `a; b`."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", box)
    text = re.sub(r"[\u256d\u256e\u2570\u256f\u2502]", " ", text)  # corners and sides
    first, *rest = [part.strip() for part in re.split(r"\u2500{2,}|\u2500 ", text) if part.strip()]
    parts = rest or [first]  # the first part is the title of the box
    return "; ".join(" ".join(part.split()) for part in parts)


def say(line: str) -> None:
    """Tell the user something that is no answer: a line on stderr."""
    print(line, file=sys.stderr, flush=True)


def in_one_line(error: Exception) -> str:
    """Word a fault as the command line shows it."""
    return "error: " + " ".join(str(error).split())
