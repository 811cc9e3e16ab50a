"""`avchat data` on real clips: what it says, and its exit codes."""

import json
import shutil
from pathlib import Path

import pytest

from avchat import cli


def row(name: str, media: Path, **more: str) -> str:
    said = [{"role": "user", "content": name}, {"role": "assistant", "content": "a dog"}]
    return json.dumps({"id": name, "media": str(media), **more, "messages": said}) + "\n"


def test_a_clip_in_two_parts_and_a_sound_that_is_not_there(
    clip: Path, silent_clip: Path, bundled: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = shutil.copy(clip, tmp_path / "copy.mp4")
    train, test = tmp_path / "train.jsonl", tmp_path / "test.jsonl"
    train.write_text(row("a", clip) + row("b", silent_clip))
    assert cli.main(["data", "check", str(train), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["tokens"]["count"] == 2
    test.write_text(row("c", Path(copy)) + row("d", silent_clip, sense="sound"))
    assert cli.main(["data", "check", str(train), str(test), "--json"]) == 2
    stdout, stderr = capsys.readouterr()
    kinds = [fault["kind"] for fault in json.loads(stdout)["faults"]]
    assert sorted(kinds) == ["no sound", "shared", "shared"]
    assert "error: " in stderr


def test_a_split_shares_no_clip(
    clip: Path, silent_clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = tmp_path / "m.jsonl"
    manifest.write_text(row("a", clip) + row("b", clip) + row("c", silent_clip))
    words = ["data", "split", str(manifest), "--output", str(tmp_path / "p"), "--json"]
    assert cli.main(words) == 0
    parts = json.loads(capsys.readouterr().out)
    assert parts["train"]["clips"] == parts["validation"]["clips"] == 1
    assert parts["train"]["samples"] + parts["validation"]["samples"] == 3
