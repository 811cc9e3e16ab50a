"""Answers marked by a judge over real HTTP: nothing twice, nothing lost, and what a report says."""

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from endpoint import GOOD, Endpoint, items, judge_at, judged, say, serving, status

from avchat.evaluation.aspects import CONSISTENCY, CORRECTNESS, QA
from avchat.evaluation.items import EvalError
from avchat.evaluation.judge import Judge, JudgeName
from avchat.evaluation.judging import (
    Judged,
    judge_all,
    key_for,
    one_judge,
    report,
)
from avchat.evaluation.records import Records, Row, read_records

ROOT = Path(__file__).resolve().parent.parent
NAME = JudgeName("judge")  # a report needs no endpoint, no key and no client


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    """A judge's endpoint that is up."""
    with serving() as server:
        yield server


def test_what_is_no_mark_is_kept_and_counted_and_no_number(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    nonsense = ["five", '{"score": 4.8}', '{"score": 7}', None, "half a pair \ud800"]
    endpoint.script = [say(one) for one in nonsense]
    made = items(6)
    rows = judged(tmp_path / "judged.jsonl", judge_at(endpoint), made, parallel=1)
    kept = [row for row in rows.values() if "unparsed" in row]
    expected = ["five", '{"score": 4.8}', '{"score": 7}', "", "half a pair \\ud800"]
    assert [row["raw"] for row in kept] == expected
    found = report(NAME, CORRECTNESS, made, rows)
    assert (found["n"], found["n_scored"], found["n_unparsed"]) == (6, 1, 5)
    assert found["score"]["mean"] == 3.0  # of the one mark
    assert found["score"]["worst"] == 3 / 6 and found["score"]["best"] == (3 + 5 * 5) / 6
    # what was said is said: the same question gets no second chance
    judged(tmp_path / "judged.jsonl", judge_at(endpoint), made)
    assert len(endpoint.bodies) == 6


def test_consistency_sees_both(endpoint: Endpoint, tmp_path: Path) -> None:
    made = [Judged("1", "a", "what barks?", "a dog", "a dog", "who barks?", "a cow")]
    rows = judged(tmp_path / "judged.jsonl", judge_at(endpoint), made, aspect=CONSISTENCY)
    (row,) = rows.values()
    assert row["fields"]["given_answer_2"] == "a cow" and row["fields"]["question_2"]
    assert report(NAME, CONSISTENCY, made, rows)["exact"] == 0.0
    with pytest.raises(EvalError, match="q0: consistency needs the question in other words"):
        judged(tmp_path / "j2.jsonl", judge_at(endpoint), items(1), aspect=CONSISTENCY)


def test_several_at_a_time_and_nothing_twice(endpoint: Endpoint, tmp_path: Path) -> None:
    path, made = tmp_path / "judged.jsonl", items(12)
    rows = judged(path, judge_at(endpoint), [*made, *made], parallel=3)
    assert len(rows) == 12 and len(endpoint.bodies) == 12
    assert endpoint.most_at_once <= 3
    assert judged(path, judge_at(endpoint), made) == rows and len(endpoint.bodies) == 12
    # another answer is another question to the judge; another judge's marks are its own
    judged(path, judge_at(endpoint), [*made[1:], Judged("q0", "c", "what is 0?", "thing 0", "x")])
    assert len(endpoint.bodies) == 13
    other = Judge("judge-2", endpoint.url, "k", pause_s=0.001)
    judged(path, other, made)
    assert len(endpoint.bodies) == 25


def test_requests_run_side_by_side(endpoint: Endpoint, tmp_path: Path) -> None:
    meet = threading.Barrier(3)

    def together(handler, body) -> None:
        meet.wait(20)  # breaks, and the reply with it, unless three are asked at once
        say(GOOD)(handler, body)

    endpoint.script = [say(GOOD), together, together, together]
    rows = judged(tmp_path / "judged.jsonl", judge_at(endpoint, tries=1), items(4), parallel=3)
    assert [row["score"] for row in rows.values()] == [4] * 4


def test_a_judge_that_is_down_at_the_start(tmp_path: Path) -> None:
    path, made = tmp_path / "judged.jsonl", items(5)
    with socket.socket() as taken:  # bound, but it listens to nobody
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
        judge = Judge("judge", url, tries=2, pause_s=0.001)
        with pytest.raises(EvalError, match="cannot be reached.*; asked 2 times") as caught:
            judged(path, judge, made)
    assert "\n" not in str(caught.value) and judge.retries == 1  # one question, not four
    assert path.read_bytes() == b""


def test_a_judge_that_goes_down_and_comes_back(endpoint: Endpoint, tmp_path: Path) -> None:
    path, made = tmp_path / "judged.jsonl", items(15)
    endpoint.down_after = 6
    with pytest.raises(EvalError, match="drops the connection.*What was judged is kept"):
        judged(path, judge_at(endpoint), made, parallel=3)
    assert len(read_records(path)) == 6
    endpoint.down_after = None
    rows = judged(path, judge_at(endpoint), made, parallel=3)
    assert len(rows) == 15
    assert len(endpoint.answered) == len(set(endpoint.answered)) == 15


def test_replies_under_way_are_kept_when_one_fails(endpoint: Endpoint, tmp_path: Path) -> None:
    path, failed = tmp_path / "judged.jsonl", threading.Event()

    def late(handler, body) -> None:
        failed.wait(20)
        say(GOOD)(handler, body)

    def tell(done: int, total: int) -> None:
        if done == 2:  # the first, and the fault
            failed.set()

    endpoint.script = [say(GOOD), status(401), late, late]
    with pytest.raises(EvalError, match="key"), Records(path) as records:
        judge_all(judge_at(endpoint), CORRECTNESS, items(9), records, 3, tell)
    # the first and the two late ones; after the fault nobody else was asked
    assert len(read_records(path)) == 3 and len(endpoint.bodies) == 4


def test_ctrl_c_waits_for_no_pause(endpoint: Endpoint, tmp_path: Path) -> None:
    path, began = tmp_path / "judged.jsonl", time.monotonic()

    def stop(done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    endpoint.script = [say(GOOD), status(429, {"Retry-After": "60"}), say(GOOD)]
    with pytest.raises(KeyboardInterrupt), Records(path) as records:
        judge_all(judge_at(endpoint), CORRECTNESS, items(9), records, 2, stop)
    assert time.monotonic() - began < 30
    assert [row["score"] for row in read_records(path).values()] == [4, 4]


def test_ctrl_c_keeps_the_replies_that_are_under_way(endpoint: Endpoint, tmp_path: Path) -> None:
    path, stopped = tmp_path / "judged.jsonl", threading.Event()

    def late(handler, body) -> None:
        stopped.wait(20)
        time.sleep(0.2)  # until nobody takes what is yielded
        say(GOOD)(handler, body)

    def stop(done: int, total: int) -> None:
        if done == 2:
            stopped.set()
            raise KeyboardInterrupt

    endpoint.script = [say(GOOD), late, say(GOOD)]
    with pytest.raises(KeyboardInterrupt), Records(path) as records:
        judge_all(judge_at(endpoint), CORRECTNESS, items(9), records, 2, stop)
    assert [row["score"] for row in read_records(path).values()] == [4, 4, 4]


def test_a_refused_question_is_no_mark_and_stops_nobody(endpoint: Endpoint, tmp_path: Path) -> None:
    path, made = tmp_path / "judged.jsonl", items(4)
    endpoint.script = [status(400, code="content_filter", message="filtered")]
    rows = judged(path, judge_at(endpoint), made, parallel=1)
    assert [row.get("error") for row in rows.values()][:2] == [rows_error(rows), None]
    found = report(NAME, CORRECTNESS, made, rows)
    assert (found["n"], found["n_refused"], found["n_scored"]) == (4, 1, 3)
    # the next run asks it again
    assert "error" not in str(judged(path, judge_at(endpoint), made))


def test_what_stays_refused_does_not_stop_the_same_command(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    path, made = tmp_path / "judged.jsonl", items(3)
    for replies in ([say(GOOD), status(400)], [status(400)]):
        endpoint.script = list(replies)
        rows = judged(path, judge_at(endpoint), made, parallel=1)
        found = report(NAME, CORRECTNESS, made, rows)
        assert (found["n_scored"], found["n_refused"]) == (2, 1)
    assert len(endpoint.bodies) == 4


def rows_error(rows: dict[str, Row]) -> str:
    (error,) = {row["error"] for row in rows.values() if "error" in row}
    assert "400" in error and "filtered" in error
    return error


WORKER = """
import sys
from pathlib import Path
from endpoint import items
from avchat.evaluation.aspects import CORRECTNESS
from avchat.evaluation.judge import Judge, JudgeName
from avchat.evaluation.judging import judge_all
from avchat.evaluation.records import Records
assert "openai" not in sys.modules, "who judges nothing need not have it"
judge = Judge("judge", sys.argv[1], "k", pause_s=0.001, host="ours")
with Records(Path(sys.argv[2])) as records:
    judge_all(judge, CORRECTNESS, items(12), records, 2)
"""


def answered(rows: dict[str, Row]) -> dict[str, Row]:
    """Drop the time that each reply took: no two runs share it."""
    return {key: row | {"seconds": None} for key, row in rows.items()}


@pytest.mark.slow
def test_a_killed_run_goes_on(endpoint: Endpoint, tmp_path: Path) -> None:
    """kill -9 while a request is under way, then the same command: as if nothing had been."""
    path = tmp_path / "killed.jsonl"
    command = [sys.executable, "-c", WORKER, endpoint.url, str(path)]
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    env = os.environ | {"PYTHONPATH": paths}
    endpoint.kill_at = 7
    with subprocess.Popen(command, env=env, text=True) as endpoint.victim:
        assert endpoint.victim.wait(150) == -9
    endpoint.victim = None
    kept = len(read_records(path))
    assert 1 <= kept <= 6
    with path.open("ab") as file:  # the worst that a kill leaves
        file.write(b'{"key": "torn')
    with serving() as second:  # what the killed one sent may still come to the first
        command[3] = second.url
        done = subprocess.run(command, env=env, timeout=150, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert len(second.bodies) == 12 - kept
    whole = judged(tmp_path / "whole.jsonl", judge_at(endpoint, host="ours"), items(12))
    assert answered(read_records(path)) == answered(whole)


def test_two_hosts_never_share_marks(endpoint: Endpoint, tmp_path: Path) -> None:
    path, made, here = tmp_path / "judged.jsonl", items(3), judge_at(endpoint)
    rows = judged(path, here, made)
    with serving() as moved:
        for some in (made, items(6)):  # all of it marked, and some of it
            with pytest.raises(EvalError, match=f"say --host {here.host} if they are one judge"):
                judged(path, judge_at(moved), some)
        assert not moved.bodies and read_records(path) == rows
        both = judged(path, judge_at(moved, host=here.host), items(6))
        assert len(both) == 6 and len(moved.bodies) == 3
        assert one_judge(both.values())["host"] == here.host
        others = judged(tmp_path / "2.jsonl", judge_at(moved), made)
    with pytest.raises(EvalError, match="two judges in one table: the host is .*move judged.jsonl"):
        one_judge([*rows.values(), *others.values()])
    one = key_for(NAME, CORRECTNESS, made[1])
    with pytest.raises(EvalError, match="the host is"):
        report(NAME, CORRECTNESS, made, rows | {one: others[one]})


def test_two_judges_never_share_a_table(endpoint: Endpoint, tmp_path: Path) -> None:
    made, judge = items(6), judge_at(endpoint)
    path = tmp_path / "judged.jsonl"
    judged(path, judge, made[:3])
    rows = list(read_records(path).values())
    assert one_judge(rows)["returned"] == "judge-2026-01-01"
    other = Judge("judge-2", endpoint.url, "k", pause_s=0.001)
    with pytest.raises(EvalError, match="two judges in one table: the model is 'judge' and"):
        one_judge([*rows, *judged(tmp_path / "2.jsonl", other, made).values()])
    with pytest.raises(EvalError, match="the prompt of correctness is"):
        one_judge([*rows, {**rows[0], "prompt": "0" * 32}])
    # one name, and behind it another model since yesterday
    endpoint.model = "judge-2026-09-09"
    moved = judged(path, judge, made)
    with pytest.raises(EvalError, match="the returned is 'judge-2026-01-01' and 'judge-2026-09"):
        report(NAME, CORRECTNESS, made, moved)
    # two aspects have two prompts, and may stand side by side
    assert one_judge([*rows, {**rows[0], "aspect": "detail", "prompt": "0" * 32}])


def test_a_key_hangs_on_judge_prompt_question_and_answers() -> None:
    item = Judged("1", "a", "what?", "a dog", "a cat")
    same = Judged("2", "b", "what?", "a dog", "a cat")
    assert key_for(NAME, QA, item) == key_for(NAME, QA, same)
    changed = [
        key_for(NAME, CORRECTNESS, item),
        key_for(JudgeName("other"), QA, item),
        key_for(NAME, QA, Judged("1", "a", "who?", "a dog", "a cat")),
        key_for(NAME, QA, Judged("1", "a", "what?", "a cow", "a cat")),
        key_for(NAME, QA, Judged("1", "a", "what?", "a dog", "")),
    ]
    assert len({key_for(NAME, QA, item), *changed}) == 6


def test_what_cannot_be_judged_is_said_before_anything_is_asked(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    path = tmp_path / "judged.jsonl"
    with pytest.raises(EvalError, match="q9: has no right answer"):
        judged(path, judge_at(endpoint), [*items(3), Judged("q9", "c", "what?", " ", "x")])
    with pytest.raises(EvalError, match="at least one request"):
        judged(path, judge_at(endpoint), items(3), parallel=0)
    with pytest.raises(EvalError, match="at least once"):
        judge_at(endpoint, tries=0)
    assert not endpoint.bodies
