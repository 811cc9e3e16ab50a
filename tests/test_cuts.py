"""Cut files are read again: they hold the part that was asked for, picture and sound together."""

import os
from pathlib import Path

import av
import numpy as np
import pytest
from clips import GROUPS, TIMES, click, click_s, number_of, numbered, write_clip
from PIL import Image

from avchat.cuts import cut
from avchat.media import MediaError, load_media, probe
from avchat.writing import ExportError

LONG = np.arange(100) / 25  # 4 s
CLICK_S = 2.0  # frame 50 flashes up, so to say, when the click sounds
KINDS = {
    "h264.mp4": {"options": GROUPS},
    "h264.mkv": {"options": GROUPS},
    "h264.ts": {"options": GROUPS},
    "h264.mov": {"options": GROUPS},
    "vp9.webm": {"codec": "libvpx-vp9", "options": {"g": "10"}, "sound_codec": "libopus"},
    "mpeg2.mpg": {"codec": "mpeg2video", "sound_codec": "mp2"},
}


def clip_of(path: Path, **more: object) -> Path:
    """Write 4 s of numbered frames with a click at 2 s."""
    return write_clip(path, LONG, sound=click(4, CLICK_S), **more)


def shown_at(path: Path, time_s: float) -> int:
    """Read the number off the frame that is on at a moment."""
    return number_of(load_media(path, frames=1, start=time_s, end=time_s + 1e-3).frames[0])


def assert_in_step(path: Path) -> float:
    """Check that the click sounds while the frame of its moment is on; return when."""
    heard = click_s(load_media(path, frames=0).waveform)
    assert abs(shown_at(path, heard) - CLICK_S * 25) <= 1.25  # 50 ms
    return heard


@pytest.mark.parametrize("exact", [False, True], ids=["copy", "exact"])
@pytest.mark.parametrize("name", KINDS)
def test_a_cut_holds_the_part_in_step(name: str, exact: bool, tmp_path: Path) -> None:
    source = clip_of(tmp_path / name, **KINDS[name])
    out = tmp_path / f"cut{'.mp4' if exact else source.suffix}"
    if source.suffix == ".mpg":  # not all of its packets say when they show
        out = tmp_path / "cut.mp4"
    done = cut(source, 1.5, 3.1, out, exact=exact)
    media = load_media(out, frames=200)
    assert media.warnings == ()
    if source.suffix != ".mpg":
        assert done.copied is not exact
    assert media.duration_s == pytest.approx(done.end - done.start, abs=0.08)
    numbers = [number_of(frame) for frame in media.frames]
    assert numbers[0] == pytest.approx(done.start * 25, abs=1)
    # Without a hole up to the end; of the frames after it, a copy has those that others refer to.
    inside = [number for number in numbers if number <= 75]
    assert inside == list(range(numbers[0], 76))
    heard = assert_in_step(out)
    assert done.start + heard == pytest.approx(CLICK_S, abs=0.05)
    if not done.copied:
        assert (done.start, done.end) == (1.5, 3.1)
        assert abs(numbers[0] - 37) <= 1 and abs(len(numbers) - 41) <= 1
    else:
        assert done.start <= 1.5 and done.start == pytest.approx(1.2, abs=0.3)
        assert done.end == pytest.approx(3.1, abs=0.13)


def test_a_copy_keeps_every_bit_of_the_pictures(tmp_path: Path) -> None:
    source = clip_of(tmp_path / "a.mp4", options=GROUPS)
    done = cut(source, 1.3, 2.5, tmp_path / "b.mp4")
    assert done.start == pytest.approx(1.2)  # the keyframe before
    copied, whole = packets(tmp_path / "b.mp4"), packets(source)
    assert len(copied) > 30 and set(copied) <= set(whole)


def packets(path: Path) -> list[bytes]:
    """Read the packets of the picture track."""
    with av.open(str(path)) as container:
        return [bytes(packet) for packet in container.demux(video=0) if packet.size]


@pytest.mark.parametrize("part", [(0, 1), (0.02, 4), (3.5, 99), (1.99, 2.01)])
def test_parts_at_the_edges(part: tuple[float, float], tmp_path: Path) -> None:
    source = clip_of(tmp_path / "a.mp4", options=GROUPS)
    for exact in (False, True):
        out = tmp_path / f"{exact}.mp4"
        done = cut(source, *part, out, exact=exact)
        assert done.start <= part[0] and done.end >= min(part[1], 3.9) - 1e-6
        assert load_media(out).duration_s == pytest.approx(done.end - done.start, abs=0.08)
        assert shown_at(out, 0.0) == pytest.approx(done.start * 25, abs=1)


def test_a_container_that_cannot_hold_the_codecs_gets_new_ones(tmp_path: Path) -> None:
    source = clip_of(tmp_path / "a.webm", **KINDS["vp9.webm"])
    done = cut(source, 1.5, 3.1, tmp_path / "b.mov")
    assert done.copied is False and (done.start, done.end) == (1.5, 3.1)
    info = probe(tmp_path / "b.mov")
    assert (info.video_codec, info.audio_codec) == ("h264", "aac")
    assert_in_step(tmp_path / "b.mov")


def test_a_file_whose_packets_bear_no_times_is_encoded(tmp_path: Path) -> None:
    source = write_clip(tmp_path / "a.avi", TIMES, options=GROUPS)
    done = cut(source, 0.5, 1.5, tmp_path / "b.mp4")
    assert not done.copied and shown_at(tmp_path / "b.mp4", 0.0) == pytest.approx(12, abs=2)


@pytest.mark.parametrize(
    ("name", "codec"), [("a.flac", "flac"), ("a.mp3", "mp3"), ("a.m4a", "aac")]
)
def test_sound_files(name: str, codec: str, tmp_path: Path) -> None:
    source = write_clip(tmp_path / name, [], sound=click(4, CLICK_S), sound_codec=codec)
    done = cut(source, 1.5, 3.1, tmp_path / f"b{source.suffix}")
    assert done.copied and done.start == 1.5
    wave = load_media(tmp_path / f"b{source.suffix}").waveform
    assert 1.5 + click_s(wave) == pytest.approx(CLICK_S, abs=0.1)
    done = cut(source, 1.5, 3.1, tmp_path / "exact.m4a", exact=True)
    wave = load_media(tmp_path / "exact.m4a").waveform
    assert 1.5 + click_s(wave) == pytest.approx(CLICK_S, abs=0.01)
    assert len(wave) / 16_000 == pytest.approx(1.6, abs=0.03)


def test_a_late_sound_track_stays_late(tmp_path: Path) -> None:
    source = write_clip(tmp_path / "a.mp4", LONG, sound=click(2, 0.5), sound_start_s=1.5)
    for exact in (False, True):
        out = tmp_path / f"{exact}.mp4"
        cut(source, 0.5, 3.5, out, exact=exact)
        assert_in_step(out)


def test_a_turned_file_stays_upright(tmp_path: Path) -> None:
    source = write_clip(tmp_path / "a.mp4", LONG, options=GROUPS, rotation=90)
    upright = load_media(source, frames=1).frames[0]
    for exact in (False, True):
        out = tmp_path / f"{exact}.mp4"
        cut(source, 0.0, 4.0, out, exact=exact)
        again = load_media(out, frames=1).frames[0]
        assert again.shape == upright.shape
        assert np.abs(again.astype(int) - upright).mean() < 8


def test_odd_sizes_become_even(tmp_path: Path) -> None:
    source = write_clip(tmp_path / "a.mkv", TIMES, codec="ffv1", size=(129, 97))
    cut(source, 0.0, 1.0, tmp_path / "b.mp4", exact=True)
    info = probe(tmp_path / "b.mp4")
    assert (info.width, info.height) == (130, 98)


def test_frames_of_any_rate_keep_their_times(tmp_path: Path) -> None:
    times = [0, 0.04, 0.08, 0.5, 0.54, 0.58, 0.62, 1.5, 1.54, 1.9]
    source = write_clip(tmp_path / "a.mkv", times)
    cut(source, 0.5, 1.8, tmp_path / "b.mp4", exact=True)
    shown = load_media(tmp_path / "b.mp4", fps=25).frame_times_s
    assert shown == pytest.approx([0, 0.04, 0.08, 0.12, 1.0, 1.04], abs=2e-3)


def test_the_source_and_other_files_are_safe(tmp_path: Path, sound_clip: Path) -> None:
    source = clip_of(tmp_path / "a.mp4")
    before = source.read_bytes()
    with pytest.raises(ExportError, match="this is the source"):
        cut(source, 0, 1, source, overwrite=True)
    (tmp_path / "link.mp4").symlink_to(source)
    with pytest.raises(ExportError, match="this is the source"):
        cut(source, 0, 1, tmp_path / "link.mp4", overwrite=True)
    other = tmp_path / "b.mp4"
    other.write_bytes(b"precious")
    with pytest.raises(ExportError, match="already"):
        cut(source, 0, 1, other)
    with pytest.raises(MediaError, match="no such file"):
        cut(tmp_path / "gone.mp4", 0, 1, other, overwrite=True)
    assert other.read_bytes() == b"precious" and source.read_bytes() == before
    cut(source, 0, 1, other, overwrite=True)
    assert probe(other).has_video
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.mp4", "b.mp4", "link.mp4"]


@pytest.mark.parametrize(
    ("part", "out", "said"),
    [
        ((2, 1), "b.mp4", "cannot cut from 2 s to 1 s"),
        ((1, 1), "b.mp4", "cannot cut from 1 s to 1 s"),
        ((-1, 1), "b.mp4", "cannot cut from -1 s"),
        ((9, 10), "b.mp4", "the file is 4.0 s long"),
        ((0, 1), "no/b.mp4", "No such file"),
        ((0, 1), "b.xyz", "cannot be written"),
        ((0, 1), "b", "cannot be written"),
    ],
)
def test_cuts_that_cannot_be(part: tuple, out: str, said: str, clip: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=said):
        cut(clip, *part, tmp_path / out)
    assert list(tmp_path.iterdir()) == []


def test_a_still_has_no_parts(tmp_path: Path) -> None:
    Image.fromarray(numbered(7)).save(tmp_path / "a.png")
    with pytest.raises(ExportError, match="still picture"):
        cut(tmp_path / "a.png", 0, 1, tmp_path / "b.mp4")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written(clip: Path, tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(ExportError, match="Permission denied"):
        cut(clip, 0, 1, tmp_path / "b.mp4")


def test_real_clips_are_cut(shared_media: Path, tmp_path: Path) -> None:
    for name in ("dog_barking.mp4", "flipping_a_pancake.mkv", "nasa_many_streams.mp4"):
        source = shared_media / name
        out = tmp_path / f"cut {name}"
        done = cut(source, 2.0, 4.5, out)
        assert done.copied and done.start <= 2.0 and done.end == pytest.approx(4.5, abs=0.2)
        media = load_media(out, frames=4, size=32)
        assert media.has_audio and media.warnings == ()
        assert media.duration_s == pytest.approx(done.end - done.start, abs=0.1)
        there = load_media(source, frames=4, size=32, start=done.start, end=done.end)
        assert np.abs(media.frames.astype(int) - there.frames).mean() < 6
        # the sounds lie on each other best without any shift
        one, two = media.waveform[8000:24000], there.waveform[8000:24000]
        shifts = range(-1600, 1601, 80)
        likeness = [float(one[1600:-1600] @ two[1600 + s : len(two) - 1600 + s]) for s in shifts]
        assert abs(shifts[int(np.argmax(likeness))]) <= 800  # 50 ms
