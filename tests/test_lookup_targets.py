"""What the bundled lookup head must reach on clips that it was never trained on, rendered to files.

The bounds are those of the project's third issue. They are never loosened: a bound that the head
misses stays here, failing, and is said so in MODEL_CARD.md.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SEED = 20261126
HEAD = os.environ.get("AVCHAT_HEAD", "tiny")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


def measure(script: str, *words: str) -> dict:
    command = [sys.executable, f"eval/{script}.py", "--model", HEAD, "--seed", str(SEED), "--json"]
    done = subprocess.run([*command, *words], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def directions() -> dict:
    return measure("retrieval", "--clips", "500")["directions"]


def test_a_caption_finds_its_clip_among_500(directions: dict) -> None:
    assert directions["text to clip"]["gallery"] == 500
    assert directions["text to clip"]["R@1"] >= 0.60


def test_deafened_it_finds_fewer(directions: dict) -> None:
    deafened = directions["text to clip, deafened"]["R@1"]
    assert directions["text to clip"]["R@1"] >= deafened + 0.15


def test_a_caption_finds_its_sound_among_500(directions: dict) -> None:
    assert directions["text to sound"]["gallery"] == 500
    assert directions["text to sound"]["R@1"] >= 0.40


def test_the_right_seconds_of_ten_minutes_are_among_the_first_three() -> None:
    words = ["--clips", "150", "--queries", "50", "--top", "3", "--once"]
    report = measure("moments", *words)
    assert report["film_s"] == 600 and report["queries"] == 50
    assert report["in_top_3"] >= 0.70
