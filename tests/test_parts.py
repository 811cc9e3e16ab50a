"""Parts decoded together are what `load_media` makes of each, bit for bit, whatever the file is."""

from pathlib import Path

import numpy as np
import pytest
from clips import GROUPS, TIMES, write_clip

from avchat import pictures
from avchat.media import Media, MediaError, MediaInfo, probe
from avchat.parts import load_parts, take, take_each
from avchat.windows import Window, cut_windows

NOISE = (0.3 * np.random.default_rng(0).standard_normal(6 * 48_000)).astype(np.float32)
UNEVEN = np.cumsum(np.random.default_rng(1).choice([0.02, 0.04, 0.2, 0.7], 25))
LONG = np.arange(150) / 25
MADE = {
    "uneven.mp4": {"times_s": UNEVEN, "options": GROUPS},
    "uneven.mkv": {"times_s": UNEVEN, "options": GROUPS},
    "late sound.mp4": {"times_s": LONG, "options": GROUPS, "sound_start_s": 2.3},
    "late picture.mp4": {"times_s": LONG[70:], "options": GROUPS},
    "open groups.mkv": {"times_s": LONG, "options": {"g": "20", "x264-params": "open-gop=1"}},
    "turned.mp4": {"times_s": LONG, "options": GROUPS, "rotation": 90},
    "a.ts": {"times_s": LONG, "options": GROUPS},
    "a.webm": {"times_s": LONG, "codec": "libvpx-vp9", "sound_codec": "libopus"},
    "no B.avi": {"times_s": LONG, "codec": "mpeg4", "sound_codec": "mp3"},
    "B.avi": {"times_s": LONG, "codec": "mpeg4", "options": {"bf": "2"}, "sound_codec": "mp3"},
    "sound.m4a": {"times_s": []},
}


def windows_of(path: Path, length_s: float = 2.0) -> tuple[MediaInfo, list[Window]]:
    """Cut a file, and ask for a part that it has not."""
    info = probe(path)
    return info, cut_windows(path, info, length_s=length_s, overlap_s=length_s / 2)


def check(path: Path, windows: list[Window], **look: object) -> list[Media | MediaError]:
    """Decode parts both ways and compare all that is known of them."""
    look = {"frames": 5, "size": 32, "sound": True, "keyframes": False} | look
    request = {"path": str(path), "parts": [(w.start_s, w.end_s) for w in windows], "look": look}
    together, each = take(request), take_each(request)
    for one, two in zip(together, each, strict=True):
        if isinstance(two, MediaError):
            assert str(one) == str(two)
            continue
        for name, value in vars(two).items():
            assert np.array_equal(vars(one)[name], value), (path.name, name)
    return together


@pytest.mark.slow
@pytest.mark.parametrize("name", MADE)
def test_parts_of_made_files(name: str, tmp_path: Path) -> None:
    path = write_clip(tmp_path / name, sound=NOISE, **MADE[name])
    info, windows = windows_of(path)
    assert len(windows) >= 4
    check(path, windows)
    check(path, windows[2:5], keyframes=True)
    check(path, windows[1:4], sound=False, size=None)
    check(path, windows[1:4], frames=0)
    gone = [*windows[-2:], Window(info.duration_s + 5, info.duration_s + 6)]
    assert isinstance(check(path, gone)[-1], MediaError)
    check(path, windows[::-1])  # not in order


@pytest.mark.parametrize("name", ["late sound.mp4", "uneven.mkv", "a.ts", "a.webm", "no B.avi"])
@pytest.mark.parametrize("seed", range(2))
def test_parts_of_damaged_files(name: str, seed: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(seed)
    path = write_clip(tmp_path / name, sound=NOISE, **MADE[name])
    whole = np.frombuffer(path.read_bytes(), np.uint8).copy()
    places = rng.integers(len(whole) // 4, int(len(whole) * 0.9), 30)
    whole[places] = rng.integers(0, 256, len(places))
    path.write_bytes(whole.tobytes())
    check(path, windows_of(path)[1])
    path.write_bytes(whole.tobytes()[: int(len(whole) * 0.7)])
    if path.suffix != ".mp4":  # which is nothing without its end
        check(path, windows_of(path)[1])


@pytest.mark.slow
def test_parts_of_real_files(shared_media: Path) -> None:
    for path in sorted(shared_media.iterdir()):
        if path.suffix not in (".md", ".txt"):
            check(path, windows_of(path, 4.0)[1][:8])


def test_each_group_of_pictures_is_decoded_once(tmp_path: Path, monkeypatch) -> None:
    path = write_clip(tmp_path / "a.mp4", LONG, options=GROUPS, sound=NOISE)
    decoded: list[int] = []
    one_by_one = pictures.decode_groups

    def counted(path: Path, keys: dict, groups: list, *rest: object) -> pictures.Decoded:
        decoded.extend(key for key, _ in groups)
        return one_by_one(path, keys, groups, *rest)

    monkeypatch.setattr(pictures, "decode_groups", counted)
    assert len(load_parts(path, windows_of(path)[1], frames=8, size=32)) == 5
    assert len(decoded) == len(set(decoded)) == 15


def test_a_still_and_a_file_that_is_not_there(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", TIMES)
    check(path, [Window(0.0, 2.0)])
    [fault] = check(tmp_path / "gone.mp4", [Window(0.0, 2.0)])
    assert "no such file" in str(fault)
