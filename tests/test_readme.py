"""What the documents say is true: the commands parse, the files they name exist."""

import contextlib
import inspect
import io
import re
import runpy
import shlex
import sys
from functools import cache
from pathlib import Path

import pytest

from avchat import __version__, cli
from avchat.captions import read_captions
from avchat.data import read_manifest
from avchat.ui.endpoints import Actions
from avchat.ui.finding_endpoints import Finding
from avchat.ui.library_endpoints import Shelf

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = ["README.md", "CONTRIBUTING.md", "ARCHITECTURE.md", "MODEL_CARD.md", "EXPERIMENTS.md"]
DOCUMENTS += [f"docs/{name}.md" for name in ("app", "cluster", "data", "evaluation")]
DOCUMENTS += ["docs/harnesses.md", "docs/training.md"]


def blocks(document: str, language: str) -> list[str]:
    """List the fenced blocks of one language in a document."""
    text = (ROOT / document).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.M | re.S)


def commands() -> list[list[str]]:
    """List the shell commands of all documents, split into words, without comments; what `bash -c`
    runs is a command of its own.
    """
    found = []
    for document in DOCUMENTS:
        for block in blocks(document, "bash"):
            lines = block.replace("\\\n", " ").splitlines()
            words = [shlex.split(line, comments=True) for line in lines]
            found += [word for word in words if word]
    inner = [shlex.split(words[-1]) for words in found if words[-3:-1] == ["bash", "-c"]]
    return found + inner


def flags(words: list[str]) -> set[str]:
    """Pick the long flags out of a command."""
    return {word.split("=")[0] for word in words if word.startswith("--")}


AVCHAT = [words for words in commands() if words[0] == "avchat"]
SCRIPTS = [
    words for words in commands() if any(re.match(r"(train|eval)/\w+\.py$", word) for word in words)
]


@pytest.mark.parametrize("words", AVCHAT, ids=" ".join)
def test_an_avchat_command_of_the_documents_parses(words: list[str]) -> None:
    cli.parse(words[1:])


@pytest.mark.parametrize("words", SCRIPTS, ids=" ".join)
def test_a_script_of_the_documents_has_the_flags(words: list[str]) -> None:
    script = next(word for word in words if word.endswith(".py"))
    rest = words[words.index(script) + 1 :]
    verbs = [word for word in rest[:1] if not word.startswith("-")]
    shown = help_of(script, *verbs)
    missing = {flag for flag in flags(rest) if not re.search(rf"{flag}\b", shown)}
    assert not missing, f"{script} does not know {missing}"


def test_the_manifests_of_the_documents_can_be_read(tmp_path: Path) -> None:
    talks, captions = blocks("docs/data.md", "json")
    [line] = blocks("README.md", "json")
    path = tmp_path / "m.jsonl"
    path.write_text(talks + line)
    assert len(read_manifest(path)) == 7
    path.write_text(2 * captions)
    assert len(read_captions(path)) == 2


@cache
def help_of(script: str, *verbs: str) -> str:
    """Run a script's --help as `python script --help` would, in this process: torch loads once."""
    path = ROOT / script
    shown = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(shown):
        patch.setattr(sys, "argv", [script, *verbs, "--help"])
        patch.syspath_prepend(str(path.parent))
        with pytest.raises(SystemExit) as stop:
            runpy.run_path(str(path), run_name="__main__")
    assert not stop.value.code
    return shown.getvalue()


def test_the_python_of_the_readme_runs(
    bundled: str, clip: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    [code] = blocks("README.md", "python")
    exec(code.replace("clip.mp4", str(clip)), {})
    assert "frames=8" in capsys.readouterr().out


def test_make_targets_of_the_documents_exist() -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), flags=re.M))
    used = {word for words in commands() if words[0] == "make" for word in words[1:]}
    assert used <= targets | {"PYTHON=python3.11"}, used - targets


@pytest.mark.parametrize("document", DOCUMENTS)
def test_the_files_a_document_links_to_exist(document: str) -> None:
    text = (ROOT / document).read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", text)
    local = [link for link in links if "://" not in link]
    folder = (ROOT / document).parent
    assert not [link for link in local if not (folder / link).exists()]


@pytest.mark.parametrize("document", ["ARCHITECTURE.md"])
def test_the_file_tree_is_the_file_tree(document: str) -> None:
    [tree] = blocks(document, "text")
    named = set(tree_paths(tree))
    assert not [path for path in named if not (ROOT / path).exists()]
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "avchat").glob("*.py")}
    assert modules - named == {"avchat/__init__.py"}, "a module is missing in the tree"


def tree_paths(tree: str) -> list[str]:
    """Read paths out of an indented tree: `name  what it is`, a folder's name ending in a slash."""
    parents: list[tuple[int, str]] = []
    paths = []
    for line in tree.splitlines():
        indent = len(line) - len(line.lstrip())
        name = line.split()[0]
        parents = [(depth, folder) for depth, folder in parents if depth < indent]
        path = "".join(folder for _, folder in parents) + name
        paths.append(path)
        if name.endswith("/"):
            parents.append((indent, name))
    return paths


def test_every_requirement_is_pinned() -> None:
    def names(document: str) -> set[str]:
        lines = (ROOT / document).read_text(encoding="utf-8").splitlines()
        return {re.split(r"[<>=;[]", line)[0] for line in lines if line and line[0] != "#"}

    assert not names("requirements.txt") - names("constraints.txt")


def test_the_version_is_the_same_everywhere() -> None:
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert f'version = "{__version__}"' in project
    assert f"## {__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_the_docs_say_what_each_action_of_the_app_takes() -> None:
    known = {
        f"/{name}({', '.join([*inspect.signature(action).parameters][2:])})"
        for kind in (Actions, Finding, Shelf)
        for name, action in vars(kind).items()
        if not name.startswith("_")
    }
    text = (ROOT / "docs" / "app.md").read_text(encoding="utf-8")
    assert set(re.findall(r"`(/\w+\([^)`]*\))`", text)) == known
