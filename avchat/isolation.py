"""Run a function in a process of its own, so that a native decoder's crash or hang stays there.

A fresh process a call: nothing that a hostile file leaves behind meets the next file. It costs a
quarter of a second, the start of Python with numpy, PyAV and decord. The reply is a line of JSON
and then the bytes of its arrays, over a pipe: no pickles, no files left behind.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

Reply = tuple[dict, list[np.ndarray]]

CHILD = "from avchat.isolation import answer; from {0} import {1}; answer({1})"
HOME = str(Path(__file__).parent.parent)  # where the package avchat lies
HEADROOM_BYTES = 4 * 1024**3  # address space for code, threads and decoders, beside the arrays


class WorkerError(Exception):
    """Say in a few words how the process ended without a reply."""


def call(function: str, request: dict, *, timeout_s: float, max_bytes: int) -> Reply:
    """Call `module:function` with a request (plain JSON) in a process of its own.

    The function returns what JSON can hold and a list of arrays, `max_bytes` of them at most.
    Raises WorkerError when the process crashes, or runs longer than `timeout_s` and is killed.
    """
    order = json.dumps([request, timeout_s, max_bytes])
    worker = subprocess.Popen(
        [sys.executable, "-c", CHILD.format(*function.split(":"))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([HOME, *filter(None, sys.path)])},
    )
    with worker:
        try:
            out, err = worker.communicate(order.encode(), timeout=timeout_s)
        except subprocess.TimeoutExpired as error:
            raise WorkerError(f"took longer than {timeout_s:g} s and was stopped") from error
        finally:
            worker.kill()
    line, _, payload = out.partition(b"\n")
    if worker.returncode or not line:
        raise WorkerError(f"crashed ({how_it_ended(worker.returncode, err)})")
    header = json.loads(line)
    return header["reply"], list(unpack(header["arrays"], payload))


def how_it_ended(code: int, err: bytes) -> str:
    """Name the signal that ended a process, or quote its last words."""
    if code < 0:
        return f"signal {-code}"
    words = err.decode("utf-8", "replace").strip().splitlines()
    return words[-1][:200] if words else f"exit code {code}"


def unpack(kinds: list[tuple[str, list[int]]], payload: bytes) -> Iterator[np.ndarray]:
    """Yield writable arrays from their dtypes, shapes and bytes."""
    at = 0
    for dtype, shape in kinds:
        array = np.ndarray(shape, dtype, payload, at).copy()
        at += array.nbytes
        yield array


def answer(function: Callable[[dict], Reply]) -> None:
    """Read one order from stdin, carry it out and write the reply to stdout: the child's side."""
    pipe = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a native library prints must not get into the reply
    request, timeout_s, max_bytes = json.load(sys.stdin)
    limit_resources(timeout_s, max_bytes)
    reply, arrays = function(request)
    kinds = [(array.dtype.str, array.shape) for array in arrays]
    pipe.write(json.dumps({"reply": reply, "arrays": kinds}).encode() + b"\n")
    for array in arrays:
        pipe.write(np.ascontiguousarray(array).data)
    pipe.close()


def limit_resources(timeout_s: float, max_bytes: int) -> None:
    """Bound this process's memory and its time should the parent die; only Linux enforces both."""
    if sys.platform != "linux":
        return
    import resource  # noqa: PLC0415, absent on Windows

    resource.setrlimit(resource.RLIMIT_AS, (2 * max_bytes + HEADROOM_BYTES,) * 2)
    seconds = int(timeout_s * (os.cpu_count() or 1)) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
