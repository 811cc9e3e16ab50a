"""Questions of a file: what a conversation says, in order, and nothing twice after a kill."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from small import make_media

from avchat import cli
from avchat.batch import decode_together
from avchat.batch_lines import Answers, BatchError, Line, read_lines, survey
from avchat.batch_media import MOST_FILES, Part, in_orders, load_order
from avchat.batch_run import AHEAD, LINES, Asking, answer_lines, settings_of, whisper_key
from avchat.chat import Conversation
from avchat.decoding import decode, picker
from avchat.media import Media, MediaError, load_media
from avchat.model import AVChat
from avchat.prompt import PromptError

QUESTIONS = ["which object?", "which sound makes the circle?", "red or blue?", "a star?"]


@pytest.fixture(scope="module")
def model(small_model: Path) -> AVChat:
    return AVChat.from_pretrained(small_model)


@pytest.fixture(scope="module")
def files(clip: Path, silent_clip: Path, sound_clip: Path) -> list[str]:
    return [str(clip), str(silent_clip), str(sound_clip)]


def write_lines(path: Path, lines: list[dict]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture
def asked(tmp_path: Path, files: list[str]) -> list[dict]:
    """Lines on several files and parts, in several senses, some of which cannot be answered."""
    (tmp_path / "bad.mp4").write_text("no video\n")
    lines = [
        {"video": files[k % 3], "question": QUESTIONS[k % 4], "id": k, "sense": sense}
        for k, sense in enumerate(["both", "sound", "picture", "both", "sound", "picture"])
    ]
    lines += [{"video": files[0], "question": question} for question in QUESTIONS]
    lines += [
        {"video": files[0], "question": "which?", "start": 1, "end": 2.5, "id": "part"},
        {"video": files[0], "question": "which?", "start": 90},
        {"video": "bad.mp4", "question": "which?"},
        {"video": "gone.mp4", "question": "which?"},
        {"video": files[1], "question": "  "},
        {"video": files[1], "question": "red " * 600},
        {"video": files[1], "question": "blue?"},
    ]
    return lines


def one_by_one(model: AVChat, folder: Path, line: dict, **drawn: object) -> dict:
    """Answer a line as a user would who writes a loop."""
    row = dict(line)
    try:
        start, end = line.get("start"), line.get("end")
        talk = model.open(folder / line["video"], start=start, end=end)
        answer = talk.ask(line["question"], line.get("sense", "both"), max_new_tokens=12, **drawn)
        assert "".join(answer).strip() == talk.receipt.answer
        receipt = talk.receipt.to_dict()
        del receipt["timing"]
        return row | receipt
    except (MediaError, PromptError) as error:
        return row | {"error": str(error)}


@pytest.mark.slow
@pytest.mark.parametrize("drawn", [{}, {"temperature": 0.9, "top_p": 0.95, "seed": 3}], ids=str)
def test_lines_are_answered_as_one_by_one(
    model: AVChat, asked: list[dict], tmp_path: Path, drawn: dict
) -> None:
    """Answers, receipts, warnings and errors are those of a conversation on each line alone."""
    path = write_lines(tmp_path / "in.jsonl", asked)
    chunks = answer_lines(model, read_lines(path), Asking(max_new_tokens=12, **drawn))
    rows = [row for chunk in chunks for row in chunk.rows]
    expected = [one_by_one(model, tmp_path, line, **drawn) for line in asked]
    assert rows == json.loads(json.dumps(expected))
    assert sum("error" in row for row in rows) == 5
    assert any(row.get("warnings") for row in rows)
    assert len({row.get("answer") for row in rows}) > 5


def test_lines_on_one_file_decode_and_encode_it_once(
    model: AVChat, files: list[str], tmp_path: Path
) -> None:
    """Also over the border of a chunk; interleaved ones within a chunk."""
    lines = [{"video": files[k % 2], "question": QUESTIONS[k % 4]} for k in range(LINES + 10)]
    path = write_lines(tmp_path / "in.jsonl", lines)
    frames: list[int] = []
    hook = model.vision.register_forward_pre_hook(lambda _, given: frames.append(len(given[0])))
    chunks = list(answer_lines(model, read_lines(path), Asking(max_new_tokens=2)))
    hook.remove()
    assert [len(chunk.rows) for chunk in chunks] == [LINES, 10]
    assert [chunk.clips for chunk in chunks] == [2, 0]
    assert sum(frames) == 2 * model.config.frames and len(frames) == 1, "encoded together"


def test_lines_are_not_read_far_ahead(model: AVChat, files: list[str]) -> None:
    """A file of millions of lines is never in memory."""
    taken = 0

    def endless() -> Iterator[Line]:
        nonlocal taken
        while True:
            taken += 1
            line = {"video": files[0], "question": "red?"}
            yield Line(line, Part(files[0]), "red?", None)

    chunks = answer_lines(model, endless(), Asking(max_new_tokens=1))
    for _ in range(2):
        next(chunks)
    chunks.close()
    assert taken <= (AHEAD + 3) * LINES


def test_rows_share_a_prefix_and_leave_when_they_have_ended(model: AVChat) -> None:
    """Tokens through the language model: a clip's prefix once, then only rows that go on."""
    talk = Conversation(model, make_media())
    rooms = [1, 2, 3, 12]
    said = [talk.question(q, max_new_tokens=n) for q, n in zip(QUESTIONS, rooms, strict=True)]
    shapes: list[tuple[int, int]] = []
    hook = model.language.register_forward_pre_hook(
        lambda _, args, kwargs: shapes.append(tuple(kwargs["inputs_embeds"].shape[:2])),
        with_kwargs=True,
    )
    decode_together(said)
    hook.remove()
    questions = [said[k].num_question for k in range(4)]
    prefix = len(said[0].prompt) - questions[0]
    assert shapes[:2] == [(1, prefix), (4, max(questions))]
    rows = [batch for batch, width in shapes[2:]]
    assert all(width == 1 for _, width in shapes[2:]) and rows == sorted(rows, reverse=True)
    assert rows[-1] == 1 or max(len(one.ids) for one in said) < 3
    for one, question, room in zip(said, QUESTIONS, rooms, strict=True):
        alone = Conversation(model, make_media()).question(question, max_new_tokens=room)
        list(decode(alone, picker(0.0, 1.0, None), None))
        assert (one.ids, one.ended) == (alone.ids, alone.ended)


def test_short_files_share_a_process_and_long_ones_do_not(tmp_path: Path) -> None:
    short, long = tmp_path / "short.mp4", tmp_path / "long.mp4"
    short.write_bytes(b"x")
    long.write_bytes(bytes(3_000_000))
    parts = [Part(str(short)) for _ in range(MOST_FILES + 2)] + [Part(str(long))] * 2
    orders = list(in_orders(parts))
    assert [len(order) for order in orders] == [MOST_FILES, 3, 1]
    assert [part for order in orders for part in order] == parts


def test_a_name_that_no_file_can_have_is_that_lines_fault(clip: Path) -> None:
    orders = list(in_orders([Part("x" * 5000 + ".mp4"), Part(str(clip))]))
    wrong, right = load_order(*orders, frames=2)
    assert isinstance(wrong, MediaError) and "too long" in str(wrong)
    assert isinstance(right, Media)


def test_a_crash_is_one_files_own(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "abc":
        (tmp_path / f"{name}.mp4").write_bytes(clip.read_bytes())
    monkeypatch.setattr("avchat.batch_media.SERVE", "crashing:crash_on_b")
    parts = [Part(str(tmp_path / f"{name}.mp4"), 0.5, 2.0) for name in "abc"]
    first, crashed, last = load_order(parts, 4)
    assert isinstance(crashed, MediaError) and "b.mp4: decoding crashed" in str(crashed)
    plain = load_media(clip, frames=4, start=0.5, end=2.0)
    for media in (first, last):
        assert isinstance(media, Media) and media.duration_s == plain.duration_s
        np.testing.assert_array_equal(media.frames, plain.frames)
        np.testing.assert_array_equal(media.waveform, plain.waveform)


def run(*arguments: str | Path) -> list[str]:
    """The command line's words, in a process of its own."""
    return [sys.executable, "-m", "avchat.cli", "chat", *map(str, arguments)]


@pytest.mark.slow
def test_a_killed_run_goes_on_where_it_was(
    small_model: Path,
    files: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    lines = [
        {"id": k, "video": files[k % 3], "question": f"{QUESTIONS[k % 4]} {k}"} for k in range(260)
    ]
    path, out = write_lines(tmp_path / "in.jsonl", lines), tmp_path / "out.jsonl"
    command = ["--batch", path, "--out", out, "--model", small_model, "--max-new-tokens", "8"]
    process = subprocess.Popen(run(*command), stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 90
    while not (out.exists() and out.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = out.read_bytes()
    whole = before.count(b"\n")
    assert 0 < whole < 260, "killed in its middle"
    out.write_bytes(before[: before.rindex(b"\n") - 20])  # as if the kill had torn a line
    assert cli.main(["chat", *map(str, command), "--json"]) == 0
    said = capsys.readouterr()
    assert f"{whole - 1} of 260 lines are answered already" in said.err
    assert json.loads(said.out)["answered"] == 260
    rows = [json.loads(row) for row in out.read_text().splitlines()]
    assert [row["id"] for row in rows] == [*range(260)]
    assert out.read_bytes().startswith(before[: before.rindex(b"\n", 0, -1) + 1])
    assert cli.main(["chat", *map(str, command)]) == 0, "all is there already"
    assert len(out.read_text().splitlines()) == 260
    fresh = tmp_path / "fresh.jsonl"
    assert cli.main(["chat", *map(str, [*command[:3], fresh, *command[4:]])]) == 0
    assert fresh.read_text() == out.read_text()


GOOD = '{"video": "a.mp4", "question": "what?"}\n'


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no question in it"),
        (GOOD + "{nonsense\n", "line 2: not JSON"),
        (GOOD + "\n[1]\n", "line 3: must be an object"),
        ('{"question": "what?"}', 'line 1: "video" must be there'),
        ('{"video": "a.mp4", "question": 3}', '"question" must be there'),
        ('{"video": "", "question": "what?"}', "path of a file"),
        ('{"video": "a.mp4", "question": "q", "sense": "smell"}', '"sense" must be one of both'),
        ('{"video": "a.mp4", "question": "q", "sense": []}', '"sense" must be one of both'),
        ('{"video": "a.mp4", "question": "q", "start": "1"}', '"start" must be a number'),
        ('{"video": "a.mp4", "question": "q", "end": NaN}', '"end" must be a number'),
        (
            '{"video": "a.mp4", "question": "q", "end": 1' + "9" * 400 + "}",
            '"end" must be a number',
        ),
        ('{"video": "a.mp4", "question": "q", "id": {}}', '"id" must be'),
        ("\xff\xfe", "line 1: not JSON"),
        ('{"video": "a.mp4", "question": "\\ud800?"}', "half of a character"),
    ],
)
def test_a_bad_file_of_questions_is_one_line(
    text: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    path.write_bytes(text.encode("latin-1"))
    assert cli.main(["chat", "--batch", str(path), "--out", str(out)]) == 2
    shown = capsys.readouterr()
    assert shown.err.startswith("error: ") and shown.err.count("\n") == 1 and said in shown.err
    assert shown.out == "" and not out.exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--batch", "IN"], "needs --out"),
        (["clip.mp4", "--batch", "IN", "--out", "OUT"], "leave VIDEO out"),
        (["clip.mp4", "what?", "--out", "OUT"], "--out is for"),
        (["--batch", "IN", "--out", "IN"], "file of the questions"),
        (["--batch", "OUT.settings.json", "--out", "OUT"], "file of the questions"),
        (["--batch", "/dev/null", "--out", "OUT"], "must be a plain file"),
        (["--batch", "IN", "--out", "OUT", "--evidence"], "--evidence and --vtt are for one"),
        (["--batch", "IN", "--out", "OUT", "--start", "1"], "stand in the lines"),
        (["--batch", "IN", "--out", "OUT", "--head", "tiny"], "--head"),
        (["--batch", "IN", "--out", "OUT", "--frames", "0"], "--frames"),
        (["--batch", "IN", "--out", "OUT", "--max-new-tokens", "0"], "--max-new-tokens"),
        (["--batch", "IN", "--out", "gone/out.jsonl"], "cannot be written|can be written"),
        (["--batch", "gone.jsonl", "--out", "OUT"], "cannot be read"),
        (["--batch", "IN", "--out", "OUT", "--temperature", "-1"], "temperature"),
        (["--batch", "IN", "--out", "OUT", "--model", "no-such-model"], "no-such-model"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else "",
)
def test_bad_arguments_of_a_batch_are_one_line(
    arguments: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = {"IN": str(tmp_path / "in.jsonl"), "OUT": str(tmp_path / "out.jsonl")}
    names["OUT.settings.json"] = names["OUT"] + ".settings.json"
    (tmp_path / "in.jsonl").write_text(GOOD)
    assert cli.main(["chat", *(names.get(word, word) for word in arguments)]) == 2
    shown = capsys.readouterr().err
    assert shown.startswith("error: ") and shown.count("\n") == 1
    assert any(words in shown for words in said.split("|")), shown
    assert not (tmp_path / "out.jsonl").exists()


def test_every_line_at_fault_is_exit_code_2_and_some_are_not(
    small_model: Path, clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [{"video": "gone.mp4", "question": "what?"}, {"video": str(clip), "question": "who?"}]
    for name, some, code in (("all", lines[:1], 2), ("some", lines, 0)):
        path, out = write_lines(tmp_path / f"{name}.jsonl", some), tmp_path / f"{name}.out"
        command = ["chat", "--batch", str(path), "--out", str(out), "--model", str(small_model)]
        assert cli.main(command) == code
        first, *_ = [json.loads(row) for row in out.read_text().splitlines()]
        assert first == {**lines[0], "error": "gone.mp4: no such file"}
        shown = capsys.readouterr().err
        assert f"{len(some) - 1} answered, 1 failed" in shown
        assert ("error: none of the 1 questions" in shown) == bool(code)


def test_answers_of_something_else_are_not_gone_on_with(tmp_path: Path) -> None:
    lines = [{"video": "a.mp4", "question": f"what {k}?"} for k in range(3)]
    path, out = write_lines(tmp_path / "in.jsonl", lines), tmp_path / "out.jsonl"
    settings = {"model": "small", "max_new_tokens": 8}
    answers = Answers(out, settings)
    assert answers.resume(read_lines(path)) == 0
    answers.write([{**line, "answer": "red"} for line in lines[:2]])
    with pytest.raises(BatchError, match="another run is writing"):
        Answers(out, settings).resume(read_lines(path))
    answers.close()
    left = read_lines(path)
    assert Answers(out, settings).resume(left) == 2
    assert next(left).question == "what 2?"

    def refused(match: str, of: Path = path, under: dict = settings) -> None:
        before = out.read_bytes()
        with pytest.raises(BatchError, match=match):
            Answers(out, under).resume(read_lines(of))
        assert out.read_bytes() == before, "nothing made is lost"

    refused("begun with max_new_tokens 8, not 9", under=settings | {"max_new_tokens": 9})
    other = write_lines(tmp_path / "other.jsonl", [lines[0], {**lines[1], "sense": "sound"}])
    refused("line 2: answers another question", of=other)
    refused("more lines than", of=write_lines(tmp_path / "short.jsonl", lines[:1]))
    whole = out.read_text()
    for row in ("nonsense", "3"):
        out.write_text(whole + row + "\n")
        refused("line 3: not an answer")
    (tmp_path / "out.jsonl.settings.json").unlink()
    refused("is there already")


def test_another_whisper_in_a_files_place_is_told_from_it(tmp_path: Path) -> None:
    path = tmp_path / "whisper.pt"
    path.write_bytes(b"one")
    before = whisper_key(str(path))
    path.write_bytes(b"two")
    assert before != whisper_key(str(path)) and whisper_key("base") == "base"


def test_fields_that_nothing_reads_are_named(tmp_path: Path) -> None:
    lines = [{"video": "a.mp4", "question": "q", "sence": "sound"}, {"video": "b", "question": ""}]
    found = survey(write_lines(tmp_path / "in.jsonl", lines))
    assert (found.lines, found.unread) == (2, ("sence",))


@torch.no_grad()
def test_settings_tell_models_apart(model: AVChat) -> None:
    before = settings_of(model, Asking())
    assert before == settings_of(model, Asking()) != settings_of(model, Asking(sense="sound"))
    weight = model.visual_projector.mlp.mlp[0].weight
    weight[0, 0] += 1
    assert settings_of(model, Asking())["weights"] != before["weights"]
    weight[0, 0] -= 1
