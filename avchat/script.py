"""A script of train/ or eval/ run from its flags: what goes wrong is one line and a true exit code.

0 done, or stopped and to be gone on with; 2 the input is at fault, in one line that begins
`error:`; 130 stopped by Ctrl-C before there was anything to go on with.
"""

import contextlib
import io
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import tyro

from avchat.config import ModelError
from avchat.data import DataError
from avchat.input_error import one_line
from avchat.run_state import TrainingError
from avchat.training import rank_and_world
from avchat.transcripts import TranscriptError
from avchat.world.dataset import DatasetError
from avchat.writing import ExportError

FAULTS = (DataError, DatasetError, ExportError, ModelError, TrainingError, TranscriptError)
OTHERS_WAIT_S = 5.0  # the launcher ends them before they say again what the first has said


def run_script(main: Callable[[Any], int | None], kind: type, description: str | None) -> None:
    """Parse the flags of a script into its dataclass and run it; leave with an exit code."""
    try:
        if code := main(parse(kind, description)):
            raise SystemExit(code)
        sys.stdout.flush()
    except FAULTS as error:
        time.sleep(OTHERS_WAIT_S * (rank_and_world()[0] > 0))
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from error
    except KeyboardInterrupt:
        print("stopped: the same command goes on", file=sys.stderr)
        raise SystemExit(130) from None
    except BrokenPipeError:
        # The reader of our output has left, as in `eval/table.py ... | head -1`. Point stdout at
        # nothing, or Python complains once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def parse(kind: type, description: str | None) -> Any:
    """Turn flags into a dataclass; DataError in one line when they do not fit."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(kind, description=description)
    except SystemExit as stop:
        if not stop.code:
            raise
    raise DataError(one_line(said.getvalue()))
