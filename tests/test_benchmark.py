"""The world as a benchmark: frozen, checked, resumed; and what needs no model."""

import hashlib
import json
import runpy
from dataclasses import replace
from pathlib import Path

import pytest

from avchat import cli
from avchat.evaluation.items import EvalError, Item
from avchat.evaluation.question_only import guesses
from avchat.metrics import mean
from avchat.world import benchmark
from avchat.world.dataset import Clip, DatasetError, draw_dataset, question_rows, write_dataset


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Clip]:
    """A benchmark of ten clips, frozen in its own way."""
    dataset = write_dataset(tmp_path / "drawn", 10, 5)
    digest = hashlib.sha256((tmp_path / "drawn" / "questions.jsonl").read_bytes()).hexdigest()
    for name, value in (("CLIPS", 10), ("SEED", 5), ("QUESTIONS_SHA256", digest)):
        monkeypatch.setattr(benchmark, name, value)
    return dataset


def test_it_is_written_checked_and_gone_on_with(
    small: list[Clip], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "v1"
    assert cli.main(["world", str(out), "--benchmark", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    facts = json.loads((out / "benchmark.json").read_text())
    assert told["clips"] == 10 and facts["questions"] == told["questions"] == sum(
        len(clip.asked) for clip in small
    )
    first = next(iter(facts["clips_sha256"]))
    assert hashlib.sha256((out / first).read_bytes()).hexdigest() == facts["clips_sha256"][first]
    card = (out / "README.md").read_text()
    assert facts["questions_sha256"] in card and "{" not in card
    # as a kill leaves it: some clips, nothing else
    for path in (out / "benchmark.json", out / "questions.jsonl", out / first):
        path.unlink()
    kept = {path: path.stat().st_mtime_ns for path in out.glob("*.mp4")}
    assert cli.main(["world", str(out), "--benchmark"]) == 0
    assert json.loads((out / "benchmark.json").read_text()) == facts
    assert all(path.stat().st_mtime_ns == at for path, at in kept.items())


def test_other_questions_are_refused(
    small: list[Clip], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(benchmark, "QUESTIONS_SHA256", "0" * 64)
    with pytest.raises(DatasetError, match="draws other questions"):
        benchmark.write_benchmark(tmp_path / "other")


def test_a_readme_of_the_users_own_is_kept(
    small: list[Clip], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (mine := tmp_path / "own" / "README.md").parent.mkdir()
    mine.write_text("# My notes\n")
    assert cli.main(["world", str(mine.parent), "--benchmark"]) == 2
    assert f"{mine}: is not the benchmark's card" in capsys.readouterr().err
    assert mine.read_text() == "# My notes\n" and not list(mine.parent.glob("*.mp4"))
    mine.write_text(f"{benchmark.CARD_BEGINS}0\n")  # as an earlier version wrote it
    benchmark.check_card(mine)
    assert benchmark.CARD.startswith(benchmark.CARD_BEGINS)


def test_what_is_written_in_part_does_not_take_the_place_of_what_was_whole(tmp_path: Path) -> None:
    (path := tmp_path / "benchmark.json").write_text("whole")
    with pytest.raises(UnicodeEncodeError):
        benchmark.write_whole(path, "cut off here: \ud800")
    assert path.read_text() == "whole" and list(tmp_path.iterdir()) == [path]


def rows_of(family: str, choices: list[str], answers: list[str]) -> list[dict]:
    """Write out questions of one family, each on a clip of its own."""
    return [
        {"id": f"{family}-{k}", "video": f"{k}.mp4", "family": family, "needs": "V"}
        | {"answer": answer, "choices": choices}
        for k, answer in enumerate(answers)
    ]


def test_an_answer_that_never_comes_is_not_even() -> None:
    """The worst case is a family with one answer: 40 times yes is no control passed."""
    even = rows_of("size", ["yes", "no"], ["yes", "no"] * 20)
    assert benchmark.faults([], even) == []
    always = rows_of("size", ["yes", "no"], ["yes"] * 40)
    [fault] = benchmark.faults([], always)
    assert fault == "size: one answer comes 40 times more often than another"
    names = [f"shape {k}" for k in range(24)]
    [fault] = benchmark.faults([], rows_of("which_object", names, ["shape 1"] * 48))
    assert fault == "which_object: one answer comes 46 times more often than another"
    # with fewer questions than two a choice some choices are never right: that is no lead
    assert benchmark.faults([], rows_of("which_object", names, 2 * names[:22])) == []


def test_the_place_of_the_right_choice_is_even() -> None:
    """What is even in `order` is the place, whatever the names are."""
    pairs = [["red", "blue"], ["green", "red"], ["blue", "green"], ["red", "green"]] * 5
    first = [rows_of("order", pair, [pair[0]])[0] for pair in pairs]
    rows = [row | {"id": str(k)} for k, row in enumerate(first)]
    assert benchmark.faults([], rows) == [
        "order: one answer comes 20 times more often than another"
    ]
    second = [row | {"answer": row["choices"][k % 2]} for k, row in enumerate(rows)]
    assert benchmark.faults([], second) == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--benchmark", "--clips", "3"], "has its own clips"),
        (["--clips", "3"], "world needs --clips and --seed, or --benchmark"),
    ],
)
def test_what_does_not_fit_is_one_line(
    words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["world", str(tmp_path / "w"), *words]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_the_frozen_questions_are_drawn_and_pass_their_controls(tmp_path: Path) -> None:
    dataset = draw_dataset(benchmark.CLIPS, benchmark.SEED, benchmark.SPLIT)
    rows = [row for clip in dataset for row in question_rows(clip)]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    assert hashlib.sha256(text.encode()).hexdigest() == benchmark.QUESTIONS_SHA256
    assert benchmark.faults(dataset, rows) == []
    uneven = [row for row in rows if row["family"] != "colour" or row["answer"] == "red"]
    blue = next(row for row in rows if row["family"] == "colour" and row["answer"] != "red")
    assert "colour: one answer" in benchmark.faults(dataset, [*uneven, blue])[0]
    assert benchmark.faults(dataset, [*rows, rows[0]])[0] == "two questions have one id"


def test_words_alone_tell_what_leaks_and_nothing_else() -> None:
    def items(leaks: bool, first: int) -> list[Item]:
        return [
            Item(
                str(k),
                Path("a.mp4"),
                f"is it {'big' if leaks and k % 2 else 'small'} number {k % 7}?",
                "yes" if k % 2 else "no",
                ("yes", "no"),
                "size",
            )
            for k in range(first, first + 140)
        ]

    def right(leaks: bool) -> float:
        asked = items(leaks, 1001)
        said = guesses(items(leaks, 0), asked)
        return mean([float(a == i.answer) for a, i in zip(said, asked, strict=True)])

    assert right(leaks=True) == 1.0
    assert abs(right(leaks=False) - 0.5) <= 0.1


SCRIPT = runpy.run_path(str(Path(__file__).resolve().parent.parent / "eval" / "benchmark.py"))


@pytest.mark.parametrize(
    ("torn", "said"),
    [
        (None, "no benchmark is here"),
        ('{"version": "1", "cli', "not readable, perhaps cut off"),
        ("[1]", "not readable, perhaps cut off"),
        ("{}", "is version None"),
        ('{"version": "0"}', "is version 0"),
        (f'{{"version": "{benchmark.VERSION}"}}', "questions.jsonl is missing"),
    ],
)
def test_a_folder_that_is_no_whole_benchmark_is_one_line(
    torn: str | None, said: str, tmp_path: Path
) -> None:
    if torn is not None:
        (tmp_path / "benchmark.json").write_text(torn)
    with pytest.raises(EvalError, match=said) as error:
        SCRIPT["facts_of"](tmp_path)
    assert str(tmp_path) in str(error.value) and "\n" not in str(error.value)


def test_clips_that_were_changed_are_told(tmp_path: Path) -> None:
    items = [Item(name, tmp_path / f"{name}.mp4", "?", "x") for name in ("a", "b", "b2", "gone")]
    items[2] = replace(items[2], video=items[1].video)
    for item in items[:2]:
        item.video.write_bytes(item.id.encode())
    listed = {f"{n}.mp4": hashlib.sha256(n.encode()).hexdigest() for n in ("a", "b", "gone")}
    assert SCRIPT["changed_of"](items, listed) == []
    items[1].video.write_bytes(b"another")
    assert SCRIPT["changed_of"](items, listed) == ["b.mp4"]
    assert SCRIPT["changed_of"](items, {}) == []  # none is listed
    said = SCRIPT["changed_line"](["b.mp4"], items)
    assert said.startswith("1 of 3 clips (b.mp4 first)") and "\n" not in said


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_benchmark_of_clips_that_cannot_be_decoded_says_why(
    small_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = draw_dataset(benchmark.CLIPS, benchmark.SEED, benchmark.SPLIT)
    rows = [row for clip in dataset for row in question_rows(clip)]
    (tmp_path / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    first = next(row["video"] for row in rows if row["choices"])
    (tmp_path / first).write_bytes(b"no clip")
    facts = {"version": benchmark.VERSION, "clips_sha256": {first: "0" * 64}}
    (tmp_path / "benchmark.json").write_text(json.dumps(facts))
    how = {"model": str(small_model), "output": tmp_path / "run", "limit": 1, "json": True}
    with pytest.raises(EvalError, match="nothing could be scored"):
        SCRIPT["main"](SCRIPT["Benchmark"](folder=tmp_path, **how))
    shown = capsys.readouterr()
    assert f"1 of 1 clips ({first} first) are not those of benchmark.json" in shown.err
    assert json.loads(shown.out)["clips_changed"] == [first]
