"""What a timeline shows: sound stands where it sounds, cuts where shots change, damage is flat."""

import os
import threading
from pathlib import Path

import av
import numpy as np
import pytest
from clips import TIMES, click, write_clip
from joined import write_joined
from PIL import Image

from avchat import contour as rooms
from avchat.contour import Contour, contour
from avchat.media import MediaError, probe

LONG = np.arange(100) / 25  # 4 s
SCENES = [(3.0, "red", 1000.0), (2.3, "green", None), (3.0, "blue", 1000.0)]


def contour_of(path: Path, **more: object) -> Contour:
    """Look a file through."""
    found = contour(path, probe(path), **more)
    assert found is not None
    return found


@pytest.mark.parametrize("name", ["a.mp4", "a.ts", "a.mkv"])
def test_a_click_stands_where_it_sounds(name: str, tmp_path: Path) -> None:
    found = contour_of(write_clip(tmp_path / name, LONG, sound=click(4, 2.0)), isolate=False)
    levels, bins_a_second = found.loudness, 400 / found.duration_s
    assert levels.shape == (400,) and levels.dtype == np.float32
    assert levels.max() == 1 and found.duration_s == pytest.approx(4, abs=0.1)
    loud = np.flatnonzero(levels > 0.5) / bins_a_second
    assert loud[0] == pytest.approx(2.0, abs=0.025) and loud[-1] == pytest.approx(2.02, abs=0.025)
    assert (levels[: int(1.9 * bins_a_second)] == 0).all()
    assert found.cuts_s == [] and found.warnings == ()


def test_levels_are_in_proportion(tmp_path: Path) -> None:
    loud, soft = click(1, 0.5), click(1, 0.5) / 16
    wave = np.concatenate([loud, soft, 0 * loud])
    path = write_clip(tmp_path / "a.flac", [], sound=wave, sound_codec="flac")
    found = contour_of(path, bins=3)
    assert found.loudness == pytest.approx([1, 0.25, 0], abs=0.01)
    assert contour_of(path, bins=7000).loudness.max() == 1  # less than seven samples a bin


def test_shots_and_sound_of_scenes(tmp_path: Path) -> None:
    path = write_joined(tmp_path / "a.mp4", SCENES)
    told: list[tuple[float, float]] = []
    found = contour_of(path, bins=83, progress=lambda *how: told.append(how))
    assert found.cuts_s == pytest.approx([3.0, 5.3], abs=1e-3)
    levels = found.loudness
    assert (levels[:29] > 0.9).all() and (levels[32:52] == 0).all() and (levels[54:82] > 0.9).all()
    done = [one for one, _ in told]
    assert done == sorted(done) and done[-1] == 1 and {total for _, total in told} == {1}
    assert rooms.SOUND_SHARE in done, "the end of the sound is told, however soon it came"
    here = contour_of(path, bins=83, isolate=False)
    assert here.cuts_s == found.cuts_s and np.array_equal(here.loudness, levels)


def test_what_is_not_there_is_not_shown(
    silent_clip: Path, sound_clip: Path, tmp_path: Path
) -> None:
    assert contour_of(silent_clip).loudness is None
    sound = contour_of(sound_clip)
    assert sound.loudness.max() == 1 and sound.cuts_s == []
    quiet = write_clip(tmp_path / "a.mp4", TIMES, sound=1e-4 * click(2, 1.0))
    assert not contour_of(quiet).loudness.any()
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "a.png")
    assert contour_of(tmp_path / "a.png") == Contour(None, [], 0.0)


def test_a_file_that_does_not_say_its_length_is_measured(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.aac", [], sound=click(5, 2.5))
    found = contour_of(path)
    assert found.duration_s == pytest.approx(5, abs=0.1)
    assert np.argmax(found.loudness) == pytest.approx(200, abs=8)


def test_a_long_file_is_looked_through_by_its_keyframes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_joined(tmp_path / "a.mp4", [(21.0, "red", None), (19.0, "green", None)])
    assert contour_of(path, isolate=False).cuts_s == pytest.approx([21.0])
    monkeypatch.setattr(rooms, "LONG_S", 30.0)
    assert contour_of(path, isolate=False).cuts_s == pytest.approx([22.0])  # one in 2 s


def test_damage_is_flat_and_said(tmp_path: Path) -> None:
    tone = np.sin(np.arange(8 * 48_000) * 2 * np.pi * 440 / 48_000).astype(np.float32) / 2
    path = write_clip(tmp_path / "a.m4a", [], sound=tone)
    data = bytearray(path.read_bytes())
    third = len(data) // 3
    data[third : 2 * third] = bytes(third)
    path.write_bytes(data)
    found = contour_of(path, bins=80)
    assert "damaged" in found.warnings[0]
    assert (found.loudness[:25] > 0.9).all() and (found.loudness[30:50] == 0).all()
    assert (found.loudness[56:] > 0.9).all()


def test_a_file_that_is_cut_short_says_so(sound_clip: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(sound_clip.read_bytes())
    os.truncate(path, path.stat().st_size // 2)
    found = contour_of(path)
    assert "cut short" in found.warnings[0] and not found.loudness[201:].any()


def test_stopping_and_what_hangs(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stop, info = threading.Event(), probe(clip)
    stop.set()
    assert contour(clip, info, stop=stop) is None
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    monkeypatch.setattr(rooms, "SERVE", "test_media_faults:hang")
    with pytest.raises(MediaError, match=r"^clip\.mp4: its timeline took longer than 1 s"):
        contour(clip, info, timeout_s=1)


def test_one_track_that_cannot_be_used_leaves_the_other(
    clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    monkeypatch.setattr(rooms, "SERVE", "crashing:crash_on_look")
    found = contour_of(clip)
    assert found.loudness.max() == 1 and found.cuts_s == [] and "crashed" in found.warnings[0]
    monkeypatch.setattr(rooms, "SERVE", "test_media_faults:crash")
    with pytest.raises(MediaError, match=r"^clip\.mp4: its timeline crashed"):
        contour_of(clip)


@pytest.mark.parametrize(
    ("name", "cuts"),
    [
        ("nasa_many_streams.mp4", [5.038, 8.008]),
        ("corrupted.mp4", []),
        ("av1_no_audio.mkv", []),
        ("h265_10bit_no_audio.mp4", []),
        ("dog_barking.mp4", []),
        ("jfk.flac", []),
    ],
)
def test_real_clips(name: str, cuts: list[float], shared_media: Path) -> None:
    path = shared_media / name
    info, found = probe(path), contour_of(path)
    assert found.cuts_s == pytest.approx(cuts, abs=0.001)
    assert found.duration_s == info.duration_s
    assert (found.loudness is not None) == info.has_audio
    assert found.loudness is None or found.loudness.max() == 1


@pytest.mark.alone
def test_an_hour_takes_little_memory(tmp_path: Path) -> None:
    """A sparse file: an hour of silence in 16-bit stereo, 635 MB."""
    import resource

    path = tmp_path / "hour.wav"
    with av.open(str(path), "w") as out:
        track = out.add_stream("pcm_s16le", rate=44_100, layout="stereo")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 2), np.int16), "s16", "stereo")
        frame.sample_rate = 44_100
        out.mux(track.encode(frame))
        out.mux(track.encode(None))
    head = path.read_bytes()[:-4]
    size = 3600 * 44_100 * 4
    head = head[:4] + (len(head) - 8 + size).to_bytes(4, "little") + head[8:]
    path.write_bytes(head[:-4] + size.to_bytes(4, "little"))
    os.truncate(path, len(head) + size)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = contour_of(path, isolate=False)
    assert found.duration_s == pytest.approx(3600) and not found.loudness.any()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kB
