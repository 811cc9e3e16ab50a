"""A file embedded once says what `moments` says, and what its windows say one by one."""

from collections.abc import Callable
from pathlib import Path
from threading import Event

import numpy as np
import pytest
from joined import ColourHead, write_joined
from PIL import Image

from avchat import parts
from avchat.embedded import EmbeddedFile
from avchat.heads import load_head
from avchat.looking import BATCH
from avchat.media import MediaError, load_media
from avchat.moments import MomentsError, moments
from avchat.world.captions import draw_gallery
from avchat.world.clip_file import write_film

# 60 s of grey and silence, but for three parts.
SCENES = [
    (12.0, "grey", None),
    (6.0, "red", None),  # 12 to 18
    (10.0, "grey", 1000.0),  # 18 to 28
    (10.0, "grey", None),
    (8.0, "green", 1000.0),  # 38 to 46
    (14.0, "grey", None),
]
FILM_S = 60
SLACK_S = 0.8  # windows are 2 s long and 1 s apart


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The joined file, 60 s."""
    return write_joined(tmp_path_factory.mktemp("film") / "film.mp4", SCENES)


@pytest.fixture(scope="module")
def film(path: Path) -> EmbeddedFile:
    """The same, embedded as a whole."""
    return embedded(path)


def embedded(path: Path, **more: float) -> EmbeddedFile:
    """Embed a file as a whole."""
    film = EmbeddedFile(ColourHead(), path, isolate=False, **more)
    assert list(film.embed())[-1:] == [len(film.windows)]
    return film


def ask(film: EmbeddedFile, text: str) -> np.ndarray:
    """Turn a text into a vector of the film's head."""
    return film.head.texts([text])[0]


@pytest.mark.slow
@pytest.mark.parametrize("text", ["red", "green", "green tone"])
def test_it_says_what_moments_says(path: Path, film: EmbeddedFile, text: str) -> None:
    curve = film.curve(ask(film, text))
    slow = moments(ColourHead(), path, text, top=2, coarse_s=60, fine_s=2)
    assert curve.times_s == pytest.approx(slow.times_s)
    for name in ("picture", "sound", "score"):
        assert vars(curve)[name] == pytest.approx(vars(slow)[name], abs=1e-5)
    spans = film.find(curve, top=2).spans
    assert len(spans) == len(slow.spans)
    for one, two in zip(spans, slow.spans, strict=True):
        assert (one.start, one.end, one.score) == pytest.approx(
            (two.start, two.end, two.score), abs=1e-4
        )
        assert one.why == pytest.approx(two.why, abs=1e-5)


def test_each_window_is_as_by_itself(path: Path, film: EmbeddedFile) -> None:
    for number in (0, 13, 40, len(film.windows) - 1):
        window = film.windows[number]
        clip = load_media(path, frames=4, size=16, start=window.start_s, end=window.end_s)
        [one] = ColourHead().clips([clip])
        for sense, rows in film.vectors.items():
            assert rows[number] == pytest.approx(vars(one)[sense], abs=1e-6)


def test_first_coarse_then_fine(path: Path) -> None:
    film = EmbeddedFile(ColourHead(), path, isolate=False)
    assert film.done == 0 and not film.complete and not len(film.curve(ask(film, "red")).score)
    assert film.find(film.curve(ask(film, "red"))).spans == []
    said = []
    for done in film.embed():
        said.append(done)
        if done == 30:  # every other of 59 windows: none overlaps another
            coarse = film.curve(ask(film, "red"))
            assert np.diff(coarse.starts_s) == pytest.approx(2.0)
            assert coarse.ends_s[-1] == FILM_S
    assert said == sorted(set(said)) and said[-1] == len(film.windows) and film.complete
    assert film.find(coarse, top=1).spans[0].start == pytest.approx(12, abs=2)


def test_a_stop_keeps_what_is_there_and_the_next_call_goes_on(
    path: Path, film: EmbeddedFile
) -> None:
    again, stop = EmbeddedFile(ColourHead(), path, isolate=False), Event()
    for done in again.embed(stop):
        if done >= 2 * BATCH:
            stop.set()
    assert again.done == 2 * BATCH and not again.complete
    assert len(again.curve(ask(again, "red")).score) == 2 * BATCH
    assert list(again.embed(stop)) == []
    head = again.head
    looked = sum(head.looked)
    assert list(again.embed())[-1] == len(again.windows)
    assert sum(head.looked) - looked == len(again.windows) - 2 * BATCH  # none is looked at twice
    for sense, rows in again.vectors.items():
        assert np.array_equal(rows, film.vectors[sense], equal_nan=True)
    assert list(again.embed()) == []


def test_a_weight_mixes_the_senses(film: EmbeddedFile) -> None:
    query = ask(film, "green tone")
    plain = film.curve(query)
    for sense, weight in (("sound", 1.0), ("picture", 0.0)):
        mixed = film.curve(query, "both", weight).score
        assert mixed == pytest.approx(film.curve(query, sense).score)
    half = film.curve(query, "both", 0.5).score
    assert half == pytest.approx((plain.picture + plain.sound) / 2)
    with pytest.raises(MomentsError, match="from 0 to 1"):
        film.curve(query, "both", 1.5)


def test_a_window_without_sound_counts_by_its_picture(silent_clip: Path, sound_clip: Path) -> None:
    silent = embedded(silent_clip)
    query = ask(silent, "red tone")
    mixed = silent.curve(query, "both", 0.9)
    assert np.isnan(mixed.sound).all()
    assert mixed.score == pytest.approx(mixed.picture)
    heard = embedded(sound_clip).curve(query, "both", 0.1)
    assert heard.score == pytest.approx(heard.sound)
    assert (silent.curve(query, "sound").score == -1).all()  # nothing there is like it


def test_below_the_least_score_are_near_misses(film: EmbeddedFile) -> None:
    curve = film.curve(ask(film, "tone"), "sound")
    both = film.find(curve, top=5, least=0.5)
    starts = sorted(one.start for one in both.spans)
    assert starts == pytest.approx([18, 38], abs=SLACK_S)
    nothing = film.find(curve, least=1.01)
    assert nothing.spans == [] and nothing.misses[:2] == both.spans
    assert [one.score for one in nothing.misses] == sorted(
        (one.score for one in nothing.misses), reverse=True
    )
    strict = ColourHead(threshold=1.01)
    film_of_strict = EmbeddedFile(strict, film.path, isolate=False)
    list(film_of_strict.embed())
    assert film_of_strict.find(curve).spans == []
    with pytest.raises(MomentsError, match="top must be"):
        film.find(curve, top=0)


def test_spans_close_to_each_other_are_one_where_that_is_wanted(film: EmbeddedFile) -> None:
    curve = film.curve(ask(film, "tone"), "sound")
    [one] = film.find(curve, least=0.5, gap_s=12.0).spans
    assert (one.start, one.end) == pytest.approx((18, 46), abs=SLACK_S)


def test_a_range_is_a_query(film: EmbeddedFile) -> None:
    heard = film.vector_of(19, 27, "sound")
    assert np.linalg.norm(heard) == pytest.approx(1)
    spans = film.find(film.curve(heard, "sound"), top=2).spans
    assert sorted(one.start for one in spans) == pytest.approx([18, 38], abs=SLACK_S)
    moment = film.vector_of(41, 41, "picture")
    assert moment == pytest.approx(film.vectors["picture"][film.near(41)])
    [seen] = film.find(film.curve(moment, "picture"), top=1).spans
    assert (seen.start, seen.end) == pytest.approx((38, 46), abs=SLACK_S)


def test_a_range_without_the_sense_is_said(silent_clip: Path, path: Path) -> None:
    with pytest.raises(MomentsError, match="no sound in this part"):
        embedded(silent_clip).vector_of(0, 2, "sound")
    with pytest.raises(MomentsError, match="looked at yet"):
        EmbeddedFile(ColourHead(), path, isolate=False).vector_of(0, 2, "sound")


def test_a_part_of_a_file(path: Path) -> None:
    film = embedded(path, start=30, end=50)
    assert film.windows[0].start_s >= 29 and film.windows[-1].end_s <= 51
    [best] = film.find(film.curve(ask(film, "green")), top=1).spans
    assert (best.start, best.end) == pytest.approx((38, 46), abs=SLACK_S)
    with pytest.raises(MomentsError, match="no part of the file from 90 s"):
        EmbeddedFile(ColourHead(), path, start=90, isolate=False)


def test_a_clip_of_one_window_and_a_still(tmp_path: Path) -> None:
    short = write_joined(tmp_path / "short.mp4", [(1.5, "red", None)])
    Image.fromarray(np.full((64, 64, 3), (220, 30, 30), np.uint8)).save(tmp_path / "red.png")
    for name, end in ((short, 1.5), (tmp_path / "red.png", 0.0)):
        film = embedded(name)
        [only] = film.find(film.curve(ask(film, "red")), least=0.2).spans
        assert (only.start, only.end) == pytest.approx((0, end), abs=0.1)


@pytest.mark.slow
def test_faults(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cut = tmp_path / "cut.mkv"
    write_joined(cut, [(20, "grey", None), (6, "red", None), (30, "grey", None)])
    cut.write_bytes(cut.read_bytes()[: int(cut.stat().st_size * 0.7)])
    film = embedded(cut)
    assert "parts could not be decoded" in film.warnings[0]
    [best] = film.find(film.curve(ask(film, "red")), top=1).spans
    assert best.start == pytest.approx(20, abs=SLACK_S)
    with pytest.raises(MediaError, match="no such file"):
        EmbeddedFile(ColourHead(), path.with_name("gone.mp4"))
    refuse: Callable = lambda *_, **__: (_ for _ in ()).throw(MediaError("nothing decodes"))  # noqa: E731
    for name in ("load_media", "decode_together"):
        monkeypatch.setattr(parts, name, refuse)
    broken = EmbeddedFile(ColourHead(), path, isolate=False)
    with pytest.raises(MediaError, match="nothing decodes"):
        list(broken.embed())


@pytest.mark.slow
def test_the_bundled_head_finds_in_a_film_of_the_world(tmp_path: Path) -> None:
    """In 32 clips of 4 s, joined: what `moments` finds, and what is right."""
    head = load_head("tiny")
    gallery = draw_gallery(1, 32)
    write_film([scene for scene, _ in gallery], tmp_path / "film.mp4")
    film = EmbeddedFile(head, tmp_path / "film.mp4")
    list(film.embed())
    right = 0
    for place in range(0, 32, 2):
        text = gallery[place][1].text
        curve = film.curve(ask(film, text))
        spans = film.find(curve, top=3).spans
        right += any(abs(one.start - 4 * place) < 2 for one in spans)
        if place % 16 == 0:
            slow = moments(head, film.path, text, top=3)
            one, two = spans[0], slow.spans[0]
            assert one.score == pytest.approx(two.score, abs=1e-4)
            # the ground under a peak is that of other windows: its foot is a step off at most
            assert (one.start, one.end) == pytest.approx((two.start, two.end), abs=1.0)
            _, ours, theirs = np.intersect1d(curve.times_s, slow.times_s, return_indices=True)
            assert len(ours) > 60  # all but tails of what was looked at closely
            assert curve.score[ours] == pytest.approx(slow.score[theirs], abs=1e-4)
    assert right >= 12
