"""The answers of a run marked by a judge: generate, judge, report, each by itself."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from endpoint import Endpoint, judge_at, serving, status
from small import build_model

from avchat.data_rows import Tally
from avchat.evaluation import aspects, judging
from avchat.evaluation.answering import Asking, generate
from avchat.evaluation.items import EvalError
from avchat.evaluation.judge import JudgeName
from avchat.evaluation.judged_runs import (
    judge_of,
    judge_run,
    judged_lines,
    judged_report,
    judged_table,
    plan,
    spent,
    to_judge,
)
from avchat.evaluation.judging import JUDGED, Judged
from avchat.evaluation.vcg import KINDS, read_vcg
from avchat.model import AVChat

ROOT = Path(__file__).resolve().parent.parent
NAME = JudgeName("judge")


@pytest.fixture(scope="module")
def model() -> AVChat:
    return build_model(seed=3)


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    """A judge's endpoint that is up."""
    with serving() as server:
        yield server


@pytest.fixture
def files(clip: Path, silent_clip: Path, tmp_path: Path) -> dict[str, Path]:
    """The three files of the benchmark, on two clips that are there and one that is not."""
    videos = tmp_path / "videos"
    videos.mkdir()
    shutil.copy(clip, videos / "v_one.mp4")
    shutil.copy(silent_clip, videos / "v_two.mp4")
    names = ("v_one", "v_two", "v_three")
    plain = [{"video_name": n, "Q": f"what of {n}?", "A": f"a thing of {n}"} for n in names]
    pairs = [{"video_name": n, "Q1": "what?", "Q2": "which?", "A": f"the {n}"} for n in names]
    rows = {"generic": plain, "temporal": plain[:2], "consistency": pairs}
    for kind, some in rows.items():
        (tmp_path / f"{kind}_qa.json").write_text(json.dumps(some))
    return {kind: tmp_path / f"{kind}_qa.json" for kind in rows}


@pytest.fixture
def run(model: AVChat, files: dict[str, Path], tmp_path: Path) -> Path:
    """A run over the three files."""
    items = [i for k in KINDS for i in read_vcg(k, files[k], tmp_path / "videos", Tally())]
    facts = {"data": {"set": "video-chatgpt"}, "limit": None}
    generate(model, items, Asking(max_new_tokens=4), tmp_path / "run", facts=facts)
    return tmp_path / "run"


def test_each_kind_is_marked_for_its_aspects_and_pairs_together(run: Path) -> None:
    found = {aspect.name: items for aspect, items in to_judge(run)}
    assert {name: len(items) for name, items in found.items()} == {
        "correctness": 2,
        "detail": 2,
        "context": 2,
        "temporal": 2,
        "consistency": 2,
    }  # the third clip is not there: its answers are missing, and not marked
    assert {i.question_2 for i in found["consistency"]} == {"which?"}
    assert plan(run, NAME)["judge_calls"] == sum(len(items) for items in found.values()) * 5


def test_a_judge_that_goes_down_loses_nothing(run: Path, endpoint: Endpoint) -> None:
    wanted = plan(run, NAME)["judge_calls"]
    endpoint.down_after = 5
    with pytest.raises(EvalError, match="What was judged is kept"):
        judge_run(run, judge_at(endpoint, tries=2), 1, lambda done, of: None, "full")
    assert plan(run, NAME)["judge_calls"] == wanted - 5
    endpoint.down_after = None
    endpoint.script = [status(429, {"Retry-After": "0"}), status(500)]
    judge_run(run, judge_at(endpoint), 4, lambda done, of: None, "full")
    assert plan(run, NAME)["judge_calls"] == 0 and len(endpoint.answered) == wanted
    report = judged_report(run, NAME)
    assert report["n"] == 11 and report["n_missing"] == 3
    assert {one["aspect"] for one in report["aspects"]} >= {"correctness", "consistency"}
    counts = {a["aspect"]: (a["n"], a["n_missing"], a["n_scored"]) for a in report["aspects"]}
    assert counts.pop("temporal") == (2, 0, 2)
    assert len(counts) == 4 and set(counts.values()) == {(3, 1, 2)}
    for one in report["aspects"]:  # whoever does not answer does not win by it
        left, score = one["n_missing"], one["score"]
        assert score["worst"] == pytest.approx(score["mean"] * 2 / (2 + left))
        assert score["best"] == pytest.approx((score["mean"] * 2 + 5 * left) / (2 + left))
    assert "3 without an answer" in judged_lines(report)[0]
    table = judged_table([report])
    assert "(1 unmarked: " in table and "| 0.0 (0.0 to 26.7) |" in table  # 4 of 5 lack 1 of 3
    before = (run / JUDGED).read_bytes()
    judge_run(run, judge_at(endpoint), 4, lambda done, of: None, "full")
    assert (run / JUDGED).read_bytes() == before and len(endpoint.answered) == wanted


def test_what_judging_takes_and_costs(
    model: AVChat, files: dict[str, Path], tmp_path: Path, endpoint: Endpoint
) -> None:
    items = read_vcg("temporal", files["temporal"], tmp_path / "videos", Tally())
    generate(model, items, Asking(max_new_tokens=4), tmp_path / "run", facts={"limit": None})
    first = plan(tmp_path / "run", NAME, prices=(2.0, 8.0))
    assert first["judge_calls"] > 0 and first["seconds"] is None  # nobody has answered yet
    assert 50 < first["tokens_in"] / first["judge_calls"] < 1000
    assert first["price"] == pytest.approx(
        (2 * first["tokens_in"] + 8 * first["tokens_out"]) / 1e6, abs=1e-4
    )
    judge_run(tmp_path / "run", judge_at(endpoint), 2, lambda done, of: None, "full")
    calls = first["judge_calls"]  # the endpoint counts 90 and 8 tokens for each
    assert spent(tmp_path / "run", NAME) == (90 * calls, 8 * calls)
    other = plan(tmp_path / "run", JudgeName("other"))
    assert other["judge_calls"] == calls
    path = tmp_path / "run" / JUDGED
    path.write_bytes(path.read_bytes().split(b"\n", 1)[1])  # one mark fewer
    again = plan(tmp_path / "run", NAME)
    assert (again["judge_calls"], again["tokens_in"], again["tokens_out"]) == (1, 90, 8)
    assert again["seconds"] is not None
    with pytest.raises(EvalError, match="at least one request at a time, not 0"):
        plan(tmp_path / "run", NAME, parallel=0)
    rows = path.read_text().replace('"tokens_in": 90', '"tokens_in": "90"')  # once written so
    path.write_text(rows)
    assert spent(tmp_path / "run", NAME) == (0, 8 * (calls - 1))
    assert plan(tmp_path / "run", NAME)["judge_calls"] == 1


def test_judged_runs_side_by_side(
    model: AVChat, files: dict[str, Path], tmp_path: Path, endpoint: Endpoint
) -> None:
    items = read_vcg("temporal", files["temporal"], tmp_path / "videos", Tally())
    runs = [tmp_path / "a", tmp_path / "b"]
    for k, run in enumerate(runs):
        endpoint.model = f"judge-{k}"
        facts = {"limit": None, "data": {"set": "x"}}
        generate(model, items, Asking(max_new_tokens=4), run, facts=facts)
        judge_run(run, judge_at(endpoint), 2, lambda done, of: None, "full")
    reports = [judged_report(run, NAME) for run in runs]
    with pytest.raises(EvalError, match="two judges in one table"):
        judged_table(reports)
    table = judged_table([reports[0], reports[0]])
    assert table.count(str(runs[0])) >= 2 and "qa, of 5" in table and "judge-0" in table
    with pytest.raises(EvalError, match="was asked other questions"):
        judged_table([reports[0], reports[0] | {"data": {"set": "y"}}])


def test_whose_marks_a_table_shows(
    model: AVChat, files: dict[str, Path], tmp_path: Path, endpoint: Endpoint
) -> None:
    items, run = read_vcg("temporal", files["temporal"], tmp_path / "videos", Tally()), tmp_path
    facts = {"limit": None, "data": {"set": "x"}}
    generate(model, items, Asking(max_new_tokens=4), run, facts=facts)
    with pytest.raises(EvalError, match="no answer is marked by judge; eval/judge.py marks"):
        judged_report(run, judge_of(run, "judge"))
    without = ("temperature", "max_tokens")
    judge_run(run, judge_at(endpoint, without=without), 2, lambda done, of: None, "full")
    assert judge_of(run, "judge") == JudgeName("judge", without)
    report = judged_report(run, judge_of(run, "judge"))
    assert report["aspects"][0]["n_scored"] == 2 and report["without"] == list(without)
    with pytest.raises(EvalError, match="by jugde; there are marks by judge --without temperature"):
        judged_report(run, judge_of(run, "jugde"))
    judge_run(run, judge_at(endpoint), 2, lambda done, of: None, "full")
    with pytest.raises(EvalError, match="judge --without temperature max_tokens and as judge: say"):
        judge_of(run, "judge")
    assert judge_of(run, "judge", ()) == NAME
    with pytest.raises(EvalError, match="marked by judge --without response_format; there"):
        judged_report(run, judge_of(run, "judge", ("response_format",)))


def test_half_a_pair_is_nothing_to_judge(
    model: AVChat, files: dict[str, Path], tmp_path: Path, endpoint: Endpoint
) -> None:
    items = read_vcg("consistency", files["consistency"], tmp_path / "videos", Tally())
    facts = {"data": {"set": "video-chatgpt"}, "limit": 1}
    generate(model, items[:1], Asking(max_new_tokens=4), tmp_path / "half", facts=facts)
    for reading in (to_judge, lambda folder: judged_report(folder, NAME)):
        with pytest.raises(EvalError, match="of no pair both questions are answered"):
            reading(tmp_path / "half")
    generate(model, items[:3], Asking(max_new_tokens=4), tmp_path / "more", facts=facts)
    judge_run(tmp_path / "more", judge_at(endpoint), 1, lambda done, of: None, "full")
    [one] = judged_report(tmp_path / "more", NAME)["aspects"]
    assert (one["n"], one["n_missing"], one["n_scored"]) == (2, 1, 1)


def test_an_aspect_without_any_answer_stays_in_the_report(
    model: AVChat, files: dict[str, Path], tmp_path: Path, endpoint: Endpoint
) -> None:
    files["temporal"].write_text(json.dumps([{"video_name": "v_three", "Q": "when?", "A": "now"}]))
    kinds = ("generic", "temporal")
    items = [i for k in kinds for i in read_vcg(k, files[k], tmp_path / "videos", Tally())]
    facts = {"data": {"set": "video-chatgpt"}, "limit": None}
    generate(model, items, Asking(max_new_tokens=4), tmp_path / "run", facts=facts)
    judge_run(tmp_path / "run", judge_at(endpoint), 2, lambda done, of: None, "full")
    report = judged_report(tmp_path / "run", NAME)
    temporal = report["aspects"][-1]
    assert (temporal["aspect"], temporal["n"], temporal["n_missing"]) == ("temporal", 1, 1)
    table, lines = judged_table([report]), "\n".join(judged_lines(report))
    assert "| no mark (1 unmarked: 0.00 to 5.00) |" in table
    assert "nan" not in table and "nan" not in lines


def test_other_right_answers_count_as_exact(tmp_path: Path) -> None:
    item = Judged("1", "a", "what?", "a dog", "A hound.", also=("a hound",))
    assert judging.report(NAME, aspects.QA, [item], {})["exact"] == 1.0
    assert judging.report(NAME, aspects.QA, [replace(item, also=())], {})["exact"] == 0.0


def test_a_judge_that_will_be_gone_is_told_of(endpoint: Endpoint) -> None:
    judge = judge_at(endpoint)
    assert judge.shutdown() is None
    endpoint.shutdown_date = "2027-01-31"
    assert judge.shutdown() == "2027-01-31"
    endpoint.shutdown()
    endpoint.server_close()
    assert judge_at(endpoint).shutdown() is None  # a new one: the first has a connection


def test_a_run_of_other_sets_is_marked_yes_or_no(
    model: AVChat, files: dict[str, Path], tmp_path: Path, endpoint: Endpoint
) -> None:
    items = read_vcg("temporal", files["temporal"], tmp_path / "videos", Tally())
    facts = {"data": {"set": "msvd-qa"}, "limit": 2}
    generate(model, items, Asking(max_new_tokens=4), tmp_path / "other", facts=facts)
    judge_run(tmp_path / "other", judge_at(endpoint), 2, lambda done, of: None, "full")
    report = judged_report(tmp_path / "other", NAME)
    [one] = report["aspects"]
    assert one["aspect"] == "qa" and 0 <= one["accuracy"]["mean"] <= 1
    assert report["partial"] and judged_lines(report)[0].startswith("PARTIAL")
    with pytest.raises(EvalError, match="no answer under the condition deaf"):
        to_judge(tmp_path / "other", "deaf")


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_the_scripts_from_files_to_marks(
    model: AVChat, files: dict[str, Path], endpoint: Endpoint, tmp_path: Path
) -> None:
    model.save_pretrained(tmp_path / "model")
    environment = {**os.environ, "OPENAI_BASE_URL": endpoint.url, "OPENAI_API_KEY": "sk-1"}

    def script(name: str, *words: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, f"eval/{name}.py", *map(str, words)]
        return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)

    flags = [word for kind in KINDS for word in (f"--{kind}", files[kind])]
    flags += ["--videos", tmp_path / "videos", "--model", tmp_path / "model"]
    flags += ["--output", tmp_path / "run", "--max-new-tokens", 4]
    before = script("video_chatgpt", *flags, "--dry-run", "--json")
    assert json.loads(before.stdout)["judge_calls"] == 50, before.stderr
    done = script("video_chatgpt", *flags)
    assert done.returncode == 0, done.stderr
    assert "11" in done.stdout and "eval/judge.py" in done.stdout
    dry = script("judge", tmp_path / "run", "--judge", "judge", "--dry-run", "--json")
    assert json.loads(dry.stdout)["judge_calls"] == 50 and not endpoint.bodies
    marked = script("judge", tmp_path / "run", "--judge", "judge", "--json")
    assert marked.returncode == 0, marked.stderr
    assert len(json.loads(marked.stdout)["aspects"]) == 5
    assert {body["temperature"] for body in endpoint.bodies} == {0}
    endpoint.shutdown()
    again = script("judge", tmp_path / "run", "--judge", "judge")  # nothing is left to ask
    assert again.returncode == 0 and "correctness" in again.stdout, again.stderr
    table = script("table", tmp_path / "run", "--judge", "judge", "--without")
    assert table.returncode == 0 and "correctness, of 5" in table.stdout, table.stderr
    wrong = script("table", tmp_path / "run", "--judge", "jugde")
    assert wrong.returncode == 2 and wrong.stderr.count("\n") == 1, wrong.stderr
    assert "no answer is marked by jugde; there are marks by judge" in wrong.stderr
    other = script("judge", tmp_path / "run", "--judge", "another", "--tries", 1, "--timeout", 1)
    assert other.returncode == 2 and other.stderr.startswith("error: "), other.stderr
