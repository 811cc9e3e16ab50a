"""What the app refuses, and what it never shows: limits, files, names, passwords, faults."""

import gc
import shutil
import sys
import weakref
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from gradio.route_utils import delete_files_created_by_app
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from pages import (
    QUESTION,
    WAIT_MS,
    Running,
    ask,
    file_at,
    icons_of,
    open_clip,
    png,
    running,
    upload,
    wait_until,
)

from avchat.ui import given
from avchat.ui.from_url import fetch_url
from avchat.ui.opening import file_name
from avchat.world.clip_file import write_film
from avchat.world.scenes import Scene

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page

pytestmark = [pytest.mark.page, pytest.mark.timeout(400)]
ROOT = Path(__file__).resolve().parent.parent
PUBLIC = "http://93.184.215.14/clip.mp4"  # an address of the web, that needs no name server


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder for the files of the apps of this module, and for Gradio's."""
    home = tmp_path_factory.mktemp("safety")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(home))
        patch.setenv("GRADIO_TEMP_DIR", str(home / "gradio"))
        yield home


@pytest.fixture(scope="module")
def small(model_folder: Path, home: Path) -> Iterator[Running]:
    """An app with narrow limits."""
    with running(model_folder, max_file_mb=1, max_minutes=0.1, at_once=1, queue=1) as running_app:
        yield running_app


@pytest.fixture
def client(small: Running) -> Iterator[Client]:
    """A program with a session of its own."""
    client = Client(small[1], verbose=False)
    yield client
    client.predict(api_name="/leave")


def refusal(client: Client, path: Path) -> str:
    """Open a file that is refused; return the line that is said."""
    with pytest.raises(AppError) as refused:
        client.predict(handle_file(str(path)), api_name="/open")
    return str(refused.value)


def test_only_what_an_action_made_is_served(small: Running, client: Client, clip: Path) -> None:
    app, address, _ = small
    client.predict(handle_file(str(clip)), api_name="/open")
    [visitor] = app.visitors.all.values()
    shown = visitor.in_view().shown
    assert file_at(address, shown).content == clip.read_bytes()
    part = file_at(address, shown, headers={"Range": "bytes=100-199"})
    assert (part.status_code, part.content) == (206, clip.read_bytes()[100:200])

    library = app.home / "library" / "files.lance"
    library.parent.mkdir()
    library.write_text("what the library keeps")
    secret = ["/etc/passwd", "/proc/self/environ", ROOT / "app.py", "app.py", "avchat/ui/app.py"]
    places = [app.visitors.root, visitor.folder, app.home, app.visitors.root / "x" / "clip.mp4"]
    climbing = [shown.parent / "../../../.." / "etc/passwd", "../../../../../../etc/passwd"]
    for path in (*secret, *places, *climbing, library, app.examples[0].path):
        assert file_at(address, path).status_code in (403, 404), path

    assert len(icons_of(address)) == len(app.examples)
    assert all(file_at(address, icon).status_code == 200 for icon in icons_of(address))


@pytest.fixture
def new_context(browser: "Browser") -> Iterator[Callable[[], "BrowserContext"]]:
    """Browsers of different visitors, closed at the end, whatever went wrong."""
    contexts = []

    def opened() -> "BrowserContext":
        contexts.append(browser.new_context())
        contexts[-1].set_default_timeout(WAIT_MS)
        return contexts[-1]

    yield opened
    for context in contexts:
        context.close()


@pytest.fixture
def abroad() -> Iterator[list[Any]]:
    """Addresses outside this machine that this process connects to or asks a name server for."""
    found: list[Any] = []

    def note(event: str, given: tuple[Any, ...]) -> None:
        if listening and event in ("socket.connect", "socket.getaddrinfo"):
            place = given[1] if event == "socket.connect" else given[0]
            host = place[0] if isinstance(place, tuple) else place
            if host not in ("127.0.0.1", "localhost", "::1", None):
                found.append((event, host))

    listening = True
    sys.addaudithook(note)  # for good: there is no way to take one away
    yield found
    listening = False


def test_gradio_fetches_no_address_for_a_client(
    small: Running, client: Client, abroad: list[Any]
) -> None:
    for address in (PUBLIC, "https://huggingface.co/x.mp4", "http://127.0.0.1:1/x.mp4"):
        assert file_at(small[1], address).status_code == 403
        with pytest.raises(AppError):
            client.predict(
                {"path": address, "meta": {"_type": "gradio.FileData"}}, api_name="/open"
            )
        with pytest.raises(AppError):
            client.predict(address, "what is there?", api_name="/ask_video")
    assert abroad == []


@pytest.mark.parametrize("name", [*"<img onerror>.mp4|../../x.mp4|x.html|x.svg|x.MP4".split("|")])
def test_no_file_is_served_as_a_page(name: str) -> None:
    named = file_name(name)
    assert "/" not in named
    assert Path(named).suffix in ("", ".mp4")


def test_a_sound_that_is_a_page_as_well(
    small: Running, client: Client, sound_clip: Path, tmp_path: Path
) -> None:
    page = tmp_path / "page.html"
    page.write_bytes(sound_clip.read_bytes() + b"<script>alert(1)</script>")
    client.predict(handle_file(str(page)), api_name="/open")
    [visitor] = small[0].visitors.all.values()
    for path in visitor.folder.rglob("*.*"):
        served = file_at(small[1], path).headers["content-type"]
        assert served.startswith(("audio/", "application/octet-stream")), path


def test_hostile_names_are_text(
    small: Running, open_page: Callable[..., "Page"], clip: Path, tmp_path: Path
) -> None:
    page = open_page(small[1])
    for name in ("<img src=x onerror=window.hit=1>", "\u4e2d\u6587 \u00e9'&amp;", "n" * 250):
        page.goto(small[1])
        path = tmp_path / f"{name}.mp4"
        path.write_bytes(clip.read_bytes())
        upload(page, path)
        shown = page.locator("#clip-status strong", has_text=name.strip("<>")[:20])
        shown.wait_for()
        page.locator(".avchat-stop:visible").wait_for(state="hidden")
        assert "Saw 8 frames" in ask(page, "what is there?")
        with page.expect_download() as saved:
            page.click("#save_md")
            page.locator("#exported a").first.click()
        assert "what is there?" in Path(saved.value.path()).read_text()
    assert page.evaluate("window.hit") is None


def test_what_is_no_clip_is_one_line(client: Client, clip: Path, tmp_path: Path) -> None:
    bad = {
        "empty.mp4": b"",
        "text.mp4": b"not a video",
        "zeros.mp4": bytes(500_000),
        "bomb.png": png(60_000, 60_000, b"\0"),
        "bytes.png": png(10_001, 10_001, bytes(10_002 * 10_001)),
        "list.m3u8": b"#EXTM3U\n#EXTINF:10,\n/etc/passwd\n#EXT-X-ENDLIST\n",
        "list.mp4": b"ffconcat version 1.0\nfile /etc/passwd\n",
        "half.mp4": clip.read_bytes()[:500],
    }
    for name, data in bad.items():
        (tmp_path / name).write_bytes(data)
        said = refusal(client, tmp_path / name)
        assert said.startswith(f"{name}: "), said
        assert not set("/\n") & set(said), said
    assert client.predict(handle_file(str(clip)), api_name="/open")["name"] == "clip.mp4"


def test_too_long_and_too_large(
    small: Running,
    client: Client,
    new_context: Callable[[], "BrowserContext"],
    scene: Scene,
    tmp_path: Path,
) -> None:
    long = tmp_path / "long.mp4"
    write_film([scene, scene], long)
    assert refusal(client, long) == "long.mp4: its length of 8 s is over the limit of 6"
    large = tmp_path / "large.mp4"
    large.write_bytes(bytes(2_000_000))
    sent = httpx.post(f"{small[1]}/gradio_api/upload", files={"files": large.read_bytes()})
    assert sent.status_code == 413
    context = new_context()
    page = context.new_page()
    page.goto(small[1])
    upload(page, large)
    page.get_by_text("exceed the maximum allowed size of 1.0 Mb").wait_for()
    context.close()


def test_who_comes_when_the_queue_is_full_is_told(
    small: Running, new_context: Callable[[], "BrowserContext"], clip: Path
) -> None:
    app, address, _ = small
    contexts = [new_context() for _ in range(3)]
    pages = [context.new_page() for context in contexts]
    for page in pages:
        page.goto(address)
        open_clip(page, clip)
    with app.engine.turn:  # the first is being answered, the second waits, the third is one more
        for number, page in enumerate(pages):
            page.fill(QUESTION, "what is there?")
            with page.expect_response(lambda answer: "queue/join" in answer.url) as joined:
                page.click("#ask")
            assert joined.value.status == (503 if number == 2 else 200)
            said = (
                "too many people are asking"
                if number == 2
                else "Waiting: the clip is being prepared"
            )
            page.locator("#talk", has_text=said).wait_for()
            wait_until(lambda: any(visitor.stops for visitor in app.visitors.all.values()))
    for page in pages[:2]:
        page.locator("#talk .receipt:not(:text('Waiting'))").wait_for()
    assert "Saw 8 frames" in ask(pages[2], "what is there?")
    for context in contexts:
        context.close()
    wait_until(lambda: not app.visitors.all)


def test_one_thing_at_a_time(small: Running, client: Client, clip: Path) -> None:
    app, address, _ = small
    client.predict(handle_file(str(clip)), api_name="/open")
    with app.engine.turn:
        first = client.submit("what is there?", "both", api_name="/ask")
        [visitor] = app.visitors.all.values()
        wait_until(lambda: visitor.stops)
        with pytest.raises(AppError, match="one thing at a time"):
            client.predict(handle_file(str(clip)), api_name="/open")
    assert first.result()["state"] == "done"


def test_a_closed_tab_leaves_nothing(
    small: Running, new_context: Callable[[], "BrowserContext"], clip: Path, tmp_path: Path
) -> None:
    app, address, blocks = small

    def files() -> set[Path]:
        found = (path for path in app.visitors.root.parent.rglob("*") if path.is_file())
        return {path for path in found if path.stat().st_size}  # gr.File makes some that are empty

    wait_until(lambda: not app.visitors.all)  # who was here before has left
    before, sessions = files(), set(blocks.state_holder.session_data)
    context = new_context()
    page = context.new_page()
    page.goto(address)
    open_clip(page, Path(shutil.copy(clip, tmp_path / "closed.mp4")))
    ask(page, "what is there?")
    page.click("#save_md")
    page.locator("#exported a").first.wait_for()
    [visitor] = app.visitors.all.values()
    [kept] = files() - before - set(visitor.folder.rglob("*"))
    [talk] = map(weakref.ref, visitor.in_view().talks.values())
    saved = visitor.folder / visitor.in_view().id / "closed_talk.md"
    assert kept.name == "closed.mp4" and saved.is_file()
    context.close()
    wait_until(lambda: not app.visitors.all)
    wait_until(lambda: not visitor.folder.exists())
    wait_until(lambda: set(blocks.state_holder.session_data) <= sessions)  # a little later
    assert files() - before == {kept}
    delete_files_created_by_app(blocks, 0)  # as Gradio does after an hour
    assert files() <= before
    assert all(file_at(address, icon).status_code == 200 for icon in icons_of(address))
    visitor = None
    wait_until(lambda: gc.collect() >= 0 and talk() is None)


def test_a_fault_of_ours_shows_nothing_of_this_machine(
    small: Running,
    new_context: Callable[[], "BrowserContext"],
    clip: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    app, address, _ = small
    context = new_context()
    page = context.new_page()
    page.goto(address)
    open_clip(page, clip)
    [visitor] = app.visitors.all.values()
    visitor.in_view().talks = None  # as a mistake of ours would
    page.fill(QUESTION, "what is there?")
    page.click("#ask")
    page.locator("#talk", has_text="something went wrong here").wait_for()
    assert page.locator("#ask").is_enabled()
    shown = page.inner_text("body")
    assert "Traceback" not in shown and str(ROOT) not in shown and "NoneType" not in shown
    assert "Traceback" in capfd.readouterr().err
    context.close()


def test_without_the_password_nothing(model_folder: Path, home: Path, clip: Path) -> None:
    with running(model_folder, auth="ann:secret,bob:word") as (app, address, _):
        assert "components" not in httpx.get(f"{address}/config").text
        shut = {
            "get": ["config", "gradio_api/info", "gradio_api/queue/data?session_hash=x"],
            "post": ["gradio_api/upload", "gradio_api/queue/join", "gradio_api/call/open"],
        }
        shut["get"].append(f"gradio_api/file={app.examples[0].thumbnail}")
        shut["post"] += ["gradio_api/run/clips", "gradio_api/call/v2/ask_video"]
        for method, places in shut.items():
            for place in places:
                answer = httpx.request(method, f"{address}/{place}", json={"data": []})
                assert answer.status_code == 401, (place, answer.status_code)
        assert httpx.post(f"{address}/gradio_api/mcp/", json={}).status_code in (401, 404, 405)
        with pytest.raises(Exception, match="[Ll]ogin|[Cc]redentials|auth"):
            Client(address, verbose=False, auth=("ann", "word"))
        client = Client(address, verbose=False, auth=("bob", "word"))
        assert client.predict(handle_file(str(clip)), api_name="/open")["name"] == "clip.mp4"


def test_an_address_of_the_web_where_those_are_taken(
    small: Running,
    model_folder: Path,
    new_context: Callable[[], "BrowserContext"],
    clip: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    context = new_context()
    page = context.new_page()
    page.goto(small.address)
    page.wait_for_selector("#ask")
    assert page.locator("#web-address").count() == 0  # off, as it is by default
    handler = partial(SimpleHTTPRequestHandler, directory=clip.parent)
    web = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    Thread(target=web.serve_forever, daemon=True).start()
    here = f"http://127.0.0.1:{web.server_port}/{clip.name}"
    with running(model_folder, url=True) as (app, address, _):
        page.goto(address)
        page.get_by_role("tab", name="Web address").click()
        page.fill("#web-address textarea, #web-address input", here)
        page.click("#web-open")
        page.locator("#clip-status [role=alert]", has_text="error: ").wait_for()
        allowed = partial(fetch_url, allow=frozenset({web.server_address}))
        monkeypatch.setattr(given, "fetch_url", allowed)  # this machine, for once
        page.click("#web-open")
        page.locator("#clip-status strong", has_text=clip.name).wait_for()
        page.locator(".avchat-stop:visible").wait_for(state="hidden")
        assert "Saw 8 frames" in ask(page, "what is there?")
        [visitor] = app.visitors.all.values()
        assert list(visitor.folder.iterdir()) == [visitor.in_view().path.parent]
        context.close()
    web.shutdown()
