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


def test_text_alone_is_divided_by_what_is_said(
    clip: Path, silent_clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same text stays together whatever its id; each part has its share of clips and texts."""
    manifest, texts = tmp_path / "m.jsonl", []
    for k in range(20):
        said = [{"role": "user", "content": f"{k % 10}?"}, {"role": "assistant", "content": "yes"}]
        texts.append(json.dumps({"id": f"t{k}", "messages": said}) + "\n")
    manifest.write_text(row("a", clip) + row("b", silent_clip) + "".join(texts))
    words = ["data", "split", str(manifest), "--output", str(tmp_path / "p"), "--validation", "0.3"]
    assert cli.main([*words, "--json"]) == 0
    parts = json.loads(capsys.readouterr().out)
    assert [parts[name]["clips"] for name in parts] == [1, 1]
    assert [parts[name]["texts"] for name in parts] == [7, 3]
    assert [parts[name]["samples"] for name in parts] == [15, 7]
    files = [parts[name]["file"] for name in parts]
    assert cli.main(["data", "check", *files, "--exact", "--json"]) == 0
    assert not json.loads(capsys.readouterr().out)["faults"]
    first = [Path(file).read_text() for file in files]
    manifest.write_text("".join(reversed(texts)) + row("b", silent_clip) + row("a", clip))
    assert cli.main(words) == 0  # in no order of a manifest
    assert [set(Path(file).read_text().splitlines()) for file in files] == [
        set(text.splitlines()) for text in first
    ]
    assert "15 samples of 1 clips and 7 texts in " in capsys.readouterr().out
    manifest.write_text(row("a", clip) + texts[0])
    assert cli.main(words) == 2
    assert "1 clip and 1 texts cannot be split" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["convert", "a.json", "b.jsonl", "--from", "lava", "--to", "avchat"], "videollama2"),
        (["convert", "a.json", "b.jsonl", "--from", "llava", "--to", "valor"], "ms-swift"),
        (["convert", "a.json", "b.jsonl", "--from", "llava", "--to", "avchat"], "not readable"),
        (["convert", ".", "b.jsonl", "--from", "llava", "--to", "avchat"], "Is a directory"),
        (
            ["convert", "a.json", "b.jsonl", "--from", "llava", "--to", "avchat", "--limit", "0"],
            "--limit must be at least 1",
        ),
        (["check"], "nothing to check"),
        (["check", "gone.jsonl"], "gone.jsonl: not readable (No such file"),
        (["check", "one.jsonl", "--model", "no-such-model"], "no model called no-such-model"),
        (["split", "gone.jsonl", "--output", "p"], "not readable"),
        (["split", "one.jsonl", "--output", "p", "--validation", "2"], "between 0 and 1"),
    ],
)
def test_bad_input_is_one_line(
    words: list[str],
    why: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    said = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    (tmp_path / "one.jsonl").write_text(json.dumps({"messages": said}))
    assert cli.main(["data", *words]) == 2
    stdout, stderr = capsys.readouterr()
    errors = [line for line in stderr.splitlines() if line.startswith("error:")]
    assert len(errors) == 1 and why in errors[0] and not stdout


def test_what_is_lost_is_said_beside_the_answer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, target = tmp_path / "in.json", tmp_path / "m.jsonl"
    said = [{"from": "human", "value": "<video>\nq"}, {"from": "gpt", "value": "a"}]
    source.write_text(json.dumps([{"video": "a.mp4", "conversations": said, "ce_only": True}]))
    words = ["data", "convert", str(source), str(target), "--from", "llava", "--to", "avchat"]
    assert cli.main(words) == 0
    stdout, stderr = capsys.readouterr()
    assert stdout == f"1 samples in {target}\n"
    assert "the field ce_only (1)" in stderr and "an id, which they did not have" in stderr
