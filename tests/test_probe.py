"""eval/probe.py and eval/conflict.py: which sense a question needs, and whom answers follow."""

import json
import runpy
from pathlib import Path
from typing import Any

import pytest

from avchat.evaluation.items import EvalError, read_items
from avchat.evaluation.records import read_manifest
from avchat.evaluation.verdicts import Verdict

EVAL = Path(__file__).resolve().parent.parent / "eval"
PROBE = runpy.run_path(str(EVAL / "probe.py"))
CONFLICT = runpy.run_path(str(EVAL / "conflict.py"))
SENSES = ("picture", "sound", "neither", "both")
CHOICES = ["red circle", "green star"]


def verdict(id: str, outcome: str = "right", condition: str = "full", **more: Any) -> Verdict:
    facts = {"clip": id, "family": "", "needs": "", "question": "?", "answer": "a", "said": "a"}
    return Verdict(id=id, condition=condition, outcome=outcome, **{**facts, **more})


def row(id: str, video: Path, **more: Any) -> dict[str, Any]:
    facts = {"id": id, "video": str(video), "question": "which object?"}
    return facts | {"answer": CHOICES[0], "choices": CHOICES} | more


def write(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(one) + "\n" for one in rows))
    return path


def probe(model: Path, output: Path, data: Path, **more: Any) -> None:
    """Run eval/probe.py with one model for all senses."""
    PROBE["main"](
        PROBE["Probe"](output=output, data=data, **dict.fromkeys(SENSES, (str(model),)), **more)
    )


@pytest.mark.parametrize(
    ("picture", "sound", "neither", "both", "part"),
    [
        (False, False, False, False, "unknown"),
        (False, False, False, True, "both"),
        (True, False, False, False, "picture"),
        (False, True, False, True, "sound"),
        (True, True, False, False, "either"),
        (True, True, True, True, "neither"),
        (False, False, True, False, "neither"),
        (True, None, True, True, "missing"),
        (None, None, None, None, "missing"),
    ],
)
def test_what_a_question_needs(
    picture: bool, sound: bool, neither: bool, both: bool, part: str
) -> None:
    found = dict(zip(SENSES, (picture, sound, neither, both), strict=True))
    assert PROBE["part_of"](found) == part


def test_models_of_a_sense_vote(tmp_path: Path) -> None:
    """More than half must be right; who names no choice is wrong; missing is neither."""
    path = write(tmp_path / "q.jsonl", *(row(id, tmp_path / "a.mp4") for id in "abcdef"))
    outcomes = {
        "a": ("right", "right", "wrong"),
        "b": ("right", "wrong", "wrong"),
        "c": ("right", "right", "unparsed"),
        "d": ("unparsed", "unparsed", "right"),
        "e": ("right", "right", "missing"),
        "f": ("missing", "missing", "missing"),
    }
    models = [[verdict(id, said[k]) for id, said in outcomes.items()] for k in range(3)]
    found = PROBE["votes"](read_items(path), models)
    assert found == {"a": True, "b": False, "c": True, "d": False, "e": None, "f": None}
    half = PROBE["votes"](read_items(path), models[:2])
    assert half["a"] is True and half["b"] is False  # one of two is no majority


def test_a_probe_of_missing_clips_says_why(
    small_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lost = [row(id, tmp_path / f"{id}.mp4") for id in "abc"]
    with pytest.raises(EvalError, match=r"nothing could be scored: .*a\.mp4: no such file"):
        probe(small_model, tmp_path / "run", write(tmp_path / "q.jsonl", *lost))
    shown = capsys.readouterr().out
    assert "| all | 0 | 0 | 0 | 0 | 0 | 0 | 3 |" in shown and shown.count("| all |") == 1
    assert shown.count("no such file") == 3 and "peak memory" in shown


def test_a_probe_counts_splits_and_leaves_a_manifest(
    small_model: Path, clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [row("a", clip, family="kind"), row("b", clip), row("gone", tmp_path / "gone.mp4")]
    data = write(tmp_path / "q.jsonl", *rows)
    probe(small_model, tmp_path / "run", data, json=True)
    report = json.loads(capsys.readouterr().out)
    assert report["parts"]["missing"] == 1 and sum(report["parts"].values()) == 3
    assert list(report["families"]) == ["kind"] and "gone.mp4" in report["faults"][0]
    assert report["cost"]["seconds"].keys() == {"decode", "encode", "answer"}
    assert report["cost"]["clips_per_s"] > 0 and report["cost"]["peak_memory_mb"] > 0
    about = read_manifest(tmp_path / "run")
    assert about["models"]["sound"] == [str(small_model)] and about["ended"] and about["n"] == 3
    assert about["tokens"] == sum(
        read_manifest(tmp_path / "run" / f"{sense}-0")["tokens"] for sense in SENSES
    )
    found = [json.loads(x) for x in (tmp_path / "run" / "needs.jsonl").read_text().splitlines()]
    assert [one["id"] for one in found] == ["a", "b", "gone"] and found[2]["needs"] == "missing"
    [kept] = read_items(tmp_path / "run" / f"{found[0]['needs']}.jsonl")[:1]
    assert kept == read_items(data)[0]  # as it was given
    (tmp_path / "run" / "manifest.json").write_text('{"script": "ablate.py"}')
    with pytest.raises(EvalError, match=r"holds a run of ablate\.py"):
        probe(small_model, tmp_path / "run", data)


def test_who_says_nothing_usable_does_not_know(
    small_model: Path, clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A random model's own words name no choice: it does not know, and nothing is missing."""
    data = write(tmp_path / "q.jsonl", row("a", clip))
    probe(small_model, tmp_path / "run", data, free=True, max_new_tokens=2)
    shown = capsys.readouterr().out
    assert "| all | 0 | 0 | 0 | 0 | 0 | 1 | 0 |" in shown
    assert "4 answers are none of the choices" in shown


def test_a_dry_probe_is_one_json_object(
    small_model: Path, clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write(tmp_path / "q.jsonl", row("a", clip), row("b", clip, question="what?"))
    probe(small_model, tmp_path / "run", data, dry_run=True, json=True)
    found = json.loads(capsys.readouterr().out)
    assert found["questions"] == 2 and found["clips"] == 1
    assert found["answers"] == found["to_answer"] == 8
    assert found["models"]["neither"] == [str(small_model)]
    with pytest.raises(EvalError, match="--sound: name a model"):
        PROBE["main"](PROBE["Probe"](output=tmp_path / "run", data=data, sound=()))


@pytest.mark.parametrize(
    ("said", "whom"),
    [("red", "eyes"), ("The blue.", "ears"), ("green", "prior"), ("none of these", "none")],
)
def test_whom_an_answer_follows(said: str, whom: str) -> None:
    assert CONFLICT["source_of"](said, {"eyes": "red", "ears": "blue", "prior": "green"}) == whom
    # eyes and ears before the prior, which may agree with either
    assert CONFLICT["source_of"]("red", {"eyes": "red", "ears": "x", "prior": "red"}) == "eyes"


# id -> what is said of the swapped clip, what eyes, ears and prior say; and where it is counted
SAID = {
    "1": ("red", "red", "blue", "blue", "eyes"),
    "2": ("blue", "red", "blue", "red", "ears"),
    "3": ("blue", "red", "blue", "blue", "ears"),
    "4": ("green", "red", "blue", "green", "prior"),
    "5": ("pink", "red", "blue", "green", "none"),
    "6": ("red", "red", "the red.", "green", "same"),
    "7": ("red", None, "blue", "green", "missing"),
    "8": (None, "red", "blue", "green", "missing"),
}


def test_whom_answers_follow_in_all() -> None:
    conditions = ("other_sound", "deaf", "other_sound_only", "question_only")
    said = {
        (id, name): verdict(id, condition=name, said=words)
        for id, answers in SAID.items()
        for name, words in zip(conditions, answers[:4], strict=True)
    }
    said["9", "other_sound"] = verdict("9", said="red", altered=False)  # no sound to swap
    said |= {("9", name): verdict("9", said=name) for name in conditions[1:]}
    found = CONFLICT["followed"]([verdict(id) for id in (*SAID, "9")], said)
    assert [found[name] for name in ("n", "same", "missing", "disagree")] == [9, 2, 2, 5]
    assert [found[name]["rate"] for name in ("eyes", "ears", "prior", "none")] == [
        0.2,
        0.4,
        0.2,
        0.2,
    ]
    low, high = found["ears"]["interval"]
    assert 0 <= low < 0.4 < high <= 1


def conflict(model: Path, output: Path, data: Path, **more: Any) -> None:
    CONFLICT["main"](CONFLICT["Conflict"](output=output, data=data, model=str(model), **more))


def test_a_conflict_without_clips_says_why(
    small_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lost = write(tmp_path / "q.jsonl", row("a", tmp_path / "a.mp4"))
    with pytest.raises(EvalError, match=r"nothing could be scored: .*a\.mp4: no such file"):
        conflict(small_model, tmp_path / "run", lost)
    shown = capsys.readouterr().out
    assert "nan" not in shown and "missing: " in shown and "1 of 1 answers are missing" in shown


def test_a_conflict_gives_intervals_and_counts_what_has_no_verdict(
    small_model: Path, clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write(tmp_path / "q.jsonl", row("a", clip), row("gone", tmp_path / "gone.mp4"))
    conflict(small_model, tmp_path / "run", data)
    shown = capsys.readouterr().out
    [full] = [one for one in shown.splitlines() if one.startswith("| full | everything | 2 |")]
    assert "[" in full and "nan" not in shown and "gone.mp4" in shown
    with pytest.raises(EvalError, match="no answer names a choice"):
        free = write(tmp_path / "free.jsonl", row("a", clip))
        conflict(small_model, tmp_path / "free", free, free=True, max_new_tokens=2)
    assert "0 of 1 answers are missing and 1 are none of the choices" in capsys.readouterr().out
