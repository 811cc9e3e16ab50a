"""What scripts of eval/ share: flags, plans that write nothing, folders, manifests, faults."""

import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from small import build_model

from avchat import batch_run
from avchat.batch_run import Asking as BatchAsking
from avchat.batch_run import settings_of
from avchat.evaluation.answering import NEXT, Asking, Plan, generate, part_of
from avchat.evaluation.conditions import under
from avchat.evaluation.hashes import hashes_read
from avchat.evaluation.items import EvalError, Item, read_items
from avchat.evaluation.records import Records, manifest, read_manifest, read_records
from avchat.evaluation.report import flips, report_of
from avchat.evaluation.session import Session, check_script, plan_of
from avchat.evaluation.source import questions
from avchat.evaluation.tables import check_alike, condition_table
from avchat.media import load_media
from avchat.model import AVChat

CHOICES = ("red circle", "green star")


@pytest.fixture(scope="module")
def model() -> AVChat:
    return build_model(seed=3)


@pytest.fixture
def items(clip: Path, silent_clip: Path, tmp_path: Path) -> list[Item]:
    """Two questions on each of two clips."""
    paths = [shutil.copy(one, tmp_path / f"{k}.mp4") for k, one in enumerate((clip, silent_clip))]
    return [
        Item(f"{k} {word}", Path(path), f"which {word}?", CHOICES[0], CHOICES)
        for k, path in enumerate(paths)
        for word in ("object", "colour")
    ]


def session(output: Path, **flags: object) -> Session:
    return Session(output=output, **flags)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"limit": 0}, "--limit must be at least 1, not 0"),
        ({"limit": -1}, "--limit must be at least 1, not -1"),
        ({"batch": 0}, "--batch must be at least 1, not 0"),
        ({"frames": 0}, "--frames must be at least 1, not 0"),
        ({"max_new_tokens": 0}, "--max-new-tokens must be at least 1, not 0"),
    ],
)
def test_flags_that_ask_nothing_are_one_line(flags: dict, said: str, tmp_path: Path) -> None:
    with pytest.raises(EvalError, match=said):
        session(tmp_path, **flags).asking(["full"])


@pytest.mark.parametrize(
    ("names", "said"),
    [((), "name a condition"), (("full", "full"), "named twice"), (("dark",), "called dark")],
)
def test_conditions_are_some_and_different(names: tuple, said: str, tmp_path: Path) -> None:
    with pytest.raises(EvalError, match=said):
        session(tmp_path).asking(names)


def test_a_folder_is_of_one_script_wherever_it_lies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", [str(tmp_path / "my work" / "eval" / "ablate.py"), "--clips"])
    with manifest(tmp_path / "run", {}):
        pass
    check_script(tmp_path / "run")  # the same one goes on
    monkeypatch.setattr("sys.argv", [str(tmp_path / "my work" / "eval" / "qa.py")])
    with pytest.raises(EvalError, match=r"holds a run of ablate.py; name another --output"):
        check_script(tmp_path / "run")


def test_a_dry_run_writes_nothing(model: AVChat, tmp_path: Path) -> None:
    run = session(tmp_path / "run")
    made, data = questions(None, run.output, 3, 1, None, dry_run=True)
    plan = plan_of(run, model, made, run.asking(["full", "deaf"]))
    assert plan["clips_to_render"] == plan["clips"] == 3 and plan["clips_missing"] == 0
    assert plan["to_answer"] == plan["answers"] == 2 * len(made) and plan["seconds"] is None
    assert not run.output.exists()
    rendered, same = questions(None, run.output, 3, 1)
    assert rendered == made and same == data


def test_a_dry_run_stands_beside_one_that_writes(
    model: AVChat, items: list[Item], tmp_path: Path
) -> None:
    run, asking = session(tmp_path / "run"), Asking(("full", "deaf"))
    generate(model, items[:2], asking, run.output)
    before = {path: path.read_bytes() for path in run.output.iterdir()}
    with Records(run.output / "answers.jsonl"), Records(run.output / "clips.jsonl"):
        plan = plan_of(run, model, items, asking)
    assert (plan["answers"], plan["to_answer"]) == (8, 4)
    assert plan["seconds"] is not None
    assert before == {path: path.read_bytes() for path in run.output.iterdir()}


def test_segments_of_one_film_are_given_the_sound_of_another(
    model: AVChat, items: list[Item], tmp_path: Path
) -> None:
    """However many parts of the same file follow."""
    one, two = items[0].video, items[2].video
    parts = [
        Item(f"{path.stem} {k}", path, "what?", "x", start_s=float(k), end_s=k + 1.0)
        for path in (one, two)
        for k in range(2 * NEXT)
    ]
    plan = Plan(model, parts, Asking(("other_sound",)), hashes_read(tmp_path))
    for item in parts:
        others = plan.others[part_of(item)]
        assert len(others) == NEXT and all(Path(o.path) != item.video for o in others)
    alone = Plan(model, parts[:4], Asking(("other_sound",)), hashes_read(tmp_path))
    assert not any(alone.others.values())


def test_without_another_sound_nothing_is_altered(model: AVChat, clip: Path) -> None:
    media = load_media(clip, frames=model.config.frames)
    with torch.inference_mode():
        [full] = model.encode([media])
        names = ("other_sound", "other_sound_only")
        taken = under(model, media, full, names, other=None, shift_s=2.0, seed=0)
    assert [one.altered for one in taken.values()] == [False, False]


def test_a_table_says_under_what_a_run_was_asked(
    model: AVChat, items: list[Item], tmp_path: Path
) -> None:
    generate(model, items, Asking(("deaf", "blind")), tmp_path / "run")
    report = report_of(tmp_path / "run", "deaf")
    assert "blind" in condition_table(report, "deaf")
    with pytest.raises(EvalError, match="was asked under deaf, blind, not full"):
        condition_table(report)


def test_runs_on_the_same_questions_share_a_table_whatever_the_file_is_called() -> None:
    named = [
        {"run": "a", "data": {"file": "mine.jsonl", "sha256": "1"}},
        {"run": "b", "data": {"file": "./mine.jsonl", "sha256": "1"}},
        {"run": "c", "data": {"file": "mine.jsonl", "sha256": "2"}},
    ]
    check_alike(named[:2])
    with pytest.raises(EvalError, match="c: was asked other questions than a"):
        check_alike(named)


def test_the_world_is_named_by_its_questions(tmp_path: Path) -> None:
    _, one = questions(None, tmp_path, 3, 1, dry_run=True)
    _, two = questions(None, tmp_path, 3, 2, dry_run=True)
    assert one["world"]["questions"] != two["world"]["questions"]


def test_a_manifest_counts_what_went_wrong_and_what_the_time_was_for(
    model: AVChat, items: list[Item], tmp_path: Path
) -> None:
    gone = Item("gone", tmp_path / "gone.mp4", "which?", CHOICES[0], CHOICES)
    generate(model, [*items, gone], Asking(("full",), free=True), tmp_path / "run")
    about = read_manifest(tmp_path / "run")
    verdicts = report_of(tmp_path / "run")["counts"]
    assert about["n_missing"] == verdicts["missing"] == 1
    assert about["n_unparsed"] == verdicts["unparsed"]
    assert (about["answered"], about["clips_asked"]) == (5, 3)
    generate(model, [*items, gone], Asking(("full", "deaf"), free=True), tmp_path / "run")
    again = read_manifest(tmp_path / "run")
    # the missing one is tried again, under both
    assert (again["answered"], again["clips_asked"]) == (5 + 6, 3 + 3)
    assert again["seconds"]["answer"] > about["seconds"]["answer"]
    generate(build_model(seed=4), items, Asking(("full",), free=True), tmp_path / "run")
    other = read_manifest(tmp_path / "run")
    assert (other["answered"], other["clips_asked"]) == (4, 2)


def test_what_has_no_answer_is_no_flip(model: AVChat, items: list[Item], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    generate(model, items, Asking(("full", "deaf")), folder)
    kept = list(read_records(folder / "answers.jsonl").values())
    (folder / "answers.jsonl").unlink()
    with Records(folder / "answers.jsonl") as records:
        records.add(row | {"said": f"{row['said']} then"} for row in kept[1::2])
    assert flips(folder) == []


@contextmanager
def full_disk(most: int) -> Iterator[None]:
    """Leave files no room beyond some bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_is_one_line_and_loses_nothing(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    with (
        pytest.raises(EvalError, match=r"answers.jsonl: cannot be written \(File too large\)"),
        full_disk(1000),
        Records(path) as records,
    ):
        records.add([{"key": "a", "said": "x"}])
        records.add([{"key": "b", "said": "y" * 2000}])
    with Records(path) as records:
        assert list(records.rows) == ["a"]


def test_a_large_weight_tells_models_apart(model: AVChat, monkeypatch: pytest.MonkeyPatch) -> None:
    """A merged adapter moves the large weights alone."""
    monkeypatch.setattr(batch_run, "SMALL", 1000)
    monkeypatch.setattr(batch_run, "SAMPLED", 500)
    before, other = settings_of(model, BatchAsking()), build_model(seed=3)
    assert settings_of(other, BatchAsking()) == before
    name, large = max(other.named_parameters(), key=lambda pair: pair[1].numel())
    assert large.numel() > 1000, name
    with torch.no_grad():
        large += 1e-3
    assert settings_of(other, BatchAsking())["weights"] != before["weights"]


def test_null_is_as_good_as_nothing(tmp_path: Path) -> None:
    line = '{"id": null, "video": "a.mp4", "question": "?", "answer": "x", "needs": null, '
    (tmp_path / "q.jsonl").write_text(line + '"family": null, "also": null}\n')
    [item] = read_items(tmp_path / "q.jsonl")
    assert (item.id, item.family, item.needs, item.also) == ("1", "", "", ())
