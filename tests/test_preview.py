"""Copies for the browser: what needs one, and that they show the same at the same times."""

import os
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import av
import numpy as np
import pytest
from clips import GROUPS, TIMES, click, click_s, number_of, numbered, write_clip
from PIL import Image

from avchat import isolation
from avchat.cuts import cut, cut_isolated
from avchat.media import MediaError, load_media, probe
from avchat.preview import make_preview, plays_in_browsers
from avchat.writing import ExportError

if TYPE_CHECKING:
    from playwright.sync_api import Browser

LONG = np.arange(100) / 25  # 4 s
CLICK_S = 2.0
HEVC = {"codec": "libx265", "options": {"x265-params": "log-level=none:keyint=20"}}
DEEP = {"pixels": "yuv420p10le"}
VP9 = {"codec": "libvpx-vp9", "sound_codec": "libopus", "options": {"cpu-used": "8"}}
SOUND = {"sound": click(1, 0.5)}
KINDS = [
    ("a.mp4", {}, True),
    ("a.mp4", SOUND, True),
    ("A.MP4", SOUND, True),
    ("a.mov", SOUND, True),
    ("a.mp4", SOUND | {"sound_codec": "libmp3lame"}, True),
    ("a.mp4", SOUND | {"sound_codec": "ac3"}, False),
    ("a.mp4", DEEP, False),
    ("a.mp4", {"pixels": "yuv444p"}, False),
    ("a.mp4", HEVC, False),
    ("a.mp4", {"codec": "mpeg4"}, False),
    ("a.avi", {"codec": "mpeg4"}, False),
    ("a.mkv", SOUND, False),
    ("a.ts", SOUND, False),
    ("a.webm", SOUND | VP9, True),
    ("a.mkv", SOUND | VP9, False),
    ("a.gif", {"codec": "gif", "pixels": "rgb8"}, False),
]
SOUNDS = [
    ("a.wav", "pcm_s16le", True),
    ("a.wav", "adpcm_ms", False),
    ("a.flac", "flac", True),
    ("a.mp3", "libmp3lame", True),
    ("a.m4a", "aac", True),
    ("a.m4a", "alac", False),
    ("a.ogg", "libopus", True),
    ("a.aac", "aac", False),  # its length is a guess: nobody can seek in it
    ("a.mka", "libopus", False),
]


def preview_of(path: Path, **more: object) -> Path:
    """Make the copy of a file beside it."""
    made = make_preview(path, probe(path), path.with_name(f"of {path.stem}"), **more)
    assert made is not None
    return made


def plays(path: Path) -> bool:
    """Ask whether browsers play a file."""
    return plays_in_browsers(path, probe(path))


@pytest.mark.parametrize(("name", "more", "expected"), KINDS)
def test_which_films_browsers_play(name: str, more: dict, expected: bool, tmp_path: Path) -> None:
    path = write_clip(tmp_path / name, TIMES[:25], **more)
    assert plays(path) is expected
    if not expected:
        copy = preview_of(path)
        assert copy.name == "of a.mp4"
        assert plays(copy) and probe(copy).has_audio == ("sound" in more)


@pytest.mark.parametrize(("name", "codec", "expected"), SOUNDS)
def test_which_sounds_browsers_play(name: str, codec: str, expected: bool, tmp_path: Path) -> None:
    path = write_sound(tmp_path / name, codec)
    assert plays(path) is expected
    copy = preview_of(path)
    assert copy.suffix == ".m4a" and plays(copy)
    heard = load_media(copy, frames=0)
    assert click_s(heard.waveform) == pytest.approx(click_s(load_media(path).waveform), abs=0.005)


def write_sound(path: Path, codec: str) -> Path:
    """Write 1 s with a click in the middle, in the samples that the codec takes."""
    with av.open(str(path), "w") as out:
        track = out.add_stream(codec, rate=48_000, layout="mono")
        resampler = av.AudioResampler(track.format.name, "mono", 48_000, track.frame_size or 1024)
        frame = av.AudioFrame.from_ndarray(click(1, 0.5)[None], "fltp", "mono")
        frame.sample_rate = 48_000
        for piece in [*resampler.resample(frame), *resampler.resample(None), None]:
            out.mux(track.encode(piece))
    return path


def test_a_film_that_is_cut_short_or_starts_late_is_copied(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", TIMES)
    short = tmp_path / "short.mp4"
    with av.open(str(path)) as source:  # the index first, then half of what it promises
        options = {"movflags": "+faststart"}
        with av.open(str(short), "w", options=options) as target:
            track = target.add_stream_from_template(source.streams.video[0])
            for packet in source.demux(video=0):
                if packet.dts is not None:
                    packet.stream = track
                    target.mux(packet)
    assert plays(short)
    os.truncate(short, short.stat().st_size * 2 // 3)
    assert not plays(short)
    assert probe(preview_of(short)).has_video
    late = write_clip(tmp_path / "late.webm", TIMES + 3, codec="libvpx-vp9")
    assert not plays(late)
    assert load_media(preview_of(late), fps=1.0).frame_times_s[0] == 0


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("hevc.mp4", HEVC),
        ("ten.mkv", DEEP | {"sound_codec": "libopus"}),
        ("xvid.avi", {"codec": "mpeg4", "sound_codec": "libmp3lame"}),
        ("open.ts", {"options": GROUPS, "sound_codec": "mp2"}),
    ],
)
def test_a_copy_is_on_the_same_clock(name: str, more: dict, tmp_path: Path) -> None:
    path = write_clip(tmp_path / name, LONG, sound=click(4, CLICK_S), **more)
    copy = preview_of(path)
    there, here = load_media(path, frames=200), load_media(copy, frames=200)
    assert here.warnings == () and len(here.frames) == len(there.frames) == 100
    assert [number_of(frame) for frame in here.frames] == list(range(100))
    assert np.abs(here.frame_times_s - there.frame_times_s).max() < 1e-3
    assert click_s(here.waveform) == pytest.approx(click_s(there.waveform), abs=0.005)
    assert np.abs(here.frames.astype(int) - there.frames).mean() < 6


def test_a_copy_is_small_upright_and_quick_to_seek_in(tmp_path: Path) -> None:
    quick = {"preset": "ultrafast"}
    times = np.arange(60) / 10
    path = write_clip(tmp_path / "a.mkv", times, size=(1280, 640), rotation=90, options=quick)
    copy = preview_of(path)
    info = probe(copy)
    assert (info.width, info.height, info.is_turned) == (428, 854, False)
    seen, source = load_media(copy, frames=1), load_media(path, frames=1, size=(428, 854))
    assert np.abs(seen.frames.astype(int) - source.frames).mean() < 6
    with av.open(str(copy)) as container:
        stream = container.streams.video[0]
        packets = [packet for packet in container.demux(stream) if packet.size]
        keys = [float(packet.pts * stream.time_base) for packet in packets if packet.is_keyframe]
    assert max(np.diff([*keys, 6.0])) <= 2.05
    assert copy.read_bytes().find(b"moov") < copy.read_bytes().find(b"mdat")


def test_uneven_frames_and_a_late_sound_keep_their_times(tmp_path: Path) -> None:
    times = [0, 0.04, 0.08, 0.5, 0.54, 0.58, 0.62, 1.5, 1.54, 1.9]
    sound = {"sound": click(1, 0.5), "sound_start_s": 1.25}
    copy = preview_of(write_clip(tmp_path / "a.mkv", times, size=(129, 97), codec="ffv1", **sound))
    media = load_media(copy, frames=50)
    assert media.frame_times_s == pytest.approx(times, abs=2e-3)
    assert click_s(media.waveform) == pytest.approx(1.75, abs=0.01)


def test_frames_that_come_too_fast_are_left_out(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mkv", np.arange(200) / 200)
    media = load_media(preview_of(path), frames=500)
    assert 45 <= len(media.frames) <= 75
    shown = [number_of(frame) for frame in media.frames]
    assert shown == pytest.approx((media.frame_times_s * 200).tolist(), abs=1)


@pytest.mark.parametrize("name", ["a.tif", "a.bmp", "a.ppm"])
def test_stills_that_browsers_do_not_show(name: str, tmp_path: Path) -> None:
    Image.fromarray(numbered(77, 3000, 300)).save(tmp_path / name)
    assert not plays(tmp_path / name)
    copy = preview_of(tmp_path / name)
    shown = Image.open(copy)
    assert copy.suffix == ".jpg" and shown.size == (2048, 205)
    assert number_of(np.asarray(shown)) == 77


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "a.gif"])
def test_stills_that_browsers_show(name: str, tmp_path: Path) -> None:
    Image.fromarray(numbered(77)).save(tmp_path / name)
    assert plays(tmp_path / name)
    (tmp_path / name).rename(tmp_path / "other.tif")
    assert not plays(tmp_path / "other.tif")


@pytest.fixture(scope="module")
def long_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One that takes a second or more to encode."""
    times = np.arange(300) / 25
    path = tmp_path_factory.mktemp("long") / "long.mkv"
    return write_clip(path, times, size=(848, 480), options={"preset": "ultrafast"})


def test_progress_rises_to_the_length(long_clip: Path) -> None:
    told: list[tuple[float, float]] = []
    assert preview_of(long_clip, progress=lambda *how: told.append(how)).is_file()
    done = [one for one, _ in told]
    assert len(told) > 1 and done == sorted(done) and done[-1] > 3
    assert {total for _, total in told} == {probe(long_clip).duration_s}


@pytest.mark.parametrize("forks", [True, False])
def test_stopping_leaves_no_file_and_takes_no_time(
    forks: bool, long_clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(isolation, "FORKS", forks and isolation.FORKS)
    info, stop, began = probe(long_clip), threading.Event(), []

    def stop_it(done: float, total: float) -> None:
        began.append(time.monotonic())
        stop.set()

    assert make_preview(long_clip, info, tmp_path / "a", progress=stop_it, stop=stop) is None
    assert len(began) == 1 and time.monotonic() - began[0] < 5
    assert cut_isolated(long_clip, 1, 11, tmp_path / "b.mp4", exact=True, stop=stop) is None
    assert list(tmp_path.iterdir()) == []


def test_a_crash_or_a_hang_leaves_no_file(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    info = probe(clip)
    for module in ("preview", "cuts"):
        monkeypatch.setattr(f"avchat.{module}.SERVE", "test_media_faults:crash")
    with pytest.raises(MediaError, match=r"^clip\.mp4: preparing it for the player crashed"):
        make_preview(clip, info, tmp_path / "a")
    with pytest.raises(MediaError, match=r"^clip\.mp4: cutting crashed"):
        cut_isolated(clip, 0, 1, tmp_path / "b.mp4")
    monkeypatch.setattr("avchat.preview.SERVE", "test_media_faults:hang")
    with pytest.raises(MediaError, match=r"took longer than 1 s"):
        make_preview(clip, info, tmp_path / "a", timeout_s=1)
    assert list(tmp_path.iterdir()) == []


def test_errors_are_one_line_without_a_folder(clip: Path, tmp_path: Path) -> None:
    info = probe(clip)
    lost = tmp_path / "lost.mp4"
    for wrong, out in ((clip, tmp_path / "no" / "a"), (lost, tmp_path / "a")):
        with pytest.raises(MediaError) as raised:
            make_preview(wrong, info, out)
        said = str(raised.value)
        assert said.startswith(wrong.name) and "/" not in said and "\n" not in said
    (tmp_path / "text.mp4").write_text("not a film\n" * 20)
    with pytest.raises(MediaError, match="this is text"):
        plays_in_browsers(tmp_path / "text.mp4", info)


@pytest.mark.parametrize("exact", [False, True])
def test_a_cut_elsewhere_is_the_cut_here(exact: bool, tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", LONG, options=GROUPS, sound=click(4, CLICK_S))
    told: list[float] = []
    here = cut(path, 1.5, 3.1, tmp_path / "here.mp4", exact=exact)
    there = cut_isolated(
        path, 1.5, 3.1, tmp_path / "there.mp4", exact=exact, progress=lambda *how: told.append(how)
    )
    assert there is not None and vars(there) == vars(here) | {"path": str(tmp_path / "there.mp4")}
    assert (tmp_path / "there.mp4").read_bytes() == (tmp_path / "here.mp4").read_bytes()
    assert bool(told) is exact


def test_a_cut_elsewhere_has_the_same_errors(clip: Path, tmp_path: Path) -> None:
    out = tmp_path / "b.mp4"
    (tmp_path / "text.mp4").write_text("not a film\n" * 20)
    Image.fromarray(numbered(7)).save(tmp_path / "a.png")
    for path, part, name in (
        (clip, (2, 1), out.name),
        (clip, (9, 10), out.name),
        (clip, (0, 1), "b.xyz"),
        (clip, (0, 1), "no/b.mp4"),
        (tmp_path / "text.mp4", (0, 1), out.name),
        (tmp_path / "a.png", (0, 1), out.name),
    ):
        with pytest.raises((ExportError, MediaError)) as here:
            cut(path, *part, tmp_path / name)
        with pytest.raises(here.type) as there:
            cut_isolated(path, *part, tmp_path / name)
        assert str(there.value).partition(": ")[0] == str(here.value).partition(": ")[0]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "text.mp4"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("h265_10bit_no_audio.mp4", False),
        ("av1_no_audio.mkv", False),
        ("rotated_90.mov", True),
        ("bad_container.mp4", True),
        ("nasa_many_streams.mp4", False),
        ("corrupted.mp4", True),
    ],
)
def test_real_clips(name: str, expected: bool, shared_media: Path, tmp_path: Path) -> None:
    path = shared_media / name
    info = probe(path)
    assert plays(path) is expected
    copy = make_preview(path, info, tmp_path / "a")
    shape = probe(copy)
    assert shape.has_audio == info.has_audio and shape.width <= 854
    more = {"frames": 8, "sound": False, "size": (shape.width, shape.height)}
    there, here = load_media(path, **more), load_media(copy, **more)
    assert here.frame_times_s == pytest.approx(there.frame_times_s, abs=0.05)
    assert np.abs(here.frames.astype(int) - there.frames).mean() < 6


@pytest.mark.timeout(200)
def test_a_real_browser_plays_copies(browser: "Browser", tmp_path: Path) -> None:
    """At a time it shows the frame that `load_media` gives of that time."""
    sound = {"sound": click(4, CLICK_S)}
    xvid = {"codec": "mpeg4", "sound_codec": "libmp3lame"}
    sources = [
        write_clip(tmp_path / "hevc.mp4", LONG, **HEVC, **sound),
        write_clip(tmp_path / "xvid.avi", LONG, **xvid, **sound),
    ]
    as_it_is = [
        write_clip(tmp_path / "a.mov", LONG, rotation=180, **sound),
        write_clip(tmp_path / "a.webm", LONG, **VP9, **sound),
    ]
    assert all(plays(path) for path in as_it_is)
    page = browser.new_page(viewport={"width": 128, "height": 96})
    for path in [preview_of(source) for source in sources] + as_it_is:
        page.goto(path.parent.as_uri())
        page.set_content("<body style='margin:0'><video muted style='display:block'></video>")
        assert page.evaluate(PLAY, path.as_uri()) >= 1
        for time_s in (0.02, 1.02, 3.5):
            assert page.evaluate(SEEK, time_s) == pytest.approx(time_s, abs=0.01)
            picture = tmp_path / "shown.png"
            page.screenshot(path=picture)
            shown = np.asarray(Image.open(picture).convert("RGB"))
            wanted = load_media(path, frames=1, start=time_s, end=time_s + 1e-3).frames[0]
            assert number_of(shown) == number_of(wanted), (path.name, time_s)
    page.close()


PLAY = """async source => {
  const video = document.querySelector('video');
  video.src = source;
  await video.play();
  const start = Date.now();
  while (video.currentTime < 0.3 && Date.now() - start < 20000)
    await new Promise(resolve => setTimeout(resolve, 50));
  video.pause();
  return video.currentTime < 0.3 ? -1 : video.readyState - 1;
}"""
SEEK = """async time => {
  const video = document.querySelector('video');
  const sought = new Promise(resolve => video.addEventListener('seeked', resolve, {once: true}));
  video.currentTime = time;
  await sought;
  await new Promise(resolve => setTimeout(resolve, 200));
  return video.currentTime;
}"""
