"""The world as a benchmark: frozen, checked, resumed; and what needs no model."""

import hashlib
import json
from pathlib import Path

import pytest

from avchat import cli
from avchat.evaluation.items import Item
from avchat.evaluation.question_only import guesses
from avchat.metrics import mean
from avchat.world import benchmark
from avchat.world.dataset import Clip, DatasetError, draw_dataset, write_dataset


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Clip]:
    """A benchmark of ten clips, frozen in its own way."""
    dataset = write_dataset(tmp_path / "drawn", 10, 4)
    digest = hashlib.sha256((tmp_path / "drawn" / "questions.jsonl").read_bytes()).hexdigest()
    for name, value in (("CLIPS", 10), ("SEED", 4), ("QUESTIONS_SHA256", digest)):
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
    from avchat.world.dataset import question_rows

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
