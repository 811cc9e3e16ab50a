"""Windows: every second of a file is in one, shots begin at their first frames, memory is flat."""

from pathlib import Path

import av
import numpy as np
import pytest
from clips import TIMES, click, numbered, write_clip
from joined import write_joined
from PIL import Image

from avchat import windows
from avchat.media import MediaError, probe
from avchat.windows import Window, WindowError, cut_windows, measure_length, spread


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        ((0, 5, 8, 4), [(0, 5)]),
        ((0, 8, 8, 4), [(0, 8)]),
        ((0, 8.02, 8, 4), [(0, 8.02)]),
        ((0, 12, 8, 4), [(0, 8), (4, 12)]),
        ((0, 14, 8, 4), [(0, 8), (4, 12), (6, 14)]),
        ((0, 12.5, 8, 4), [(0, 8), (4, 12.5)]),
        ((10, 20, 4, 0), [(10, 14), (14, 18), (16, 20)]),
        ((0, 1, 0.4, 0.2), [(0, 0.4), (0.2, 0.6), (0.4, 0.8), (0.6, 1)]),
    ],
)
def test_windows_cover_a_part_to_its_end(part: tuple, expected: list) -> None:
    found = [(window.start_s, window.end_s) for window in spread(*part)]
    assert np.allclose(found, expected)


@pytest.mark.parametrize("length", [0.05, 3.0, 7.99, 60.0, 1234.5])
def test_every_second_is_in_a_window_and_none_is_too_long(length: float) -> None:
    laid = spread(0.0, length, 8.0, 4.0)
    assert laid[0].start_s == 0 and laid[-1].end_s == length
    for one, two in zip(laid, laid[1:], strict=False):
        assert one.start_s < two.start_s <= one.end_s < two.end_s
    assert max(w.end_s - w.start_s for w in laid) <= 8 + windows.TAIL_S


@pytest.mark.parametrize(("length", "overlap"), [(0, 0), (-1, 0), (8, 8), (8, -1)])
def test_lengths_that_make_no_sense(clip: Path, length: float, overlap: float) -> None:
    with pytest.raises(WindowError, match="windows of"):
        cut_windows(clip, probe(clip), length_s=length, overlap_s=overlap)


def test_a_still_and_a_short_file_are_one_window(tmp_path: Path, clip: Path) -> None:
    Image.fromarray(numbered(7)).save(tmp_path / "a.png")
    still = cut_windows(tmp_path / "a.png", probe(tmp_path / "a.png"), shots=True)
    assert still == [Window(0.0, 0.0)]
    info = probe(clip)
    assert cut_windows(clip, info) == [Window(0.0, info.duration_s)]


def test_a_file_that_does_not_say_its_length(tmp_path: Path) -> None:
    write_clip(tmp_path / "a.webm", TIMES, codec="libvpx-vp9", options={"g": "10"})
    path = tmp_path / "live.webm"
    with av.open(str(tmp_path / "a.webm")) as source:
        with av.open(str(path), "w", options={"live": "1"}) as out:
            track = out.add_stream_from_template(source.streams.video[0])
            for packet in source.demux():
                if packet.size:
                    packet.stream = track
                    out.mux(packet)
    info = probe(path)
    assert info.duration_s == 0
    assert cut_windows(path, info)[-1].end_s == pytest.approx(2.0)


def test_a_length_guessed_from_the_bit_rate_is_measured(tmp_path: Path, monkeypatch) -> None:
    path = write_clip(tmp_path / "a.aac", [], sound=click(7.0, 1.0))
    monkeypatch.setattr(windows, "STRETCH_S", 0.2)  # stretches of 2 s: several, the last one short
    assert not probe(path).is_exact
    assert measure_length(path) == pytest.approx(7.0, abs=0.1)
    assert cut_windows(path, probe(path))[-1].end_s == pytest.approx(7.0, abs=0.1)


SCENES = [(3.0, "red", None), (2.3, "green", None), (6.1, "blue", None), (1.5, "grey", None)]


def test_shots_begin_at_their_first_frames(tmp_path: Path) -> None:
    path = write_joined(tmp_path / "a.mp4", SCENES)
    found = cut_windows(path, probe(path), shots=True)
    assert [w.start_s for w in found] == pytest.approx([0, 3.0, 5.3, 11.4], abs=1e-3)
    assert [w.end_s for w in found] == pytest.approx([3.0, 5.3, 11.4, 12.9], abs=0.07)
    cut = cut_windows(path, probe(path), shots=True, length_s=4, overlap_s=0)
    assert [w.start_s for w in cut] == pytest.approx([0, 3, 5.3, 7.4, 11.4], abs=1e-3)


def test_stretches_change_no_shot(tmp_path: Path, monkeypatch) -> None:
    scenes = [
        (2.0 + 0.3 * (i % 4), ("red", "green", "blue", "grey")[i % 4], None) for i in range(9)
    ]
    path = write_joined(tmp_path / "a.mp4", scenes)
    whole = cut_windows(path, probe(path), shots=True)
    assert len(whole) == 9
    monkeypatch.setattr(windows, "STRETCH_S", 5.0)
    assert cut_windows(path, probe(path), shots=True) == whole


def test_how_far_it_is_told_often_where_every_frame_is_decoded(tmp_path: Path) -> None:
    path = write_joined(tmp_path / "a.mp4", [(12.0, "red", None), (12.0, "green", None)])
    told: list[float] = []
    assert windows.find_cuts(path, 24.0, False, False, told.append) == pytest.approx([12.0])
    assert told == [10.0, 20.0, 24.0]


def test_a_flash_is_no_shot_and_a_pan_is_none(tmp_path: Path) -> None:
    flash = [(4.0, "red", None), (0.4, "green", None), (4.0, "red", None)]
    path = write_joined(tmp_path / "a.mp4", flash)
    assert len(cut_windows(path, probe(path), shots=True)) == 2  # the flash opens the second shot
    fade = np.repeat(np.linspace(0, 255, 40, dtype=np.uint8), 16 * 16 * 3)
    assert windows.jumps(windows.differences(fade.reshape(40, 16, 16, 3))) == []


def test_keyframes_alone_find_the_shots_that_begin_on_them(tmp_path: Path) -> None:
    path = write_joined(tmp_path / "a.mp4", [(20.0, "red", None), (20.0, "green", None)])
    found = cut_windows(path, probe(path), shots=True, keyframes=True, length_s=30, overlap_s=0)
    assert [w.start_s for w in found] == pytest.approx([0, 20.0])


def test_a_sound_file_has_no_shots(sound_clip: Path) -> None:
    info = probe(sound_clip)
    assert cut_windows(sound_clip, info, shots=True) == cut_windows(sound_clip, info)


def test_a_damaged_file_is_an_error(tmp_path: Path, clip: Path) -> None:
    info = probe(clip)
    path = tmp_path / "gone.mp4"
    with pytest.raises(MediaError, match="no such file"):
        measure_length(path)
    assert len(cut_windows(path, info)) == 1  # the length is known: nothing is opened


@pytest.mark.slow
def test_the_real_long_clip_falls_into_shots(shared_media: Path) -> None:
    path = shared_media / "long_1080p.mp4"
    found = cut_windows(path, probe(path), shots=True)
    assert found[0].start_s == 0 and found[-1].end_s == probe(path).duration_s
