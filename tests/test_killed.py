"""kill -9 in the middle of an evaluation, then the same command: as if nothing had been.

eval/ablate.py has its own such test, with two kills (test_evaluation.py); eval/judge.py too
(test_judging.py). Each script here is run whole once, and once killed as soon as its first results
are on the disk.
"""

import csv
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from avchat.world.benchmark import CLIPS, QUESTIONS_SHA256, SEED, SPLIT, VERSION
from avchat.world.clip_file import write_clip
from avchat.world.dataset import draw_dataset, question_rows, write_dataset

ROOT = Path(__file__).resolve().parent.parent
WAIT_S, TRIES = 120.0, 5
# of what differs between two runs of the same: the folder, and what they cost
OWN = ("run", "cost", "output", "seconds")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(500)]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world") / "w"
    write_dataset(folder, 5, 9)
    return folder


def run(script: str, words: list[str], output: Path) -> dict[str, Any]:
    """Run a script to its end; give what it says without what is its own."""
    command = [sys.executable, f"eval/{script}.py", *words, "--output", str(output), "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    return {name: value for name, value in found.items() if name not in OWN}


def kill(script: str, words: list[str], output: Path, begun: Callable[[], bool]) -> bool:
    """Kill a script as soon as it has begun; False where it had come to its end by then."""
    command = [sys.executable, f"eval/{script}.py", *words, "--output", str(output)]
    killed = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    deadline = time.monotonic() + WAIT_S
    while killed.poll() is None and not begun() and time.monotonic() < deadline:
        time.sleep(0.005)
    killed.kill()
    faults = killed.communicate()[1][-2000:]
    assert begun() and killed.returncode in (0, -signal.SIGKILL), faults
    return killed.returncode != 0


def lines(output: Path, name: str) -> int:
    return sum(path.read_bytes().count(b"\n") for path in output.rglob(name))


def check(script: str, words: list[str], folder: Path, name: str = "answers.jsonl") -> None:
    """Compare a run that was killed at its first results with one that was not."""
    whole = run(script, words, folder / "whole")
    most = lines(folder / "whole", name)
    for _ in range(TRIES):  # on a busy machine it may be through before it is looked at
        shutil.rmtree(folder / "killed", ignore_errors=True)
        kill(script, words, folder / "killed", lambda: lines(folder / "killed", name) > 0)
        if lines(folder / "killed", name) < most:
            break
    assert 0 < lines(folder / "killed", name) < most
    assert run(script, words, folder / "killed") == whole
    assert lines(folder / "killed", name) == lines(folder / "whole", name)  # nothing came twice


def test_conflict(model_folder: Path, tmp_path: Path) -> None:
    words = ["--model", str(model_folder), "--clips", "6", "--seed", "2", "--batch", "1"]
    check("conflict", words, tmp_path)


def test_probe(model_folder: Path, tmp_path: Path) -> None:
    senses = ("--picture", "--sound", "--neither", "--both")
    words = [word for sense in senses for word in (sense, str(model_folder))]
    check("probe", [*words, "--clips", "5", "--seed", "2", "--batch", "1"], tmp_path)


def test_qa(model_folder: Path, world: Path, tmp_path: Path) -> None:
    words = ["own", str(world / "questions.jsonl"), "--model", str(model_folder), "--batch", "1"]
    check("qa", [*words, "--conditions", "full", "deaf"], tmp_path)


def test_video_chatgpt(model_folder: Path, world: Path, tmp_path: Path) -> None:
    clips = sorted(world.glob("*.mp4"))
    rows = [
        {"video_name": clip.stem, "Q": f"what is it, {k}?", "A": "a circle"}
        for clip in clips
        for k in range(3)
    ]
    (tmp_path / "generic.json").write_text(json.dumps(rows))
    words = ["--generic", str(tmp_path / "generic.json"), "--videos", str(world)]
    words += ["--model", str(model_folder), "--batch", "1", "--max-new-tokens", "24"]
    check("video_chatgpt", words, tmp_path)


def test_benchmark(model_folder: Path, tmp_path: Path) -> None:
    """On its first questions: its folder as `avchat world --benchmark` writes it, a few clips."""
    folder = tmp_path / "v1"
    folder.mkdir()
    drawn = draw_dataset(CLIPS, SEED, SPLIT)
    rows = [row for clip in drawn for row in question_rows(clip)]
    (folder / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    facts = {"version": VERSION, "questions_sha256": QUESTIONS_SHA256}
    (folder / "benchmark.json").write_text(json.dumps(facts))
    for clip in drawn[:6]:
        write_clip(clip.scene, folder / f"{clip.name}.mp4")
    words = [str(folder), "--model", str(model_folder), "--limit", "20", "--batch", "1"]
    check("benchmark", words, tmp_path)


def test_retrieval(world: Path, tmp_path: Path) -> None:
    clips = sorted(world.glob("*.mp4"))
    with (tmp_path / "test.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["key", "vid_key", "video_id", "sentence"])
        for k, clip in enumerate(clips):
            rows.writerow([f"ret{k}", f"msr{k}", clip.stem, f"a red circle, the {k}th"])
    words = ["--set", "msr-vtt-1ka", "--file", str(tmp_path / "test.csv"), "--videos", str(world)]
    check("retrieval", words, tmp_path, "vectors.jsonl")


def test_trained_variants(tmp_path: Path) -> None:
    """Killed twice: in the middle of training a variant, and when one of them is done."""
    words = ["--train", "--variants", "picture only", "--seeds", "1", "--clips", "4"]
    words += ["--steps", "4", "--words", "3", "--captions", "2", "--rows", "2"]
    words += ["--train-clips", "8"]
    whole = run("ablate", words, tmp_path / "whole")
    killed = tmp_path / "killed"
    assert kill("ablate", words, killed, lambda: any(killed.glob("*/captions/model/config.json")))
    assert kill("ablate", words, killed, lambda: any(killed.glob("*/asked")))
    assert run("ablate", words, killed) == whole
