"""The real clips beside the project do what their README says."""

from pathlib import Path

import numpy as np
import pytest

from avchat.media import SAMPLE_RATE, load_media, probe

SEEN_AND_HEARD = {
    "dog_barking.mp4": (7.2, 854, 480),
    "videollama2_demo_3.mp4": (6.1, 640, 360),
    "cavmae_1.mp4": (10.0, 256, 144),
    "flipping_a_pancake.mkv": (10.4, 426, 240),
    "nasa_many_streams.mp4": (13.0, 480, 270),
    "bad_container.mp4": (5.0, 480, 270),
    "long_1080p.mp4": (67.7, 1920, 1080),
}


@pytest.mark.parametrize("name", SEEN_AND_HEARD)
def test_real_clips_are_seen_and_heard(shared_media: Path, name: str) -> None:
    seconds, width, height = SEEN_AND_HEARD[name]
    info = probe(shared_media / name)
    assert (info.width, info.height) == (width, height)
    media = load_media(shared_media / name, size=64)
    assert media.frames.shape == (16, 64, 64, 3) and media.warnings == ()
    assert media.duration_s == pytest.approx(seconds, abs=0.1)
    assert len(media.waveform) / SAMPLE_RATE == pytest.approx(seconds, abs=0.2)
    expected = (np.arange(16) + 0.5) * seconds / 16
    assert np.abs(media.frame_times_s - expected).max() < 0.15


@pytest.mark.parametrize(
    "name",
    ["silence_girl.mp4", "muted_no_track.mp4", "av1_no_audio.mkv", "h265_10bit_no_audio.mp4"],
)
def test_real_clips_without_a_sound_track(shared_media: Path, name: str) -> None:
    media = load_media(shared_media / name, size=64)
    assert media.has_video and not media.has_audio and len(media.frames) == 16
    assert media.warnings == ()
    assert media.frames.std() > 10


@pytest.mark.parametrize(
    ("name", "seconds"),
    [("jfk.flac", 11.0), ("audiocaps_102666.wav", 10.0), ("audiocaps_11569.wav", 10.0)],
)
def test_real_sound_files(shared_media: Path, name: str, seconds: float) -> None:
    media = load_media(shared_media / name)
    assert media.has_audio and not media.has_video and media.warnings == ()
    assert len(media.waveform) == seconds * SAMPLE_RATE and media.waveform.std() > 0.01


def test_the_real_turned_clip_is_upright(shared_media: Path) -> None:
    path = shared_media / "rotated_90.mov"
    assert load_media(path).frames.shape == (3, 568, 320, 3)


def test_the_real_damaged_clip_is_used_with_a_warning(shared_media: Path) -> None:
    for frames in (16, 50):
        media = load_media(shared_media / "corrupted.mp4", frames=frames, size=64)
        assert len(media.frames) >= frames - 2
        assert any("damaged" in said for said in media.warnings)
