"""Uploading a saved model, to a small server that speaks as much of the Hub's language."""

import base64
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from small import build_based, build_model

from avchat import cli
from avchat.model import AVChat


class Hub(BaseHTTPRequestHandler):
    """Answers what an upload asks, and keeps what it is given."""

    server: "HubServer"

    def do_POST(self) -> None:
        body, path = self.rfile.read(int(self.headers["Content-Length"])), self.path
        self.server.tokens.add(self.headers["Authorization"])
        if self.server.refusal:
            self.reply({"error": self.server.refusal}, 403)
        elif path == "/api/repos/create":
            self.server.created = json.loads(body)
            self.reply({"url": f"{self.server.address}/me/my-model", "name": "me/my-model"})
        elif path == "/api/validate-yaml":
            self.server.validated = json.loads(body)["content"]
            self.reply({"errors": [], "warnings": []})
        elif "/preupload/" in path:
            large = {True: "lfs", False: "regular"}
            files = [
                {"path": x["path"], "uploadMode": large[x["path"].endswith(".safetensors")]}
                | {"shouldIgnore": False, "oid": None}
                for x in json.loads(body)["files"]
            ]
            self.reply({"files": files})
        elif path.endswith("/info/lfs/objects/batch"):
            href = {"upload": {"href": f"{self.server.address}/put/"}}
            rows = [
                {**x, "actions": {"upload": {"href": href["upload"]["href"] + x["oid"]}}}
                for x in json.loads(body)["objects"]
            ]
            self.reply({"transfer": "basic", "objects": rows})
        elif "/commit/" in path:
            self.server.commit(body)
            commit = {"commitUrl": f"{self.server.address}/me/my-model/commit/1"}
            self.reply({**commit, "commitOid": "1", "hookOutput": ""})
        else:
            self.reply({"error": f"not asked for: {path}"}, 404)

    def do_PUT(self) -> None:
        content = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.objects[self.path.split("/")[-1]] = content
        self.reply({})

    def do_GET(self) -> None:
        self.reply({"error": f"not asked for: {self.path}"}, 404)

    def reply(self, answer: dict[str, Any], code: int = 200) -> None:
        text = json.dumps(answer).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *args: object) -> None:
        """Say nothing."""


class HubServer(ThreadingHTTPServer):
    """Holds what was uploaded."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Hub)
        self.address = f"http://127.0.0.1:{self.server_address[1]}"
        self.created: dict[str, Any] = {}
        self.validated = self.refusal = ""
        self.tokens: set[str] = set()
        self.objects: dict[str, bytes] = {}  # large files by their sha256
        self.files: dict[str, bytes] = {}

    def commit(self, body: bytes) -> None:
        for row in map(json.loads, body.splitlines()):
            value = row["value"]
            if row["key"] == "file":
                self.files[value["path"]] = base64.b64decode(value["content"])
            elif row["key"] == "lfsFile":
                self.files[value["path"]] = self.objects[value["oid"]]


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with HubServer() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def run(hub: str, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run Python in a process of its own, for which the Hub is elsewhere."""
    kept = {k: v for k, v in os.environ.items() if k not in ("HF_TOKEN", "HF_HUB_OFFLINE")}
    there = {"HF_ENDPOINT": hub, "HF_TOKEN": "hf_mine", "HF_HUB_DISABLE_XET": "1"}
    return subprocess.run(
        [sys.executable, *command],
        env={**kept, **there, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved model, in a folder that has something more."""
    folder = tmp_path_factory.mktemp("push") / "model"
    build_model().save_pretrained(folder)
    (folder / ".cache").mkdir()
    (folder / ".cache" / "left").write_text("nobody's business")
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    """Read all files of a model that belong on the Hub."""
    paths = [path for path in folder.rglob("*") if path.is_file() and ".cache" not in path.parts]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


@pytest.mark.parametrize("flags", [(), ("--public",)])
def test_a_folder_is_uploaded_as_it_is(
    hub: HubServer, folder: Path, flags: tuple[str, ...], tmp_path: Path
) -> None:
    words = ("-m", "avchat.cli", "push", str(folder), "me/my-model", *flags)
    done = run(hub.address, *words, HF_HOME=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert hub.files == contents(folder)
    assert len(hub.objects) == 1, "the weights go by themselves"
    assert hub.created["name"] == "my-model" and hub.created["organization"] == "me"
    assert hub.created["visibility"] == ("public" if flags else "private")
    assert hub.tokens == {"Bearer hf_mine"}
    assert hub.validated == (folder / "README.md").read_text()
    assert f"{len(hub.files)} files" in done.stdout and "me/my-model" in done.stdout


@pytest.mark.slow
def test_a_model_in_memory_is_uploaded_as_it_would_be_saved(
    hub: HubServer, folder: Path, tmp_path: Path
) -> None:
    code = (
        "import sys; from avchat import AVChat\n"
        "AVChat.from_pretrained(sys.argv[1]).push_to_hub('me/my-model', card='# mine')"
    )
    done = run(hub.address, "-c", code, str(folder), HF_HOME=str(tmp_path))
    assert done.returncode == 0, done.stderr
    AVChat.from_pretrained(folder).save_pretrained(tmp_path / "again", card="# mine")
    odd = "tokenizer/tokenizer_config.json"  # it notes whether its process was offline
    saved = contents(tmp_path / "again")
    assert set(hub.files) == set(saved)
    assert all(hub.files[name] == saved[name] for name in set(saved) - {odd})
    assert hub.files["README.md"] == b"# mine" and hub.created["visibility"] == "private"


@pytest.mark.slow
def test_what_goes_wrong_on_the_way_is_one_line(
    hub: HubServer, folder: Path, tmp_path: Path
) -> None:
    words = ("-m", "avchat.cli", "push", str(folder), "me/my-model")
    hub.refusal = "you have no right to this namespace"
    nobody = "http://127.0.0.1:9"  # the port called discard: nothing listens
    for address, environment, said in (
        (hub.address, {}, "the Hub refused"),
        (hub.address, {"HF_TOKEN": ""}, "no token for the Hub: run `hf auth login`"),
        (hub.address, {"HF_HUB_OFFLINE": "1"}, "offline mode is enabled"),
        (nobody, {}, "not uploaded"),
    ):
        done = run(address, *words, HF_HOME=str(tmp_path), **environment)
        assert done.returncode == 2 and done.stdout == ""
        assert done.stderr.startswith("error: me/my-model: ") and done.stderr.count("\n") == 1
        assert said in done.stderr
    assert not hub.files


def test_a_dry_run_lists_and_shows_and_uploads_nothing(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["push", str(folder), "me/my-model", "--dry-run"]) == 0
    stdout, stderr = capsys.readouterr()
    assert stdout.startswith("would upload to me/my-model (private if it is new):\n")
    for name, content in contents(folder).items():
        assert f"{len(content) / 1e6:12.3f} MB  {name}\n" in stdout
    assert ".cache" not in stdout and stderr == ""
    assert (folder / "README.md").read_text() in stdout
    assert cli.main(["push", str(folder), "me/my-model", "--dry-run", "--public"]) == 0
    assert "(public if it is new)" in capsys.readouterr().out


def test_a_base_of_this_machine_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = build_based(tmp_path / "phi")
    model.save_pretrained(tmp_path / "saved")
    model.merge()
    model.save_pretrained(tmp_path / "merged")
    (tmp_path / "merged" / "README.md").unlink()
    said = {}
    for name in ("saved", "merged"):
        assert cli.main(["push", str(tmp_path / name), "me/my-model", "--dry-run"]) == 0
        said[name] = capsys.readouterr()
    assert f"note: {tmp_path / 'phi'} is a base on this machine" in said["saved"].err
    assert said["merged"].err == "note: there is no README.md, the model's card\n"
    assert said["merged"].out.endswith("no card\n")
    assert AVChat.from_pretrained(tmp_path / "saved").config.language.lora is not None


def test_what_is_no_model_is_refused_in_one_line(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "best").symlink_to(folder)
    (tmp_path / "head").mkdir()
    for name in ("config.json", "model.safetensors"):
        (tmp_path / "head" / name).write_text('{"model_type": "avchat-vlsa"}')
    for words, said in (
        ([str(tmp_path), "me/x"], "not the folder of a model"),
        ([str(tmp_path / "run"), "me/x"], f"{tmp_path / 'run' / 'best'} is one"),
        ([str(tmp_path / "gone"), "me/x"], "not the folder of a model"),
        ([str(tmp_path / "head"), "me/x"], "not a configuration of an avchat model"),
        ([str(folder), "no name/at/all"], "not a repository's name"),
    ):
        assert cli.main(["push", *words, "--dry-run"]) == 2
        stdout, stderr = capsys.readouterr()
        assert stdout == "" and stderr.startswith("error: ") and stderr.count("\n") == 1
        assert said in stderr
