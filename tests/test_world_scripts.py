"""eval/world.py, evidence.py and moments.py: what is at fault is one line, what is empty a dash."""

import json
import math
import runpy
import sys
from pathlib import Path

import pytest

EVAL = Path(__file__).resolve().parent.parent / "eval"


def run(script: str, *words: object) -> None:
    """Run a script as from the command line, in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [script, *map(str, words)])
        runpy.run_path(str(EVAL / f"{script}.py"), run_name="__main__")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("evidence", "--model", "/nonexistent"), "/nonexistent"),
        (("evidence", "--questions", 0), "--questions must be at least 2, not 0"),
        (("evidence", "--questions", 2), "take more"),
        (("evidence", "--seed", -1), "--seed must be 0 or more"),
        (("evidence", "--questions", 4, "--split", "no"), "no split called no"),
        (("moments", "--queries", 0, "--json"), "--queries must be at least 1, not 0"),
        (("moments", "--clips", 0), "--clips must be at least 1, not 0"),
        (("moments", "--model", "/nonexistent"), "/nonexistent"),
        (("world", "--folder", EVAL / "world.py", "--clips", 1), "is a file, not a folder"),
        (("world", "--batch", 0), "--batch must be at least 1"),
        (("world", "--seed", -1), "--seed must be 0 or more"),
        (("world", "--clips", "x"), "--clips"),
    ],
)
def test_what_is_at_fault_is_one_line(
    words: tuple[object, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        run(*words)
    shown = capsys.readouterr()
    assert stop.value.code == 2 and not shown.out
    [line] = [line for line in shown.err.splitlines() if line.startswith("error: ")]
    assert said in line


def test_evidence_is_counted_by_hand() -> None:
    script = runpy.run_path(str(EVAL / "evidence.py"))
    weighed = script["Weighed"]
    found = [
        weighed("a.mp4", "V", "colour", "picture"),
        weighed("a.mp4", "V", "colour", "both"),
        weighed("b.mp4", "V", "shape", "picture"),
        weighed("b.mp4", "V", "shape", "picture"),
        weighed("b.mp4", "A", "pitch", None),
        weighed("b.mp4", "S", "word", "sound"),
    ]
    report = script["report_of"](found)
    assert report["agreement"]["V"] == 0.75 and report["agreement"]["S"] == 1.0
    assert report["interval"]["V"] == (0.5, 1.0)  # whole clips are drawn: 1/2, 3/4 or all
    assert report["weighed"] == {"V": 4, "A": 0, "AV": 0, "S": 1}
    assert report["wrong"] == {"V": 0, "A": 1, "AV": 0, "S": 0}
    assert report["confusion"]["V"] == {"sound": 0, "picture": 3, "both": 1, "question": 0}
    assert report["families"]["V colour"] == {"picture": 1, "both": 1}
    assert math.isnan(report["agreement"]["A"])
    cost = {"seconds": {}, "total_s": 0, "tokens_per_s": None, "peak_memory_mb": 1}
    text = script["as_text"](report | {"cost": cost})
    assert "V: of right answers 75.0% [50.0, 100.0] rest on picture" in text
    assert "A: of right answers - rest on sound" in text and "nan" not in text


@pytest.mark.slow
def test_evidence_decodes_a_clip_once(bundled: str, capsys: pytest.CaptureFixture[str]) -> None:
    run("evidence", "--model", bundled, "--questions", 12, "--json")
    found = json.loads(capsys.readouterr().out)  # AV is asked by none of them
    assert found["agreement"]["AV"] is None and found["interval"]["AV"] == [None, None]
    assert sum(found["weighed"][need] for need in ("V", "A")) == 12
    cost = found["cost"]
    assert 0 < round(cost["clips_per_s"] * cost["total_s"]) <= 6  # clips, not questions


@pytest.mark.slow
def test_an_empty_group_of_the_world_is_a_dash(
    bundled: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run("world", "--model", bundled, "--clips", 4)
    shown = capsys.readouterr().out
    [both] = [line for line in shown.splitlines() if line.startswith("AV  ")]
    assert both.split() == ["AV", *6 * "-"] and "nan" not in shown
    run("moments", "--model", bundled, "--clips", 2, "--queries", 1, "--once", "--json")
    assert json.loads(capsys.readouterr().out)["queries"] == 1
