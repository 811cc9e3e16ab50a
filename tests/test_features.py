"""Features kept on disk: the same as computed ones, refused when stale, whole after any kill."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small import POOLED_CONFIG, TIMELINE_CONFIG, build_model

from avchat import features, isolation
from avchat.collate import Batch, collate
from avchat.config import Config
from avchat.data import DataError, Sample
from avchat.encoders import SENSES
from avchat.feature_shards import ShardReader, read_records
from avchat.features import FeatureCache, Part, ahead, key_of, part_of, share_of
from avchat.media import load_media
from avchat.model import AVChat
from avchat.projectors import PooledFeatures
from avchat.prompt import Turn

ROOT = Path(__file__).resolve().parent.parent
TURNS = [Turn("which object?", "the red circle"), Turn("which sound?", "blue")]
CUTS = [(0.0, 1.0), (0.5, 2.5), (None, None), (1.0, 1.5), (2, 4), (3.0, None)]


@pytest.fixture(scope="module")
def model() -> AVChat:
    return build_model()


@pytest.fixture
def parts(clip: Path, silent_clip: Path, sound_clip: Path) -> list[Part]:
    return [*(Part(clip, *cut) for cut in CUTS), whole(silent_clip), whole(sound_clip)]


def whole(path: Path) -> Part:
    return Part(path, None, None)


def fill(cache: FeatureCache, parts: list[Part], **more: object) -> None:
    cache.fill(parts, workers=2, progress=lambda done, total: None, **more)


def filled(folder: Path, model: AVChat, parts: list[Part], half: bool = True) -> FeatureCache:
    """Fill a folder and open it anew."""
    fill(FeatureCache(folder, model, half), parts)
    return FeatureCache(folder, model, half)


@torch.no_grad()
def computed(model: AVChat, part: Part) -> PooledFeatures:
    """Compute what a cache should hold, with no cache, no batch and no process."""
    media = load_media(part.path, frames=model.config.frames, start=part.start_s, end=part.end_s)
    return model.pool(model.encode([media]))[0]


def assert_same(found: PooledFeatures, expected: PooledFeatures, tolerance: float = 1e-5) -> None:
    for name, value in vars(expected).items():
        other = vars(found)[name]
        if isinstance(value, torch.Tensor):
            torch.testing.assert_close(other.float(), value.float(), atol=tolerance, rtol=tolerance)
        else:
            assert other == value, name


def batch_of(model: AVChat, clips: list) -> Batch:
    rows = [model.prompt.build(model.plan(clip), TURNS) for clip in clips]
    return collate(rows, clips)


@pytest.mark.slow
@pytest.mark.parametrize("config", [TIMELINE_CONFIG, POOLED_CONFIG], ids=lambda c: c.name)
def test_a_cache_gives_back_what_the_encoders_gave(
    config: Config, parts: list[Part], tmp_path: Path
) -> None:
    model = build_model(config)
    full = filled(tmp_path / "full", model, parts, half=False)
    half = filled(tmp_path / "half", model, parts)
    assert full.missing(parts) == half.missing(parts) == []
    for part in parts:
        expected = computed(model, part)
        assert_same(full[part], expected)
        assert_same(half[part], expected, 2e-3)
        assert not {t.dtype for t in vars(half[part]).values() if isinstance(t, torch.Tensor)} - {
            torch.float16
        }
        for sense in SENSES:
            assert model.plan(half.times(part).only(sense)) == model.plan(expected.only(sense))
    for shard in (tmp_path / "half").glob("shard-*"):
        shard.unlink()
    assert half.times(parts[0]).num_states == 50  # reads no shard
    with pytest.raises(DataError, match="run train/cache.py again"):
        ShardReader(tmp_path / "half").tensors("shard-gone.safetensors", {"visual": "0"})
    assert FeatureCache(tmp_path / "half", model).missing(parts) == parts


@pytest.mark.slow
@pytest.mark.parametrize("config", [TIMELINE_CONFIG, POOLED_CONFIG], ids=lambda c: c.name)
def test_training_with_a_cache_is_training_without(
    config: Config, parts: list[Part], tmp_path: Path
) -> None:
    """Three steps from the same weights: unpooled, pooled, kept in full, kept in half."""
    frozen = build_model(config)
    some = [parts[1], parts[6], parts[7]]
    inputs = [features.prepared(frozen, part).only(s) for part in some for s in SENSES]
    full = filled(tmp_path / "full", frozen, some, half=False)
    half = filled(tmp_path / "half", frozen, some)
    with torch.no_grad():
        encoded = frozen.encode(inputs)
        pooled = frozen.pool(encoded)

    def losses(clips: list) -> torch.Tensor:
        model = build_model(config)
        model.vision.requires_grad_(False)
        model.audio.requires_grad_(False)
        trained = [p for p in model.parameters() if p.requires_grad]
        optimizer, batch, found = torch.optim.SGD(trained, 1e-2), batch_of(model, clips), []
        for _ in range(3):
            loss = model(batch)
            (loss.total / loss.weight).backward()
            optimizer.step()
            optimizer.zero_grad()
            found.append(loss.total.detach())
        return torch.stack(found)

    expected = losses(inputs)
    assert expected[2] < expected[0]
    assert torch.equal(losses(encoded), expected) and torch.equal(losses(pooled), expected)
    kept, small = (
        losses([cache[part].only(s) for part in some for s in SENSES]) for cache in (full, half)
    )
    torch.testing.assert_close(kept, expected, rtol=1e-5, atol=0)
    torch.testing.assert_close(small, expected, rtol=1e-3, atol=0)


def test_stale_features_are_refused_and_what_differs_is_named(
    model: AVChat, clip: Path, tmp_path: Path
) -> None:
    filled(tmp_path, model, [whole(clip)])

    def refused(config: Config, change: Callable[[AVChat], object] = lambda m: None) -> str:
        other = build_model(config)
        change(other)
        with pytest.raises(DataError) as caught:
            FeatureCache(tmp_path, other)
        return str(caught.value)

    def nudge(module: torch.nn.Module) -> None:
        weight = next(module.parameters())
        weight.data.view(-1)[3] *= 1 + 2**-22

    config = TIMELINE_CONFIG
    said = refused(config, lambda m: nudge(m.vision))
    assert "weights of vision" in said and "weights of audio" not in said
    said = refused(config, lambda m: nudge(m.audio))
    assert "weights of audio" in said and "weights of vision" not in said
    grid = replace(config.projector, grid=1)
    assert "(grid 2 there, 1 here)" in refused(replace(config, projector=grid))
    assert "(frames 4 there, 5 here)" in refused(replace(config, frames=5))
    pad = replace(config, vision=replace(config.vision, fit="pad"))
    assert "(fit stretch there, pad here)" in refused(pad)
    assert "vision dtype float32 there, bfloat16 here" in refused(
        config, lambda m: m.vision.to(torch.bfloat16)
    )
    # what pooling does not ask for may differ: the same encoders under other projectors and words
    other = replace(config, name="x", projector=replace(config.projector, hidden=7))
    assert FeatureCache(tmp_path, build_model(other)).missing([whole(clip)]) == []
    with pytest.raises(DataError, match="precision half there, full here"):
        FeatureCache(tmp_path, model, half=False)


def test_a_folder_kept_in_full_serves_who_asks_for_half(
    model: AVChat, parts: list[Part], tmp_path: Path
) -> None:
    filled(tmp_path, model, parts[:1], half=False)
    cache = filled(tmp_path, model, parts[1:2])
    assert {cache[part].visual.dtype for part in parts[:2]} == {torch.float32}


def test_weights_have_one_fingerprint_and_any_other_weight_another(model: AVChat) -> None:
    again, other = build_model(), build_model(seed=1)
    assert key_of(model, True) == key_of(again, True)
    differing = {k for k, v in key_of(other, True).items() if v != key_of(model, True)[k]}
    assert differing == {"weights of vision", "weights of audio"}


def test_a_changed_file_is_computed_again_a_touched_or_copied_one_is_not(
    model: AVChat, clip: Path, silent_clip: Path, tmp_path: Path
) -> None:
    mine = whole(Path(shutil.copy(clip, tmp_path / "a.mp4")))
    folder = tmp_path / "features"
    cache = filled(folder, model, [mine])
    os.utime(mine.path, (1, 1))
    copy = whole(Path(shutil.copy(clip, tmp_path / "b.mp4")))
    assert cache.missing([mine, copy, mine]) == []
    fill(cache, [])  # writes down where they are, so that they are hashed this once
    assert sum("place" in record for record in read_records(folder)) == 3
    shutil.copy(silent_clip, mine.path)
    assert cache.missing([copy, mine, mine]) == [mine]
    with pytest.raises(DataError, match=r"a\.mp4: no features"):
        cache[mine]
    fill(cache, [mine])
    assert cache[mine].audio is None and cache[copy].audio is not None


def test_features_may_be_moved_with_their_clips_and_without(
    model: AVChat, clip: Path, tmp_path: Path
) -> None:
    before, after = tmp_path / "before", tmp_path / "after"
    before.mkdir()
    mine = whole(Path(shutil.copy(clip, before / "a.mp4")))
    expected = filled(before / "features", model, [mine])[mine]
    shutil.copytree(before / "features", tmp_path / "elsewhere")
    before.rename(after)
    moved = whole(after / "a.mp4")
    assert_same(FeatureCache(after / "features", model)[moved], expected, 0)
    moved.path.unlink()
    # gone, but known from the folder: beside it, and where it was
    assert_same(FeatureCache(after / "features", model)[moved], expected, 0)
    assert_same(FeatureCache(tmp_path / "elsewhere", model)[mine], expected, 0)
    assert FeatureCache(tmp_path / "elsewhere", model).missing([whole(tmp_path / "z.mp4")])


FILLING = """
import sys, json
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from small import build_model
from avchat import feature_shards
from avchat.features import FeatureCache, Part
feature_shards.SHARD_RECORDS = 4
parts = [Part(Path(p), a, b) for p, a, b in json.loads(sys.argv[3])]
cache = FeatureCache(Path(sys.argv[2]), build_model())
cache.fill(parts, workers=1, progress=lambda done, total: print(done, flush=True))
"""


@pytest.mark.slow
@pytest.mark.timeout(60)
def test_killed_in_the_middle_the_same_command_goes_on(
    model: AVChat, parts: list[Part], tmp_path: Path
) -> None:
    words = json.dumps([[str(path), *cut] for path, *cut in parts])
    command = [sys.executable, "-c", FILLING, str(ROOT / "tests"), str(tmp_path / "a"), words]
    path = {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=os.environ | path) as process:
        for line in process.stdout:
            if int(line) == 5:
                process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    cache = FeatureCache(tmp_path / "a", model)
    left = cache.missing(parts)
    assert 0 < len(left) < len(parts)  # whole shards are kept, one that was not is lost
    fill(cache, left)
    cache, straight = FeatureCache(tmp_path / "a", model), filled(tmp_path / "b", model, parts)
    assert cache.missing(parts) == []
    for part in parts:
        assert_same(cache[part], straight[part].to("cpu"), 2e-3)
        assert cache.times(part) == straight.times(part)


def test_stopped_by_ctrl_c_it_keeps_what_it_has(
    model: AVChat, parts: list[Part], tmp_path: Path
) -> None:
    def stop(done: int, total: int) -> None:
        if done >= 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        FeatureCache(tmp_path, model).fill(parts, workers=1, progress=stop)
    assert len(FeatureCache(tmp_path, model).missing(parts)) in (len(parts) - 4, len(parts) - 3)


def test_two_ranks_fill_one_folder(model: AVChat, clip: Path, tmp_path: Path) -> None:
    many = [Part(clip, k / 20, k / 20 + 1) for k in range(60)]
    shares = [[part for part in many if share_of(part, 2) == rank] for rank in range(2)]
    assert min(map(len, shares)) > 15
    parts = [*shares[0][:3], *shares[1][:4]]
    ranks = [FeatureCache(tmp_path, model) for _ in range(2)]
    for rank in (1, 0):  # in whatever order, and whatever the other has done by then
        fill(ranks[rank], parts[::-1] if rank else parts, share=(rank, 2))
        done = [part for part in parts if not ranks[rank].missing([part])]
        assert done == [part for part in parts if share_of(part, 2) == rank]
    assert FeatureCache(tmp_path, model).missing(parts) == []
    assert len(list(tmp_path.glob("shard-*"))) == 2


def test_what_cannot_be_read_is_a_fault_with_its_reason(
    model: AVChat, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("broken.mp4", "text.mp4", "empty.mp4", "gone.mp4", "slow.mp4", "crashing.mp4")
    broken, text, empty, gone, slow, crashing = (whole(tmp_path / name) for name in names)
    broken.path.write_bytes(clip.read_bytes()[:900])
    text.path.write_text("not a film\n" * 20)
    empty.path.touch()
    parts = [broken, text, empty, gone, whole(clip), whole(tmp_path)]
    folder = tmp_path / "features"
    cache = filled(folder, model, parts)
    with monkeypatch.context() as patch:
        patch.setattr(features, "TIMEOUT_S", 0.001)
        slow.path.write_bytes(clip.read_bytes() + b"1")
        fill(cache, [slow])

        def crash(*_: object) -> tuple[int, bytes]:
            return -11, b""

        for name in ("call_forked", "call_started"):
            patch.setattr(isolation, name, crash)
        crashing.path.write_bytes(clip.read_bytes() + b"2")
        fill(cache, [crashing])
    cache = FeatureCache(folder, model)
    parts += [slow, crashing]
    assert cache.missing(parts) == []
    assert "text, not a video" in cache.fault(text) and "broken.mp4: " in cache.fault(broken)
    assert "this is a folder" in cache.fault(whole(tmp_path))
    assert "the file is empty" in cache.fault(empty) and "no such file" in cache.fault(gone)
    assert "took longer" in cache.fault(slow) and "signal 11" in cache.fault(crashing)
    assert cache.fault(whole(clip)) is None
    with pytest.raises(DataError, match=r"gone\.mp4: no such file"):
        cache[gone]
    shutil.copy(clip, gone.path)
    assert cache.fault(gone) is None and cache.missing([gone]) == []  # the clip's copy
    fill(cache, [slow])  # now it has time
    assert cache.fault(slow) is None and cache[slow].visual is not None
    assert FeatureCache(folder, model).fault(slow) is None  # though both records are there


def test_what_half_precision_cannot_hold_is_said(
    clip: Path, silent_clip: Path, tmp_path: Path
) -> None:
    model = build_model()
    model.vision.siglip.post_layernorm.weight.data *= 1e5
    with pytest.raises(DataError, match="give --full"):
        filled(tmp_path / "half", model, [whole(silent_clip)])
    cache = filled(tmp_path / "full", model, [whole(clip)], half=False)
    assert cache[whole(clip)].visual.abs().max() > 65504


def test_no_more_is_decoded_ahead_than_fits() -> None:
    begun, parts = [], [Part(Path(str(k)), None, None) for k in range(40)]
    seen = 0
    for looks in ahead(lambda part: begun.append(part) or part, parts, 3):
        seen += len(looks)
        assert len(begun) - seen <= 6
    assert seen == len(begun) == 40 and set(begun) == set(parts)


def test_a_part_is_of_a_sample() -> None:
    sample = Sample("a", Path("a.mp4"), (Turn("a", "b"),), 1, 2.5)
    assert part_of(sample) == Part(Path("a.mp4"), 1.0, 2.5)


def test_key_fields_of_a_projector_are_all_accounted_for(model: AVChat) -> None:
    """A new option of the projectors either shapes the pooling or must be named here."""
    trained = {"hidden", "input_norm", "output_norm", "time_embedding", "cell_embedding"}
    names = {field.name for field in dataclasses.fields(TIMELINE_CONFIG.projector)}
    assert names - trained <= set(key_of(model, True))
