"""What the bundled model must reach on clips that it was never trained on, rendered to files.

The bounds are those of the project's second issue. They are never loosened: a bound that the model
misses stays here, failing, and is said so in MODEL_CARD.md.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from avchat.world.questions import FAMILIES, ONE_SOURCE

ROOT = Path(__file__).resolve().parent.parent
CLIPS = 300
SEED = 20261121
FEW = 20  # a family with fewer questions than this is judged with its fellows, not alone

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def measure(split: str) -> dict:
    command = [
        sys.executable,
        "eval/world.py",
        "--clips",
        str(CLIPS),
        "--seed",
        str(SEED),
        "--json",
    ]
    command += ["--split", split, "--model", os.environ.get("AVCHAT_MODEL", "tiny")]
    if split != "test":
        command.append("--no-sentences")
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def report(bundled: str) -> dict:
    return measure("test")


@pytest.mark.parametrize("need", ["V", "A", "S"])
def test_one_sense(report: dict, need: str) -> None:
    assert report["full"][need] >= 0.97


@pytest.mark.parametrize("family", ONE_SOURCE)
def test_one_sounding_source(report: dict, family: str) -> None:
    assert report["full"]["families"][family] >= 0.90


def test_two_sources_are_bound(report: dict) -> None:
    assert report["full"]["AV two sources"] >= 0.75


def test_deafened_it_cannot_hear_and_still_sees(report: dict) -> None:
    for need in ("A", "S"):
        assert report["deaf"][need] <= report["chance"][need] + 0.10
    assert abs(report["deaf"]["V"] - report["full"]["V"]) <= 0.02


def test_blinded_it_cannot_see_and_still_hears(report: dict) -> None:
    assert report["blind"]["V"] <= report["chance"]["V"] + 0.10
    for need in ("A", "S"):
        assert abs(report["blind"][need] - report["full"][need]) <= 0.02


def test_cross_modal_questions_need_both_senses(report: dict) -> None:
    for condition in ("deaf", "blind"):
        assert report["full"]["AV"] >= report[condition]["AV"] + 0.25


def test_the_question_alone_tells_nothing(report: dict) -> None:
    """Within 5 points of chance, and within what a family of that size can scatter by."""
    for family, chance in report["chance"]["families"].items():
        found = report["question_only"]["families"][family]
        n = report["count"][family]
        scatter = 2.6 * (chance * (1 - chance) / n) ** 0.5
        assert found <= chance + max(0.05, scatter), (family, found, chance, n)
    assert set(report["chance"]["families"]) <= set(FAMILIES)


@pytest.mark.parametrize(("split", "points"), [("phrasings", 0.05), ("combinations", 0.10)])
def test_held_out(report: dict, split: str, points: float) -> None:
    other = measure(split)
    for need in ("V", "A", "S", "AV"):
        if other["count"].get(need, 0) >= FEW:
            assert other["full"][need] >= report["full"][need] - points, (need, other["full"])


def test_the_evidence_of_right_answers_names_the_sense_that_they_need(bundled: str) -> None:
    """Issue 5: for at least 85 % of V and A questions that are answered right, over 400 of them."""
    command = [sys.executable, "eval/evidence.py", "--questions", "400", "--seed", str(SEED)]
    done = subprocess.run([*command, "--json"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["weighed"]["V"] + found["weighed"]["A"] == 400
    assert found["agreement"]["V"] >= 0.85
    assert found["agreement"]["A"] >= 0.85
