"""Long files joined of colours and tones: the seconds that are asked for are found, exactly."""

from functools import cache
from pathlib import Path
from threading import Event

import av
import numpy as np
import pytest
from joined import ColourHead, write_joined
from PIL import Image

from avchat import parts
from avchat.looking import BATCH
from avchat.media import MediaError, load_media
from avchat.moments import Moments, MomentsError, moments
from avchat.parts import load_parts
from avchat.windows import Window, spread

# 97 s of grey and silence, but for five parts.
SCENES = [
    (21.3, "grey", None),
    (6.0, "red", None),  # 21.3 to 27.3
    (12.0, "grey", None),
    (5.0, "grey", 1000.0),  # 39.3 to 44.3
    (12.0, "grey", None),
    (4.0, "green", 250.0),  # 56.3 to 60.3
    (10.0, "grey", None),
    (10.0, "blue", None),  # 70.3 to 80.3
    (10.0, "grey", None),
    (3.0, "green", None),  # 90.3 to 93.3
    (3.7, "grey", None),
]
SLACK_S = 0.8  # a fine window is 2 s long and they are 1 s apart


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The joined file, 97 s."""
    return write_joined(tmp_path_factory.mktemp("film") / "film.mp4", SCENES)


@cache
def searched(film: Path, text: str, top: int = 3, sense: str = "both") -> Moments:
    """Search once for all the tests that look at the same result."""
    return moments(ColourHead(), film, text, top=top, sense=sense)


@pytest.mark.parametrize(
    ("text", "sense", "start", "end"),
    [
        ("red", "both", 21.3, 27.3),
        ("blue", "both", 70.3, 80.3),
        ("tone", "sound", 39.3, 44.3),
        ("low", "sound", 56.3, 60.3),
        ("green low", "both", 56.3, 60.3),
    ],
)
def test_the_best_span_is_the_part_that_is_asked_for(
    film: Path, text: str, sense: str, start: float, end: float
) -> None:
    found = searched(film, text, sense=sense)
    best = found.spans[0]
    assert best.start == pytest.approx(start, abs=SLACK_S)
    assert best.end == pytest.approx(end, abs=SLACK_S)
    assert found.complete and found.warnings == ()
    assert [one.score for one in found.spans] == sorted(
        (o.score for o in found.spans), reverse=True
    )


def test_why_says_which_sense_it_was(film: Path) -> None:
    red = searched(film, "red").spans[0].why
    assert red["picture"] > 0.9 and red["sound"] < 0.2 and red["speech"] == 0
    tone = searched(film, "tone", sense="sound").spans[0].why
    assert tone["sound"] > 0.9 and tone["picture"] == 0  # the picture was not looked at


def test_what_is_there_twice_is_found_twice(film: Path) -> None:
    spans = searched(film, "green", top=2).spans
    starts = sorted(one.start for one in spans)
    assert starts == pytest.approx([56.3, 90.3], abs=SLACK_S)


def test_coarse_then_fine_finds_what_fine_everywhere_finds(film: Path) -> None:
    for text in ("green", "blue tone"):
        quick = searched(film, text, top=2)
        slow = moments(
            ColourHead(), film, text, top=2, coarse_s=60
        )  # 4 of these: all of it is fine
        assert len(slow.times_s) == len(spread(0, 97, 2, 1)) > len(quick.times_s)
        for one, two in zip(quick.spans, slow.spans, strict=True):
            assert (one.start, one.end) == pytest.approx((two.start, two.end), abs=0.3)
            assert one.score == pytest.approx(two.score, abs=1e-6)


def test_scores_are_those_of_each_window_by_itself(film: Path) -> None:
    head = ColourHead()
    found = moments(head, film, "red", coarse_s=60, sense="picture")
    query = head.texts(["red"])[0]
    for place in (0, 20, 21, 90):
        start = found.times_s[place] - 1
        clip = load_media(film, frames=4, size=16, start=start, end=start + 2)
        assert found.picture[place] == pytest.approx(head.colour(clip.frames) @ query)
        assert np.isnan(found.sound[place])


def test_a_vector_asks_as_its_text_does(film: Path) -> None:
    head = ColourHead()
    seen: list[tuple[int, int]] = []
    by_vector = moments(
        head, film, 3 * head.texts(["red"])[0], top=3, progress=lambda *said: seen.append(said)
    )
    assert by_vector.spans == searched(film, "red").spans
    # memory is that of a few windows
    assert max(head.looked) <= BATCH and head.longest_s <= 9
    # progress goes up to its end
    done = [one for one, _ in seen]
    assert done == sorted(set(done)) and seen[-1][0] == seen[-1][1]
    assert all(one <= total for one, total in seen) and seen[0][1] > 30


def test_a_score_below_the_threshold_is_no_answer(film: Path) -> None:
    found = moments(ColourHead(threshold=0.9), film, "red", sense="picture")
    assert len(found.spans) == 1
    assert moments(ColourHead(threshold=1.01), film, "red", sense="picture").spans == []


def test_a_stop_keeps_what_was_found(film: Path) -> None:
    stop = Event()
    said = lambda done, total: stop.set() if done >= 2 * BATCH else None  # noqa: E731
    found = moments(ColourHead(), film, "red", top=1, progress=said, stop=stop)
    assert not found.complete and len(found.times_s) == 2 * BATCH
    assert found.spans[0].start < 24 < found.spans[0].end
    stop.set()
    nothing = moments(ColourHead(), film, "red", stop=stop)
    assert nothing.spans == [] and not nothing.complete


def test_files_with_one_sense(film: Path, silent_clip: Path, sound_clip: Path) -> None:
    seen = moments(ColourHead(), silent_clip, "red")
    assert len(seen.spans) and np.isnan(seen.sound).all()
    heard = moments(ColourHead(), sound_clip, "tone")
    assert len(heard.spans) and np.isnan(heard.picture).all()


def test_a_still_is_one_moment(tmp_path: Path) -> None:
    Image.fromarray(np.full((64, 64, 3), (220, 30, 30), np.uint8)).save(tmp_path / "red.png")
    found = moments(ColourHead(), tmp_path / "red.png", "red")
    assert [(one.start, one.end) for one in found.spans] == [(0, 0)]


def test_a_file_that_ends_early_is_searched_as_far_as_it_goes(tmp_path: Path) -> None:
    whole = tmp_path / "whole.mkv"
    write_joined(whole, [(30, "grey", None), (10, "red", None), (40, "grey", None)])
    cut = tmp_path / "cut.mkv"
    cut.write_bytes(whole.read_bytes()[: int(whole.stat().st_size * 0.7)])
    found = moments(ColourHead(), cut, "red", top=1)
    assert found.spans[0].start == pytest.approx(30, abs=SLACK_S)
    assert "parts could not be decoded" in found.warnings[0]


def test_a_file_of_which_nothing_decodes_is_an_error(film: Path, monkeypatch) -> None:
    def refuse(path: str, *_: object, **__: object) -> None:
        raise MediaError(f"{Path(path).name}: no picture and no sound could be decoded")

    for name in ("load_media", "decode_together"):
        monkeypatch.setattr(parts, name, refuse)
    with pytest.raises(MediaError, match="no sound could be decoded"):
        moments(ColourHead(), film, "red")


@pytest.mark.parametrize(
    ("text", "more", "said"),
    [
        ("", {}, "text to look for is empty"),
        (" \n", {}, "text to look for is empty"),
        ("red", {"top": 0}, "top must be at least 1"),
        ("red", {"sense": "smell"}, "no sense called smell"),
        ("red", {"fine_s": 0}, "cannot look at"),
        ("red", {"fine_s": 9}, "cannot look at"),
        (np.ones(5), {}, "vector of 13 numbers"),
        (np.zeros(13), {}, "vector of 13 numbers"),
    ],
)
def test_searches_that_make_no_sense(film: Path, text: str, more: dict, said: str) -> None:
    with pytest.raises(MomentsError, match=said):
        moments(ColourHead(), film, text, **more)


def test_a_missing_sense_is_said(silent_clip: Path, sound_clip: Path, film: Path) -> None:
    with pytest.raises(MomentsError, match="silent.mp4: this file has no sound track"):
        moments(ColourHead(), silent_clip, "tone", sense="sound")
    with pytest.raises(MomentsError, match="sound.wav: this file has no picture"):
        moments(ColourHead(), sound_clip, "red", sense="picture")
    deaf = ColourHead()
    deaf.hears = False
    with pytest.raises(MomentsError, match="cannot hear"):
        moments(deaf, film, "tone", sense="sound")
    with pytest.raises(MomentsError, match="is deaf"):
        moments(deaf, sound_clip, "tone")
    with pytest.raises(MediaError, match="no such file"):
        moments(deaf, film.with_name("gone.mp4"), "red")


def test_strangers_files_are_searched_in_processes_of_their_own(clip: Path) -> None:
    wanted = [Window(0, 1), Window(1, 3), Window(90, 91)]
    one = load_parts(clip, wanted, frames=2, size=8)
    two = load_parts(clip, wanted, frames=2, size=8, isolate=True)
    for here, there in zip(one[:2], two[:2], strict=True):
        assert (here.frames == there.frames).all() and (here.waveform == there.waveform).all()
        assert here.warnings == there.warnings and here.start_s == there.start_s
    assert isinstance(one[2], MediaError) and str(one[2]) == str(two[2])
    near = moments(ColourHead(), clip, "red", fine_s=4, coarse_s=4)
    far = moments(ColourHead(), clip, "red", fine_s=4, coarse_s=4, isolate=True)
    assert near.spans == far.spans
    with av.open(str(clip)) as container:
        assert far.spans[-1].end <= container.duration / 1e6
