"""train/cache.py: what it would take, what it says, and several processes at once."""

import json
import os
import runpy
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from avchat.data import DataError
from avchat.features import FeatureCache, Part, key_of, share_of
from avchat.media import load_media
from avchat.model import AVChat

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = runpy.run_path(str(ROOT / "train" / "cache.py"))


def whole(path: Path) -> Part:
    return Part(path, None, None)


def manifest(path: Path, *media: Path) -> Path:
    """Write a manifest: two conversations on each clip, and one on nothing."""
    said = [{"role": "user", "content": "what?"}, {"role": "assistant", "content": "a dog"}]
    rows = [{"media": str(one), "messages": said} for one in (*media, *media)]
    path.write_text("".join(json.dumps(row) + "\n" for row in [*rows, {"messages": said}]))
    return path


def run(**options: object) -> int:
    return SCRIPT["main"](SCRIPT["Cache"](tiny=True, workers=2, **options))


def test_the_script_says_what_it_would_take_then_fills(
    clip: Path, silent_clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gone = tmp_path / "gone.mp4"
    first = manifest(tmp_path / "first.jsonl", clip)
    more = manifest(tmp_path / "more.jsonl", silent_clip, gone)
    folder = tmp_path / "features"
    assert run(data=(first, more), output=folder, dry_run=True) == 0
    said = capsys.readouterr().out
    assert "3 clips, 0 of them done, 3 to do" in said and "not pooled" in said and "about" in said
    assert not folder.exists()
    assert run(data=(first,), output=folder) == 0
    assert "1 of 1 clips" in capsys.readouterr().out
    assert run(data=(first, more), output=folder, dry_run=True) == 0
    assert "3 clips, 1 of them done, 2 to do" in capsys.readouterr().out
    assert run(data=(first, more), output=folder) == 2
    out, err = capsys.readouterr()
    assert "2 of 3 clips" in out and f"fault: {gone}: no such file" in err
    assert "error: 1 of 3 clips could not be read" in err
    shutil.copy(clip, gone)
    assert run(data=(more,), output=folder, retry=True) == 0


def test_an_estimate_is_what_it_takes(clip: Path, tmp_path: Path) -> None:
    model = SCRIPT["encoders_of"]("tiny")
    options = SCRIPT["Cache"](output=tmp_path, tiny=True)
    one = SCRIPT["estimate"](model, [whole(clip)], options)
    cache = FeatureCache(tmp_path, model)
    cache.fill([whole(clip)], workers=1, progress=lambda done, total: None)
    [shard] = tmp_path.glob("shard-*")
    assert one.bytes == pytest.approx(shard.stat().st_size, rel=0.01)
    assert one.bytes <= SCRIPT["most_bytes"](model, False)
    encoded = model.encode([load_media(clip, frames=model.config.frames)])[0]
    assert one.unpooled_bytes == 2 * (encoded.visual.numel() + encoded.audio.numel())


def test_the_encoders_alone_have_the_key_of_the_whole_model(bundled: str) -> None:
    alone, together = SCRIPT["encoders_of"](bundled), AVChat.from_pretrained(bundled)
    assert key_of(alone, True) == key_of(together, True)


def test_a_folder_that_cannot_be_used_is_said_before_the_work(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = (manifest(tmp_path / "m.jsonl", clip),)
    with pytest.raises(DataError, match="give --data"):
        run(output=tmp_path / "a")
    with pytest.raises(DataError, match="cannot be used"):
        run(data=data, output=data[0])
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "cache.json").write_text("{")
    with pytest.raises(DataError, match="not readable"):
        run(data=data, output=tmp_path / "b")
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(9, 9, 1000))
        with pytest.raises(DataError, match=r"kB are needed, 1\.0 kB are free"):
            run(data=data, output=tmp_path / "c")
    assert not list((tmp_path / "c").glob("shard-*"))


def test_ranks_of_two_machines_fill_together(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    media = [tmp_path / f"{k}.mp4" for k in range(40)]
    media = [next(x for x in media if share_of(whole(x), 2) == rank) for rank in (0, 1)]
    for k, path in enumerate(media):
        path.write_bytes(clip.read_bytes() + bytes(k))
    data = (manifest(tmp_path / "m.jsonl", *media),)
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in ("1", "0"):
        monkeypatch.setenv("RANK", rank)
        assert run(data=data, output=tmp_path / "features") == 0
    assert len(list((tmp_path / "features").glob("index-*"))) == 2


@pytest.mark.slow
@pytest.mark.timeout(90)
def test_two_processes_of_a_launcher_fill_together(
    clip: Path, silent_clip: Path, sound_clip: Path, tmp_path: Path
) -> None:
    data = manifest(tmp_path / "m.jsonl", clip, silent_clip, sound_clip)
    words = f"-m torch.distributed.run --nproc-per-node 2 train/cache.py --tiny --data {data}"
    command = [sys.executable, *words.split(), "--output", str(tmp_path / "features")]
    path = {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "3 of 3 clips" in done.stdout


def test_the_benchmark_trains_alike_both_ways(
    clip: Path,
    silent_clip: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for path in (clip, silent_clip):
        shutil.copy(path, tmp_path)
    monkeypatch.syspath_prepend(str(ROOT / "eval"))
    speed = runpy.run_path(str(ROOT / "eval" / "training_speed.py"))
    small = {"vision": (64, 1, 32), "audio": (64, 1), "language": (64, 1)}
    options = speed["TrainSpeed"](media=tmp_path, files=3, frames=2, batch=2, **small)
    speed["main"](replace(options, json=True))  # asserts that the losses are alike
    result = json.loads(capsys.readouterr().out)
    assert result["clips"] == 3 and result["cache_bytes"] > 0
    assert set(result["as_it_goes_s"]) == {"decode", "encode", "language model"}
    assert set(result["cached_s"]) == {"read", "language model"}
    speed["main"](replace(options, lora=True))
    assert "times as fast from the second epoch on" in capsys.readouterr().out
