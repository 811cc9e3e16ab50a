"""Variants of one small model: what each learns from and moves, and how they are compared."""

import json
import runpy
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from avchat.evaluation.items import EvalError
from avchat.evaluation.records import read_manifest
from avchat.evaluation.report import cost as report_cost
from avchat.evaluation.source import questions
from avchat.evaluation.variant_lessons import Lessons, captions_of, questions_on, words_of
from avchat.evaluation.variant_runs import (
    check_apart,
    claimed,
    done,
    place,
    planned,
    recorded,
    results,
    scored,
    settle,
    spent_in,
    train_all,
    trained_in,
    trained_table,
    verdict_on,
)
from avchat.evaluation.variants import VARIANTS, Recipe, Training, Variant, chosen, fresh
from avchat.metrics import bootstrap_interval, crossed_interval
from avchat.model import AVChat
from avchat.prompt import IGNORE, PICTURE_ID, SOUND_ID

RECIPE = Recipe(seeds=1, steps=2, words=2, captions=1, rows=2, questions=3, train_clips=4)
BY_NAME = {variant.name: variant for variant in VARIANTS}


@pytest.fixture(scope="module")
def base(bundled: str) -> AVChat:
    return AVChat.from_pretrained(bundled).eval()


@pytest.fixture(scope="module")
def lessons(base: AVChat) -> Lessons:
    return Lessons(base, RECIPE.train_clips)


@pytest.fixture(scope="module")
def words(base: AVChat, lessons: Lessons, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("variants") / "words-0"
    assert Training(base, lessons, RECIPE, 0).words(folder)
    return folder


def test_a_batch_is_the_same_for_the_same_seeds(base: AVChat, lessons: Lessons) -> None:
    teach = questions_on(base, "both", 3)
    first, same, other = (lessons.batch([0, 2, k], 2, teach) for k in (5, 5, 6))
    assert torch.equal(first.ids, same.ids) and first.ids.tolist() != other.ids.tolist()
    fresh_lessons = Lessons(base, RECIPE.train_clips)  # as after a kill
    assert torch.equal(fresh_lessons.batch([0, 2, 5], 2, teach).ids, first.ids)


@pytest.mark.parametrize(
    ("sense", "sees", "hears"),
    [("both", 1, 1), ("picture", 1, 0), ("sound", 0, 1), ("none", 0, 0)],
)
def test_a_sense_that_a_variant_lacks_is_not_in_its_rows(
    base: AVChat, lessons: Lessons, sense: str, sees: int, hears: int
) -> None:
    batch = lessons.batch([0, 2, 0], 2, questions_on(base, sense, 3))
    assert bool((batch.ids == PICTURE_ID).any()) == sees
    assert bool((batch.ids == SOUND_ID).any()) == hears
    # it learns the true answers all the same
    full = lessons.batch([0, 2, 0], 2, questions_on(base, "both", 3))
    said = [b.labels[b.labels != IGNORE].tolist() for b in (batch, full)]
    assert said[0] == said[1]


def test_words_have_no_clip_and_captions_one_sense(base: AVChat, lessons: Lessons) -> None:
    assert int(lessons.batch([1, 0, 0], 2, words_of(base, 3)).ids.min()) >= 0
    for k in range(4):
        batch = lessons.batch([1, 1, k], 2, captions_of(base, "both"))
        for row in batch.ids:
            assert bool((row == PICTURE_ID).any()) != bool((row == SOUND_ID).any())
    alone = lessons.batch([1, 1, 0], 2, captions_of(base, "sound"))
    assert not bool((alone.ids == PICTURE_ID).any())


def moved(before: AVChat, after: AVChat) -> set[str]:
    """Name the parts of which a weight has changed."""
    then, now = before.state_dict(), after.state_dict()
    return {name.split(".")[0] for name in now if not torch.equal(then[name], now[name])}


def test_what_each_variant_moves(
    base: AVChat, lessons: Lessons, words: Path, tmp_path: Path
) -> None:
    projectors, spoken = (
        {"visual_projector", "audio_projector"},
        AVChat.from_pretrained(words / "model"),
    )
    for name, parts in {
        "audio-visual, timeline": projectors | {"language"},
        "projectors only": projectors,
    }.items():
        folder = tmp_path / name
        assert Training(base, lessons, RECIPE, 0).variant(BY_NAME[name], words, folder)
        torch.manual_seed(0)
        begun = fresh(base, BY_NAME[name])
        begun.language.load_state_dict(spoken.language.state_dict())
        captioned = AVChat.from_pretrained(folder / "captions" / "model")
        assert moved(begun, captioned) == projectors
        answering = AVChat.from_pretrained(folder / "questions" / "model")
        assert moved(captioned, answering) == parts
        for part in ("vision", "audio"):
            kept, theirs = answering.get_submodule(part), base.get_submodule(part)
            pairs = zip(kept.parameters(), theirs.parameters(), strict=True)
            assert all(torch.equal(a, b) for a, b in pairs)


def test_the_concatenated_layout_has_frames_patches_then_sound(
    base: AVChat, lessons: Lessons
) -> None:
    model = fresh(base, BY_NAME["concatenated"])
    batch = lessons.batch([0, 2, 0], 1, questions_on(model, "both", 3))
    media = [token for token in batch.ids[0].tolist() if token < 0]
    frames, patches = base.config.frames, base.vision.num_patches
    assert media == [PICTURE_ID] * (frames + patches) + [SOUND_ID] * frames
    assert model(batch).total.isfinite()


def test_all_are_trained_asked_and_tabled(base: AVChat, tmp_path: Path) -> None:
    variants = chosen(("sound only",))
    assert [v.name for v in variants] == ["audio-visual, timeline", "sound only"]
    items, _ = questions(None, tmp_path, 3, 5)
    assert train_all(base, RECIPE, variants, items, tmp_path)
    assert all(done(tmp_path, variant, 0) for variant in variants)
    cost = spent_in(tmp_path)
    parts = [read_manifest(path) for path in (tmp_path / "words-0", *tmp_path.glob("*-0/answers"))]
    assert len(parts) == 3 and parts[0]["seconds"]["train"] > 0
    assert cost["seconds"].keys() == {"train", "decode", "encode", "answer"}
    assert cost["seconds"]["train"] > parts[0]["seconds"]["train"]
    # two models of three steps with two clips each, and two times three clips that were asked about
    assert cost["clips_asked"] == 2 * 3 * 2 + 2 * 3 and cost["tokens"] > 0
    left = planned(tmp_path, replace(RECIPE, seeds=2), variants, len(items))
    assert (left["models"], left["to_train"]) == (4, 2)
    assert left["steps"] == 2 + 2 * 3 and left["seconds"] > 0  # a seed's words, then two models
    assert left["to_answer"] == 4 * len(items) and left["answers"] == 2 * left["to_answer"]
    found = results(tmp_path, variants, 1)
    assert found["questions"] == len(items) and found["clips"] == 3
    first = next(iter(found["variants"].values()))
    assert all(
        one["difference"] == 0 and one["verdict"] == "too few clips" for one in first.values()
    )
    groups = sum(not group.startswith("family ") for group in first)
    table = trained_table(found | {"cost": report_cost(cost)})
    for name in ("audio-visual, timeline, asked deaf", "sound only", "too few clips"):
        assert name in table
    assert "better |" not in table and "worse |" not in table
    assert f"{3 * groups} comparisons here, not corrected" in table and "below 10 clips" in table
    assert "train " in table and "clips/s" in table and "peak memory" in table
    # a second run trains nothing and asks nothing
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    assert train_all(base, RECIPE, variants, items, tmp_path)
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file()} == kept


def test_a_model_that_was_killed_adds_to_what_it_cost(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), trained_in(tmp_path, 6):
        raise KeyboardInterrupt
    first = read_manifest(tmp_path)["seconds"]["train"]
    with trained_in(tmp_path, 6):
        time.sleep(0.01)
    about = read_manifest(tmp_path)
    assert about["seconds"]["train"] >= first + 0.01 and about["clips_asked"] == 6


def test_a_folder_is_of_variants_or_of_one_model(tmp_path: Path) -> None:
    check_apart(tmp_path, train=True)
    (tmp_path / "manifest.json").write_text('{"command": "eval/ablate.py --clips 3"}')
    check_apart(tmp_path, train=False)
    with pytest.raises(EvalError, match="holds a run without --train; name another --output"):
        check_apart(tmp_path, train=True)
    with recorded(tmp_path / "trained", {"variants": ["words only"]}):
        check_apart(tmp_path / "trained", train=True)
    assert read_manifest(tmp_path / "trained")["ended"]
    with pytest.raises(EvalError, match="holds a run with --train"):
        check_apart(tmp_path / "trained", train=False)


def test_a_dry_training_says_what_it_would_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["ablate.py", "--train", "--clips", "3", "--seed", "5", "--seeds", "2", "--dry-run"]
    words += ["--variants", "words only", "--output", str(tmp_path / "run")]
    script = Path(__file__).resolve().parent.parent / "eval" / "ablate.py"
    with pytest.MonkeyPatch.context() as patch:
        for more in ([], ["--json"]):
            patch.setattr(sys, "argv", [*words, *more])
            runpy.run_path(str(script), run_name="__main__")
    *lines, last = capsys.readouterr().out.splitlines()
    found = json.loads(last)
    assert found["variants"] == ["audio-visual, timeline", "words only"] and found["seeds"] == 2
    assert found["models"] == found["to_train"] == 4 and found["questions"] > 0
    assert found["steps"] == 2 * (150 + 700 + 120 + 700)
    assert found["to_answer"] == found["answers"] == 2 * 4 * found["questions"]
    assert "to train: 4" in lines and f"questions: {found['questions']}" in lines
    assert found["seconds"] is None and "seconds: not known before the first answers" in lines
    assert not (tmp_path / "run").exists()


def test_a_folder_holds_one_recipe(base: AVChat, tmp_path: Path) -> None:
    settle(tmp_path, base, RECIPE)
    settle(tmp_path, base, replace(RECIPE, seeds=5))  # more seeds may come
    with pytest.raises(EvalError, match="was trained otherwise"):
        settle(tmp_path, base, replace(RECIPE, lr=1e-4))


def test_a_folder_is_claimed_by_one(tmp_path: Path) -> None:
    with claimed(tmp_path / "a") as mine, claimed(tmp_path / "a") as yours:
        assert mine and not yours
    with claimed(tmp_path / "a") as again:
        assert again
    (tmp_path / "file").write_text("")
    with pytest.raises(EvalError, match="cannot be written"), claimed(tmp_path / "file" / "b"):
        pass


@pytest.mark.parametrize(
    ("wrong", "said"),
    [({"steps": 0}, "--steps"), ({"lr": -1.0}, "--lr"), ({"rows": 9}, "--rows 9")],
)
def test_settings_that_cannot_be(wrong: dict, said: str) -> None:
    with pytest.raises(EvalError, match=said):
        replace(RECIPE, **wrong).check()
    assert [one.name for one in chosen(("picture",))] == ["audio-visual, timeline", "picture only"]
    assert len(chosen(())) == 7
    for name in ("deaf", "p"):  # none, and two
        with pytest.raises(EvalError, match=f"no variant, or several, are called '{name}'"):
            chosen((name,))


def test_names_of_folders_are_apart() -> None:
    names = {place(Path("x"), variant, 0) for variant in VARIANTS}
    assert len(names) == len(VARIANTS) and all(" " not in str(name) for name in names)
    assert isinstance(VARIANTS[0], Variant) and VARIANTS[0].sense == "both"


def test_intervals_over_clips_and_seeds() -> None:
    """Against drawing by hand, and against the bootstrap over clips alone."""
    rng = np.random.default_rng(3)
    clips = [f"c{k // 4}" for k in range(120)]
    same = np.repeat((rng.random(120) < 0.7)[None].astype(float), 3, axis=0)
    low, high = crossed_interval(same, clips)
    alone = bootstrap_interval(same[0].tolist(), clips)
    assert (low, high) == pytest.approx(alone, abs=0.02)  # seeds that agree add nothing
    apart = np.stack([same[0] * 0, same[0], same[0] * 0 + 1])
    wide = crossed_interval(apart, clips)
    assert wide[1] - wide[0] > 2 * (high - low)
    by_hand, groups = [], [[k for k in range(120) if clips[k] == c] for c in dict.fromkeys(clips)]
    for _ in range(1000):
        drawn = np.concatenate([groups[i] for i in rng.integers(len(groups), size=len(groups))])
        by_hand.append(apart[rng.integers(3, size=3)][:, drawn].mean())
    assert wide == pytest.approx(tuple(np.quantile(by_hand, [0.025, 0.975])), abs=0.04)
    assert all(np.isnan(crossed_interval(np.zeros((3, 0)), [])))


def test_better_is_said_only_where_the_interval_leaves_out_nothing() -> None:
    base = np.zeros((3, 40))
    clips = [f"c{k}" for k in range(40)]
    better = scored(np.ones((3, 40)), base, clips)
    assert better["verdict"] == "better" and better["difference"] == 1.0
    one_seed = base.copy()
    one_seed[0] = 1.0  # one start of three is better: that may be luck
    assert scored(one_seed, base, clips)["verdict"] == "no difference"


def test_below_ten_clips_nothing_is_said() -> None:
    """However clear it is: so few clips give no interval."""
    base, questions = np.zeros((3, 40)), range(40)
    few = scored(np.ones((3, 40)), base, [f"c{k % 9}" for k in questions])
    assert few["verdict"] == "too few clips" and few["difference_interval"] == [1.0, 1.0]
    enough = scored(np.ones((3, 40)), base, [f"c{k % 10}" for k in questions])
    assert enough["verdict"] == "better" and enough["clips"] == 10


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ((0.0, 0.3), "no difference"),  # 0 is not left out where it is the edge
        ((-0.3, 0.0), "no difference"),
        ((0.01, 0.3), "better"),
        ((-0.3, -0.01), "worse"),
    ],
)
def test_the_edge_of_an_interval(change: tuple[float, float], said: str) -> None:
    assert verdict_on(change, 10) == said and verdict_on(change, 9) == "too few clips"
