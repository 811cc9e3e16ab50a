"""A Space: its card, its requirements, the folder that `make space` writes, and that it runs."""

import ast
import os
import re
import socket
import subprocess
import venv
from pathlib import Path

import pytest
from huggingface_hub import metadata_load
from packaging.requirements import Requirement
from packaging.version import Version
from pages import wait_for

from avchat.input_error import InputError
from avchat.space import Space, write_space

ROOT = Path(__file__).resolve().parent.parent
PLATFORM = {"gradio", "spaces", "huggingface_hub"}  # whose versions the platform chooses
ZERO_TORCH = ("2.8.0", "2.9.1", "2.10.0", "2.11.0")  # what ZeroGPU takes
LARGEST_MB = 60


def lines_of(path: Path) -> list[str]:
    """Read a file of requirements without its comments."""
    return [line for line in path.read_text().splitlines() if line and line[0] != "#"]


def required(folder: Path = ROOT) -> dict[str, Requirement]:
    """Read requirements.txt, by name."""
    found = map(Requirement, lines_of(folder / "requirements.txt"))
    return {one.name: one for one in found}


def pinned() -> dict[str, set[str]]:
    """Read the versions that the tests use, by name; several where Python decides."""
    found: dict[str, set[str]] = {}
    for line in lines_of(ROOT / "constraints.txt"):
        [pin] = (one := Requirement(line)).specifier
        found.setdefault(one.name, set()).add(pin.version)
    return found


def oldest(requirement: Requirement) -> str:
    """Return the oldest version that a requirement allows."""
    return next(one.version for one in requirement.specifier if one.operator == ">=")


def test_the_card_of_the_repository_configures_a_space() -> None:
    card = metadata_load(ROOT / "README.md")
    assert {card["sdk_version"]} == pinned()["gradio"]
    assert card["sdk"] == "gradio" and (ROOT / card["app_file"]).is_file()
    assert card["python_version"] == "3.12" and card["license"] == "apache-2.0"
    assert len(card["short_description"]) <= 60 and card["title"] and card["emoji"]


def test_the_requirements_leave_the_platform_its_versions() -> None:
    needed, tested = required(), pinned()
    assert "spaces" not in needed
    for name, one in needed.items():
        assert oldest(one), name
        assert all(one.specifier.contains(version) for version in tested[name]), name
        exact = {each.operator for each in one.specifier} & {"==", "===", "~="}
        assert not exact or name not in PLATFORM, name
    assert "mcp" in needed["gradio"].extras
    assert all(needed["torch"].specifier.contains(version) for version in ZERO_TORCH)


def test_the_folder_holds_what_the_app_needs_and_nothing_else(tmp_path: Path) -> None:
    out = write_space(Space(tmp_path / "space"))
    held = {path.name for path in out.iterdir()}
    assert held == {
        *("README.md", "LICENSE", "app.py", "avchat", "requirements.txt", ".gitattributes")
    }
    files = [path.relative_to(out) for path in out.rglob("*") if path.is_file()]
    assert sum((out / path).stat().st_size for path in files) < 1e6 * LARGEST_MB
    assert not [path for path in files if {"tests", "train", "__pycache__"} & set(path.parts)]
    for name in ("app.py", "avchat/assets/tiny/model.safetensors", "avchat/ui/style.css"):
        assert (out / name).read_bytes() == (ROOT / name).read_bytes()
    assert metadata_load(out / "README.md") == metadata_load(ROOT / "README.md")
    assert "safetensors" in (out / ".gitattributes").read_text()  # too large for plain git
    # A second time, over a clone of the Space: the app is replaced, the rest stays.
    (out / ".git").mkdir()
    (out / "avchat" / "gone.py").touch()
    write_space(Space(out))
    assert (out / ".git").is_dir() and not (out / "avchat" / "gone.py").exists()


def test_a_space_of_another_model_on_zero_gpu(tmp_path: Path) -> None:
    out = write_space(Space(tmp_path / "space", model="me/my-model", zero=True))
    card = metadata_load(out / "README.md")
    assert card["models"] == card["preload_from_hub"] == ["me/my-model"]
    [only] = required(out)["torch"].specifier
    assert only.operator == "==" and only.version in ZERO_TORCH
    code = (out / "app.py").read_text()
    named = 'os.environ.setdefault("AVCHAT_MODEL", "me/my-model")'
    assert code.index(named) < code.index("import spaces") < code.index("from avchat")
    assert ast.get_docstring(ast.parse(code))


def test_what_cannot_become_a_space_is_a_line(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    for space, said in (
        (Space(tmp_path), "holds something else"),
        (Space(tmp_path / "notes.txt"), "not a folder"),
        (Space(ROOT), "a folder of its own"),
        (Space(tmp_path / "new", model=str(tmp_path)), "a name on the Hub"),
    ):
        with pytest.raises(InputError, match=said):
            write_space(space)
    with pytest.raises(InputError, match="repository"):
        write_space(Space(tmp_path / "new"), root=tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_the_folder_runs_with_the_oldest_packages_that_it_allows(
    clip: Path, tmp_path: Path
) -> None:
    from gradio_client import Client, handle_file

    out = write_space(Space(tmp_path / "space"))
    versions = {name: oldest(one) for name, one in required(out).items()}
    versions["torch"] = max(pinned()["torch"], key=Version)  # others may not be had here
    limits = tmp_path / "oldest.txt"
    limits.write_text("".join(f"{name}=={version}\n" for name, version in versions.items()))
    venv.create(tmp_path / "env", with_pip=True)
    python = str(tmp_path / "env" / "bin" / "python")
    pip = [python, "-m", "pip", "--quiet"]
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run([*pip, "install", "--upgrade", "pip"], check=True, env=clean)
    needed = ["-r", str(out / "requirements.txt"), "-c", str(limits), "spaces"]  # as on a Space
    subprocess.run([*pip, "install", *needed], check=True, env=clean)
    subprocess.run([*pip, "check"], check=True, env=clean)

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    address = f"http://127.0.0.1:{port}"
    own = {"GRADIO_SERVER_PORT": port, "XDG_CACHE_HOME": str(tmp_path / "cache")}
    own |= {"GRADIO_TEMP_DIR": str(tmp_path / "gradio"), "SPACE_ID": "me/avchat"}
    log = tmp_path / "app.log"
    with log.open("w") as written:
        started = {"cwd": out, "env": clean | own, "stdout": written, "stderr": written}
        app = subprocess.Popen([python, "app.py"], **started)
    try:
        wait_for(address, app, log)
        client = Client(address, verbose=False)
        client.predict(handle_file(str(clip)), api_name="/open")
        answer = client.predict("What do you hear?", "both", api_name="/ask")
    finally:
        app.terminate()
        app.wait(timeout=30)
    assert re.search(r"\bdrum\b", str(answer)), answer
    assert "Traceback" not in log.read_text(), log.read_text()
