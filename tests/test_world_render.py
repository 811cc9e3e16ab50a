"""The renderer: same seed same bits, every cue measurable, and files that decode to the arrays."""

import time
from dataclasses import replace
from itertools import product
from pathlib import Path

import av
import numpy as np
import pytest

from avchat.media import load_media
from avchat.world.casting import draw_kind, draw_scene
from avchat.world.clip_file import FPS, FRAMES, write_film
from avchat.world.pictures import object_centres
from avchat.world.render import render_frames, render_waveform, write_clip
from avchat.world.scenes import (
    COLOURS,
    DURATION_S,
    EVENTS,
    MOTIONS,
    PLACES,
    SHAPES,
    SIZES,
    SLOTS,
    SOUNDS,
    VOICES,
    WORDS,
    Event,
    Object,
    Scene,
    Sound,
    slot_times_s,
)
from avchat.world.sounds import CLIP_RMS, SAMPLE_RATE, SILENT_RMS

# Of one scene: mean brightness of 4x4 tiles at the middle of slots 2 and 5, and of |sound| by slot.
MEANS = [
    [
        [53.1, 57.1, 62.8, 71.0],
        [50.9, 55.1, 64.1, 76.8],
        [77.1, 62.7, 57.3, 61.2],
        [52.9, 53.7, 54.8, 59.1],
    ],
    [
        [53.1, 57.1, 71.0, 87.1],
        [50.9, 55.1, 78.6, 108.9],
        [70.5, 60.7, 57.3, 61.2],
        [65.6, 58.9, 54.8, 59.1],
    ],
]
LEVELS = [32.6, 32.2, 2218.2, 32.7, 32.8, 32.8, 2529.3, 32.6]  # 1e-5
MIDDLES = (np.arange(SLOTS) + 0.5) * 0.5  # seconds: the frames that the model sees


def scenes(count: int, seed: int) -> list[Scene]:
    """Draw scenes of all kinds."""
    rng = np.random.default_rng(seed)
    return [draw_scene(rng, draw_kind(rng)) for _ in range(count)]


def nearest(train: dict, test: dict) -> float:
    """Return the accuracy of the nearest class mean; {label: [items, features]} each."""
    everything = np.concatenate(list(train.values()))
    scale = everything.std(axis=0) + 1e-6
    labels = list(train)
    means = np.stack([train[label].mean(axis=0) / scale for label in labels])
    right = total = 0
    for label, items in test.items():
        far = np.linalg.norm(items[:, None] / scale - means, axis=-1)
        right += sum(labels[i][0] == label[0] for i in far.argmin(axis=1))
        total += len(items)
    return right / total


def crowd(seed: int, **fixed) -> tuple[Scene, tuple[Object, ...]]:
    """Draw four objects of any look, all alike in what is fixed."""
    rng = np.random.default_rng(seed)
    looks = {"shape": SHAPES, "colour": COLOURS, "size": SIZES, "motion": MOTIONS}
    objects = tuple(
        Object(**({n: v[rng.integers(len(v))] for n, v in looks.items()} | fixed), place=place)
        for place in PLACES
    )
    return Scene(seed, objects, ()), objects


def quarters(frame: np.ndarray) -> list[np.ndarray]:
    """Cut one 64-pixel frame into its quadrants, in the order of PLACES."""
    return [frame[y : y + 32, x : x + 32].astype(float) for y in (0, 32) for x in (0, 32)]


def look_features(quarter: np.ndarray) -> np.ndarray:
    """Measure mean colour, size, aspect, and how threefold, fourfold and fivefold the shape is."""
    vivid = quarter.max(axis=2) - quarter.min(axis=2)
    mask = vivid > 60
    rows, columns = np.nonzero(mask)
    aspect = (np.ptp(rows) + 1) / (np.ptp(columns) + 1)
    colour = quarter[mask].mean(axis=0)
    cover = np.clip((vivid - 20) / (np.percentile(vivid[mask], 80) - 20), 0, 1)
    y, x = np.mgrid[:32, :32]
    place = x + 1j * y
    place = place - (cover * place).sum() / cover.sum()
    far, turn = np.abs(place), np.exp(1j * np.angle(place))
    folds = [np.abs((cover * far**n * turn**n).sum()) / (cover * far**n).sum() for n in (3, 4, 5)]
    return np.array([*colour / colour.max(), np.sqrt(mask.sum()), aspect, *folds])


def test_same_scene_same_bits():
    for scene in scenes(6, 1):
        assert np.array_equal(render_frames(scene, MIDDLES), render_frames(scene, MIDDLES))
        assert np.array_equal(render_waveform(scene), render_waveform(scene))
        other = replace(scene, seed=scene.seed + 1)
        assert not np.array_equal(render_frames(scene, [1.0]), render_frames(other, [1.0]))
        assert not np.array_equal(render_waveform(scene), render_waveform(other))


def test_the_world_is_the_one_that_the_bundled_model_was_trained_on():
    """A failure here means that looks or sounds changed: train the bundled model again."""
    actor = Object("star", "orange", "big", "bottom left", "up", (Event(2, "jump"),))
    other = Object("circle", "blue", "small", "top right", "still", (Event(5, "flash"),))
    sounds = (Sound(2, "siren", "high"), Sound(6, "word", word="seven", voice="woman"))
    scene = Scene(2026, (actor, other), sounds)
    frames = render_frames(scene, MIDDLES).reshape(SLOTS, 4, 32, 4, 32, 3)
    means = frames[[2, 5]].mean(axis=(2, 4, 5)).round(1)
    levels = np.abs(render_waveform(scene)).reshape(SLOTS, -1).mean(axis=1)
    assert means == pytest.approx(np.array(MEANS), abs=0.3)
    assert levels * 1e5 == pytest.approx(np.array(LEVELS), rel=0.005)


def test_any_frame_alone_equals_the_same_frame_among_all():
    times = np.arange(FRAMES) / FPS
    for scene in scenes(4, 2):
        together = render_frames(scene, times)
        for t in (0, 3, 17, 40, 63):
            assert np.array_equal(render_frames(scene, [times[t]])[0], together[t])
    assert render_frames(scene, []).shape == (0, 128, 128, 3)


def test_half_size_is_the_mean_of_two_by_two_pixels():
    for scene in scenes(6, 3):
        whole = render_frames(scene, MIDDLES).astype(int)
        mean = whole.reshape(SLOTS, 64, 2, 64, 2, 3).sum(axis=(2, 4)) / 4
        assert np.array_equal(render_frames(scene, MIDDLES, size=64), np.floor(mean + 0.5))
    with pytest.raises(ValueError, match="128 or 64"):
        render_frames(scene, [0.0], size=96)


def test_objects_stay_in_their_quadrants():
    times = np.arange(FRAMES) / FPS
    for seed in range(12):
        scene, objects = crowd(seed, size=SIZES[seed % 2])
        events = tuple(Event(slot, EVENTS[(slot + seed) % 3]) for slot in range(SLOTS))
        for place in range(4):
            item = replace(objects[place], events=events)
            seen = render_frames(replace(scene, objects=(item,)), times).astype(int)
            change = np.abs(seen - render_frames(replace(scene, objects=()), times)).sum(
                axis=(0, 3)
            )
            y, x = 64 * (place // 2), 64 * (place % 2)
            assert change[y : y + 64, x : x + 64].sum() == change.sum() > 0


def test_looks_are_told_apart_in_one_small_frame():
    found = {}
    parts = {"colour": slice(0, 3), "size": slice(3, 4), "shape": slice(5, 8)}
    for seed, half in product(range(160), (0, 1)):
        scene, objects = crowd(1000 * half + seed)
        frame = render_frames(scene, [MIDDLES[seed % SLOTS]], size=64)[0]
        for item, quarter in zip(objects, quarters(frame), strict=True):
            features = look_features(quarter)
            for name, part in parts.items():
                found.setdefault((name, half), {}).setdefault((getattr(item, name), item.size), [])
                found[name, half][getattr(item, name), item.size].append(features[part])
    for name in parts:
        train, test = ({k: np.array(v) for k, v in found[name, half].items()} for half in (0, 1))
        assert nearest(train, test) >= 0.99, name


def event_features(quarter: np.ndarray) -> np.ndarray:
    """Measure white pixels, black pixels, and how flat the coloured ones lie."""
    white, black = (quarter.min(axis=2) > 200).sum(), (quarter.max(axis=2) < 32).sum()
    return np.array([min(white, 50), min(black, 12), 20 * look_features(quarter)[4]])


def test_events_are_told_apart_in_the_middle_frame_of_their_slot():
    found = ({}, {})
    kinds = (*EVENTS, "none")
    for seed, half in product(range(60), (0, 1)):
        scene, objects = crowd(5000 * (half + 1) + seed)
        slot = seed % SLOTS
        names = [kinds[(seed + i) % 4] for i in range(4)]
        acting = tuple(
            replace(item, events=() if name == "none" else (Event(slot, name),))
            for item, name in zip(objects, names, strict=True)
        )
        frame = render_frames(replace(scene, objects=acting), [MIDDLES[slot]], size=64)[0]
        for item, name, quarter in zip(acting, names, quarters(frame), strict=True):
            key = (name, item.size, item.shape)
            found[half].setdefault(key, []).append(event_features(quarter))
    train, test = ({k: np.array(v) for k, v in part.items()} for part in found)
    assert nearest(train, {k: v for k, v in test.items() if k in train}) >= 0.99


def test_motion_goes_where_it_says():
    steps = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1), "still": (0, 0)}
    for seed, motion in product(range(8), MOTIONS):
        scene, objects = crowd(seed, motion=motion)
        first, last = np.moveaxis(object_centres(scene, [0.0, 4.0]), 1, 0) * 32
        for item, moved in zip(objects, last - first, strict=True):
            least = 16 if item.size == "big" else 28
            x, y = steps[motion]
            assert moved @ (x, y) >= least * abs(x + y) - 1.5
            assert abs(moved @ (y, x)) < 1e-6 and (motion != "still" or not moved.any())


def spectrum(waveform: np.ndarray) -> np.ndarray:
    """Return the power of 25 ms windows every 10 ms: [windows, 201]; bins of 40 Hz."""
    windows = np.lib.stride_tricks.sliding_window_view(waveform, 400)[::160]
    return np.abs(np.fft.rfft(windows * np.hanning(400))) ** 2


def slot_sound(sound: Sound, seed: int) -> np.ndarray:
    """Return the active windows' spectrum of a lone sound."""
    waveform = render_waveform(Scene(seed, (), (sound,)))
    power = spectrum(waveform[sound.slot * 8000 : (sound.slot + 1) * 8000])
    return power[power.sum(axis=1) > power.sum(axis=1).max() / 300]


def sound_features(power: np.ndarray) -> np.ndarray:
    """Measure how the spectrum's centre lies, glides and wobbles, how flat it is, how it dies."""
    bins = np.log2(np.arange(1, power.shape[1]))
    level = power.sum(axis=1)
    strong = np.where(power < power.max(axis=1, keepdims=True) / 30, 0, power)[:, 1:]
    centre = (strong @ bins) / strong.sum(axis=1)
    glide, start = np.polyfit(np.arange(len(centre)), centre, 1)
    wobble = np.std(centre - glide * np.arange(len(centre)) - start)
    mean = power.mean(axis=0)[1:] / power.mean()
    flat = np.exp(np.log(mean + 1e-6).mean()) / mean.mean()
    taken = (mean > mean.max() / 30).sum()
    return np.array(
        [centre.mean(), 40 * glide, 2 * wobble, 3 * flat, len(level) / 10, np.log2(taken)]
    )


def test_sounds_are_told_apart():
    pitches = ("low", "middle", "high")
    found = ({}, {})
    for half, seed, kind, pitch in product((0, 1), range(8), SOUNDS, pitches):
        sound = Sound(seed, kind, pitch, ("quiet", "normal", "loud")[seed % 3])
        features = sound_features(slot_sound(sound, 100 * half + seed))
        found[half].setdefault((kind, pitch), []).append(features)
    train, test = ({k: np.array(v) for k, v in part.items()} for part in found)
    assert nearest(train, test) >= 0.99


def test_words_are_told_apart():
    def features(word: str, voice: str, seed: int) -> np.ndarray:
        power = slot_sound(Sound(3, "word", word=word, voice=voice), seed)
        bands = power[:, 2:].reshape(len(power), -1)[:, :198].reshape(len(power), 22, 9).sum(axis=2)
        at = np.linspace(0, len(power) - 1, 12).round().astype(int)
        return np.log(bands[at] + power.max() * 1e-5).ravel()

    takes = list(product(WORDS, VOICES))
    train = {k: np.stack([features(*k, seed) for seed in range(4)]) for k in takes}
    test = {k: np.stack([features(*k, 50 + seed) for seed in range(3)]) for k in takes}
    assert nearest(train, test) >= 0.99


def test_beeps_keep_their_pitch():
    for seed, (pitch, tone_hz) in product(
        range(12), (("low", 330), ("middle", 660), ("high", 1320))
    ):
        loudest_hz = 40 * slot_sound(Sound(2, "beep", pitch, "normal"), seed).mean(axis=0).argmax()
        assert abs(np.log2(loudest_hz / tone_hz)) < 0.3


@pytest.mark.parametrize("kind", (*SOUNDS, "word"))
def test_loud_is_at_least_eight_decibels_over_quiet(kind: str):
    extra = {"word": "seven", "voice": "man"} if kind == "word" else {}
    levels = ((1, "quiet"), (5, "loud"))
    for seed in range(6):
        pair = tuple(Sound(slot, kind, loudness=level, **extra) for slot, level in levels)
        waveform = render_waveform(Scene(seed, (), pair))
        quiet, loud = (np.mean(waveform[s * 8000 : (s + 1) * 8000] ** 2) for s in (1, 5))
        assert 10 * np.log10(loud / quiet) >= 8


def test_every_sound_stays_in_its_slot_and_every_clip_has_one_loudness():
    for seed, kind in product(range(10), (*SOUNDS, *WORDS)):
        voice = VOICES[seed % 2] if kind in WORDS else ""
        sound = Sound(seed % SLOTS, "word", word=kind, voice=voice) if voice else Sound(0, kind)
        waveform = render_waveform(Scene(seed, (), (sound,)))
        assert waveform.dtype == np.float32 and waveform.shape == (4 * SAMPLE_RATE,)
        assert np.abs(waveform).max() < 1
        assert np.sqrt(np.mean(waveform**2)) == pytest.approx(CLIP_RMS, rel=1e-3)
        quiet = np.delete(waveform.reshape(SLOTS, -1), sound.slot, axis=0)
        assert np.abs(quiet).max() < 0.01
    silence = render_waveform(Scene(3, (), ()))
    assert np.sqrt(np.mean(silence**2)) == pytest.approx(SILENT_RMS, rel=0.02)


def decode(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray, list]:
    """Return 64-pixel pictures, their times, the sound from time 0 on, and the file's layout."""
    with av.open(str(path)) as file:
        layout = [
            (s.type, s.codec_context.name, s.codec_context.profile, str(s.time_base), s.duration)
            + ((str(s.average_rate), s.codec_context.format.name) if s.type == "video" else ())
            for s in file.streams
        ] + [file.duration, file.format.name]
        pictures = list(file.decode(video=0))
    with av.open(str(path)) as file:
        sounds = list(file.decode(audio=0))
    # gbrp, because the packed rgb24 halves the colour resolution once more
    shrunk = [p.reformat(64, 64, "gbrp", interpolation="AREA") for p in pictures]
    frames = np.stack([p.to_ndarray() for p in shrunk])
    waveform = np.concatenate([s.to_ndarray()[0] for s in sounds])
    assert sounds[0].pts == 0
    return frames, np.array([p.time for p in pictures]), waveform[: 4 * SAMPLE_RATE], layout


def test_file_decodes_to_the_arrays_with_one_layout(tmp_path: Path):
    layouts = []
    quiet = Scene(11, (), ())
    for scene in (*scenes(3, 4), quiet):
        path = tmp_path / "clip.mp4"
        write_clip(scene, path)
        frames, times, waveform, layout = decode(path)
        layouts.append(layout)
        assert np.array_equal(times, np.arange(FRAMES) / FPS)
        off = frames - render_frames(scene, times, size=64).astype(float)
        assert np.abs(off).mean() < 2 and np.abs(off.mean(axis=(0, 1, 2))).max() < 1  # of 255
        heard = render_waveform(scene)
        assert len(waveform) == len(heard)
        if scene.sounds:
            assert np.sqrt(np.mean(waveform**2)) == pytest.approx(CLIP_RMS, rel=0.03)
            assert np.corrcoef(waveform, heard)[0, 1] > 0.98
        assert path.read_bytes().index(b"moov") < path.read_bytes().index(b"mdat")
    assert all(layout == layouts[0] for layout in layouts)
    assert [stream[:2] for stream in layouts[0][:2]] == [("video", "h264"), ("audio", "aac")]


def test_file_is_the_same_bytes_again(tmp_path: Path):
    (scene,) = scenes(1, 5)
    write_clip(scene, tmp_path / "a.mp4")
    write_clip(scene, str(tmp_path / "b.mp4"))
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()


def test_a_film_is_its_clips_one_after_the_other(tmp_path: Path):
    rng = np.random.default_rng(5)
    some = [draw_scene(rng, "two sources") for _ in range(3)]
    write_film(some, tmp_path / "film.mp4")
    for place, scene in enumerate(some):
        write_clip(scene, tmp_path / "clip.mp4")
        alone = load_media(tmp_path / "clip.mp4", frames=8, size=64)
        start = place * DURATION_S
        part = load_media(
            tmp_path / "film.mp4", frames=8, size=64, start=start, end=start + DURATION_S
        )
        np.testing.assert_allclose(np.subtract(part.frame_times_s, start), alone.frame_times_s)
        assert np.abs(part.frames.astype(int) - alone.frames).mean() < 4
        assert np.corrcoef(part.waveform[:64_000], alone.waveform[:64_000])[0, 1] > 0.95


@pytest.mark.parametrize("kind", EVENTS)
def test_event_and_sound_coincide_in_the_file(tmp_path: Path, kind: str):
    for seed, slot in ((1, 0), (2, 3), (3, 7)):
        item = Object("circle", "blue", "small", "top left", "still", (Event(slot, kind),))
        scene = Scene(seed, (item,), (Sound(slot, "beep"),))
        write_clip(scene, tmp_path / "clip.mp4")
        frames, times, waveform, _ = decode(tmp_path / "clip.mp4")
        still = render_frames(replace(scene, objects=(replace(item, events=()),)), times, size=64)
        change = np.abs(frames.astype(float) - still).mean(axis=(1, 2, 3))
        change = np.clip(change - np.median(change) * 1.5, 0, None)
        seen_s = (change @ times) / change.sum()
        energy = waveform.astype(float) ** 2
        heard_s = (energy @ np.arange(len(energy))) / energy.sum() / SAMPLE_RATE
        assert abs(seen_s - heard_s) < 0.06
        assert abs(heard_s - slot_times_s(scene)[slot]) < 0.01


def test_throughput(capsys: pytest.CaptureFixture):
    """Report clips a second on one core; the bound is loose, since test machines are shared."""
    drawn = scenes(60, 6)
    render_waveform(drawn[0])
    start = time.process_time()
    for scene in drawn:
        render_frames(scene, MIDDLES, size=64)
        render_waveform(scene)
    rate = len(drawn) / (time.process_time() - start)
    with capsys.disabled():
        print(f" [{rate:.0f} clips/s a core: 8 frames of 64 px and sound]", end="")
    assert rate > 50
