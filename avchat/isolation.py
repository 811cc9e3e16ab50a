"""Run a function in a process of its own, so that a native decoder's crash or hang stays there.

A fresh process a call: nothing that a hostile file leaves behind meets the next file. Starting one
costs a quarter of a second, the start of Python with numpy, PyAV and decord. So on Linux a nursery
is started instead, which forks a process for each call and is kept for the next one; it decodes
nothing itself. The reply is a line of JSON and then the bytes of its arrays, over a pipe: no
pickles, no files left behind.
"""

import atexit
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import BinaryIO

import numpy as np

Reply = tuple[dict, list[np.ndarray]]

CHILD = "from avchat.isolation import answer; from {0} import {1}; answer({1})"
NURSERY = "from avchat.isolation import nurse; nurse({0})"
HOME = str(Path(__file__).parent.parent)  # where the package avchat lies
HEADROOM_BYTES = 4 * 1024**3  # address space for code, threads and decoders, beside the arrays
FORKS = sys.platform == "linux"  # on macOS its system libraries do not bear a fork
MAX_ORDER_BYTES = 100_000  # that a nursery takes: a packet of a local socket
PIECE = 1 << 20


class WorkerError(Exception):
    """Say in a few words how the process ended without a reply."""


def call(function: str, request: dict, *, timeout_s: float, max_bytes: int) -> Reply:
    """Call `module:function` with a request (plain JSON) in a process of its own.

    The function returns what JSON can hold and a list of arrays, `max_bytes` of them at most.
    Raises WorkerError when the process crashes, or runs longer than `timeout_s` and is killed.
    """
    order = json.dumps([request, timeout_s, max_bytes]).encode()
    try:
        if FORKS and len(order) < MAX_ORDER_BYTES:
            code, out, err = call_forked(function, order, timeout_s)
        else:
            code, out, err = call_started(function, order, timeout_s)
    except TimeoutError as error:
        raise WorkerError(f"took longer than {timeout_s:g} s and was stopped") from error
    except ConnectionError as error:  # a nursery that was killed meanwhile, for memory perhaps
        raise WorkerError(f"crashed ({error})") from error
    line, _, payload = out.partition(b"\n")
    if code or not line:
        raise WorkerError(f"crashed ({how_it_ended(code, err)})")
    header = json.loads(line)
    return header["reply"], list(unpack(header["arrays"], payload))


def environment() -> dict[str, str]:
    """Let a process find what this one finds."""
    return os.environ | {"PYTHONPATH": os.pathsep.join([HOME, *filter(None, sys.path)])}


def call_started(function: str, order: bytes, timeout_s: float) -> tuple[int, bytes, bytes]:
    """Start a process for one order: (exit code, what it wrote to stdout, to stderr)."""
    worker = subprocess.Popen(
        [sys.executable, "-c", CHILD.format(*function.split(":"))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
    )
    with worker:
        try:
            out, err = worker.communicate(order, timeout=timeout_s)
        except subprocess.TimeoutExpired as error:
            raise TimeoutError from error
        finally:
            worker.kill()
    return worker.returncode, out, err


class Nursery:
    """A process that has imported what decoders need, and forks one for each order."""

    idle: "list[Nursery]" = []  # of this process; append and pop are atomic

    def __init__(self) -> None:
        """Start it, in a group of its own that can be killed whole."""
        self.environment, self.owner = environment(), os.getpid()
        self.line, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-W", "ignore", "-c", NURSERY.format(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                env=self.environment | {"OPENBLAS_NUM_THREADS": "1"},  # no threads where it forks
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )

    @classmethod
    def take(cls) -> "Nursery":
        """Take one that is idle, or start one."""
        while cls.idle:
            nursery = cls.idle.pop()
            alive = nursery.owner == os.getpid() and nursery.process.poll() is None
            if alive and nursery.environment == environment():
                return nursery
            nursery.end()
        return cls()

    def end(self) -> None:
        """End it with all that it has forked; a copy that a fork of this process holds is left."""
        self.line.close()
        if self.owner == os.getpid():
            with suppress(ProcessLookupError):  # it has died already
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def carry_out(self, function: str, order: bytes, timeout_s: float) -> tuple[int, bytes, bytes]:
        """Have an order carried out by a fork: as `call_started`."""
        limit = time.monotonic() + timeout_s
        out, inlet = os.pipe()
        with tempfile.TemporaryFile() as said, os.fdopen(out, "rb", 0) as outlet:
            try:
                order = function.encode() + b"\n" + order
                socket.send_fds(self.line, [order], [inlet, said.fileno()])
            finally:
                os.close(inlet)
            pieces = []
            while piece := read_before(outlet.fileno(), limit):
                pieces.append(piece)
            code = int(read_before(self.line.fileno(), limit) or b"1")
            said.seek(0)
            return code, b"".join(pieces), said.read()


@atexit.register
def end_nurseries() -> None:
    """End the nurseries of this process."""
    while Nursery.idle:
        Nursery.idle.pop().end()


def read_before(source: int, limit: float) -> bytes:
    """Read a piece, empty at the end; TimeoutError where none comes until `limit`."""
    waiting = select.poll()
    waiting.register(source, select.POLLIN)
    if not waiting.poll(max(0.0, limit - time.monotonic()) * 1000):
        raise TimeoutError
    return os.read(source, PIECE)


def call_forked(function: str, order: bytes, timeout_s: float) -> tuple[int, bytes, bytes]:
    """Have an order carried out by a fork of a nursery: as `call_started`."""
    nursery, done = Nursery.take(), False
    try:
        result = nursery.carry_out(function, order, timeout_s)
        done = nursery.process.poll() is None
        return result
    finally:
        if done:
            Nursery.idle.append(nursery)
        else:
            nursery.end()


def nurse(number: int) -> None:
    """Fork a process for each order that comes: the nursery's side."""
    line = socket.socket(fileno=number)
    while True:
        order, kept, *_ = socket.recv_fds(line, MAX_ORDER_BYTES + PIECE, 2)
        if not order:
            return
        function, _, order = order.partition(b"\n")
        module, name = function.decode().split(":")
        carry_out = vars(import_module(module))[name]  # imported once, for all forks
        worker = os.fork()
        if not worker:
            line.close()
            work(carry_out, order, *kept)
        for descriptor in kept:
            os.close(descriptor)
        line.send(str(os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1])).encode())


def work(function: Callable[[dict], Reply], order: bytes, out: int, err: int) -> None:
    """Carry out one order and end: the side of a nursery's fork."""
    code = 1
    try:
        os.dup2(err, 2)
        os.dup2(err, 1)  # what a native library prints must not get into the reply
        with os.fdopen(out, "wb") as pipe:
            write_reply(function, order, pipe)
        code = 0
    finally:
        if code:
            traceback.print_exc()
        os._exit(code)


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
    with pipe:
        write_reply(function, sys.stdin.buffer.read(), pipe)


def write_reply(function: Callable[[dict], Reply], order: bytes, pipe: BinaryIO) -> None:
    """Carry out an order within its limits and write the reply."""
    request, timeout_s, max_bytes = json.loads(order)
    limit_resources(timeout_s, max_bytes)
    reply, arrays = function(request)
    kinds = [(array.dtype.str, array.shape) for array in arrays]
    pipe.write(json.dumps({"reply": reply, "arrays": kinds}).encode() + b"\n")
    for array in arrays:
        pipe.write(np.ascontiguousarray(array).data)


def limit_resources(timeout_s: float, max_bytes: int) -> None:
    """Bound this process's memory and its time should the parent die; only Linux enforces both."""
    if sys.platform != "linux":
        return
    import resource  # noqa: PLC0415, absent on Windows

    resource.setrlimit(resource.RLIMIT_AS, (2 * max_bytes + HEADROOM_BYTES,) * 2)
    seconds = int(timeout_s * (os.cpu_count() or 1)) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
