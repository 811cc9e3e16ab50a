"""The training loop against slow oracles, its data, and the scripts as a user runs them."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file
from torch import nn

from avchat.config import PRESETS
from avchat.data import DataError, read_manifest
from avchat.model import AVChat
from avchat.pool import Pool, lesson_batch, retimed, world_texts
from avchat.projectors import AudioProjector, plan
from avchat.run_config import RunConfig
from avchat.tokenizer import train_tokenizer
from avchat.training import Batch, Loss, TrainingError, fit, schedule
from avchat.world.lessons import draw_lesson

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def fresh_accelerator() -> None:
    AcceleratorState._reset_state(True)


@pytest.fixture(scope="module")
def model() -> AVChat:
    torch.manual_seed(0)
    return AVChat.from_config(PRESETS["tiny"], train_tokenizer(world_texts(200, 0), 768))


class Line(nn.Module):
    """Least squares with as many targets a batch as one likes."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(3))

    def forward(self, batch: tuple[torch.Tensor, torch.Tensor]) -> Loss:
        x, y = batch
        return Loss(((x @ self.weight - y) ** 2).sum(), {})


def rows(number: int, count: int) -> Batch:
    rng = torch.Generator().manual_seed(number)
    x = torch.randn(count, 3, generator=rng)
    return Batch((x, x @ torch.tensor([1.0, -2.0, 0.5]) + 1), count)


def run_line(tmp_path: Path, **settings) -> Line:
    line = Line()
    settings = {"steps": 6, "lr": 0.1, "save_every": 3, "tracker": "none", **settings}
    counts = settings.pop("counts")
    batch_at = settings.pop("batch_at", None) or (lambda k: rows(k, counts[k % len(counts)]))
    run = RunConfig(output=tmp_path, **settings)
    AcceleratorState._reset_state(True)
    assert fit(run, line, [{"params": line.parameters()}], batch_at, save=keep)
    return line


def keep(folder: Path) -> None:
    """Save nothing: these models are a handful of numbers."""
    folder.mkdir()


def joined(number: int, parts: int, counts: list[int]) -> Batch:
    """Join the batches that `parts` micro-batches would have been."""
    some = [rows(k, counts[k % len(counts)]) for k in range(number * parts, (number + 1) * parts)]
    x, y = (torch.cat([b.data[i] for b in some]) for i in (0, 1))
    return Batch((x, y), sum(b.weight for b in some))


def test_one_step_is_the_same_however_it_is_cut(tmp_path: Path) -> None:
    """Four unequal micro-batches, two of two, or one of four: the same weights, token for token."""
    counts = [1, 7, 2, 13]
    cut = [
        run_line(
            tmp_path / str(parts),
            accumulate=4 // parts,
            counts=counts,
            batch_at=lambda k, parts=parts: joined(k, parts, counts),
        ).weight.detach()
        for parts in (1, 2, 4)
    ]
    torch.testing.assert_close(cut[0], cut[1])
    torch.testing.assert_close(cut[0], cut[2])
    assert cut[0].abs().sum() > 0.1


def test_a_stopped_run_goes_on_exactly(tmp_path: Path) -> None:
    whole = run_line(tmp_path / "whole", counts=[5]).weight
    cut = tmp_path / "cut"
    run = RunConfig(output=cut, steps=6, lr=0.1, save_every=3, tracker="none")

    def breaks(number: int) -> Batch:
        if number > 4:
            raise RuntimeError("the power fails")
        return rows(number, 5)

    line = Line()
    with pytest.raises(RuntimeError, match="power"):
        fit(run, line, [{"params": line.parameters()}], breaks, save=keep)
    assert [p.name for p in (cut / "checkpoints").iterdir()] == ["step-00000003"]
    assert torch.equal(run_line(cut, counts=[5]).weight, whole)


def test_other_settings_do_not_resume_and_a_broken_loss_stops(tmp_path: Path) -> None:
    run_line(tmp_path, counts=[5])
    with pytest.raises(TrainingError, match="other settings .lr"):
        run_line(tmp_path, counts=[5], lr=0.2)
    nothing = Batch((torch.full((2, 3), float("nan")), torch.zeros(2)), 2)
    with pytest.raises(TrainingError, match="loss is nan"):
        run_line(tmp_path / "nan", counts=[5], batch_at=lambda k: nothing)


def test_the_learning_rate_rises_and_falls() -> None:
    rates = [schedule(k, 100, 0.1) for k in range(100)]
    assert rates[0] == 0.1 and rates[9] == 1 and rates[-1] < 0.01
    assert rates[9:] == sorted(rates[9:], reverse=True)


def test_a_batch_of_lessons_is_its_lessons_one_by_one(model: AVChat) -> None:
    """Packed turns, padded rows: the loss is the sum over single questions on single clips."""
    lessons = [draw_lesson(1, k) for k in range(3)]
    with torch.no_grad():
        together = model(lesson_batch(model, lessons, 256).batch)
        alone = [model(lesson_batch(model, [lesson], 256).batch) for lesson in lessons]
    torch.testing.assert_close(
        together.total, sum(one.total for one in alone), rtol=1e-4, atol=1e-3
    )
    assert together.tokens == sum(one.tokens for one in alone)


def test_the_pool_gives_what_encoding_gives(model: AVChat) -> None:
    """Frozen features from the pool against encoding as one goes; kept in half precision."""
    plain = ("both", True, 1, 0.0)  # what neither retiming nor the order of turns changes
    drawn = ((seed, [draw_lesson(seed, k) for k in range(4)]) for seed in range(2000))
    seed, lessons = next(
        (seed, four)
        for seed, four in drawn
        if all((x.sense, x.independent, x.slower, x.start_s) == plain for x in four)
    )
    pool, fresh = Pool(model, size=4, seed=seed), lesson_batch(model, lessons, 208)
    with torch.no_grad():
        kept = model(pool.batch(0, 4, 208).batch).total
        again = pool.batch(1, 4, 208)
        encoded = model(fresh.batch).total
    assert abs(kept - encoded) / encoded < 0.002
    assert not torch.equal(again.batch.ids[0, :60], pool.batch(0, 4, 208).batch.ids[0, :60])


def test_a_slower_clip_has_the_same_content_at_other_times(model: AVChat) -> None:
    clip = model.encode([lesson_batch(model, [draw_lesson(1, 0)]).batch.clips[0]])[0]
    still = replace(PRESETS["tiny"].projector, time_embedding=False)
    width = clip.audio.shape[1]
    torch.manual_seed(0)
    projector = AudioProjector(still, width, 32)
    for slower, start_s in ((1, 0.0), (3, 12.25)):
        other = retimed(clip, slower, start_s)
        slots = plan(other, still, 8, 64)
        tokens = projector([other], [slots])[0]
        if slower == 1:
            expected = tokens
        assert [slot.time_s for slot in slots][:2] == [
            start_s + 0.25 * slower,
            start_s + 0.75 * slower,
        ]
    torch.testing.assert_close(tokens, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.slow
def test_two_clips_are_learned_by_heart(model: AVChat, tmp_path: Path) -> None:
    torch.manual_seed(1)
    pupil = AVChat.from_config(PRESETS["tiny"], model.tokenizer)
    batch = lesson_batch(pupil, [draw_lesson(3, k, turns=3, sentences=0) for k in range(2)]).batch
    optimizer = torch.optim.AdamW(pupil.parameters(), lr=2e-3)
    for _ in range(60):
        loss = pupil(batch)
        (loss.total / loss.weight).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert loss.correct == loss.tokens


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 1: not JSON"),
        ("[]", "needs an object with media"),
        ('{"media": "a.mp4", "messages": []}', "pairs of user and assistant"),
        (
            '{"media": "a.mp4", "messages": [{"role": "user", "content": "x"},'
            ' {"role": "user", "content": "y"}]}',
            "expected assistant",
        ),
        (
            '{"media": "a.mp4", "messages": [{"role": "user", "content": " "},'
            ' {"role": "assistant", "content": "y"}]}',
            "message of user is empty",
        ),
        ('{"media": "a.mp4", "sense": "smell", "messages": []}', "sense must be one of"),
        ("", "no samples"),
    ],
)
def test_a_bad_manifest_is_named_with_its_line(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "m.jsonl"
    path.write_text(line + "\n")
    with pytest.raises(DataError, match=message):
        read_manifest(path)


def script(*words: object, launcher: tuple[str, ...] = ()) -> subprocess.CompletedProcess:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    environment |= {"DS_ACCELERATOR": "cpu"} if "train/configs/zero2_cpu.yaml" in launcher else {}
    command = [sys.executable, *launcher, *(str(w) for w in words)]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


@pytest.mark.slow
def test_the_stages_run_from_nothing_to_a_measured_model(tmp_path: Path) -> None:
    """pretrain, finetune, eval: as the README says, but short (manifests: test_stage_scripts)."""
    short = ("--steps", 2, "--batch", 2, "--log-every", 1)
    done = script("train/pretrain.py", "--tiny", "--output", tmp_path / "enc", *short)
    assert done.returncode == 0, done.stderr
    encoders = tmp_path / "enc" / "model"
    done = script(
        "train/finetune.py",
        "--tiny",
        "--init",
        encoders,
        "--output",
        tmp_path / "chat",
        *short,
        "--pool",
        4,
    )
    assert done.returncode == 0, done.stderr
    before, after = (
        load_file(f / "model.safetensors") for f in (encoders, tmp_path / "chat/model")
    )
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    frozen = {name for name in before if name.startswith(("vision.", "audio."))}
    assert frozen and not changed & frozen
    assert {n.split(".")[0] for n in changed} == {"visual_projector", "audio_projector", "language"}
    log = [json.loads(x) for x in (tmp_path / "chat" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in log] == [1, 2] and np.isfinite(log[-1]["loss"])
    done = script(
        "eval/world.py",
        "--model",
        tmp_path / "chat" / "model",
        "--clips",
        3,
        "--no-sentences",
        "--json",
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert set(report["full"]) >= {"V", "A", "S", "AV", "families"} and report["n"] > 0


@pytest.mark.slow
def test_bad_input_to_a_script_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    for words, said in (
        (("train/finetune.py", "--tracker", "paper"), "--tracker"),
        (("train/pretrain.py", "--data", tmp_path / "gone.jsonl", "--init", "tiny"), "gone.jsonl"),
    ):
        done = script(*words)
        assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
        [line] = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
        assert said in line and done.stderr.splitlines()[-1] == line


@pytest.mark.slow
@pytest.mark.parametrize(
    "launcher",
    [
        ("-m", "torch.distributed.run", "--nproc-per-node", "2"),
        ("-m", "accelerate.commands.launch", "--config_file", "train/configs/zero2_cpu.yaml"),
    ],
    ids=["gloo", "deepspeed"],
)
def test_two_processes_learn_what_one_of_twice_the_batch_learns(tmp_path: Path, launcher) -> None:
    same = ("--log-every", 1, "--steps", 3, "--seed", 4)
    one = script("train/pretrain.py", "--tiny", "--output", tmp_path / "a", *same, "--batch", 4)
    two = script(
        "train/pretrain.py",
        "--tiny",
        "--output",
        tmp_path / "b",
        *same,
        "--batch",
        4,
        launcher=launcher,
    )
    assert one.returncode == 0, one.stderr
    assert two.returncode == 0, two.stderr
    logs = [
        [
            json.loads(x)["loss"]
            for x in (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        ]
        for name in ("a", "b")
    ]
    assert len(logs[0]) == len(logs[1]) == 3
    np.testing.assert_allclose(logs[0], logs[1], rtol=0.2)
