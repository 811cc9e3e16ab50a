"""Files of many kinds -> the right frames at their true times, and sound on the same clock."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from clips import GROUPS, TIMES, click, click_s, number_of, numbered, write_av1, write_clip
from PIL import Image

from avchat import listing, pictures
from avchat.media import SAMPLE_RATE, Limits, MediaError, load_media, probe

VFR = [0, 0.04, 0.08, 0.5, 0.54, 0.58, 0.62, 1.5, 1.54, 1.9]
CODECS = {
    "h264.mp4": {},
    "h264.mkv": {},
    "h264.mov": {},
    "h264.ts": {},
    "h264.flv": {},
    "h264.avi": {},
    "h264.h264": {},
    "hevc.mp4": {"codec": "libx265", "options": {"x265-params": "log-level=none:keyint=10"}},
    "vp9.webm": {"codec": "libvpx-vp9", "options": {"g": "10"}},
    "av1.mkv": {"options": {"preset": "12", "g": "10"}},
    "mpeg2.ts": {"codec": "mpeg2video"},
    "mpeg2.mpg": {"codec": "mpeg2video"},
    "mpeg4.avi": {"codec": "mpeg4"},
    "mjpeg.avi": {"codec": "mjpeg", "options": {}},
}


def oracle(path: Path, wish: listing.Wish) -> tuple[np.ndarray, np.ndarray]:
    """Decode everything in order, skip nothing: frames uint8 [T, H, W, 3] and their times."""
    with av.open(str(path)) as container:
        stream = container.streams.best("video")
        shown = list(container.decode(stream))
        starts = [s.start_time * s.time_base for s in container.streams if s.start_time is not None]
    step = 0.04
    origin = float(max(0, min(starts, default=0)))
    times = sorted(i * step if f.time is None else f.time - origin for i, f in enumerate(shown))
    first, last = max(times[0], wish.start or 0), min(times[-1] + step, wish.end or np.inf)
    chosen: list[int] = []
    for k in range(wish.frames):
        wanted = first + (k + 0.5) * (last - first) / wish.frames
        place = max(i for i, time in enumerate(times) if time <= wanted + 1e-6)
        if place not in chosen:
            chosen.append(place)
    size = {"width": shown[0].width, "height": shown[0].height}
    frames = [shown[i].to_ndarray(format="rgb24", **size) for i in chosen]
    return np.stack(frames), np.asarray([times[i] for i in chosen])


@pytest.mark.parametrize("part", [{}, {"start": 0.7, "end": 1.5}], ids=["whole", "part"])
@pytest.mark.parametrize("frames", [5, 40], ids=["few", "many"])
@pytest.mark.parametrize("name", CODECS)
def test_every_way_of_decoding_gives_the_oracle_s_frames(
    tmp_path: Path, name: str, frames: int, part: dict
) -> None:
    write = write_av1 if name.startswith("av1") else write_clip
    path = write(tmp_path / name, TIMES, **{"options": GROUPS} | CODECS[name])
    media = load_media(path, frames=frames, **part)
    expected, times = oracle(path, listing.Wish(frames, **part))
    assert media.frame_times_s == pytest.approx(times, abs=1e-6)
    assert np.abs(media.frames.astype(int) - expected).mean() < 0.5
    assert media.warnings == ()


def test_decord_decodes_what_is_dense_and_pyav_the_same(tmp_path: Path, monkeypatch) -> None:
    path = write_clip(tmp_path / "a.mp4", TIMES, options=GROUPS)
    shape = pictures.Shape(64, 48)
    listed = listing.list_pictures(path, listing.Wish(), 10)
    decord = pictures.decode_dense(path, listed, listed.stamps, shape)
    pyav = pictures.decode_sparse(path, listed, listed.stamps, shape)
    whole = pictures.decode_all(path, np.arange(50), shape)
    for place, stamp in enumerate(listed.stamps.tolist()):
        assert number_of(decord.frames[stamp]) == number_of(pyav.frames[stamp]) == place
        assert np.array_equal(pyav.frames[stamp], whole.frames[place])
        assert np.abs(decord.frames[stamp].astype(int) - pyav.frames[stamp]).mean() < 1
    used = []
    monkeypatch.setattr(pictures, "decode_sparse", lambda *a: used.append(a))
    assert len(load_media(path, frames=50).frames) == 50 and not used


def test_variable_rate_keeps_true_times(tmp_path: Path) -> None:
    for name in ("vfr.mp4", "vfr.mkv"):
        path = write_clip(tmp_path / name, VFR)
        media = load_media(path, fps=1000)
        assert media.frame_times_s == pytest.approx(VFR, abs=1e-9)
        assert [number_of(frame) for frame in media.frames] == list(range(10))
        assert load_media(path, fps=10).frame_times_s == pytest.approx(
            [0, 0.08, 0.5, 0.58, 0.62, 1.5, 1.54, 1.9]
        )
        # The frame of 0.08 s shows up to 0.5 s, and comes once.
        shown = load_media(path, frames=10).frame_times_s
        assert shown == pytest.approx([0.08, 0.62, 1.54])


def test_uniform_frames_are_those_at_the_centres(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", np.arange(64) / 16)
    media = load_media(path, frames=16)
    assert media.frame_times_s == pytest.approx((np.arange(16) + 0.5) * 0.25)
    assert media.frames.shape == (16, 96, 128, 3) and media.frames.dtype == np.uint8
    assert load_media(path, frames=1).frame_times_s == pytest.approx([2.0])
    assert load_media(path, fps=2).frame_times_s == pytest.approx(np.arange(8) / 2)


def test_pictures_that_start_late_keep_their_offset(tmp_path: Path) -> None:
    for name in ("a.mp4", "a.mkv"):
        path = write_clip(tmp_path / name, TIMES + 0.5, sound=click(2, 1.0))
        media = load_media(path, frames=5)
        assert media.frame_times_s == pytest.approx([0.7, 1.1, 1.5, 1.9, 2.3])
        assert [number_of(frame) for frame in media.frames] == [5, 15, 25, 35, 45]
        assert click_s(media.waveform) == pytest.approx(1.0, abs=0.002)
        part = load_media(path, frames=2, start=0.1, end=0.9)
        assert part.frame_times_s == pytest.approx([0.58, 0.78])  # shown at 0.6 and at 0.8


def test_the_clock_starts_with_the_first_track(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.ts", TIMES, sound=click(2, 1.0))  # its stamps begin at 1.4 s
    media = load_media(path, frames=5)
    assert media.frame_times_s[0] == pytest.approx(0.2, abs=0.03)
    assert click_s(media.waveform) == pytest.approx(1.0, abs=0.03)
    seen_to_heard = click_s(media.waveform) - media.frame_times_s[2]
    assert seen_to_heard == pytest.approx(0.0, abs=0.002)


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts"])
def test_sound_that_starts_late_is_placed_late(tmp_path: Path, name: str) -> None:
    path = write_clip(tmp_path / name, TIMES, sound=click(2, 0.5), sound_start_s=0.7)
    media = load_media(path, frames=5)
    assert click_s(media.waveform) == pytest.approx(1.2, abs=0.002)
    assert np.abs(media.waveform[: round(0.6 * SAMPLE_RATE)]).max() == 0
    assert media.frame_times_s[0] == pytest.approx(0.2, abs=0.001)
    part = load_media(path, frames=5, start=1.0, end=1.6)
    assert click_s(part.waveform) == pytest.approx(0.2, abs=0.003)
    assert len(part.waveform) == round(0.6 * SAMPLE_RATE)


def test_a_gap_in_the_sound_stays_a_gap(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mkv", [], sound=click(3, 2.0), sound_codec="pcm_s16le")
    holed = tmp_path / "holed.mkv"
    with av.open(str(path)) as source, av.open(str(holed), "w") as out:
        stream = out.add_stream_from_template(source.streams.audio[0])
        for packet in source.demux(audio=0):
            if packet.dts is not None and not 0.5 < packet.pts * packet.time_base < 1.5:
                packet.stream = stream
                out.mux(packet)
    assert click_s(load_media(holed).waveform) == pytest.approx(2.0, abs=0.002)


@pytest.mark.parametrize(
    ("name", "codec"),
    [
        ("a.wav", "pcm_s16le"),
        ("a.flac", "flac"),
        ("a.mp3", "mp3"),
        ("a.m4a", "aac"),
        ("a.ogg", "libopus"),
    ],
)
def test_sound_alone(tmp_path: Path, name: str, codec: str) -> None:
    path = write_clip(tmp_path / name, [], sound=click(2, 1.0), sound_codec=codec)
    media = load_media(path)
    assert not media.has_video and media.has_audio and media.frames.shape[0] == 0
    assert media.waveform.dtype == np.float32
    assert len(media.waveform) == pytest.approx(2 * SAMPLE_RATE, abs=100)
    assert click_s(media.waveform) == pytest.approx(1.0, abs=0.002)
    part = load_media(path, start=0.9, end=1.1)
    assert len(part.waveform) == round(0.2 * SAMPLE_RATE) and part.start_s == 0.9
    assert click_s(part.waveform) == pytest.approx(0.1, abs=0.002)


def test_channels_are_averaged_as_whisper_does(tmp_path: Path) -> None:
    path = tmp_path / "stereo.wav"
    left = np.sin(np.arange(16_000) * 2 * np.pi * 440 / 16_000)
    wave = (np.stack([left, np.zeros_like(left)]).T * 20_000).astype(np.int16)
    with av.open(str(path), "w") as out:
        stream = out.add_stream("pcm_s16le", rate=16_000, layout="stereo")
        frame = av.AudioFrame.from_ndarray(wave.reshape(1, -1), "s16", "stereo")
        frame.sample_rate = 16_000
        out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    waveform = load_media(path).waveform
    assert np.abs(waveform - wave[:, 0] / 32768 / 2).max() < 1e-4


def test_pictures_alone_and_parts_left_alone(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", TIMES, sound=click(2, 1.0))
    silent = load_media(write_clip(tmp_path / "silent.mp4", TIMES))
    assert silent.has_video and not silent.has_audio and silent.waveform.shape == (0,)
    assert silent.warnings == ()
    unheard = load_media(path, sound=False)
    assert len(unheard.frames) == 16 and len(unheard.waveform) == 0 and unheard.has_audio
    unseen = load_media(path, frames=0)
    assert len(unseen.frames) == 0 and len(unseen.waveform) > 0 and unseen.has_video


def test_pictures_come_upright_and_square(tmp_path: Path) -> None:
    plain = load_media(write_clip(tmp_path / "plain.mp4", TIMES), frames=3)
    for degrees, turns in ((90, 1), (180, 2), (270, 3)):
        path = write_clip(tmp_path / f"{degrees}.mp4", TIMES, rotation=degrees)
        for frames in (3, 50):  # by PyAV and, if it were not turned, by decord
            turned = load_media(path, frames=frames).frames
            shown = turned[frames // 2].astype(int)
            expected = np.rot90(plain.frames[1], turns)
            assert shown.shape == expected.shape
            assert np.abs(shown - expected).mean() < 2
        assert load_media(path, frames=1, size=(40, 30)).frames.shape == (1, 30, 40, 3)
        info = probe(path)
        assert (info.width, info.height) == ((96, 128) if turns % 2 else (128, 96))
    wide = load_media(write_clip(tmp_path / "wide.mp4", TIMES, aspect=Fraction(2, 1)), frames=3)
    assert wide.frames.shape == (3, 96, 256, 3)
    assert [number_of(frame) for frame in wide.frames] == [8, 25, 41]


def test_size_scales_without_keeping_proportions(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", TIMES)
    for frames in (4, 50):
        assert load_media(path, frames=frames, size=32).frames.shape == (frames, 32, 32, 3)
        assert load_media(path, frames=frames, size=(40, 24)).frames.shape == (frames, 24, 40, 3)


def test_what_an_edit_list_cuts_off_is_not_shown(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", TIMES, options=GROUPS, sound=click(2, 1.0))
    edited = tmp_path / "edited.mp4"
    with av.open(str(path)) as source, av.open(str(edited), "w") as out:
        tracks = {s.index: out.add_stream_from_template(s) for s in source.streams}
        for packet in source.demux():
            if packet.size:
                packet.pts -= round(0.5 / packet.time_base)
                packet.dts -= round(0.5 / packet.time_base)
                packet.stream = tracks[packet.stream_index]
                out.mux(packet)
    for frames in (5, 50):
        media = load_media(edited, frames=frames)
        expected, times = oracle(edited, listing.Wish(frames))
        assert media.frame_times_s == pytest.approx(times, abs=1e-6)
        assert np.abs(media.frames.astype(int) - expected).mean() < 0.5
        assert number_of(media.frames[0]) >= 13 and media.warnings == ()
    assert click_s(media.waveform) == pytest.approx(0.5, abs=0.002)


def test_keyframes_have_their_true_times(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", TIMES, options={"g": "10", "sc_threshold": "0"})
    media = load_media(path, frames=3, keyframes=True)  # nearest to 0.32, 1.0 and 1.64 s
    assert media.frame_times_s == pytest.approx([0.4, 0.8, 1.6]) or media.frame_times_s == (
        pytest.approx([0.4, 1.2, 1.6])
    )
    assert [number_of(f) / 25 for f in media.frames] == pytest.approx(media.frame_times_s)
    every = load_media(path, frames=1000, keyframes=True, start=0.5, end=1.5)
    assert every.frame_times_s == pytest.approx([0.8, 1.2])


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.gif", "a.webp", "a.bmp", "a.tiff"])
def test_still_pictures(tmp_path: Path, name: str) -> None:
    Image.fromarray(numbered(77)).save(tmp_path / name)
    media = load_media(tmp_path / name, frames=8)
    assert media.frames.shape == (1, 96, 128, 3) and media.frame_times_s.tolist() == [0.0]
    assert media.has_video and not media.has_audio and media.warnings == ()
    assert number_of(media.frames[0]) == 77
    assert load_media(tmp_path / name, fps=2, start=3, end=4, size=32).frames.shape[0] == 1


def test_stills_are_turned_and_transparency_is_white(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held on its side
    Image.fromarray(numbered(77)).save(tmp_path / "turned.jpg", exif=exif)
    turned = load_media(tmp_path / "turned.jpg").frames[0]
    assert turned.shape == (128, 96, 3)
    assert number_of(np.rot90(turned)) == 77
    image = Image.fromarray(numbered(77)).convert("RGBA")
    image.putalpha(0)
    image.save(tmp_path / "clear.png")
    assert (load_media(tmp_path / "clear.png").frames == 255).all()


def test_cover_art_is_no_picture_track(tmp_path: Path) -> None:
    song = write_clip(tmp_path / "a.mka", [], sound=click(1, 0.5), sound_codec="flac")
    Image.fromarray(numbered(1)).save(tmp_path / "cover.png")
    covered = tmp_path / "covered.m4a"
    with (
        av.open(str(song)) as source,
        av.open(str(tmp_path / "cover.png")) as art,
        av.open(str(covered), "w", format="mp4") as out,
    ):
        sound = out.add_stream_from_template(source.streams.audio[0])
        cover = out.add_stream_from_template(art.streams.video[0])
        cover.disposition = av.stream.Disposition.attached_pic
        for packet in art.demux():
            if packet.size:
                packet.stream = cover
                out.mux(packet)
        for packet in source.demux():
            if packet.size:
                packet.stream = sound
                out.mux(packet)
    media = load_media(covered)
    assert media.has_audio and not media.has_video


def test_probe_says_what_is_there(tmp_path: Path) -> None:
    info = probe(write_clip(tmp_path / "a.mp4", TIMES, sound=click(2, 1.0)))
    assert (info.width, info.height, info.fps) == (128, 96, 25)
    assert (info.video_codec, info.audio_codec, info.sample_rate) == ("h264", "aac", 48_000)
    assert info.has_video and info.has_audio and info.duration_s == pytest.approx(2, abs=0.05)
    assert probe(tmp_path / "a.mp4", isolate=True) == info


def test_recordings_of_browsers_have_neither_length_nor_index(tmp_path: Path) -> None:
    path = tmp_path / "live.webm"
    write_clip(tmp_path / "a.webm", TIMES, codec="libvpx-vp9", options={"g": "10"})
    with av.open(str(tmp_path / "a.webm")) as source:
        with av.open(str(path), "w", options={"live": "1"}) as out:
            stream = out.add_stream_from_template(source.streams.video[0])
            for packet in source.demux():
                if packet.size:
                    packet.stream = stream
                    out.mux(packet)
    assert probe(path).duration_s == 0
    media = load_media(path, frames=5)
    assert [number_of(frame) for frame in media.frames] == [5, 15, 25, 35, 45]
    assert media.duration_s == pytest.approx(2.0) and media.warnings == ()
    assert load_media(path, frames=2, start=1.0).frame_times_s == pytest.approx(
        [1.24, 1.72], abs=0.05
    )
    with pytest.raises(MediaError, match="limit"):
        load_media(path, limits=Limits(max_duration_s=1))
