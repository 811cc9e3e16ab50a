"""A stage on the user's own manifests: batches by number, and what becomes of bad samples."""

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file
from small import build_model

from avchat.batches import Batches, Layout
from avchat.clip_source import Decoded
from avchat.config import LoraConfig
from avchat.data import DataError, Sample, read_manifest
from avchat.model import AVChat
from avchat.prompt import IGNORE
from avchat.run_state import TrainingError
from avchat.stage import StageConfig, train
from avchat.trainable import Trainable
from avchat.training import Batch, fit

ROOT = Path(__file__).resolve().parent.parent
LORA = LoraConfig(r=4, alpha=8, dropout=0.2, targets=("q_proj", "v_proj"))
ADAPTERS = Trainable("lora", 1e-2, LORA, projector_lr=1e-2)
# Unequal numbers of tokens to train: a mean of means is another loss.
ANSWERS = ["red", "a blue square", "the green star or the red circle.", "no", "the sound", "which"]


@pytest.fixture(scope="module")
def manifest(
    clip: Path, silent_clip: Path, sound_clip: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Ten conversations: on both senses, on one, on parts, on nothing; one line is a caption."""
    media = [clip, silent_clip, sound_clip, None]
    path = tmp_path_factory.mktemp("manifest") / "m.jsonl"
    rows = []
    for k in range(9):
        asked = [{"role": "user", "content": "which object makes the sound?"}] * (1 + k % 2)
        said = [{"role": "assistant", "content": ANSWERS[k % len(ANSWERS)]}] * (1 + k % 2)
        turns = [turn for pair in zip(asked, said, strict=True) for turn in pair]
        row = {"id": f"s{k}", "messages": turns}
        if (file := media[k % 4]) is not None:
            row |= {"media": str(file), **({"start": 1.0, "end": 3.0} if k > 3 else {})}
        rows.append(row)
    rows.append({"id": "c", "media": str(clip), "caption": "a red circle", "of": "sound"})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def run_of(folder: Path, manifest: Path, **settings: object) -> StageConfig:
    plain = {"steps": 3, "batch": 4, "tracker": "none", "log_every": 1, "resume": False}
    return StageConfig(output=folder, data=(manifest,), **{**plain, **settings})


def trained(run: StageConfig, trainable: Trainable = ADAPTERS) -> tuple[AVChat, list[float]]:
    """Train a small random model; return it and the loss of each step."""
    AcceleratorState._reset_state(True)
    torch.manual_seed(1)
    model = build_model()
    assert train(run, model, trainable)
    lines = (run.output / "metrics.jsonl").read_text().splitlines()
    return model, [row["loss"] for line in lines if "loss" in (row := json.loads(line))]


def deck_of(model: AVChat, samples: list[Sample], layout: Layout, **more: bool) -> Batches:
    source = Decoded(model, 2)
    source.look(samples, lambda done, total: None)
    return Batches(model, samples, source, layout, **more)


def ids_of(deck: Batches, number: int, size: int) -> list[str]:
    rows = [deck._row_at(k) for k in range(number * size, (number + 1) * size)]
    return [deck.samples[item].id for row in rows for item, _ in row]


def test_each_epoch_takes_every_sample_once_in_a_new_order(manifest: Path) -> None:
    samples = read_manifest(manifest)
    for layout in (Layout(group=4), Layout(group=2, pack=200)):
        deck = deck_of(build_model(), samples, layout)
        rows = len(deck)
        first = [name for k in range(rows) for name in ids_of(deck, k, 1)]
        assert sorted(first) == sorted(sample.id for sample in samples)
        second = [name for k in range(rows, 3 * rows) for name in ids_of(deck, k, 1)]
        assert second[: len(first)] != first
        wide = [name for k in range(rows) for name in ids_of(deck, k, 2)]
        assert wide[: len(first)] == first, "however it is cut, the stream is the same"
        assert deck.steps(1) == -(-rows // layout.group)


@pytest.mark.parametrize("pack", [0, 300])
def test_a_step_is_the_same_however_it_is_cut(manifest: Path, tmp_path: Path, pack: int) -> None:
    """1 x 4 = 2 x 2 = 4 x 1, with unequal numbers of trained tokens and no dropout."""
    still = replace(ADAPTERS, lora=replace(LORA, dropout=0.0))
    models, losses = [], []
    for batch in (4, 2, 1):
        cut = {"batch": batch, "accumulate": 4 // batch, "pack": pack}
        model, loss = trained(run_of(tmp_path / str(batch), manifest, **cut), still)
        models.append(model)
        losses.append(loss)
    for model, loss in zip(models[1:], losses[1:], strict=True):
        np.testing.assert_allclose(loss, losses[0], rtol=2e-5)
        for (name, ours), theirs in zip(
            model.named_parameters(), models[0].parameters(), strict=True
        ):
            torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=2e-5, msg=name)
    assert len(losses[0]) == 3 and losses[0][-1] < losses[0][0]


def test_with_the_cache_and_without_it_is_the_same(manifest: Path, tmp_path: Path) -> None:
    _, plain = trained(run_of(tmp_path / "plain", manifest))
    _, cached = trained(run_of(tmp_path / "cached", manifest, cache=tmp_path / "features"))
    np.testing.assert_allclose(cached, plain, rtol=2e-3)  # half precision is kept
    _, again = trained(run_of(tmp_path / "again", manifest, cache=tmp_path / "features"))
    assert again == cached


def test_labels_are_the_answers_and_their_end_alone(manifest: Path) -> None:
    """Golden: what is trained, decoded; every sample of the manifest, packed with others."""
    model = build_model()
    samples = read_manifest(manifest)
    deck = deck_of(model, samples, Layout(pack=300, shuffle=False))
    said = Counter()
    for number in range(len(deck)):
        batch, counts = deck.at(number, 1)
        labels = batch.labels[0]
        assert bool((batch.ids[0][labels != IGNORE] == labels[labels != IGNORE]).all())
        text = model.tokenizer.decode(labels[labels != IGNORE])
        said.update(part.strip() for part in text.split("<eos>")[:-1])
        assert counts.places == batch.ids.numel()
    turns = [turn.answer for sample in samples for turn in sample.turns]
    assert said == Counter(turns)
    assert said["a red circle"] == 1


def test_one_model_learns_from_whatever_is_there(manifest: Path, clip: Path) -> None:
    """Some samples of both senses are trained with one; the others are as they are."""
    model, samples = build_model(), read_manifest(manifest)
    deck = deck_of(model, samples, Layout(group=4, sound_only=0.4, picture_only=0.4, seed=3))
    senses: dict[str, Counter] = {}
    for epoch in range(40):
        for row in deck._rows(epoch):
            for item, sense in row:
                senses.setdefault(deck.samples[item].id, Counter())[sense] += 1
    assert set(senses["s0"]) == {"both", "sound", "picture"}
    assert 8 <= senses["s0"]["sound"] <= 24 and 8 <= senses["s0"]["picture"] <= 24
    for name in ("s1", "s2", "s3"):  # without sound, without picture, without a clip
        assert set(senses[name]) == {"both"}
    assert set(senses["c"]) == {"sound"}, "what is captioned of the sound is learned from it"


def test_a_bad_sample_stops_a_run_or_is_listed(manifest: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.jsonl"
    (tmp_path / "broken.mp4").write_bytes(b"no video" * 100)
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    long = [{"role": "user", "content": "which " * 600}, turns[1]]
    rows = [
        {"id": "broken", "media": "broken.mp4", "messages": turns},
        {"id": "gone", "media": "gone.mp4", "messages": turns},
        {"id": "long", "messages": long},
    ]
    bad.write_text(manifest.read_text() + "".join(json.dumps(row) + "\n" for row in rows))
    run = run_of(tmp_path / "run", bad)
    with pytest.raises(DataError, match=r"sample broken: .*and 2 more.*--skip-bad"):
        trained(run)
    for cache in (None, tmp_path / "features"):
        trained(replace(run, skip_bad=True, cache=cache))
        record = json.loads((run.output / "run.json").read_text())
        assert set(record["skipped"]) == {"broken", "gone", "long"}
        assert "context" in record["skipped"]["long"]
    only = tmp_path / "only.jsonl"
    only.write_text(json.dumps(rows[0]) + "\n")
    with pytest.raises(DataError, match="none is left"):
        trained(replace(run, data=(only,), skip_bad=True))


def test_a_clip_that_breaks_during_a_run_trains_nothing(
    manifest: Path, tmp_path: Path, clip: Path
) -> None:
    """It was there when the run began; its place is taken by no other sample."""
    copy = tmp_path / "copy.mp4"
    copy.write_bytes(clip.read_bytes())
    samples = [replace(read_manifest(manifest)[0], media=copy)]
    deck = deck_of(build_model(), samples, Layout(shuffle=False), skip_bad=True)
    whole, _ = deck.at(0, 1)
    copy.write_bytes(b"gone")
    batch, _ = deck.at(0, 1)
    assert whole.supervised > 0 == batch.supervised
    assert set(deck.skipped) == {"s0"}
    strict = deck_of(build_model(), read_manifest(manifest)[:1], Layout(shuffle=False))
    strict.samples = samples
    with pytest.raises(DataError, match="copy.mp4.*--skip-bad"):
        strict.at(0, 1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sound_only": 0.7, "picture_only": 0.7}, "together at most 1"),
        ({"epochs": 0.0, "steps": 0}, "--epochs must be above 0"),
        ({"save_every": 0}, "--save-every must be at least 1"),
        ({"data": ()}, "at least 1"),
    ],
)
def test_settings_that_cannot_be_meant(
    manifest: Path, tmp_path: Path, settings: dict, message: str
) -> None:
    if "data" in settings:
        settings, message = {"batch": 0}, "--batch must be at least 1"
    with pytest.raises(DataError, match=message):
        trained(run_of(tmp_path, manifest, **settings))


def test_two_samples_with_one_id(manifest: Path, tmp_path: Path) -> None:
    run = run_of(tmp_path, manifest)
    with pytest.raises(DataError, match="two samples have the id s0"):
        trained(replace(run, data=(manifest, manifest)))


def test_the_best_model_by_validation_is_kept(manifest: Path, tmp_path: Path) -> None:
    run = run_of(tmp_path, manifest, validation=(manifest,), validate_every=1, steps=6, lr=0.5)
    model, _ = trained(run, replace(ADAPTERS, language_lr=0.05))
    rows = [json.loads(x) for x in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    losses = {row["step"]: row["validation_loss"] for row in rows if "validation_loss" in row}
    assert len(losses) == 6
    record = json.loads((tmp_path / "run.json").read_text())
    lowest = min(losses, key=lambda step: losses[step])
    assert record["best"]["step"] == lowest
    best = AVChat.from_pretrained(tmp_path / "best")
    deck = deck_of(best, read_manifest(manifest), Layout(shuffle=False))
    with torch.no_grad():
        some = [best(deck.at(k, 4)[0]) for k in range(3)]
    mean = sum(float(x.total) for x in some) / sum(float(x.weight) for x in some)
    assert mean == pytest.approx(record["best"]["loss"], rel=1e-3)


def test_the_record_of_a_run(manifest: Path, tmp_path: Path) -> None:
    run = run_of(tmp_path, manifest, steps=0, epochs=2.0, pack=300, batch=1, tracker="tensorboard")
    trained(run)
    record = json.loads((tmp_path / "run.json").read_text())
    assert record["samples"] >= 20 and record["tokens"] > 500
    assert 0 <= record["padding"] < 0.5 and record["tokens_per_s"] > 0
    assert record["versions"]["torch"] == torch.__version__
    assert record["trained"]["vision"]["trained"] == 0 < record["trained"]["language"]["trained"]
    assert len(record["data"]["m.jsonl"]) == 64 and record["device_hours"] > 0
    assert record["peak_memory_gb"] > 0.05
    assert list(tmp_path.rglob("events.out.tfevents*"))


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
    with pytest.raises(TrainingError, match="batch x accumulate x processes"):
        trained(replace(run, batch=2))
    trained(replace(run, batch=2, accumulate=2))  # another cut of the same steps
    trained(replace(run, steps=2, resume=False, save_every=2))
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step-00000002"]
    assert (tmp_path / "checkpoints-1" / "step-00000005").is_dir(), "nothing made is lost"


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


def script(*words: object, **more: object) -> subprocess.Popen:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, str(ROOT / "train/finetune.py"), *(str(w) for w in words)]
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True, **more
    )


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small random model in a folder."""
    folder = tmp_path_factory.mktemp("small") / "model"
    build_model().save_pretrained(folder)
    return folder


def test_sigterm_saves_and_says_how_to_go_on(manifest: Path, saved: Path, tmp_path: Path) -> None:
    words = ["--data", manifest, "--init", saved, "--output", tmp_path, "--batch", 2, "--log-every"]
    words += [1, "--tracker", "none", "--cache", tmp_path / "features"]
    run = script(*words, "--steps", 100_000)
    assert run.stderr is not None
    for line in run.stderr:
        if line.startswith("step 3/"):
            run.send_signal(signal.SIGTERM)
            break
    rest = run.stderr.read()
    assert run.wait(60) == 0, rest
    assert "the same command goes on from there" in rest and "Traceback" not in rest
    assert len(list((tmp_path / "checkpoints").glob("step-*"))) == 1


@pytest.mark.slow
def test_a_kill_at_any_moment_leaves_a_checkpoint_that_is_whole(
    manifest: Path, saved: Path, tmp_path: Path
) -> None:
    """Killed again and again while it saves at every step; the end is that of a calm run."""
    same = ["--data", manifest, "--init", saved, "--batch", 2, "--steps", 60, "--tracker", "none"]
    same += ["--cache", tmp_path / "features", "--log-every", 60, "--language", "lora"]
    calm = script(*same, "--output", tmp_path / "calm", "--save-every", 60)
    assert calm.wait(120) == 0, calm.stderr and calm.stderr.read()
    rng, output, kills = np.random.default_rng(0), tmp_path / "killed", 0
    while True:
        run = script(*same, "--output", output, "--save-every", 1)
        try:
            run.communicate(timeout=float(rng.uniform(4, 7)))
        except subprocess.TimeoutExpired:
            run.kill()
            run.communicate()
            kills += 1
            for folder in (output / "checkpoints").glob("step-*"):
                AVChat.from_pretrained(folder / "model")
            assert kills < 40, "no progress"
            continue
        assert run.returncode == 0
        break
    assert kills >= 2
    assert_same(output / "model", tmp_path / "calm" / "model")


def test_a_full_disk_during_a_run_leaves_the_last_checkpoint(
    manifest: Path, saved: Path, tmp_path: Path
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
    manifest: Path, saved: Path, tmp_path: Path, way: str
) -> None:
    """Real data parallelism, ZeRO-2 and ZeRO-3: the same losses and weights; and going on."""
    same = ["--data", manifest, "--init", saved, "--lr", "1e-2", "--projector-lr", "1e-2"]
    same += ["--language", "lora", "--lora.dropout", 0, "--log-every", 1, "--tracker", "none"]
    same += ["--cache", tmp_path / "features", "--steps", 5, "--save-every", 2]
    same += ["--validation", manifest, "--validate-every", 2]
    one = launched((), *same, "--output", tmp_path / "one", "--batch", 4)
    assert one.returncode == 0, one.stderr
    two = launched(LAUNCH[way], *same, "--output", tmp_path / "two", "--batch", 2)
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
    for name, weight in ours.items():
        torch.testing.assert_close(weight, theirs[name], rtol=1e-2, atol=1e-3, msg=name)
    AVChat.from_pretrained(tmp_path / "two" / "best")
    # go on from the checkpoint of step 4, as after a crash
    for left in ("model", "checkpoints/step-00000005"):
        subprocess.run(["rm", "-r", str(tmp_path / "two" / left)], check=True)
    again = launched(LAUNCH[way], *same, "--output", tmp_path / "two", "--batch", 2)
    assert again.returncode == 0 and "resumed after step 4" in again.stderr, again.stderr
    for name, weight in weights(tmp_path / "two" / "model").items():
        torch.testing.assert_close(weight, ours[name], rtol=1e-4, atol=1e-5, msg=name)
