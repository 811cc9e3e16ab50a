"""The app for programs: every action by name, four MCP tools, and the calls that the page shows."""

import asyncio
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from pages import serve, upload

from avchat.app_settings import Settings
from avchat.indexing import index
from avchat.library import Library
from avchat.ui import calls
from avchat.ui.clips import Options
from avchat.ui.given import file_of
from avchat.ui.tools import no_tools
from avchat.ui.visitors import Refused
from avchat.world.casting import draw_scene
from avchat.world.clip_file import write_clip
from avchat.world.questions import every_question

if TYPE_CHECKING:
    from mcp.types import CallToolResult
    from playwright.sync_api import Page

pytestmark = [pytest.mark.page, pytest.mark.timeout(400)]
TOOLS = ["ask_video", "describe_sound", "find_clips", "find_moments"]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("endpoints")


@pytest.fixture(scope="module")
def address(bundled: str, home: Path) -> Iterator[str]:
    """The app over the bundled model, whose library is a folder of its own."""
    with serve(bundled, home) as address:
        yield address


@pytest.fixture(scope="module")
def asked(home: Path) -> tuple[Path, str, str]:
    """A clip of the world with a question about its sound and the right answer."""
    rng = np.random.default_rng(11)
    scene = draw_scene(rng, "sounds")
    [question] = [q for q in every_question(scene, rng) if q.family == "sound_kind"]
    path = home / "it's a sound.mp4"
    write_clip(scene, path)
    return path, question.question, question.answer


@pytest.fixture
def client(address: str) -> Iterator[Client]:
    """A program with a session of its own."""
    client = Client(address, verbose=False)
    yield client
    client.predict(api_name="/leave")


def opened(client: Client, path: Path) -> dict[str, Any]:
    """Take a file in view."""
    return client.predict(handle_file(str(path)), api_name="/open")


def test_a_talk_by_name(client: Client, asked: tuple[Path, str, str]) -> None:
    path, question, answer = asked
    assert opened(client, path)["sound"] == "aac"
    steps = list(client.submit(question, "both", api_name="/ask"))
    assert len(steps) > 2
    assert steps[-1]["state"] == "done"
    assert answer in steps[-1]["answer"]
    assert "Saw 8 frames over 4.0 s and heard 4.0 s of sound." in steps[-1]["receipt"]
    evidence = client.predict(-1, api_name="/evidence")
    assert evidence["verdict"] == "sound"
    options = {"start": 1, "end": 3, "max_tokens": 2}
    part = client.predict(question, "sound", options, api_name="/ask_with")
    assert part["range"] == [1, 3]
    assert part["tokens"]["answer"] == 2
    assert part["seen"]["frames"] == 0
    compared = client.predict(question, {}, api_name="/compare")
    assert [one["sense"] for one in compared] == ["both", "sound", "picture"]
    assert "**" + question in client.predict("md", api_name="/talk")
    with pytest.raises(AppError, match="a talk is written as json or md, not 'html'"):
        client.predict("html", api_name="/talk")
    assert len(json.loads(client.predict("json", api_name="/talk"))["talk"]) == 2
    assert client.predict(0, api_name="/rewind") == 0
    with pytest.raises(AppError, match="there is no such answer"):
        client.predict(0, api_name="/evidence")


def test_what_is_made_of_a_clip(client: Client, clip: Path) -> None:
    opened(client, clip)
    scores = client.predict("a red circle", api_name="/relevance")
    assert len(scores["times_s"]) == len(scores["sound"]) == len(scores["picture"]) > 0
    assert client.predict(api_name="/captions").startswith("WEBVTT")
    for start, end in ((None, 2), (1, None), (None, None)):
        with pytest.raises(AppError, match="a range needs its start and its end"):
            client.predict(start, end, api_name="/export_range")
        with pytest.raises(AppError, match="a range needs its start and its end"):
            client.predict("id", start, end, api_name="/library_cut")
    with pytest.raises(AppError, match="say where the part starts"):
        client.predict("id", None, "both", 3, api_name="/library_like")
    cut = Path(client.predict(1, 2, api_name="/export_range"))
    assert cut.read_bytes()[4:8] == b"ftyp"


def test_moments_by_name(client: Client, clip: Path, sound_clip: Path) -> None:
    opened(client, clip)
    *_, found = client.submit({"text": "a red circle", "least": -1}, api_name="/find")
    assert found["over"]
    assert found["moments"][0]["end"] <= 4.1
    like = {"by": "sound", "file": handle_file(str(sound_clip)), "sense": "sound"}
    [same] = client.predict(like, api_name="/find")["moments"]
    assert same["score"] > 0.99
    table = Path(client.predict("csv", [same["id"]], api_name="/export_moments"))
    assert len(table.read_text().splitlines()) == 2
    for choices, says in (
        ({"by": "text"}, "the text is empty"),
        ({"by": "sound", "file": "/etc/passwd"}, "no such upload"),
        ({"text": "x", "top": 0}, "top is a number, from 1 to 50"),
        ({"by": "smell"}, "no way to look"),
    ):
        with pytest.raises(AppError, match=says):
            client.predict(choices, api_name="/find")


def test_two_programs_do_not_meet(
    client: Client, address: str, clip: Path, silent_clip: Path
) -> None:
    other = Client(address, verbose=False)
    number = opened(client, clip)["id"]
    with pytest.raises(AppError, match="open a clip first"):
        other.predict("what is there?", "both", api_name="/ask")
    opened(other, silent_clip)
    assert [one["name"] for one in client.predict(api_name="/clips")] == ["clip.mp4"]
    assert [one["name"] for one in other.predict(api_name="/clips")] == ["silent.mp4"]
    with pytest.raises(AppError, match="no such clip"):
        other.predict(number, api_name="/show")
    assert client.predict(number, api_name="/show")["name"] == "clip.mp4"
    other.predict(api_name="/leave")
    assert other.predict(api_name="/clips") == []


def test_stop_is_heard(client: Client, clip: Path) -> None:
    opened(client, clip)
    for _ in range(5):  # a fast machine may have ended the answer before
        job = client.submit("describe", "both", api_name="/ask")
        next(iter(job))
        client.predict(api_name="/stop")
        if job.result()["state"] == "stopped":
            return
    pytest.fail("five answers ran to their end")


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (("  ", "both", {}), "the text is empty"),
        ((["x"], "both", {}), "the text is empty"),
        (("x", "smell", {}), "the sense is one of"),
        (("x", "both", {"end": 2}), "a range needs its start and its end"),
        (("x", "both", {"start": "1", "end": 2}), "start is a number"),
        (("x", "both", {"start": 3, "end": 2}), "there is no range from 3 s to 2 s"),
        (("x", "both", {"temperature": 9}), "temperature is a number, from 0 to 2"),
        (("x", "both", {"frames": 1.5}), "frames is a whole number"),
        (("x", "both", {"path": "/"}), "options are given by name"),
        (("x", "both", {"transcript": True}), "no transcript"),
    ],
)
def test_what_cannot_be_asked(
    client: Client, clip: Path, given: tuple[Any, ...], says: str
) -> None:
    opened(client, clip)
    with pytest.raises(AppError, match=says) as error:
        client.predict(*given, api_name="/ask_with")
    assert "/" not in str(error.value)
    assert "Traceback" not in str(error.value)


def test_events_of_the_page_are_private(client: Client, address: str) -> None:
    info = httpx.get(f"{address}/gradio_api/info", params={"all_endpoints": True}).json()
    names = [name.lstrip("/") for name in info["named_endpoints"]]
    actions = (
        "open clips show ask ask_with stop evidence compare rewind relevance talk captions"
        " export_range leave find export_moments"
    ).split()
    assert set(actions + TOOLS) <= set(names)
    assert not [name for name in names if name[-2:-1] == "_" and name[-1].isdigit()]
    for name in ("/begin", "/answer", "/upload", "/marked"):
        with pytest.raises(ValueError, match="Cannot find a function"):
            client.predict(api_name=name)


def sent(address: str, path: Path) -> str:
    """Upload a file as `gradio upload-mcp` does; return the address that it would give."""
    with path.open("rb") as file:
        reply = httpx.post(f"{address}/gradio_api/upload", files={"files": file})
    return f"{address}/gradio_api/file={reply.json()[0]}"


def told(address: str, *requests: tuple[str, dict[str, Any]]) -> "tuple[Any, list[CallToolResult]]":
    """Call tools with a real MCP client; return the tools that it is offered, and the replies."""
    from mcp import ClientSession
    from mcp.client.streamable_http import streamablehttp_client

    async def talk() -> "tuple[Any, list[CallToolResult]]":
        async with (
            streamablehttp_client(f"{address}/gradio_api/mcp/") as (read, write, _),
            ClientSession(read, write) as session,
        ):
            await session.initialize()
            offered = (await session.list_tools()).tools
            return offered, [await session.call_tool(*request) for request in requests]

    with ThreadPoolExecutor(1) as apart:  # a browser's loop runs in this thread, once one was used
        return apart.submit(asyncio.run, talk()).result()


def test_four_tools(address: str, home: Path, asked: tuple[Path, str, str]) -> None:
    path, question, answer = asked
    video = sent(address, path)
    library_of(home, path)
    offered, replies = told(
        address,
        ("ask_video", {"video": video, "question": question}),
        ("find_moments", {"video": video, "text": answer, "sense": "sound"}),
        ("describe_sound", {"video": video}),
        ("find_clips", {"text": answer, "sense": "sound"}),
    )
    assert sorted(tool.name for tool in offered) == TOOLS
    for tool in offered:
        assert "Returns JSON" in tool.description
        assert all(field["description"] for field in tool.inputSchema["properties"].values())
    said, moments, sound, clips = [data_of(reply) for reply in replies]
    assert answer in said["answer"]
    assert said["rests_on"]["verdict"] == "sound"
    assert said["clip"]["length"] == "0:04"
    assert moments["moments"] or moments["closest"]
    assert moments["good_match"] == bool(moments["moments"])
    assert answer in sound["description"]
    assert not sound["silent"]
    assert path.name in [one["name"] for one in clips["clips"]]
    assert not any(str(home) in str(reply) for reply in replies)


def data_of(reply: "CallToolResult") -> dict[str, Any]:
    """Read what a tool has returned."""
    assert not reply.isError, reply.content
    [content] = reply.content
    return json.loads(content.text)


def library_of(home: Path, path: Path) -> None:
    """Index a clip in the library of the app that runs at home."""
    from avchat.heads import load_head

    head = load_head("tiny")
    made = {"head_name": head.name, "fingerprint": head.fingerprint, "width": head.width}
    library = Library.open(home / "avchat" / "examples" / "library", create=True, **made)
    index([path], library, head)


def test_tools_take_uploads_alone(address: str, silent_clip: Path) -> None:
    wrong = [
        "/etc/passwd",
        f"{address}/gradio_api/file=/etc/passwd",
        f"{address}/gradio_api/file={Path(__file__)}",
        "http://127.0.0.1:22/clip.mp4",
        "http://169.254.169.254/latest",
        "https://example.com/clip.mp4",
        "",
    ]
    requests = [("describe_sound", {"video": video}) for video in wrong]
    silent = ("describe_sound", {"video": sent(address, silent_clip)})
    # actions of a session are no tools, offered or not
    _, replies = told(address, *requests, ("open", {"video": wrong[0]}), silent)
    for reply in replies[:-1]:
        assert reply.isError
        text = reply.content[0].text
        assert "upload" in text or "Unknown tool" in text
        assert "Traceback" not in text
    assert data_of(replies[-1])["has_sound"] is False


def test_addresses_of_the_web_are_a_setting(tmp_path: Path) -> None:
    inside = "http://127.0.0.1:80/clip.mp4"
    with pytest.raises(Refused, match="opens no addresses of the web"):
        file_of(inside, Settings(), tmp_path, Event())
    with pytest.raises(Refused, match="address") as refused:
        file_of(inside, Settings(url=True), tmp_path, Event())
    assert "opens no addresses" not in str(refused.value)
    assert not list(tmp_path.iterdir())


def test_tools_are_not_served_behind_a_password() -> None:
    assert no_tools(Settings()) == ""
    assert "password" in no_tools(Settings(auth="me:secret"))
    assert "switched off" in no_tools(Settings(mcp=False))


def test_a_raw_request_reaches_uploads_alone(address: str) -> None:
    """A file that a request names in Gradio's own form is an upload, or is refused."""
    web = "https://example.com/clip.mp4"
    for path in ("/etc/passwd", str(Path(__file__)), f"{address}/gradio_api/info", web):
        data = {"path": path, "meta": {"_type": "gradio.FileData"}}
        call = httpx.post(f"{address}/gradio_api/call/open", json={"data": [data]}).json()
        reply = httpx.get(f"{address}/gradio_api/call/open/{call['event_id']}", timeout=60).text
        assert reply.startswith("event: error")
        assert "root:" not in reply
        if path.startswith("http"):
            assert "opens no addresses of the web" in reply


def test_who_has_no_session_is_nobody(address: str) -> None:
    reply = httpx.post(f"{address}/gradio_api/run/clips", json={"data": []})
    assert reply.status_code == 500
    assert "session is needed" in reply.text


def shown(page: "Page") -> dict[str, str]:
    """Open the tab API and read the calls."""
    page.get_by_role("tab", name="API").click()
    page.locator("#call-python .cm-line").first.wait_for()
    names = ("python", "shell", "curl", "mcp")
    page.wait_for_function("document.querySelectorAll('#call-mcp .cm-line').length > 3")
    return {name: page.locator(f"#call-{name} .cm-content").inner_text() for name in names}


def test_the_page_shows_calls_that_work(
    address: str, open_page: Callable[..., "Page"], asked: tuple[Path, str, str]
) -> None:
    path, question, answer = asked
    page = open_page(address)
    upload(page, path)
    page.wait_for_selector("#player video")
    page.fill("#question textarea, #question input", question)
    code = shown(page)
    assert "200 MB" in page.inner_text("#limits")
    done = run([sys.executable, "-c", code["python"]], path.parent)
    assert answer in done
    assert "rests on" in done
    assert answer in run(["bash", "-euc", code["curl"]], path.parent)
    chat = next(line for line in code["shell"].splitlines() if line.startswith("avchat chat"))
    assert answer in run(["bash", "-euc", f"PATH={AVCHAT.parent}:$PATH; {chat}"], path.parent)
    servers = json.loads(code["mcp"])["mcpServers"]
    assert servers["avchat"]["url"] == f"{address}/gradio_api/mcp/"


AVCHAT = Path(sys.executable).with_name("avchat")  # the command as it is installed


def run(command: list[str], folder: Path) -> str:
    """Run a command where the file lies; return what it prints."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_calls_hold_every_option() -> None:
    options = Options(1.0, 2.5, 4, "Be brief, it's late", True, 0.5, 0.9, 7, 64)
    call = calls.Call("http://here", "a \"b\" 'c'.mp4", 'What\'s "it"? $HOME', "sound", options)
    words = calls.shell(call)
    for flag in ("--start 1.0", "--frames 4", "--top-p 0.9", "--max-new-tokens 64", "--transcript"):
        assert flag in words
    assert "'max_tokens': 64" in calls.python(call)
    compile(calls.python(call), "call", "exec")
    echo = "curl() { printf '%s\\n' \"$@\" >&2; echo '[\"up\"]'; }; "
    said = subprocess.run(
        [shutil.which("bash") or "bash", "-c", echo + calls.curl(call)],
        capture_output=True,
        text=True,
        check=True,
    ).stderr
    assert json.dumps({"data": ["up", call.question, "sound", 1.0, 2.5]}) in said
    assert "left out here: frames, max_new_tokens, seed, system, temperature" in calls.curl(call)
    locked = calls.Call("http://here", "a.mp4", "what?", locked=True)
    assert "$SERVER/login" in calls.curl(locked)
    assert 'auth=("NAME", "PASSWORD")' in calls.python(locked)
