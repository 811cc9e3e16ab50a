"""Runs of questions under conditions: what is asked, what is asked again, what a kill leaves."""

import json
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from small import build_model

from avchat.chat import Conversation
from avchat.data_rows import Tally
from avchat.evaluation.answering import Asking, generate
from avchat.evaluation.conditions import BORROWS, CONDITIONS, NEEDS_SOUND, altered, order, under
from avchat.evaluation.items import EvalError, Item, key_of, read_items
from avchat.evaluation.records import ANSWERS, Records, read_manifest, read_records
from avchat.evaluation.report import compared, flips, report_of
from avchat.evaluation.tables import condition_table
from avchat.evaluation.verdicts import read_verdicts
from avchat.media import load_media
from avchat.model import AVChat
from avchat.world.dataset import write_dataset

ROOT = Path(__file__).resolve().parent.parent
MOST = tuple(name for name in CONDITIONS if name != "transcript_only")


@pytest.fixture(scope="module")
def model() -> AVChat:
    return build_model(seed=3)


@pytest.fixture
def items(clip: Path, silent_clip: Path, sound_clip: Path, tmp_path: Path) -> list[Item]:
    """Questions on copies of three clips: whole, without sound, without picture."""
    found = []
    for k, source in enumerate((clip, silent_clip, sound_clip)):
        path = Path(shutil.copy(source, tmp_path / f"{k}{source.suffix}"))
        found += [
            Item(f"{k} kind", path, "which object?", "red circle", ("red circle", "green star")),
            Item(
                f"{k} sound", path, "is there a sound?", "sound", ("sound", "no sound"), needs="A"
            ),
        ]
    return found


def rows_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / ANSWERS).read_text().splitlines()]


def test_answers_are_those_of_a_conversation(
    model: AVChat, items: list[Item], tmp_path: Path
) -> None:
    """The oracle: one question after another, each in a conversation of its own."""
    names = ("full", "deaf", "blind", "question_only")
    generate(model, items, Asking(names, free=True, max_new_tokens=6), tmp_path / "run")
    verdicts = read_verdicts(tmp_path / "run")
    assert [(v.id, v.condition) for v in verdicts] == [(i.id, n) for i in items for n in names]
    by_id = {item.id: item for item in items}
    for one in verdicts:
        item = by_id[one.id]
        media = load_media(item.video, frames=model.config.frames)
        talk = Conversation(model, media)
        alone = "".join(talk.ask(item.question, CONDITIONS[one.condition][0], max_new_tokens=6))
        assert one.said == alone.strip()


def test_a_second_run_asks_nothing_and_a_change_what_it_must(
    model: AVChat, items: list[Item], clip: Path, tmp_path: Path
) -> None:
    folder, asking = tmp_path / "run", Asking(MOST)
    generate(model, items, asking, folder)
    before = rows_of(folder)
    assert len(before) == len({row["key"] for row in before}) == len(items) * len(MOST)
    generate(model, items, asking, folder)
    assert rows_of(folder) == before

    def asked_again(**changes: object) -> set[tuple[str, str]]:
        count = len(rows_of(folder))
        how = {"asking": asking, "items": items, "model": model} | changes
        generate(how["model"], how["items"], how["asking"], folder)
        keys = {row["key"] for row in rows_of(folder)[count:]}
        plan = [json.loads(line) for line in (folder / "plan.jsonl").read_text().splitlines()]
        return {(row["id"], row["condition"]) for row in plan if row["key"] in keys}

    everything = {(item.id, name) for item in items for name in MOST}
    assert asked_again(asking=replace(asking, shift_s=1.0)) == {
        (item.id, "shifted") for item in items
    }
    assert asked_again(asking=replace(asking, seed=4)) == {
        (item.id, "shuffled_frames") for item in items
    }
    worded = [replace(items[0], question="which star?"), *items[1:]]
    assert asked_again(items=worded) == {(items[0].id, name) for name in MOST}
    assert asked_again(model=build_model(seed=4)) == everything
    # another clip in the place of the third: its questions, and those that borrow its sound
    items[4].video.write_bytes(clip.read_bytes() + b"\0")
    others = {(item.id, name) for item in items for name in BORROWS}
    assert asked_again() == {(i.id, n) for i in items[4:] for n in MOST} | others


def test_a_missing_clip_is_counted_bounded_and_asked_when_it_is_there(
    model: AVChat, items: list[Item], tmp_path: Path
) -> None:
    gone, folder = tmp_path / "gone.mp4", tmp_path / "run"
    items.append(Item("gone", gone, "which object?", "red circle", ("red circle", "green star")))
    generate(model, items, Asking(("full", "deaf")), folder)
    found = report_of(folder)["conditions"]["full"]["all"]
    assert found["n"] == 7 and found["missing"] == 1 and found["scored"] == 6
    right = round(found["accuracy"] * 6)
    assert found["bounds"] == [pytest.approx(right / 7), pytest.approx((right + 1) / 7)]
    [error] = {v.error for v in read_verdicts(folder) if v.outcome == "missing"}
    assert "gone.mp4" in error and "\n" not in error
    assert f"missing: {error}" in condition_table(report_of(folder))
    gone.write_bytes(items[0].video.read_bytes() + b"\0")  # the same bytes are answered already
    count = len(rows_of(folder))
    generate(model, items, Asking(("full", "deaf")), folder)
    assert len(rows_of(folder)) == count + 2
    assert report_of(folder)["conditions"]["full"]["all"]["missing"] == 0


def test_each_missing_clip_has_its_own_reason(model: AVChat, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    lost = [Item(name, tmp_path / name, "what?", "x") for name in ("gone.mp4", "folder")]
    assert generate(model, lost, Asking(), tmp_path / "run") == 2
    assert len(report_of(tmp_path / "run")["faults"]) == 2


def test_where_a_clip_lies_changes_nothing(
    model: AVChat, items: list[Item], tmp_path: Path
) -> None:
    """Of two copies one is asked about, and the same is asked of a file that was moved."""
    copy = Path(shutil.copy(items[0].video, tmp_path / "copy.mp4"))
    twins = [items[0], replace(items[0], id="copy", video=copy)]
    asking = Asking(("full", "shuffled_frames"))
    generate(model, twins, asking, tmp_path / "run")
    assert len(rows_of(tmp_path / "run")) == 2
    verdicts = read_verdicts(tmp_path / "run")
    assert len(verdicts) == 4 and all(v.said for v in verdicts)
    generate(model, twins[1:], asking, tmp_path / "moved")
    assert rows_of(tmp_path / "moved") == rows_of(tmp_path / "run")


@torch.inference_mode()
def test_each_condition_takes_away_what_it_says(
    model: AVChat, clip: Path, sound_clip: Path
) -> None:
    media = load_media(clip, frames=model.config.frames)
    other = load_media(sound_clip).waveform[:16_000]
    [full] = model.encode([media])
    taken = under(model, media, full, MOST, other=other, shift_s=1.0, seed=1)
    assert all(one.altered == (name != "full") for name, one in taken.items())
    seen = {name: one.features.only(one.sense) for name, one in taken.items()}
    assert seen["deaf"].audio is None and seen["blind"].visual is None
    assert seen["question_only"].audio is None and seen["question_only"].visual is None
    for name in NEEDS_SOUND:
        assert seen[name].audio.shape == full.audio.shape
        assert not np.allclose(seen[name].audio, full.audio, atol=1e-3)
        assert seen[name].visual is (None if name == "other_sound_only" else full.visual)
    assert len(seen["one_frame"].visual) == len(seen["one_frame"].frame_times_s) == 1
    shuffled = seen["shuffled_frames"].visual
    assert shuffled.shape == full.visual.shape and not np.allclose(shuffled, full.visual)
    assert np.allclose(shuffled.sum(0), full.visual.sum(0), atol=1e-4)
    assert seen["shuffled_frames"].frame_times_s == full.frame_times_s
    wave = media.waveform
    assert not altered(media, "silent", other, 1.0).any()
    assert np.array_equal(altered(media, "shifted", other, 1.0)[16_000:], wave[:-16_000])
    assert np.array_equal(altered(media, "other_sound", other, 1.0)[:16_000], other)
    assert all((order(4, seed).numpy() != np.arange(4)).any() for seed in range(50))


@torch.inference_mode()
def test_from_what_is_not_there_nothing_is_taken(model: AVChat, silent_clip: Path) -> None:
    media = load_media(silent_clip, frames=model.config.frames)
    [full] = model.encode([media])
    other = np.ones(100, np.float32)
    taken = under(model, media, full, MOST, other=other, shift_s=1.0, seed=1)
    for name in ("deaf", "silent", "other_sound", "shifted"):
        assert not taken[name].altered and taken[name].features is full
    assert taken["question_only"].altered and taken["blind"].altered


def test_a_torn_last_line_is_cut_and_a_foreign_one_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    with Records(path) as records:
        records.add([{"key": "a", "said": "1"}, {"key": "b", "error": "no"}])
        records.add([{"key": "a", "said": "2"}])
        assert records.missing(["a", "b", "c"]) == ["b", "c"]
        with pytest.raises(EvalError, match="another run is writing"), Records(path):
            pass
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"key": "c", "sa')
    assert read_records(path)["a"]["said"] == "2"
    with Records(path) as records:
        assert set(records.rows) == {"a", "b"}
        records.add([{"key": "c", "said": "3"}])
    assert path.read_bytes() == whole + b'{"key": "c", "said": "3"}\n'
    path.write_text("not ours\n")
    with pytest.raises(EvalError, match="line 1: is not a line of a run"), Records(path):
        pass


def test_a_key_hangs_on_everything_and_on_nothing_else() -> None:
    assert key_of({"a": 1, "b": 2}) == key_of({"b": 2, "a": 1})
    assert len({key_of("a", "b"), key_of("ab"), key_of(["a", "b"]), key_of("a", None)}) == 4


LINE = '{"video": "a.mp4", "question": "?", "answer": "x", %s}'


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"video": "a.mp4", "question": "?"}', '"answer" must be there'),
        ('{"video": "a.mp4", "question": "?", "answer": "x", "choices": ["a"]}', "not among"),
        ('{"video": "a.mp4", "question": "?", "answer": "x", "choices": "x"}', "list of texts"),
        ('{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}',
         "nothing to see or to hear"),
        (LINE % '"choices": ["x", "x"]', "names an answer twice"),
        (LINE % '"needs": "X"', "one of V, A, S, AV, not 'X'"),
        (LINE % '"choices": ["x"]', "one answer alone"),
        (LINE % '"start": NaN', '"start" must be seconds, not nan'),
        (LINE % '"also": "y"', '"also" must be a list of texts'),
        (LINE % '"also": [3]', '"also" must be a list of texts'),
        (LINE % '"start": 3, "end": 1', "from 3 s to 1 s is empty"),
        (LINE % '"start": "3"', '"start" must be seconds'),
        ("{", "not JSON"),
        ("", "no questions"),
        ('{"id": 1, "video": "a", "question": "?", "answer": "x"}\n' * 2, "the id '1' stands"),
    ],
)  # fmt: skip
def test_bad_questions_are_one_line(tmp_path: Path, line: str, said: str) -> None:
    path = tmp_path / "q.jsonl"
    path.write_text(line)
    with pytest.raises(Exception, match=said) as error:
        read_items(path)
    assert "\n" not in str(error.value) and "q.jsonl" in str(error.value)


def test_a_manifest_of_training_is_asked_turn_by_turn(manifest: Path) -> None:
    rows = [json.loads(line) for line in manifest.read_text().splitlines()]
    tally = Tally()
    items = read_items(manifest, tally=tally)
    assert tally.left == {"without media": sum("media" not in row for row in rows)}
    assert len(items) == tally.carried >= 9 and all(
        item.video.is_file() and item.answer for item in items
    )


def test_a_report_says_better_only_where_it_is(model: AVChat, tmp_path: Path) -> None:
    write_dataset(tmp_path / "world", 12, 1)
    items = [i for i in read_items(tmp_path / "world" / "questions.jsonl") if i.choices]
    generate(model, items, Asking(("full", "deaf")), tmp_path / "run", facts={"limit": 3})
    found = report_of(tmp_path / "run")
    assert found["partial"] and found["counts"]["n"] == 2 * len(items)
    verdicts = read_verdicts(tmp_path / "run")
    full = [v for v in verdicts if v.condition == "full"]
    perfect = [replace(v, outcome="right") for v in full]
    wrong = [replace(v, outcome="wrong") for v in full]
    assert compared(wrong, perfect)["all"]["verdict"] == "better"
    assert compared(perfect, wrong)["all"]["verdict"] == "worse"
    same = compared(full, full)
    assert {one["verdict"] for one in same.values()} <= {"no difference shown", "too few clips"}
    assert same["all"]["interval"] == [0, 0] and same["all"]["p"] == 1
    few = [v for v in wrong if v.clip == wrong[0].clip]
    assert compared(few, perfect)["all"]["verdict"] == "too few clips"
    changed = {v.id for v in full} & {row["id"] for row in flips(tmp_path / "run")}
    deaf = {v.id: v.said for v in verdicts if v.condition == "deaf"}
    assert changed == {v.id for v in full if deaf[v.id] != v.said}


def script(name: str, *words: object, **more: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, f"eval/{name}.py", *map(str, words)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, **more)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory, model: AVChat) -> Path:
    folder = tmp_path_factory.mktemp("small") / "model"
    model.save_pretrained(folder)
    return folder


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_kill_in_the_middle_changes_nothing(small: Path, tmp_path: Path) -> None:
    words = ["--model", small, "--clips", 8, "--seed", 2, "--batch", 1]
    whole = script("ablate", *words, "--output", tmp_path / "whole", "--json")
    assert whole.returncode == 0, whole.stderr
    command = [sys.executable, "eval/ablate.py", *map(str, words), "--output", str(tmp_path / "k")]
    kills = 0
    for many in (20, 200):  # so many bytes later than before
        killed = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE)
        path, deadline = tmp_path / "k" / ANSWERS, time.monotonic() + 120
        before = path.stat().st_size if path.exists() else 0
        while killed.poll() is None and time.monotonic() < deadline:
            if path.exists() and path.stat().st_size >= before + many:
                killed.send_signal(signal.SIGKILL)
                kills += 1
                break
            time.sleep(0.005)
        killed.communicate()
    assert kills == 2
    done = script("ablate", *words, "--output", tmp_path / "k", "--json")
    assert done.returncode == 0, done.stderr
    expected, found = json.loads(whole.stdout), json.loads(done.stdout)
    for report in (expected, found):
        report.pop("cost"), report.pop("run")
    assert found == expected
    keys = [row["key"] for row in rows_of(tmp_path / "k")]
    assert len(keys) == len(set(keys))  # nothing was asked twice
    about = read_manifest(tmp_path / "k")
    assert about["seconds"].keys() == {"decode", "encode", "answer"} and about["tokens"] > 0


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_the_scripts_say_what_they_would_do_and_what_is_wrong(small: Path, tmp_path: Path) -> None:
    words = ["--model", small, "--clips", 2, "--output", tmp_path / "run"]
    dry = script("ablate", *words, "--dry-run", "--json")
    plan = json.loads(dry.stdout)
    assert plan["to_answer"] == plan["answers"] == 9 * plan["questions"] > 0
    assert not (tmp_path / "run").exists()
    partial = script("ablate", *words, "--limit", 3, "--conditions", "full", "blind")
    assert partial.returncode == 0, partial.stderr
    assert "PARTIAL" in partial.stdout and "peak memory" in partial.stdout
    assert json.loads(script("ablate", *words, "--dry-run", "--json").stdout)["to_answer"] == (
        plan["to_answer"] - 6
    )
    table = script("table", tmp_path / "run", tmp_path / "run", "--plot", tmp_path / "a.png")
    assert table.returncode == 0, table.stderr
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG") and "(partial)" in table.stdout
    (file := tmp_path / "file").write_text("")
    for wrong, said in (
        (("ablate", *words, "--conditions", "dumb"), "no condition is called dumb"),
        (("ablate", *words, "--data", tmp_path / "none.jsonl"), "none.jsonl"),
        (("ablate", *words, "--conditions", "transcript_only", "--against", "transcript_only"),
         "no decoder goes with"),
        (("ablate", "--model", small, "--clips", 1, "--output", tmp_path / "one"), "take more"),
        (("conflict", *words), "holds a run of ablate.py"),
        (("ablate", *words[:-1], file), "Not a directory"),
        (("table", tmp_path / "nothing"), "no run is here"),
        (("table", file), "no run is here"),
        (("table", tmp_path / "run", "--plot", tmp_path / "run"), "end in .png"),
        (("table", tmp_path / "run", tmp_path / "run", "--condition", "deaf"), "not asked under"),
    ):  # fmt: skip
        done = script(*wrong)
        assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
        [line] = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
        assert said in line
