"""A stage on the user's own manifests: batches by number, and what becomes of bad samples."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from small import build_model
from staged import ADAPTERS, LORA, run_of, trained

from avchat.batches import Batches, Layout
from avchat.clip_source import Decoded
from avchat.data import DataError, Sample, read_manifest
from avchat.model import AVChat
from avchat.prompt import IGNORE
from avchat.run_state import TrainingError
from avchat.trainable import Trainable


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


@pytest.mark.slow
@pytest.mark.parametrize("pack", [0, 300])
def test_a_step_is_the_same_however_it_is_cut(manifest: Path, tmp_path: Path, pack: int) -> None:
    """1 x 4 = 2 x 2 = 4 x 1, with unequal numbers of trained tokens and no dropout."""
    still = replace(ADAPTERS, lora=replace(LORA, dropout=0.0))
    models, losses = [], []
    for parts in (1, 2, 4):
        cut = {"accumulate": parts, "pack": pack}
        model, loss = trained(run_of(tmp_path / str(parts), manifest, **cut), still)
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
    again = run_of(tmp_path / "again", manifest, cache=tmp_path / "features")
    assert trained(again)[1] == cached
    _, rounded = trained(replace(again, output=tmp_path / "bf16", precision="bf16"))
    np.testing.assert_allclose(rounded, cached, rtol=2e-2)


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
        ({"batch": 0}, "--batch must be at least 1"),
        ({"accumulate": 3}, "--batch 4 cannot be shared out evenly over 1 processes x 3"),
    ],
)
def test_settings_that_cannot_be_meant(
    manifest: Path, tmp_path: Path, settings: dict, message: str
) -> None:
    with pytest.raises((DataError, TrainingError), match=message):
        trained(run_of(tmp_path, manifest, **settings))


def test_two_samples_with_one_id(manifest: Path, tmp_path: Path) -> None:
    """In one manifest a fault; in two, where ids may be numbers of lines, told apart."""
    copy, double = tmp_path / "copy.jsonl", tmp_path / "double.jsonl"
    copy.write_text(manifest.read_text())
    double.write_text(manifest.read_text() * 2)
    run = run_of(tmp_path / "run", manifest, steps=1)
    with pytest.raises(DataError, match="two samples have the id s0"):
        trained(replace(run, data=(double,)))
    with pytest.raises(DataError, match="named twice"):
        trained(replace(run, data=(manifest, manifest)))
    with pytest.raises(DataError, match="trained and validated on"):
        trained(replace(run, validation=(manifest,)))
    trained(replace(run, data=(manifest, copy)))
    record = json.loads((run.output / "run.json").read_text())
    assert record["manifests"]["training"]["samples"] == 20


def test_a_misspelt_field_or_a_sense_that_is_not_there(manifest: Path, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in manifest.read_text().splitlines()]
    path = tmp_path / "m.jsonl"
    for name in ("video", "Media", "medai"):
        odd = {name if key == "media" else key: value for key, value in rows[0].items()}
        path.write_text(json.dumps(odd) + "\n")
        with pytest.raises(DataError, match=f"line 1: unknown field '{name}': media is meant"):
            read_manifest(path)
    path.write_text(json.dumps(rows[0] | {"source": "mine"}) + "\n")
    assert len(read_manifest(path)) == 1, "fields of one's own may be added"
    path.write_text(json.dumps(rows[1] | {"sense": "sound"}) + "\n")  # of a silent clip
    with pytest.raises(DataError, match="no sound, and the sample is about it alone"):
        trained(run_of(tmp_path / "run", path))
    text = [row for row in rows if "media" not in row]
    path.write_text("".join(json.dumps(row) + "\n" for row in text))
    deaf = Trainable("frozen", visual_projector="frozen")
    with pytest.raises(DataError, match="no sample has a sound to learn from"):
        trained(run_of(tmp_path / "run", path), deaf)


def test_the_best_model_by_validation_is_kept(manifest: Path, tmp_path: Path) -> None:
    held_out = tmp_path / "held_out.jsonl"
    held_out.write_text(manifest.read_text())
    run = run_of(tmp_path, manifest, validation=(held_out,), validate_every=1, steps=6, lr=0.5)
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


def test_paths_that_are_relative_to_somewhere_else(manifest: Path, clip: Path) -> None:
    folder = clip.parent / "manifests"
    folder.mkdir(exist_ok=True)
    moved = folder / "moved.jsonl"
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    moved.write_text(json.dumps({"id": "m", "media": clip.name, "messages": turns}) + "\n")
    with pytest.raises(DataError, match="relative to .*avchat data convert"):
        trained(run_of(folder / "run", moved))
