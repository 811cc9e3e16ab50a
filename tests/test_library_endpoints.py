"""The library for programs: listed, added to, searched and emptied by name; never a path."""

import json
from pathlib import Path

import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError

pytestmark = [pytest.mark.page, pytest.mark.timeout(400)]


def test_the_library_by_name(address: str, clip: Path) -> None:
    client = Client(address, verbose=False)
    listed = client.predict("", api_name="/library_list")
    assert listed["files"] >= 7 and listed["can_change"]
    *_, states = client.submit([handle_file(str(clip))], api_name="/library_add")
    assert [one["state"] for one in states] == ["added"]
    wish = {"picture": None, "text": "a red triangle jumps. a high beep.", "top": 3}
    found = client.predict(wish, api_name="/library_find")
    first = (found["clips"] or found["closest"])[0]
    assert first["name"].startswith("film-of") and abs(first["start"] - 24) <= 4
    again = [first["file"], first["start"], "sound", 3]
    alike = client.predict(*again, api_name="/library_like")
    assert alike["sense"] == "sound" and alike["clips"] + alike["closest"]
    [mine] = client.predict(clip.name, api_name="/library_list")["list"]
    assert client.predict([mine["id"]], api_name="/library_remove") == 1
    with pytest.raises(AppError, match="no such file"):
        client.predict([mine["id"]], api_name="/library_remove")
    with pytest.raises(AppError, match="choices are given by name"):
        client.predict({"path": "/etc/passwd"}, api_name="/library_find")
    assert str(Path(__file__).parent.anchor) + "tmp" not in json.dumps([listed, found, alike])
