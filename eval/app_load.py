"""Whether the app holds: people who upload, ask, seek and leave, all at once, over HTTP.

`python eval/app_load.py` starts app.py in a process of its own and sends it 20 people on loopback.
Each gives a clip of the world of their own, asks about it three times, seeks in it as a player
does, closes the page and comes again as somebody new, for three minutes. Every answer is compared
with the one that the model gives alone; the server's memory is measured when everyone has left for
the first time, and at the end. Prints one JSON object.
"""

import json
import os
import re
import secrets
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import tyro

from avchat.model import AVChat
from avchat.world.casting import draw_scene
from avchat.world.clip_file import write_clip
from avchat.world.questions import every_question

ROOT = Path(__file__).resolve().parent.parent
KINDS = ("one source", "sounds", "two sources", "order")
QUESTIONS = 3
START_S = 180
GONE_S = 5  # by then whoever has left is forgotten
THINKING_S = 1.0  # at most, between two things that a person does
CHANGES = ("add", "append", "delete", "replace")  # Gradio's words
PIECE = 4096  # bytes that a player asks for when it seeks


@dataclass(frozen=True)
class Load:
    """Send people to the app and print how it held."""

    people: int = 20
    """how many are there at a time"""
    seconds: float = 180.0
    """how long they keep coming"""
    model: str = "tiny"
    """the model that answers"""
    seed: int = 0
    """of the clips and of the pauses"""


@dataclass(frozen=True)
class Errand:
    """A clip, what is asked about it, what the model answers alone, and what is right."""

    clip: Path
    asked: list[str]
    alone: list[str]
    right: list[str]


@dataclass
class Tally:
    """What happened."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    first_s: list[float] = field(default_factory=list)  # from the question to its first word
    visits: int = 0
    answers: int = 0
    right: int = 0
    seeks: int = 0
    faults: list[str] = field(default_factory=list)

    def expect(self, true: bool, said: str) -> None:
        """Note what is not as it should be."""
        if not true:
            with self.lock:
                self.faults.append(said)


class Visitor:
    """Somebody with the page open, as the app sees them: a session that beats like a heart."""

    def __init__(self, address: str, actions: dict[str, int]) -> None:
        """Open the page."""
        self.web = httpx.Client(base_url=address, timeout=120)
        self.actions, self.session = actions, secrets.token_hex(8)
        self.web.get("/").raise_for_status()
        self.heart = self.web.build_request("GET", f"/gradio_api/heartbeat/{self.session}")
        self.beating = self.web.send(self.heart, stream=True)

    def leave(self) -> None:
        """Close the page."""
        self.beating.close()
        self.web.close()

    def act(self, name: str, *data: Any) -> Iterator[dict[str, Any]]:
        """Do something by the queue; yield what comes back, the last of it with all values."""
        body = {"data": data, "fn_index": self.actions[name], "session_hash": self.session}
        self.web.post("/gradio_api/queue/join", json=body).raise_for_status()
        where = f"/gradio_api/queue/data?session_hash={self.session}"
        with self.web.stream("GET", where) as lines:
            for line in lines.iter_lines():
                said = json.loads(line.removeprefix("data:")) if line.startswith("data:") else {}
                if said.get("msg") in ("process_generating", "process_completed"):
                    if not said["success"]:
                        raise RuntimeError(f"{name}: {said['output']}")
                    yield said["output"]
                if said.get("msg") == "close_stream":
                    return

    def upload(self, clip: Path) -> tuple[str, str]:
        """Give a clip; return the card that is shown and the address that the player plays."""
        sent = self.web.post("/gradio_api/upload", files={"files": (clip.name, clip.read_bytes())})
        file = {"path": sent.raise_for_status().json()[0], "meta": {"_type": "gradio.FileData"}}
        whole, card, url = [], "", ""
        for output in self.act("upload", file):
            whole = grown(whole, output["data"])
            card = (whole[0] or {}).get("value", card)
            url = (whole[1] or {}).get("url", url)
        return card, url


def grown(whole: Any, sent: Any) -> Any:
    """Apply what Gradio sends of a step: all of it at first, then for each value what changed."""
    if not whole:
        return sent
    out = []
    for old, changes in zip(whole, sent, strict=True):
        is_change = isinstance(changes, list) and all(
            isinstance(one, list) and len(one) == 3 and one[0] in CHANGES for one in changes
        )
        out.append(applied(old, changes) if is_change else changes)
    return out


def applied(value: Any, changes: list[list[Any]]) -> Any:
    """Apply Gradio's changes to a value: what to do, where, and with what."""
    for action, path, new in changes:
        if not path:
            value = value + new if action == "append" else new
            continue
        place = value
        for key in path[:-1]:
            place = place[key]
        if action == "delete":
            del place[path[-1]]
        elif action == "append":
            place[path[-1]] += new
        elif isinstance(place, list) and action == "add":
            place.insert(path[-1], new)
        else:
            place[path[-1]] = new
    return value


def errands(load: Load, folder: Path) -> list[Errand]:
    """Make a clip for each person, and let the model answer about it with nobody else there."""
    model, found = AVChat.from_pretrained(load.model), []
    rng = np.random.default_rng(load.seed)
    for number in range(load.people):
        while True:
            scene = draw_scene(rng, KINDS[number % len(KINDS)])
            pairs = every_question(scene, rng)[:QUESTIONS]
            if len(pairs) == QUESTIONS:
                break
        clip = folder / f"clip of person {number}.mp4"
        write_clip(scene, clip)
        talk = model.open(clip)
        alone = ["".join(talk.ask(pair.question)).strip() for pair in pairs]
        asked, right = [pair.question for pair in pairs], [pair.answer for pair in pairs]
        found.append(Errand(clip, asked, alone, right))
    return found


def visit(address: str, actions: dict[str, int], errand: Errand, tally: Tally, seed: int) -> None:
    """Come, upload, ask, seek, leave."""
    rng = np.random.default_rng(seed)
    visitor = Visitor(address, actions)
    try:
        card, url = visitor.upload(errand.clip)
        name = errand.clip.name
        tally.expect(name in card, f"the card of {name} says {card}")
        data = errand.clip.read_bytes()
        for question, alone, right in zip(errand.asked, errand.alone, errand.right, strict=True):
            answer = ask(visitor, question, tally)
            tally.expect(answer == alone, f"{name}: {question} {answer!r}, alone {alone!r}")
            with tally.lock:
                tally.answers += 1
                tally.right += right.lower() in answer.lower()
            start = int(rng.integers(len(data) - PIECE))
            part = {"Range": f"bytes={start}-{start + PIECE - 1}"}
            sent = visitor.web.get(f"/{url}", headers=part)
            same = sent.status_code == 206 and sent.content == data[start : start + PIECE]
            tally.expect(same, f"{name}: seeking gave {sent.status_code}")
            time.sleep(rng.uniform(0, THINKING_S))
        with tally.lock:
            tally.visits += 1
            tally.seeks += QUESTIONS
    finally:
        visitor.leave()


def ask(visitor: Visitor, question: str, tally: Tally) -> str:
    """Ask and return the answer; note when its first word came, and what it rests on."""
    start, whole, first = time.monotonic(), [], None
    for output in visitor.act("ask", question, "both"):
        whole = grown(whole, output["data"])
        if first is None and whole[0]["answer"]:
            first = time.monotonic() - start
    said = whole[0]
    tally.expect(said["state"] == "done", f"{question} ended {said['state']}")
    heard = "Saw 8 frames over 4.0 s and heard 4.0 s of sound." in said["receipt"]
    tally.expect(heard, f"{question} rests on {said['receipt']}")
    with tally.lock:
        tally.first_s.append(first or 0.0)
    return said["answer"].strip()


@contextmanager
def server(model: str, folder: Path) -> Iterator[tuple[str, psutil.Process]]:
    """Run app.py; give its address and its process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = {
        "GRADIO_SERVER_PORT": str(port),
        "GRADIO_TEMP_DIR": str(folder / "gradio"),
        "XDG_CACHE_HOME": str(folder),
        "AVCHAT_MODEL": model,
    }
    with (folder / "app.log").open("w") as log:
        app = subprocess.Popen(
            [sys.executable, "app.py"], cwd=ROOT, env=os.environ | settings, stdout=log, stderr=log
        )
    address = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline and app.poll() is None:
            with suppress(httpx.TransportError):
                httpx.get(address, timeout=10)
                break
            time.sleep(0.5)
        yield address, psutil.Process(app.pid)
    finally:
        app.terminate()
        app.wait(timeout=60)


def memory_mb(process: psutil.Process) -> float:
    """Measure what the server holds, with the processes that decode for it; shared pages once."""
    total = 0
    for one in (process, *process.children(recursive=True)):
        with suppress(psutil.NoSuchProcess):
            total += one.memory_full_info().uss
    return total / 1e6


def wave(address: str, found: list[Errand], tally: Tally, seconds: float, seed: int) -> None:
    """Let everyone come at once, and come again until the time is over; wait till all have left."""
    config = httpx.get(f"{address}/config").raise_for_status().json()
    actions = {one["api_name"]: one["id"] for one in config["dependencies"]}
    end = time.monotonic() + seconds

    def come(number: int) -> None:
        again = 0
        while again == 0 or time.monotonic() < end:
            try:
                visit(address, actions, found[number], tally, seed + 1000 * number + again)
            except (httpx.HTTPError, RuntimeError, LookupError) as error:
                tally.expect(False, f"person {number}: {type(error).__name__}: {error}")
            again += 1

    people = [threading.Thread(target=come, args=(number,)) for number in range(len(found))]
    for person in people:
        person.start()
    for person in people:
        person.join()
    time.sleep(GONE_S)


def main(load: Load) -> dict[str, Any]:
    """Run it and report."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        found, tally = errands(load, folder), Tally()
        with server(load.model, folder) as (address, process):
            start = memory_mb(process)
            wave(address, found, tally, 0, load.seed)
            first = memory_mb(process)
            wave(address, found, tally, load.seconds, load.seed + 1)
            last = memory_mb(process)
        logged = (folder / "app.log").read_text()
        left = [path for path in (folder / "gradio").rglob("*.mp4")]
    first_s = tally.first_s or [0.0]
    return {
        "people": load.people,
        "visits": tally.visits,
        "answers": tally.answers,
        "right": tally.right,
        "seeks": tally.seeks,
        "first_token_p50_s": round(float(np.percentile(first_s, 50)), 3),
        "first_token_p95_s": round(float(np.percentile(first_s, 95)), 3),
        "memory_mb": {"start": round(start), "first": round(first), "end": round(last)},
        "clips_left": len(left),
        "tracebacks": re.findall(r"^\S*(?:Error|Exception)\b.*", logged, re.MULTILINE)[:5],
        "faults": len(tally.faults),
        "examples": tally.faults[:5],
    }


if __name__ == "__main__":
    print(json.dumps(main(tyro.cli(Load))))
