"""Twenty people for three minutes: no error, no cross-talk, memory flat after they leave."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PEOPLE, SECONDS = 20, 180
GROWTH = 1.1  # of the memory after everyone has left once; allocators keep some of what was freed


@pytest.mark.alone
@pytest.mark.timeout(900)
def test_twenty_people_for_three_minutes(bundled: str) -> None:
    command = [sys.executable, "eval/app_load.py", "--people", str(PEOPLE)]
    command += ["--seconds", str(SECONDS), "--model", bundled]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=800)
    assert said.returncode == 0, said.stderr[-2000:]
    report = json.loads(said.stdout)
    print(report)
    assert report["faults"] == 0, report["examples"]
    assert report["tracebacks"] == []
    assert report["visits"] >= 2 * PEOPLE  # everyone came, left, and came again
    assert report["answers"] == 3 * report["visits"] == report["seeks"]
    assert report["right"] > 0.8 * report["answers"]
    assert report["clips_left"] == 0
    memory = report["memory_mb"]
    assert memory["end"] < GROWTH * memory["first"], memory
    assert report["first_token_p95_s"] > 0
