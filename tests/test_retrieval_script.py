"""eval/retrieval.py on a public set: what a run leaves, what it says first, what it refuses."""

import csv
import importlib.util
import json
import shutil
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from avchat.evaluation.galleries import VECTORS
from avchat.evaluation.items import EvalError
from avchat.evaluation.records import MANIFEST, manifest, read_manifest
from avchat.evaluation.session import check_script
from avchat.heads import load_head, sha256_of

SCRIPT = Path(__file__).resolve().parent.parent / "eval" / "retrieval.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("retrieval_script", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where its dataclass looks for its types
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["eval/retrieval.py", "--set", "msr-vtt-1ka"])


@pytest.fixture
def flags(bundled: str, clip: Path, silent_clip: Path, tmp_path: Path) -> dict[str, Any]:
    """A set of two clips and one that is missing, with a list of those that count."""
    for name, source in (("one", clip), ("two", silent_clip)):
        shutil.copy(source, tmp_path / f"{name}.mp4")
    with (tmp_path / "test.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["key", "vid_key", "video_id", "sentence"])
        rows.writerows([f"ret{k}", f"msr{k}", k, f"a text of {k}"] for k in ("one", "two", "gone"))
    (tmp_path / "list.txt").write_text("one\ntwo\ngone\n")
    files = {"file": tmp_path / "test.csv", "split": tmp_path / "list.txt", "videos": tmp_path}
    return {"set": "msr-vtt-1ka", **files, "output": tmp_path / "run", "json": True}


def said(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    return json.loads(capsys.readouterr().out)


@pytest.mark.usefixtures("ours")
def test_a_run_leaves_its_manifest(
    script: ModuleType, flags: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    script.main(script.Retrieval(**flags))
    report, about = said(capsys), read_manifest(flags["output"])
    assert json.loads((flags["output"] / "report.json").read_text()) == report
    assert about["command"] == "eval/retrieval.py --set msr-vtt-1ka"
    assert about["versions"]["torch"] and about["began"] <= about["ended"]
    hashes = {path.name: sha256_of([path]) for path in (flags["file"], flags["split"])}
    assert about["data"] == {"set": "msr-vtt-1ka (list)", "files": hashes}
    assert about["model"] == load_head("tiny").fingerprint and about["name"] == "tiny"
    assert (about["n"], about["clips"], about["limit"]) == (2, 2, None)
    [spent] = about["seconds"].values()
    assert spent > 0 and about["peak_memory_mb"] > 0
    assert (report["texts"], report["clips"], report["missing"]) == (2, 2, 1)
    assert report["partial"] is False
    script.main(script.Retrieval(**flags))  # nothing is embedded again, and its time is kept
    again = read_manifest(flags["output"])
    assert again["seconds"] == about["seconds"] and again["began"] == about["began"]
    assert said(capsys)["directions"] == report["directions"]


@pytest.mark.usefixtures("ours")
def test_seconds_of_a_killed_run_count(
    script: ModuleType, flags: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    script.main(script.Retrieval(**flags, limit=1))
    [before] = read_manifest(flags["output"])["seconds"].values()
    script.main(script.Retrieval(**flags))
    [after] = read_manifest(flags["output"])["seconds"].values()
    assert after > before
    capsys.readouterr()


@pytest.mark.usefixtures("ours")
def test_a_limit_makes_a_partial_gallery(
    script: ModuleType, flags: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    script.main(script.Retrieval(**flags, limit=1))
    report = said(capsys)
    assert report["partial"] is True and report["missing"] == 1
    assert (report["texts"], report["clips"]) == (1, 1)
    assert {row["gallery"] for row in report["directions"].values()} == {1}
    assert read_manifest(flags["output"])["limit"] == 1
    assert (flags["output"] / VECTORS).read_bytes().count(b"\n") == 1
    script.main(script.Retrieval(**(flags | {"json": False}), limit=1))
    assert "partial: of the first 1 clips alone" in capsys.readouterr().out


@pytest.mark.usefixtures("ours")
def test_a_dry_run_touches_nothing(
    script: ModuleType, flags: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    there = sorted(flags["videos"].iterdir())
    script.main(script.Retrieval(**flags, dry_run=True))
    plan = {"set": "msr-vtt-1ka (list)", "clips": 2, "captions": 2, "clips_missing": 1}
    assert said(capsys) == plan | {"partial": False}
    script.main(script.Retrieval(**flags, dry_run=True, limit=1))
    assert said(capsys) == plan | {"clips": 1, "captions": 1, "partial": True}
    script.main(script.Retrieval(**(flags | {"json": False}), dry_run=True))
    assert "captions: 2\nclips missing: 1\n" in capsys.readouterr().out
    assert sorted(flags["videos"].iterdir()) == there
    script.main(script.Retrieval(clips=30, dry_run=True, json=True))
    assert said(capsys) == {"set": "the world", "clips": 60, "captions": 60}


def test_the_folder_of_another_script_is_left_alone(
    script: ModuleType, flags: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["eval/qa.py"])
    with manifest(flags["output"], {}):
        (flags["output"] / "report.json").write_text("theirs")
    before = (flags["output"] / MANIFEST).read_text()
    monkeypatch.setattr(sys, "argv", ["eval/retrieval.py"])
    with pytest.raises(EvalError, match=r"holds a run of qa\.py; name another --output"):
        script.main(script.Retrieval(**flags))
    assert (flags["output"] / "report.json").read_text() == "theirs"
    assert (flags["output"] / MANIFEST).read_text() == before
    monkeypatch.setattr(sys, "argv", ["eval/ablate.py"])  # and ours by others
    shutil.rmtree(flags["output"])
    with monkeypatch.context() as now:
        now.setattr(sys, "argv", ["eval/retrieval.py"])
        script.main(script.Retrieval(**flags))
    with pytest.raises(EvalError, match=r"holds a run of retrieval\.py"):
        check_script(flags["output"])


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"limit": 0}, "--limit 0: leaves no clip"),
        ({"limit": 5, "set": ""}, "--limit goes with --set; of the world --clips says how many"),
        ({"output": None}, "needs --file, --videos and --output"),
    ],
)
def test_wrong_flags_are_one_line(
    script: ModuleType, flags: dict[str, Any], change: dict[str, Any], line: str
) -> None:
    with pytest.raises(EvalError, match=line):
        script.main(script.Retrieval(**(flags | change)))
