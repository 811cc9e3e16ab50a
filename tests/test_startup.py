"""How the app starts and ends: a wrong setting is one line, nobody is called, no file stays."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest
from pages import ask, open_clip, serve

from avchat.ui import app_of_variables

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.timeout(400)
PUBLIC = "http://93.184.215.14/clip.mp4"  # an address of the web, that needs no name server
WRONG = {
    "AVCHAT_MODEL": "/no/such/model",
    "AVCHAT_HEAD": "/no/such/head",
    "AVCHAT_QUEUE": "many",
    "AVCHAT_MAX_MINUTES": "nan",
    "AVCHAT_AUTH": "nobody",
    "XDG_CACHE_HOME": "/proc/none",
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_not_right_is_one_line(
    name: str,
    tmp_path: Path,
    bundled: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv(name, WRONG[name])
    with pytest.raises(SystemExit) as ended:
        app_of_variables()
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and said.count("\n") == 1


NOTING = """
import runpy, sys

def note(event, given):
    if event in ("socket.connect", "socket.getaddrinfo"):
        place = given[1] if event == "socket.connect" else given[0]
        host = place[0] if isinstance(place, tuple) else place
        if host not in ("127.0.0.1", "localhost", "::1", None):
            print("ABROAD", event, host, file=sys.stderr, flush=True)

sys.addaudithook(note)
sys.path.insert(0, "")
runpy.run_path("app.py", run_name="__main__")
"""


@pytest.mark.page
def test_the_server_calls_nobody_and_leaves_no_files(
    bundled: str, open_page: Callable[..., "Page"], clip: Path, tmp_path: Path
) -> None:
    usual = {"GRADIO_ANALYTICS_ENABLED": "True", "HF_HUB_OFFLINE": "0"}
    with serve(bundled, tmp_path, ("-c", NOTING), **usual) as address:
        page = open_page(address)
        open_clip(page, clip)
        assert "Saw 8 frames" in ask(page, "what do you hear?")
        assert httpx.get(f"{address}/gradio_api/file={PUBLIC}").status_code == 403
        page.context.close()  # before the server goes, which a page complains about
    assert "ABROAD" not in (tmp_path / "app.log").read_text()
    assert not list((tmp_path / "gradio").glob("avchat-*"))
