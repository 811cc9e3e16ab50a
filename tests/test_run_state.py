"""The state of a run: exact resuming, kills at any moment, full disks, several processes."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file
from small import build_model
from staged import ADAPTERS, ROOT, run_of, trained

from avchat.batches import Batches
from avchat.model import AVChat
from avchat.run_state import TrainingError
from avchat.stage import train
from avchat.training import Batch, fit


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """Read all that a saved model holds."""
    return {
        f"{path.parent.name}/{name}": weight
        for path in sorted(folder.rglob("*.safetensors"))
        for name, weight in load_file(path).items()
    }


def assert_same(ours: Path, theirs: Path) -> None:
    """Assert that two saved models are equal to the bit."""
    mine, other = weights(ours), weights(theirs)
    assert mine.keys() == other.keys() and mine
    for name, weight in mine.items():
        assert torch.equal(weight, other[name]), name


def test_a_resumed_run_is_the_same_to_the_bit(manifest: Path, tmp_path: Path) -> None:
    """Stopped in the middle of an epoch, dropout and senses by chance included."""
    settings = {"steps": 7, "batch": 2, "resume": True, "sound_only": 0.2, "save_every": 3}
    whole = run_of(tmp_path / "whole", manifest, **settings)
    trained(whole)
    cut = run_of(tmp_path / "cut", manifest, **settings)
    AcceleratorState._reset_state(True)
    torch.manual_seed(1)
    drawn, at = [], Batches.at

    def breaks(deck: Batches, number: int, size: int) -> tuple:
        drawn.append(number)
        if len(drawn) > 5:
            raise RuntimeError("the power fails")
        return at(deck, number, size)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(RuntimeError, match="power"):
        patch.setattr(Batches, "at", breaks)
        train(cut, build_model(), ADAPTERS)
    assert [p.name for p in (cut.output / "checkpoints").iterdir()] == ["step-00000003"]
    trained(cut)
    assert_same(cut.output / "model", whole.output / "model")
    record = json.loads((cut.output / "run.json").read_text())
    assert record["samples"] == 14, "what was trained before the stop counts"


def test_checkpoints_are_kept_put_aside_and_compared(manifest: Path, tmp_path: Path) -> None:
    run = run_of(tmp_path, manifest, steps=5, save_every=1, keep=2, resume=True)
    trained(run)
    names = sorted(p.name for p in (tmp_path / "checkpoints").iterdir())
    assert names == ["step-00000004", "step-00000005"]
    assert_same(tmp_path / "checkpoints/step-00000005/model", tmp_path / "model")
    with pytest.raises(TrainingError, match=r"other settings \(steps\)"):
        trained(replace(run, steps=9))
    more = tmp_path / "more.jsonl"
    more.write_text(manifest.read_text().replace("circle", "square"))
    with pytest.raises(TrainingError, match="the data"):
        trained(replace(run, data=(more,)))
    with pytest.raises(TrainingError, match=r"other settings \(batch\)"):
        trained(replace(run, batch=2))
    trained(replace(run, accumulate=2))  # another cut of the same steps
    trained(replace(run, steps=2, resume=False, save_every=2))
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step-00000002"]
    aside = tmp_path / "earlier-1"
    assert (aside / "checkpoints" / "step-00000005").is_dir(), "nothing made is lost"
    assert (aside / "model").is_dir() and (aside / "metrics.jsonl").is_file()


@pytest.mark.parametrize("file", ["trained.safetensors", "state.json", "optimizer.bin", "random"])
def test_a_damaged_checkpoint_is_named(manifest: Path, tmp_path: Path, file: str) -> None:
    run = run_of(tmp_path, manifest, save_every=2, resume=True)
    trained(run)
    newest = tmp_path / "checkpoints" / "step-00000003"
    if file == "random":
        (newest / "random_states_0.pkl").unlink()
    else:
        (newest / file).write_bytes(b"not what it was")
    with pytest.raises(TrainingError, match="step-00000003 is damaged .*from step-00000002") as why:
        trained(run)
    assert "\n" not in str(why.value)
    shutil.rmtree(newest)
    trained(run)
    assert newest.is_dir()


def test_a_folder_that_cannot_be_written_is_said_before_the_first_step(
    manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(TrainingError, match="cannot be written"):
        trained(run_of(tmp_path / "file" / "run", manifest))
    full = type("Usage", (), {"free": 1000})()
    monkeypatch.setattr("avchat.run_state.shutil.disk_usage", lambda path: full)
    with pytest.raises(TrainingError, match="checkpoints need about .* GB"):
        trained(run_of(tmp_path / "run", manifest))
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def script(*words: object, launcher: tuple[str, ...] = ()) -> subprocess.Popen:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, *launcher, "train/finetune.py", *(str(w) for w in words)]
    return subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    "launcher", [(), ("-m", "accelerate.commands.launch")], ids=["python", "accelerate"]
)
def test_sigterm_saves_and_says_how_to_go_on(
    manifest: Path, small_model: Path, tmp_path: Path, launcher: tuple[str, ...]
) -> None:
    """The same where the signal reaches the launcher alone, which passes nothing on."""
    words = ["--data", manifest, "--init", small_model, "--output", tmp_path, "--log-every", 1]
    words += ["--batch", 2, "--tracker", "none", "--cache", tmp_path / "features"]
    run = script(*words, "--steps", 100_000, launcher=launcher)
    assert run.stderr is not None
    for line in run.stderr:
        if line.startswith("step 3/"):
            run.send_signal(signal.SIGTERM)
            break
    rest = run.stderr.read()  # to its end: the launcher may be gone before the run
    assert run.wait(60) == (-signal.SIGTERM if launcher else 0), rest
    assert "the same command goes on from there" in rest and "Traceback" not in rest
    assert len(list((tmp_path / "checkpoints").glob("step-*"))) == 1


def newest(output: Path) -> str:
    """Name the newest checkpoint, or what of one is written."""
    return max((path.name for path in output.glob("checkpoints/step-*")), default="")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_kill_at_any_moment_leaves_a_checkpoint_that_is_whole(
    manifest: Path, small_model: Path, tmp_path: Path
) -> None:
    """Killed again and again while it saves at every step; the end is that of a calm run."""
    same = [
        "--data",
        manifest,
        "--init",
        small_model,
        "--batch",
        2,
        "--steps",
        60,
        "--tracker",
        "none",
    ]
    same += ["--cache", tmp_path / "features", "--log-every", 60, "--language", "lora"]
    calm = script(*same, "--output", tmp_path / "calm", "--save-every", 60)
    assert calm.wait(600) == 0, calm.stderr and calm.stderr.read()
    rng, output = np.random.default_rng(0), tmp_path / "killed"
    for _ in range(4):
        before = newest(output)
        run = script(*same, "--output", output, "--save-every", 1)
        while newest(output) == before and run.poll() is None:
            time.sleep(0.01)
        time.sleep(float(rng.uniform(0, 0.5)))
        assert run.poll() is None, "it ended before it was killed"
        run.kill()
        run.communicate()
        for folder in (output / "checkpoints").glob("step-*"):
            AVChat.from_pretrained(folder / "model")
    last = script(*same, "--output", output, "--save-every", 1)
    _, said = last.communicate(timeout=300)
    assert last.returncode == 0 and "resumed after step" in said, said
    assert_same(output / "model", tmp_path / "calm" / "model")


def test_a_full_disk_during_a_run_leaves_the_last_checkpoint(
    manifest: Path, small_model: Path, tmp_path: Path
) -> None:
    """A limit on the size of files stands for the disk: the second save does not fit."""
    import resource

    calls = []

    def save(folder: Path) -> None:
        folder.mkdir()
        calls.append(folder)
        if len(calls) > 1:
            (folder / "weights").write_bytes(b"0" * 200_000)

    def batch_at(number: int) -> Batch:
        return Batch(torch.ones(1), 1.0)

    class Line(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(1))

        def forward(self, x: torch.Tensor) -> object:
            return type("L", (), {"total": (self.weight * x).sum(), "logs": {}})()

    AcceleratorState._reset_state(True)
    run = run_of(tmp_path, manifest, steps=4, save_every=1)
    line, before = Line(), resource.getrlimit(resource.RLIMIT_FSIZE)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(TrainingError, match=r"cannot be written .*step-00000001 is whole"):
            fit(run, line, [{"params": line.parameters()}], batch_at, save=save)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step-00000001"]


LAUNCH = {
    "gloo": ("-m", "torch.distributed.run", "--nproc-per-node", "2"),
    **{
        f"zero{stage}": (
            "-m",
            "accelerate.commands.launch",
            "--config_file",
            f"train/configs/zero{stage}_cpu.yaml",
        )
        for stage in (2, 3)
    },
}


def launched(launcher: tuple, *words: object) -> subprocess.CompletedProcess:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
    command = [sys.executable, *launcher, "train/finetune.py", *(str(w) for w in words)]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("way", LAUNCH)
def test_two_processes_learn_what_one_learns(
    manifest: Path, small_model: Path, tmp_path: Path, way: str
) -> None:
    """Real data parallelism, ZeRO-2 and ZeRO-3: the same losses and weights; and going on."""
    same = ["--data", manifest, "--init", small_model, "--lr", "1e-2", "--projector-lr", "1e-2"]
    same += ["--language", "lora", "--lora.dropout", 0, "--log-every", 1, "--tracker", "none"]
    same += ["--cache", tmp_path / "features", "--steps", 5, "--save-every", 2]
    held_out = tmp_path / "held_out.jsonl"
    held_out.write_text(manifest.read_text())
    same += ["--validation", held_out, "--validate-every", 2]
    one = launched((), *same, "--output", tmp_path / "one", "--batch", 4)
    assert one.returncode == 0, one.stderr
    two = launched(LAUNCH[way], *same, "--output", tmp_path / "two", "--batch", 4)
    assert two.returncode == 0, two.stderr
    logs = [
        [json.loads(x) for x in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("one", "two")
    ]
    for key in ("loss", "norm", "validation_loss"):
        values = [[row[key] for row in log if key in row] for log in logs]
        assert len(values[0]) >= 2
        np.testing.assert_allclose(values[0], values[1], rtol=1e-3, atol=2e-5)
    ours, theirs = weights(tmp_path / "two" / "model"), weights(tmp_path / "one" / "model")
    assert ours.keys() == theirs.keys()
    # Adam makes whole steps (1e-2 here) of a single number's gradient that is rounding, so numbers
    # are compared as a tensor: by the root of their mean square.
    for name, weight in ours.items():
        assert float((weight - theirs[name]).square().mean().sqrt()) < 2e-4, name
    AVChat.from_pretrained(tmp_path / "two" / "best")
    AVChat.from_pretrained(tmp_path / "two" / "checkpoints" / "step-00000004" / "model")
    # go on from the checkpoint of step 4, as after a crash
    for left in ("model", "checkpoints/step-00000005"):
        subprocess.run(["rm", "-r", str(tmp_path / "two" / left)], check=True)
    again = launched(LAUNCH[way], *same, "--output", tmp_path / "two", "--batch", 4)
    assert again.returncode == 0 and "resumed after step 4" in again.stderr, again.stderr
    for name, weight in weights(tmp_path / "two" / "model").items():
        torch.testing.assert_close(weight, ours[name], rtol=1e-4, atol=1e-5, msg=name)
    alone = [*same, "--output", tmp_path / "two", "--batch", 4]
    subprocess.run(["rm", "-r", str(tmp_path / "two/checkpoints/step-00000005")], check=True)
    other = launched((), *alone)
    if way == "gloo":  # other numbers of processes go on, too
        assert other.returncode == 0 and "resumed after step 4" in other.stderr, other.stderr
        return
    assert other.returncode == 2 and "Traceback" not in other.stderr
    assert "cut over 2 processes by DeepSpeed" in other.stderr.splitlines()[-1]
