"""The command line: what it prints where, its exit codes, one clear line for every bad input."""

import json
import os
import signal
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from avchat import cli
from avchat.model import AVChat
from avchat.world.questions import phrasings

CONTRACT = {
    "answer": str,
    "model": str,
    "seen": {"frames", "seconds"},
    "heard": {"seconds", "track"},
    "tokens": {"visual", "audio", "text", "answer"},
    "timing": {"media_s", "encode_s", "first_token_s", "total_s"},
    "warnings": list,
}


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run the installed command in a process of its own."""
    command = [sys.executable, "-m", "avchat.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def assert_one_error_line(stdout: str, stderr: str) -> None:
    assert stdout == ""
    assert stderr.startswith("error: ") and stderr.count("\n") == 1, stderr
    assert "Traceback" not in stderr


@pytest.fixture(scope="module")
def bad_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Files that cannot be used, by what is wrong with them."""
    folder = tmp_path_factory.mktemp("bad")
    (folder / "text.mp4").write_text("This is not a video.\n" * 50)
    (folder / "zero.mp4").write_bytes(b"")
    with av.open(str(folder / "long.mp4"), "w") as file:
        stream = file.add_stream("libx264", rate=1)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        for second in (0, 5 * 3600):
            frame = av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")
            frame.pts, frame.time_base = second, Fraction(1, 1)
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return {
        "missing": folder / "missing.mp4",
        "directory": folder,
        "text renamed .mp4": folder / "text.mp4",
        "zero bytes": folder / "zero.mp4",
        "over-long": folder / "long.mp4",
    }


WRONG = {
    "missing": "no such file",
    "directory": "folder",
    "text renamed .mp4": "text.mp4",
    "zero bytes": "empty",
    "over-long": "over the limit",
}


@pytest.mark.parametrize("what", WRONG)
def test_a_bad_file_is_one_line_and_exit_code_2(what: str, bad_files: dict[str, Path]) -> None:
    done = run("chat", bad_files[what], "What do you hear?", "--json")
    assert done.returncode == 2
    assert_one_error_line(done.stdout, done.stderr)
    assert WRONG[what] in done.stderr
    assert bad_files[what].name in done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "chat"),
        (["frob"], "frob"),
        (["chat"], "avchat chat --help"),
        (["chat", "CLIP", "hello", "--sens", "sound"], "--sense"),
        (["chat", "CLIP", "hello", "--sense", "smell"], "smell"),
        (["chat", "CLIP", "hello", "--seed", "x"], "--seed"),
        (["chat", "CLIP", " "], "question is empty"),
        (["chat", "CLIP"], "no question"),
        (["chat", "CLIP", "hello", "--frames", "0"], "--frames"),
        (["chat", "CLIP", "hello", "--start", "90"], "4.0 s long"),
        (["chat", "CLIP", "hello", "--model", "no-such-model"], "no-such-model"),
        (["chat", "CLIP", "what " * 1500, "--model", "RANDOM"], "1024 tokens"),
        (["chat", "CLIP", "hello", "--model", "RANDOM", "--temperature", "-1"], "temperature"),
        (["world", "OUT", "--clips", "0", "--seed", "1"], "--clips"),
        (["world", "OUT", "--clips", "1", "--seed", "1", "--split", "x"], "no split called x"),
        (["world", "CLIP", "--clips", "1", "--seed", "1"], "not a folder"),
        (["demo", "--model", "no-such-model"], "no-such-model"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else "",
)
def test_a_bad_argument_is_one_line_and_exit_code_2(
    arguments: list[str],
    said: str,
    clip: Path,
    model_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sys.stdin", open(os.devnull))
    names = {"CLIP": str(clip), "RANDOM": str(model_folder), "OUT": str(tmp_path / "out")}
    if "--start" in arguments:
        arguments = [*arguments, "--model", "RANDOM"]
    assert cli.main([names.get(word, word) for word in arguments]) == 2
    stdout, stderr = capsys.readouterr()
    lines = stderr.splitlines(keepends=True)
    if lines[0].startswith("note: "):  # said as soon as the model is loaded
        lines.pop(0)
    assert_one_error_line(stdout, "".join(lines))
    assert said in stderr


def test_json_is_the_contract_and_all_of_stdout(clip: Path, model_folder: Path) -> None:
    done = run("chat", clip, "hello", "--model", model_folder, "--json", "--max-new-tokens", "5")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert list(answer) == list(CONTRACT)
    for key, kind in CONTRACT.items():
        if isinstance(kind, set):
            assert set(answer[key]) == kind
        else:
            assert isinstance(answer[key], kind)
    assert answer["seen"]["frames"] == 8 and answer["heard"]["track"] is True
    assert "toy world" in done.stderr


def ask(clip: Path, model: Path, capsys: pytest.CaptureFixture[str], *more: str) -> dict:
    """Ask in this process; return the JSON."""
    words = ["chat", str(clip), "What do you hear?", "--model", str(model), "--json"]
    assert cli.main([*words, "--max-new-tokens", "4", *more]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_missing_sense_is_said_not_invented(
    silent_clip: Path, sound_clip: Path, model_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    silent = ask(silent_clip, model_folder, capsys)
    assert silent["heard"] == {"seconds": 0.0, "track": False}
    assert silent["tokens"]["audio"] == 0
    assert any("no sound track" in warning for warning in silent["warnings"])
    sound = ask(sound_clip, model_folder, capsys)
    assert sound["seen"] == {"frames": 0, "seconds": 0.0}
    assert sound["tokens"]["visual"] == 0
    assert any("no picture" in warning for warning in sound["warnings"])


def test_the_bundled_model_admits_what_it_could_not_hear_or_see(
    bundled: str, silent_clip: Path, sound_clip: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for clip, question, honest in (
        (silent_clip, phrasings("sound_kind")[0], "there is no sound"),
        (sound_clip, phrasings("object_count")[0], "there is no picture"),
    ):
        assert cli.main(["chat", str(clip), question, "--model", bundled]) == 0
        assert honest in capsys.readouterr().out


def test_a_sense_can_be_switched_off(
    clip: Path, model_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sound = ask(clip, model_folder, capsys, "--sense", "sound")
    assert sound["seen"]["frames"] == 0 and sound["heard"]["seconds"] > 3
    picture = ask(clip, model_folder, capsys, "--sense", "picture")
    assert picture["seen"]["frames"] == 8 and picture["heard"]["seconds"] == 0
    assert picture["heard"]["track"] is True


def test_a_part_and_a_number_of_frames(
    clip: Path, model_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    part = ask(clip, model_folder, capsys, "--start", "1", "--end", "2", "--frames", "4")
    assert part["seen"] == {"frames": 4, "seconds": 1.0}


def test_plain_mode_streams_the_answer_to_stdout_and_the_rest_to_stderr(
    clip: Path, model_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["chat", str(clip), "hello", "--model", str(model_folder), "--max-new-tokens", "4"]
    answer = ask(clip, model_folder, capsys, "--seed", "0")["answer"]
    words[2] = "What do you hear?"
    assert cli.main(words) == 0
    stdout, stderr = capsys.readouterr()
    assert stdout.strip() == answer
    assert "note: the bundled tiny model knows only the toy world" in stderr
    assert "Saw 8 frames over 4.0 s and heard 4.0 s of sound." in stderr


def test_typed_questions_are_one_conversation(
    clip: Path,
    model_folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Terminal:
        lines = iter(["What do you see?\n", "what " * 1500 + "\n", "What is heard?\n", "\n"])

        def isatty(self) -> bool:
            return True

        def readline(self) -> str:
            return next(self.lines)

    monkeypatch.setattr("sys.stdin", Terminal())
    words = ["chat", str(clip), "--model", str(model_folder), "--max-new-tokens", "4"]
    assert cli.main(words) == 0
    stdout, stderr = capsys.readouterr()
    assert len(stdout.splitlines()) == 2
    assert stderr.count("error: ") == 1
    assert stderr.count("the clip was kept in memory") == 1


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_ctrl_c_ends_an_answer_without_a_traceback(
    clip: Path, model_folder: Path, tmp_path: Path
) -> None:
    endless = AVChat.from_pretrained(model_folder)
    with torch.no_grad():
        endless.language.lm_head.bias[endless.tokenizer.eos_token_id] = -1e4
    endless.save_pretrained(tmp_path / "endless")
    config = tmp_path / "endless" / "config.json"  # room for an answer of minutes
    config.write_text(config.read_text().replace('embeddings": 512', 'embeddings": 60000'))
    words = ["chat", clip, "hello", "--model", tmp_path / "endless", "--max-new-tokens", "50000"]
    command = [sys.executable, "-m", "avchat.cli", *map(str, words)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.read(1)  # the answer has begun
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert b"Traceback" not in stderr and stderr.endswith(b"stopped\n")


def test_a_world_that_cannot_be_written_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, words = tmp_path / "file", ["--clips", "2", "--seed", "7"]
    file.write_text("a file")
    assert cli.main(["world", str(file / "below"), *words]) == 2
    assert "no clips can be written there" in capsys.readouterr().err
    begun = {"clips": 2, "seed": 8, "split": "test"}  # of other settings, before its first clip
    (tmp_path / "world.json").write_text(json.dumps(begun))
    assert cli.main(["world", str(tmp_path), *words]) == 2
    assert "holds other clips" in capsys.readouterr().err


def test_world_writes_real_files_and_questions_about_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--clips", "4", "--seed", "7", "--json"]
    assert cli.main(["world", str(tmp_path / "a"), *words]) == 0
    written = json.loads(capsys.readouterr().out)
    rows = [json.loads(line) for line in (tmp_path / "a" / "questions.jsonl").open()]
    assert written["clips"] == 4 and written["questions"] == len(rows) > 0
    for row in rows:
        assert set(row) >= {"id", "video", "family", "needs", "question", "answer", "choices"}
        assert row["needs"] in ("V", "A", "S", "AV")
    [first, *_] = sorted((tmp_path / "a").glob("*.mp4"))
    with av.open(str(first)) as file:
        codecs = {stream.codec_context.name for stream in file.streams}
    assert codecs == {"h264", "aac"}
    assert cli.main(["world", str(tmp_path / "a"), *words]) == 2
    assert "name another folder" in capsys.readouterr().err
    assert cli.main(["world", str(tmp_path / "b"), *words]) == 0
    for name in ("questions.jsonl", first.name):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_doctor_reports_and_never_fails(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["decoding"]["ok"] is True
    assert found["devices"][-1]["device"] == "cpu"
    packages = {row["name"]: row for row in found["packages"]}
    assert packages["torch"]["ok"] and packages["decord2"]["ok"]
    models = {row["name"]: row for row in found["models"]}
    assert "microsoft/phi-2" in models and "tiny" in models
    assert models["microsoft/phi-2"]["get"] in (None, "hf download microsoft/phi-2")
    assert cli.main(["doctor"]) == 0
    shown = capsys.readouterr().out
    assert "test clip" in shown and "microsoft/phi-2" in shown


def test_help_answers_before_anything_heavy_is_imported() -> None:
    code = (
        "import sys, avchat.cli\n"
        "try: avchat.cli.main(['chat', '--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'transformers', 'gradio', 'av'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "--sense {both,sound,picture}" in done.stdout
