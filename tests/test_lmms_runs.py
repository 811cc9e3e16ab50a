"""lmms-eval with avchat from the command line, as a user would: the same scores as our scripts."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("lmms_eval", reason="lmms-eval is not installed (see docs/harnesses.md)")

from avchat import cli
from avchat.evaluation.items import Item
from avchat.evaluation.matching_answers import matched
from avchat.evaluation.verdicts import read_verdicts

ROOT = Path(__file__).resolve().parent.parent
TASKS = ROOT / "eval" / "lmms_tasks"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("lmms") / "world"
    assert cli.main(["world", str(out), "--clips", "10", "--seed", "3", "--json"]) == 0
    return out


@pytest.fixture(scope="module")
def ours(world: Path) -> dict[str, Any]:
    command = [sys.executable, "eval/world.py", "--clips", "10", "--seed", "3", "--json"]
    command += ["--folder", str(world), "--no-sentences"]
    return json.loads(run(command).stdout)


def run(command: list[str], **env: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "HF_HUB_OFFLINE": "1", **env},
        capture_output=True,
        text=True,
        timeout=150,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done


@pytest.fixture
def scores(world: Path, tmp_path: Path) -> Callable[..., dict[str, float]]:
    """Run the harness as a user would; give its scores."""

    def of(task: str, model_args: str, *more: str, **env: str) -> dict[str, float]:
        command = [str(Path(sys.executable).with_name("lmms-eval")), "--model", "avchat"]
        command += ["--model_args", model_args, "--tasks", task, "--include_path", str(TASKS)]
        command += ["--batch_size", "8", "--output_path", str(tmp_path), *more]
        run(command, **({"AVWORLD": str(world)} | env))
        path = next(tmp_path.rglob("*_results.json"))
        found = json.loads(path.read_text())["results"][task]
        path.unlink()
        kept = {name.split(",")[0]: value for name, value in found.items() if "," in name}
        return {name: value for name, value in kept.items() if "stderr" not in name}

    return of


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model_args", "column"),
    [
        ("pretrained=tiny", "free"),
        ("pretrained=tiny,choices=true,use_audio=false", "deaf"),
    ],
)
def test_scores_are_those_of_our_own_script(
    scores: Callable[..., dict[str, float]],
    ours: dict[str, Any],
    model_args: str,
    column: str,
) -> None:
    found = scores("avworld", model_args)
    assert len({"V", "A", "S", "AV"} & set(ours["count"])) >= 3
    for need in {"V", "A", "S", "AV"} & set(ours["count"]):
        assert found[f"accuracy_{need}"] == pytest.approx(ours[column][need]), need
    assert found["unparsed"] == 0


@pytest.mark.slow
def test_choices_by_their_likelihood(
    scores: Callable[..., dict[str, float]], tmp_path: Path
) -> None:
    """Twice with one cache, which keeps no likelihoods and must not stand in the way."""
    cached = ("--force_simple", "--use_cache", str(tmp_path / "cache"), "--limit", "12")
    once, again = (scores("avworld_choices", "pretrained=tiny", *cached) for _ in range(2))
    assert once == again and once["accuracy"] > 0.9


@pytest.mark.slow
def test_a_public_set(scores: Callable[..., dict[str, float]], world: Path, tmp_path: Path) -> None:
    """Golden questions, on clips of the world in the place of the set's own: the same answers as
    eval/qa.py has to the same words.
    """
    golden = ROOT / "tests" / "golden_sets" / "music-avqa.json"
    clips = tmp_path / "clips"
    clips.mkdir()
    of_world = sorted(world.glob("*.mp4"))
    for row, clip in zip(json.loads(golden.read_text()), of_world, strict=False):
        (clips / f"{row['video_id']}.mp4").write_bytes(clip.read_bytes())
    out = tmp_path / "sets" / "music-avqa"
    command = [sys.executable, "eval/qa.py", "music-avqa", str(golden), "--videos", str(clips)]
    assert "questions in" in run([*command, "--output", str(out), "--write"]).stdout
    found = scores("music_avqa", "pretrained=tiny", "--log_samples", AVCHAT_SETS=str(out.parent))
    samples = lines_of(next(tmp_path.rglob("*_samples_music_avqa.jsonl")))
    asked = [one["input"].strip() for one in sorted(samples, key=lambda one: one["doc_id"])]
    told = "Answer with exactly one of: more than ten, no, one."
    assert asked == [
        f"How many flutes sound with the left erhu in the video?\n{told}",
        f"Is the piano louder than the acoustic_guitar?\n{told}",
        f"Where is the performance?\n{told}",
    ]
    items = [Item(**kept(row)) for row in lines_of(out / "questions.jsonl")]
    said = said_by_qa([replace(i, question=q) for i, q in zip(items, asked, strict=True)], tmp_path)
    logged = {one["doc_id"]: one["filtered_resps"] for one in samples}
    assert [logged[k] for k in range(3)] == [said[item.id] for item in items]
    right = [matched(said[item.id], item) for item in items]
    assert found["accuracy"] == pytest.approx(sum(one is True for one in right) / 3)
    assert found["unparsed"] == pytest.approx(sum(one is None for one in right) / 3)


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def kept(row: dict[str, Any]) -> dict[str, Any]:
    """Take an item's fields out of its line."""
    plain = {name: row[name] for name in ("id", "question", "answer", "family", "needs")}
    return plain | {"video": Path(row["video"]), "choices": tuple(row["choices"])}


def said_by_qa(items: list[Item], folder: Path) -> dict[str, str]:
    """Ask questions with eval/qa.py, to be answered in words."""
    path, out = folder / "own.jsonl", folder / "qa"
    path.write_text("".join(json.dumps(item.row()) + "\n" for item in items))
    command = [sys.executable, "eval/qa.py", "own", str(path), "--free", "--output", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=150)
    assert (out / "report.json").is_file(), done.stderr  # written where no answer parses, too
    return {one.id: one.said or "" for one in read_verdicts(out)}


@pytest.mark.slow
def test_questions_that_are_not_there_are_told_of(world: Path) -> None:
    command = [str(Path(sys.executable).with_name("lmms-eval")), "--model", "avchat"]
    command += ["--tasks", "cmm", "--include_path", str(TASKS)]
    env = {**os.environ, "AVWORLD": str(world), "AVCHAT_SETS": "/nowhere"}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=150)
    assert "make them with: python eval/qa.py cmm" in done.stderr + done.stdout
