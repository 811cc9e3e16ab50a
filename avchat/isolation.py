"""Run a function in a process of its own, so that a native decoder's crash or hang stays there.

A fresh process a call: nothing that a hostile file leaves behind meets the next file. Starting one
costs a quarter of a second, the start of Python with numpy, PyAV and decord. So on Linux a nursery
is started instead, which forks a process for each call and is kept for the next one; it decodes
nothing itself. The reply is a line of JSON and then the bytes of its arrays, over a pipe: no
pickles, no files left behind. Before it there may be lines that say how far the process is.
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
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import BinaryIO

import numpy as np

Reply = tuple[dict, list[np.ndarray]]
Progress = Callable[[float, float], None]  # called with what is done, and of how much

CHILD = "from avchat.isolation import answer; from {0} import {1}; answer({1})"
NURSERY = "from avchat.isolation import nurse; nurse({0})"
HOME = str(Path(__file__).parent.parent)  # where the package avchat lies
HEADROOM_BYTES = 4 * 1024**3  # address space for code, threads and decoders, beside the arrays
FORKS = sys.platform == "linux"  # on macOS its system libraries do not bear a fork
MAX_ORDER_BYTES = 100_000  # that a nursery takes: a packet of a local socket
PIECE = 1 << 20
GLANCE_S = 0.1  # between two looks at whether to stop
TELL_S = 0.2  # between two lines of progress, at least


class WorkerError(Exception):
    """Say in a few words how the process ended without a reply."""


class Stopped(Exception):
    """The caller asked to stop: the process was killed."""


class Watch:
    """What a caller does while a process works for it: wait, hear how far it is, stop it."""

    def __init__(
        self, timeout_s: float, progress: Progress | None, stop: threading.Event | None
    ) -> None:
        self.limit = time.monotonic() + timeout_s
        self.progress, self.stop = progress, stop
        self.pieces: list[bytes] = []
        self.replying = False  # all lines of progress have come

    def patience_s(self) -> float:
        """Say how long to wait before the next look; TimeoutError or Stopped where it is over."""
        if self.stop is not None and self.stop.is_set():
            raise Stopped
        left_s = self.limit - time.monotonic()
        if left_s <= 0:
            raise TimeoutError
        return left_s if self.stop is None else min(left_s, GLANCE_S)

    def take(self, piece: bytes) -> None:
        """Take a piece of what the process writes, and pass its lines of progress on."""
        self.pieces.append(piece)
        if self.replying:
            return
        said = b"".join(self.pieces)
        while said.startswith(b"[") and b"\n" in said:
            line, _, said = said.partition(b"\n")
            if self.progress is not None:
                self.progress(*json.loads(line))
        self.pieces, self.replying = [said], said.startswith(b"{")

    def reply(self) -> bytes:
        """Join what was written after the lines of progress."""
        return b"".join(self.pieces)


def call(
    function: str,
    request: dict,
    *,
    timeout_s: float,
    max_bytes: int,
    progress: Progress | None = None,
    stop: threading.Event | None = None,
) -> Reply:
    """Call `module:function` with a request (plain JSON) in a process of its own.

    The function returns what JSON can hold and a list of arrays, `max_bytes` of them at most.
    What a `Teller` says there is passed to `progress`, in the caller's thread. Raises WorkerError
    when the process crashes, or runs longer than `timeout_s` and is killed, and Stopped when it
    was killed because `stop` was set.
    """
    order = json.dumps([request, timeout_s, max_bytes]).encode()
    watch = Watch(timeout_s, progress, stop)
    try:
        if FORKS and len(order) < MAX_ORDER_BYTES:
            code, err = call_forked(function, order, watch)
        else:
            code, err = call_started(function, order, watch)
    except TimeoutError as error:
        raise WorkerError(f"took longer than {timeout_s:g} s and was stopped") from error
    except ConnectionError as error:  # a nursery that was killed meanwhile, for memory perhaps
        raise WorkerError(f"crashed ({error})") from error
    line, _, payload = watch.reply().partition(b"\n")
    if code or not watch.replying:
        raise WorkerError(f"crashed ({how_it_ended(code, err)})")
    header = json.loads(line)
    return header["reply"], list(unpack(header["arrays"], payload))


def environment() -> dict[str, str]:
    """Let a process find what this one finds."""
    return os.environ | {"PYTHONPATH": os.pathsep.join([HOME, *filter(None, sys.path)])}


def call_started(function: str, order: bytes, watch: Watch) -> tuple[int, bytes]:
    """Start a process for one order: (exit code, what it wrote to stderr)."""
    worker = subprocess.Popen(
        [sys.executable, "-c", CHILD.format(*function.split(":"))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
    )
    with worker:
        try:
            err = attend(worker, order, watch)
        finally:
            worker.kill()
    return worker.returncode, err


def attend(worker: "subprocess.Popen[bytes]", order: bytes, watch: Watch) -> bytes:
    """Give a process its order and take what it writes, until it ends; return its stderr."""
    sent: bytes | None = order
    heard = 0
    while True:
        try:
            out, err = worker.communicate(sent, timeout=min(watch.patience_s(), GLANCE_S))
        except subprocess.TimeoutExpired as error:
            out = error.output or b""
            watch.take(out[heard:])
            heard, sent = len(out), None  # the rest of the order is still on its way
            continue
        watch.take(out[heard:])
        return err


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

    def carry_out(self, function: str, order: bytes, watch: Watch) -> tuple[int, bytes]:
        """Have an order carried out by a fork: as `call_started`."""
        out, inlet = os.pipe()
        with tempfile.TemporaryFile() as said, os.fdopen(out, "rb", 0) as outlet:
            try:
                order = function.encode() + b"\n" + order
                socket.send_fds(self.line, [order], [inlet, said.fileno()])
            finally:
                os.close(inlet)
            while piece := read_next(outlet.fileno(), watch):
                watch.take(piece)
            code = int(read_next(self.line.fileno(), watch) or b"1")
            said.seek(0)
            return code, said.read()


@atexit.register
def end_nurseries() -> None:
    """End the nurseries of this process."""
    while Nursery.idle:
        Nursery.idle.pop().end()


def read_next(source: int, watch: Watch) -> bytes:
    """Read a piece, empty at the end; TimeoutError or Stopped as `watch` says."""
    waiting = select.poll()
    waiting.register(source, select.POLLIN)
    while not waiting.poll(watch.patience_s() * 1000):
        pass
    return os.read(source, PIECE)


def call_forked(function: str, order: bytes, watch: Watch) -> tuple[int, bytes]:
    """Have an order carried out by a fork of a nursery: as `call_started`."""
    nursery, done = Nursery.take(), False
    try:
        result = nursery.carry_out(function, order, watch)
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
    listeners.append(pipe)
    reply, arrays = function(request)
    kinds = [(array.dtype.str, array.shape) for array in arrays]
    pipe.write(json.dumps({"reply": reply, "arrays": kinds}).encode() + b"\n")
    for array in arrays:
        pipe.write(np.ascontiguousarray(array).data)


listeners: list[BinaryIO] = []  # of a process of its own: the pipe to its caller


class Teller:
    """Says from a process of its own how far it is, now and then; elsewhere it says nothing."""

    def __init__(self, total: float) -> None:
        self.total, self.next = total, 0.0

    def say(self, done: float) -> None:
        """Say how much of the total is done, unless something was said just before."""
        now = time.monotonic()
        if now < self.next:
            return
        self.next = now + TELL_S
        for pipe in listeners:
            pipe.write(json.dumps([max(0.0, done), self.total]).encode() + b"\n")
            pipe.flush()


def limit_resources(timeout_s: float, max_bytes: int) -> None:
    """Bound this process's memory and its time should the parent die; only Linux enforces both."""
    if sys.platform != "linux":
        return
    import resource  # noqa: PLC0415, absent on Windows

    resource.setrlimit(resource.RLIMIT_AS, (2 * max_bytes + HEADROOM_BYTES,) * 2)
    seconds = int(timeout_s * (os.cpu_count() or 1)) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
