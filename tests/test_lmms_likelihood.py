"""avchat in lmms-eval: likelihoods of choices, what its cache does with them, and whose card."""

import importlib.util
import json
import math
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

pytest.importorskip("lmms_eval", reason="lmms-eval is not installed (see docs/harnesses.md)")

from lmms_eval.api.instance import Instance, unwrap_generation_output
from lmms_eval.caching.response_cache import ResponseCache

from avchat.evaluation.lmms_model import AVChatSimple, card_of

TASKS = Path(__file__).resolve().parent.parent / "eval" / "lmms_tasks"
CHOICES = ["a dog", "a cat"]


@pytest.fixture(scope="module")
def tasks() -> ModuleType:
    """What the task files share, found as the harness finds it: by its path."""
    spec = importlib.util.spec_from_file_location("lmms_tasks_utils", TASKS / "utils.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def model(clip: Path) -> AVChatSimple:
    found = AVChatSimple("tiny")
    rows = [{"video": str(clip)}, {"video": "/nowhere/gone.mp4"}]
    facts = {"question": "what is heard?", "choices": CHOICES, "answer": "a dog", "needs": "A"}
    found.task_dict = {"t": {"test": [row | facts for row in rows]}}
    return found


def requests(model: AVChatSimple, k: int) -> list[Instance]:
    doc, about = model.task_dict["t"]["test"][k], {"task": "t", "doc_id": k, "repeats": 1}
    return [
        Instance(
            "loglikelihood",
            (doc["question"], choice, lambda d: [d["video"]], k, "t", "test"),
            place,
            about,
        )
        for place, choice in enumerate(doc["choices"])
    ]


def through(cache: ResponseCache, model: AVChatSimple, asked: list[Instance]) -> list[Any]:
    """Ask through the cache, and hand on what a task is given."""
    found = cache.execute(model, "loglikelihood", asked)
    return [unwrap_generation_output(one)[0] for one in found]


def test_the_harness_s_cache_keeps_no_likelihood(model: AVChatSimple, tmp_path: Path) -> None:
    cache = ResponseCache(str(tmp_path / "cache.db"), str(tmp_path / "audit.jsonl"))
    asked = requests(model, 0)
    first = through(cache, model, asked)
    assert through(cache, model, asked) == first == [one.text for one in model.loglikelihood(asked)]
    assert cache.get_stats()["total_cached_entries"] == 0
    cache.close()


def test_a_killed_run_s_log_is_scored_the_same(
    model: AVChatSimple, tasks: ModuleType, tmp_path: Path
) -> None:
    """lmms-eval takes up its log where a run has a name (several processes, LMMS_CACHE_RUN_ID)."""
    for k, doc in enumerate(model.task_dict["t"]["test"]):
        paths = str(tmp_path / f"{k}.db"), str(tmp_path / f"{k}.jsonl")
        killed = ResponseCache(*paths)
        first = through(killed, model, requests(model, k))
        killed.close()
        again = ResponseCache(*paths)
        replayed = through(again, model, requests(model, k))
        again.close()
        assert [tasks.likelihood_of(one) for one in replayed] == [one[0] for one in first]
        assert tasks.weighed(doc, replayed) == tasks.weighed(doc, first)


def test_a_clip_that_cannot_be_decoded_is_never_right(
    model: AVChatSimple, tasks: ModuleType
) -> None:
    doc = model.task_dict["t"]["test"][1]
    assert tasks.right_choice(doc) == 0  # where a tie of nothings would fall
    pairs = [one.text for one in model.loglikelihood(requests(model, 1))]
    assert pairs == [(-math.inf, False)] * 2
    found = {name: row["score"] for name, row in tasks.weighed(doc, pairs).items()}
    assert found == {"accuracy": 0, "unparsed": 1, "accuracy_A": 0}
    found = tasks.weighed(doc, [(-0.5, True), (-math.inf, False)])
    assert found["accuracy"]["score"] == 1 and found["unparsed"]["score"] == 0
    assert json.loads(json.dumps(pairs[0])) == [-math.inf, False]  # as samples are logged


@pytest.mark.parametrize(
    ("device", "environ", "cards", "card"),
    [
        (None, {}, 4, None),
        ("cuda:2", {}, 4, "cuda:2"),
        (None, {"WORLD_SIZE": "1", "LOCAL_RANK": "0"}, 4, None),
        (None, {"WORLD_SIZE": "4", "LOCAL_RANK": "3"}, 4, "cuda:3"),
        ("", {"WORLD_SIZE": "4", "LOCAL_RANK": "1"}, 4, "cuda:1"),
        ("cuda", {"WORLD_SIZE": "4", "LOCAL_RANK": "1"}, 4, "cuda:1"),
        ("cuda:2", {"WORLD_SIZE": "4", "LOCAL_RANK": "1"}, 4, "cuda:2"),
        ("cpu", {"WORLD_SIZE": "4", "LOCAL_RANK": "1"}, 4, "cpu"),
        (None, {"WORLD_SIZE": "16", "RANK": "9", "LOCAL_RANK": "1"}, 8, "cuda:1"),  # two machines
        (None, {"WORLD_SIZE": "4", "LOCAL_RANK": "3"}, 1, "cuda:0"),  # it sees its own alone
        (None, {"WORLD_SIZE": "4", "LOCAL_RANK": "3"}, 0, None),
    ],
)
def test_each_process_has_its_own_card(
    device: str | None, environ: dict[str, str], cards: int, card: str | None
) -> None:
    assert card_of(device, environ, cards) == card
