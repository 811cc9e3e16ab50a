"""What a report says of marked answers: means, bounds, intervals, controls."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from endpoint import Endpoint, items, judge_at, judged, rule, say, serving

from avchat.evaluation.aspects import CORRECTNESS, QA
from avchat.evaluation.judge import JudgeName
from avchat.evaluation.judging import (
    INJECTED,
    Judged,
    called,
    controls,
    report,
    report_lines,
    with_controls,
)

NAME = JudgeName("judge")  # a report needs no endpoint, no key and no client


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    """A judge's endpoint that is up."""
    with serving() as server:
        yield server


def test_a_report_says_what_it_is_worth(endpoint: Endpoint, tmp_path: Path) -> None:
    made, judge = items(45), judge_at(endpoint)
    rows = judged(tmp_path / "judged.jsonl", judge, with_controls(made))
    found = report(NAME, CORRECTNESS, made, rows)
    assert found["n"] == found["n_scored"] == 45
    score = found["score"]
    assert score["mean"] == score["worst"] == score["best"] == pytest.approx((15 * 5 + 30 * 3) / 45)
    assert score["low"] < score["mean"] < score["high"]
    assert found["exact"] == pytest.approx(1 / 3)
    assert found["returned"] == "judge-2026-01-01"
    gold, other, empty = (found["controls"][name] for name in ("gold", "other", "empty"))
    assert gold["mean"] == 5 and gold["as_expected"] and empty["mean"] == 0
    # "thing 3" shares a word with "thing 4": this judge is fooled, and the report says so
    assert other["mean"] == 3 and not other["as_expected"]
    text = "\n".join(report_lines(found))
    assert "control gold: 5.00 over 15 of 15 (expected 4.5 to 5)\n" in text
    assert "control other: 3.00 over 15 of 15 (expected 0 to 1): DO NOT TRUST" in text
    assert "control injected: 1.00 over 15 of 15 (expected 0 to 1)" in text
    assert "exact match 33.3%" in text
    assert "correctness v1, judge judge (answered as judge-2026-01-01): 3.67 [" in text


def test_the_interval_is_wider_where_questions_share_a_clip(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    made = [
        Judged(str(k), str(k // 8), f"{k}?", "x y", "x y" if k < 16 else "z") for k in range(32)
    ]
    rows = judged(tmp_path / "judged.jsonl", judge_at(endpoint), made)
    alone = [Judged(m.id, m.id, m.question, m.answer, m.said) for m in made]
    shared, apart = (report(NAME, CORRECTNESS, chosen, rows)["score"] for chosen in (made, alone))
    assert shared["mean"] == apart["mean"] == 3
    assert shared["high"] - shared["low"] > 1.5 * (apart["high"] - apart["low"])


def test_a_report_of_what_is_not_judged_yet(endpoint: Endpoint, tmp_path: Path) -> None:
    made, judge = items(8), judge_at(endpoint)
    rows = judged(tmp_path / "judged.jsonl", judge, made[:4])
    found = report(NAME, CORRECTNESS, made, rows)
    assert (found["n"], found["n_scored"], found["n_not_judged"]) == (8, 4, 4)
    assert found["score"]["worst"] == pytest.approx(found["score"]["mean"] / 2)
    assert "not judged 4" in report_lines(found)[1]


def test_accuracy_of_open_questions(endpoint: Endpoint, tmp_path: Path) -> None:
    endpoint.script = [say('{"score": 5}')]  # no yes, no no
    made = [Judged(str(k), str(k), f"{k}?", "dog", "dog" if k < 3 else "cat") for k in range(6)]
    rows = judged(tmp_path / "judged.jsonl", judge_at(endpoint), made, 1, aspect=QA)
    found = report(NAME, QA, made, rows)
    accuracy = found["accuracy"]
    assert accuracy["mean"] == pytest.approx(2 / 5) and found["n_unparsed"] == 1
    assert accuracy["worst"] == pytest.approx(2 / 6) and accuracy["best"] == pytest.approx(3 / 6)
    assert "yes 40.0%" in "\n".join(report_lines(found))


def test_controls_are_taken_evenly_and_from_other_clips() -> None:
    made = items(200)
    found = controls(made)
    assert {name: len(rows) for name, rows in found.items()} == {
        "gold": 20,
        "other": 20,
        "empty": 20,
        "injected": 20,
    }
    assert {item.said for item in found["injected"]} == {INJECTED}
    assert found["gold"][-1].id == "q190"
    clip_of = {item.answer: item.clip for item in made}
    assert all(clip_of[item.said] != item.clip for item in found["other"])
    assert all(item.said == item.answer for item in found["gold"])
    one_clip = [Judged(str(k), "a", "?", str(k), "") for k in range(3)]
    assert not controls(one_clip)["other"] and len(controls(one_clip)["gold"]) == 3
    assert controls([]) == {"gold": [], "other": [], "empty": [], "injected": []}


def test_a_judge_that_does_as_answers_say_is_not_to_be_trusted(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    made = items(4)

    def obey(handler, body) -> None:
        told = INJECTED in body["messages"][1]["content"]
        (say('{"score": 5}') if told else rule)(handler, body)

    endpoint.script = [obey] * 20
    rows = judged(tmp_path / "judged.jsonl", judge_at(endpoint), with_controls(made))
    found = report(NAME, CORRECTNESS, made, rows)
    assert not found["controls"]["injected"]["as_expected"]
    line = "control injected: 5.00 over 4 of 4 (expected 0 to 1): DO NOT TRUST THIS JUDGE"
    assert line in "\n".join(report_lines(found))


def test_answers_that_are_missing_are_counted_and_bounded(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    made = [Judged(str(k), str(k), f"{k}?", "dog", "dog") for k in range(3)]
    rows = judged(tmp_path / "judged.jsonl", judge_at(endpoint), made, aspect=QA)
    found = report(NAME, QA, made, rows, missing=1)
    assert (found["n"], found["n_missing"], found["n_scored"]) == (4, 1, 3)
    assert found["score"]["mean"] == 5 and found["score"]["worst"] == 15 / 4
    assert found["score"]["best"] == 5
    assert found["accuracy"]["mean"] == 1 and found["accuracy"]["worst"] == 3 / 4
    assert found["exact"] == 1 and found["exact_bounds"] == (3 / 4, 1)
    text = "\n".join(report_lines(found))
    assert "n 4, missing 1, unparsed 0" in text
    assert "exact match 100.0%; at worst 75.0%, at best 100.0%" in text
    nothing = report(NAME, QA, [], {}, missing=2)
    assert (nothing["score"]["worst"], nothing["score"]["best"]) == (0, 5)
    text = "\n".join(report_lines(nothing))
    assert "judge: no mark of 5" in text and "nan" not in text and "DO NOT TRUST" not in text


def test_a_judge_of_which_no_reply_can_be_read_is_not_to_be_trusted(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    made = items(2)
    endpoint.script = [say("the moon is made of cheese")] * 20
    rows = judged(tmp_path / "judged.jsonl", judge_at(endpoint), with_controls(made))
    text = "\n".join(report_lines(report(NAME, CORRECTNESS, made, rows)))
    assert "control gold: no mark in 2 replies: DO NOT TRUST THIS JUDGE" in text


def test_a_judge_is_named_as_it_was_asked_for_and_as_it_answered() -> None:
    assert called({"model": "judge", "returned": "judge-2026"}) == "judge (answered as judge-2026)"
    assert called({"model": "judge", "returned": ""}) == "judge"
