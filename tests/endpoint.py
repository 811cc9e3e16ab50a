"""A judge's endpoint for tests: a real HTTP server that speaks the chat-completions protocol.

It marks by rule, so that any order of requests gives the same marks, and misbehaves as scripted.
With it, what the tests of the judge share.
"""

import json
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from avchat.evaluation.aspects import CORRECTNESS, Aspect
from avchat.evaluation.judge import Judge
from avchat.evaluation.judging import Judged, judge_all
from avchat.evaluation.records import Records, Row, read_records

GOOD = '{"score": 4}'


class Endpoint(ThreadingHTTPServer):
    """A server with a script: what to do with the next requests, one by one, and then its rule."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}/v1"
        self.script: list[Act] = []
        self.model = "judge-2026-01-01"
        self.bodies: list[dict[str, Any]] = []  # of all requests
        self.times: list[float] = []
        self.answered: list[str] = []  # what was answered with a mark: the user's message
        self.down_after: int | None = None  # answers no more than so many
        self.kill_at: int | None = None  # which request ends the one who sent it
        self.victim: subprocess.Popen[str] | None = None
        self.lock = threading.Lock()
        self.most_at_once = self.at_once = 0
        self.shutdown_date: str | None = None  # what it says of its model; None: nothing

    def handle_error(self, request: object, client_address: object) -> None:
        """Keep quiet: clients that go away are what is tested."""


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    server: Endpoint

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        server = self.server
        with server.lock:
            server.at_once += 1
            server.most_at_once = max(server.most_at_once, server.at_once)
            server.bodies.append(body)
            server.times.append(time.monotonic())
            act = server.script.pop(0) if server.script else rule
            if server.victim is not None and len(server.bodies) == server.kill_at:
                os.kill(server.victim.pid, signal.SIGKILL)
            if server.down_after is not None and len(server.answered) >= server.down_after:
                act = drop
            elif act is rule:
                server.answered.append(body["messages"][1]["content"])
        try:
            act(self, body)
        finally:
            with server.lock:
                server.at_once -= 1

    def do_GET(self) -> None:
        if self.server.shutdown_date is None:
            self.send(404, b"{}", {})
        else:
            about = {"id": "judge", "shutdown_date": self.server.shutdown_date}
            self.send(200, json.dumps(about).encode(), {})

    def send(self, status: int, payload: bytes, headers: dict[str, str]) -> None:
        """Send a whole response."""
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **headers}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)

    def log_message(self, format: str, *args: object) -> None:
        """Keep quiet."""


Act = Callable[[Handler, dict[str, Any]], None]


def say(content: Any, **more: Any) -> Act:
    """Reply with these words."""

    def act(handler: Handler, body: dict[str, Any]) -> None:
        message = {"role": "assistant", "content": content}
        reply = {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "created": 1,
            "model": handler.server.model,
            "system_fingerprint": "fp_7",
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 90, "completion_tokens": 8, "total_tokens": 98},
            **more,
        }
        handler.send(200, json.dumps(reply).encode(), {})

    return act


def rule(handler: Handler, body: dict[str, Any]) -> None:
    """Mark as a sound judge would: the right answer 5, none 0, a shared word 3, else 1."""
    fields = json.loads(body["messages"][1]["content"])
    right = fields["right_answer"].lower()
    said = [fields[name].lower() for name in fields if name.startswith("given_answer")]
    shared = all(set(one.split()) & set(right.split()) for one in said)
    score = 5 if set(said) == {right} else 0 if not any(said) else 3 if shared else 1
    match = {"match": "yes" if score > 2 else "no"} if '"match"' in str(body) else {}
    say(json.dumps({**match, "score": score}))(handler, body)


def status(number: int, headers: dict[str, str] | None = None, **error: str) -> Act:
    """Reply with a fault, as OpenAI words one."""

    def act(handler: Handler, body: dict[str, Any]) -> None:
        payload = {"error": {"message": "no such luck", "type": "x", **error}}
        handler.send(number, json.dumps(payload).encode(), headers or {})

    return act


def raw(payload: bytes, kind: str = "application/json") -> Act:
    """Reply with these bytes."""
    return lambda handler, body: handler.send(200, payload, {"Content-Type": kind})


def drop(handler: Handler, body: dict[str, Any]) -> None:
    """Close the connection without a word."""
    handler.close_connection = True
    handler.connection.shutdown(socket.SHUT_RDWR)


def break_off(handler: Handler, body: dict[str, Any]) -> None:
    """Close the connection in the middle of the reply."""
    handler.send_response(200)
    handler.send_header("Content-Type", "application/json")
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"choices": [')
    handler.wfile.flush()
    drop(handler, body)


def hang(let_go: threading.Event) -> Act:
    """Reply to nobody before the event."""

    def act(handler: Handler, body: dict[str, Any]) -> None:
        let_go.wait(30)
        drop(handler, body)

    return act


@contextmanager
def serving() -> Iterator[Endpoint]:
    """Run an endpoint in a thread."""
    with Endpoint() as endpoint:
        thread = threading.Thread(target=endpoint.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield endpoint
        finally:
            endpoint.shutdown()
            thread.join()


def judge_at(endpoint: Endpoint, tries: int = 4, timeout_s: float = 30.0, **more: Any) -> Judge:
    """Address the endpoint; a fault costs thousandths of a second."""
    return Judge(
        "judge", endpoint.url, "sk-1", tries=tries, pause_s=0.001, timeout_s=timeout_s, **more
    )


def items(count: int) -> list[Judged]:
    """Questions on half as many clips; every third is answered right."""
    return [
        Judged(
            f"q{k}",
            f"clip{k // 2}",
            f"what is {k}?",
            f"thing {k}",
            f"thing {k}" if k % 3 == 0 else f"a thing of {k}",
        )
        for k in range(count)
    ]


def judged(
    path: Path,
    judge: Judge,
    made: list[Judged],
    parallel: int = 4,
    aspect: Aspect = CORRECTNESS,
) -> dict[str, Row]:
    """Judge into a file and read it back."""
    with Records(path) as records:
        judge_all(judge, aspect, made, records, parallel)
    return read_records(path)
