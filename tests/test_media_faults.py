"""Files at fault: limits, bad paths, damage, and what crashes or hangs a decoder."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from clips import GROUPS, TIMES, click, write_clip

from avchat import isolation
from avchat.media import SAMPLE_RATE, Limits, MediaError, load_media, probe


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        (Limits(max_duration_s=1), "length"),
        (Limits(max_pixels=100), "frame"),
        (Limits(max_file_bytes=100), "size"),
        (Limits(max_decoded_bytes=100_000), "smaller size"),
    ],
)
def test_each_limit_has_its_error(tmp_path: Path, limits: Limits, said: str) -> None:
    path = write_clip(tmp_path / "a.mp4", TIMES, sound=click(2, 1.0))
    for isolate in (False, True):
        with pytest.raises(MediaError, match=f"^a.mp4: .*{said}") as error:
            load_media(path, limits=limits, isolate=isolate)
        assert "\n" not in str(error.value)


def test_bad_paths_have_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("not a video\n" * 100)
    (tmp_path / "list.mp4").write_text("ffconcat version 1.0\nfile /etc/passwd\n")
    (tmp_path / "noise.mp4").write_bytes(np.random.default_rng(0).bytes(5000))
    (tmp_path / "folder.mp4").mkdir()
    whole = write_clip(tmp_path / "whole.mp4", TIMES).read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    for name, said in {
        "missing.mp4": "no such file",
        "empty.mp4": "empty",
        "text.mp4": "this is text",
        "list.mp4": "this is text",
        "noise.mp4": "no video or audio stream could be decoded",
        "folder.mp4": "folder",
        "cut.mp4": "moov atom missing",
    }.items():
        for do in (probe, load_media):
            with pytest.raises(MediaError, match=f"^{name}: .*{said}") as error:
                do(tmp_path / name)
            assert "\n" not in str(error.value)


def test_parts_that_are_not_there(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", TIMES, sound=click(4, 1.0))
    for part in ({"start": -1}, {"start": 2, "end": 1}, {"start": 9}):
        with pytest.raises(MediaError, match="^a.mp4: cannot"):
            load_media(path, **part)
    unseen = load_media(path, start=3, end=3.5)  # the pictures end at 2 s
    assert not unseen.has_video and unseen.has_audio
    assert unseen.warnings == ("there is a picture track, but nothing of it in this part",)
    with pytest.raises(ValueError, match="frames"):
        load_media(path, frames=-1)
    with pytest.raises(ValueError, match="size"):
        load_media(path, size=0)


@pytest.mark.parametrize("name", ["a.mkv", "a.webm", "a.flac", "a.wav", "a.mp3"])
def test_cut_files_give_what_is_there_and_say_how_much(tmp_path: Path, name: str) -> None:
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 4 * 48_000)
    times = np.arange(100) / 25 if name in ("a.mkv", "a.webm") else []
    codecs = {
        "a.mkv": {},
        "a.webm": {"codec": "libvpx-vp9", "sound_codec": "libopus"},
        "a.flac": {"sound_codec": "flac"},
        "a.wav": {"sound_codec": "pcm_s16le"},
        "a.mp3": {"sound_codec": "mp3"},
    }[name]
    data = write_clip(tmp_path / name, times, sound=noise, **codecs).read_bytes()
    cut = tmp_path / f"cut_{name}"
    cut.write_bytes(data[: len(data) // 2])
    media = load_media(cut, frames=8)
    assert media.has_audio and 0.5 < media.duration_s < 3.5
    assert len(media.waveform) / SAMPLE_RATE == pytest.approx(media.duration_s, abs=0.3)
    assert len(media.frames) == (8 if len(times) else 0)
    assert any(f"decoded {media.duration_s:.1f} s of 4.0 s" in said for said in media.warnings)


def test_damage_that_a_decoder_would_hide_is_said(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mkv", TIMES, options=GROUPS)
    data = bytearray(path.read_bytes())
    rng = np.random.default_rng(1)
    for place in rng.integers(len(data) // 3, len(data) * 2 // 3, 40):
        data[place] ^= 255
    path.write_bytes(bytes(data))
    for frames in (5, 50):
        media = load_media(path, frames=frames)
        assert len(media.frames) > 0 and media.warnings


def crash(request: dict) -> isolation.Reply:
    """Die as a native decoder does: no exception, no reply."""
    os.abort()


def hang(request: dict) -> isolation.Reply:
    """Never answer."""
    time.sleep(1000)
    return {}, []


def echo(request: dict) -> isolation.Reply:
    """Answer with arrays, and print what must not get into the reply."""
    print("a native library prints", flush=True)
    return request, [np.arange(6.0).reshape(2, 3), np.zeros((0, 4), np.uint8)]


def test_a_crash_or_a_hang_stays_in_its_process(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    reply, arrays = isolation.call(
        "test_media_faults:echo", {"a": 1}, timeout_s=60, max_bytes=10**6
    )
    assert reply == {"a": 1} and arrays[0].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert arrays[1].shape == (0, 4) and arrays[0].flags.writeable
    with pytest.raises(isolation.WorkerError, match="crashed .signal 6"):
        isolation.call("test_media_faults:crash", {}, timeout_s=60, max_bytes=10**6)
    with pytest.raises(isolation.WorkerError, match="longer than 2 s"):
        isolation.call("test_media_faults:hang", {}, timeout_s=2, max_bytes=10**6)
    path = write_clip(tmp_path / "a.mp4", TIMES)
    monkeypatch.setattr("avchat.media.SERVE", "test_media_faults:crash")
    with pytest.raises(MediaError, match="^a.mp4: decoding crashed"):
        load_media(path, isolate=True)
    monkeypatch.setattr("avchat.media.SERVE", "test_media_faults:hang")
    with pytest.raises(MediaError, match="^a.mp4: decoding took longer than 1 s"):
        load_media(path, isolate=True, timeout_s=1)


CALLS: list[int] = []


def remember(request: dict) -> isolation.Reply:
    """Say how many calls this process has seen, and who it is."""
    CALLS.append(1)
    return {"calls": len(CALLS), "pid": os.getpid(), "parent": os.getppid()}, []


def fail(request: dict) -> isolation.Reply:
    """Raise what nobody expects."""
    raise LookupError("lost")


def ask(name: str, timeout_s: float = 60.0) -> dict:
    """Call one of the functions above."""
    call = isolation.call
    return call(f"test_media_faults:{name}", {}, timeout_s=timeout_s, max_bytes=10**6)[0]


def group_lives(group: int) -> bool:
    """Tell whether any process of a group runs; the dead wait there for init, which may be slow."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # gone meanwhile
            state, _, its_group = stat.read_text().rpartition(")")[2].split()[:3]
            if int(its_group) == group and state != "Z":
                return True
    return False


@pytest.mark.skipif(not isolation.FORKS, reason="a process is started for each call")
def test_a_nursery_serves_many_calls_each_by_a_fresh_process(monkeypatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    one, two = ask("remember"), ask("remember")
    assert one["calls"] == two["calls"] == 1 and one["pid"] != two["pid"]
    assert one["parent"] == two["parent"] != os.getpid()
    with pytest.raises(isolation.WorkerError, match="crashed .LookupError: lost"):
        ask("fail")
    with pytest.raises(isolation.WorkerError, match="crashed .signal 6"):
        ask("crash")
    assert ask("remember")["parent"] == one["parent"], "a crash is the fork's alone"
    with pytest.raises(isolation.WorkerError, match="longer than 1 s"):
        ask("hang", 1.0)
    three = ask("remember")
    assert three["parent"] != one["parent"], "what hung is killed with its nursery"
    limit = time.monotonic() + 10
    while group_lives(one["parent"]):
        assert time.monotonic() < limit
        time.sleep(0.05)
    os.kill(three["parent"], signal.SIGKILL)  # an idle one is killed, for memory perhaps
    time.sleep(0.2)
    assert ask("remember")["calls"] == 1
    monkeypatch.setenv("AVCHAT_TEST", "1")  # what would be started now sees another environment
    assert ask("remember")["parent"] != three["parent"]


def test_a_fork_and_a_process_of_its_own_answer_the_same(tmp_path: Path, monkeypatch) -> None:
    path = write_clip(tmp_path / "a.mp4", TIMES, sound=click(2, 1.0))
    near = load_media(path, size=32, isolate=True)
    monkeypatch.setattr(isolation, "FORKS", False)
    far = load_media(path, size=32, isolate=True)
    assert np.array_equal(near.frames, far.frames) and np.array_equal(near.waveform, far.waveform)
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    with pytest.raises(isolation.WorkerError, match="crashed .signal 6"):
        ask("crash")
    with pytest.raises(isolation.WorkerError, match="longer than 1 s"):
        ask("hang", 1.0)


def test_isolated_is_the_same_and_works_from_threads(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", TIMES, sound=click(2, 1.0))
    here, there = load_media(path, size=32), []
    threads = [
        threading.Thread(target=lambda: there.append(load_media(path, size=32, isolate=True)))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(there) == 3
    for media in there:
        assert np.array_equal(media.frames, here.frames)
        assert np.array_equal(media.waveform, here.waveform)
        assert np.array_equal(media.frame_times_s, here.frame_times_s)
        assert (media.start_s, media.duration_s, media.warnings) == (0.0, here.duration_s, ())


def test_reading_media_loads_no_torch() -> None:
    """Each isolated file starts a process: it must start fast."""
    code = (
        "import sys, avchat.contour, avchat.cuts, avchat.preview; sys.exit('torch' in sys.modules)"
    )
    root = Path(__file__).resolve().parents[1]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0
