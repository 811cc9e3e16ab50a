"""Moments of the clip in view, without a browser: every way to look, exports, what is refused."""

import csv
import json
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Event

import pytest

from avchat.app_settings import Settings
from avchat.export import ExportError
from avchat.media import probe
from avchat.moments import MomentsError
from avchat.ui.app import App
from avchat.ui.clips import Clip
from avchat.ui.engine import Engine
from avchat.ui.finding import as_data, chosen, export, find
from avchat.ui.moments_tab import found_values, list_value, message_of, wish_of
from avchat.ui.opening import open_clip
from avchat.ui.progress import silent
from avchat.ui.searches import Search, Wish
from avchat.ui.visitors import Refused, Visitor, Visitors
from avchat.world.captions import draw_gallery
from avchat.world.clip_file import write_clip, write_film
from avchat.world.scenes import DURATION_S

SCENES = 6
SOUGHT = 3  # the scene that is looked for, from 12 s to 16 s


@dataclass
class Film:
    """A person who has opened a film of some clips of the world."""

    app: App
    visitor: Visitor
    clip: Clip
    texts: list[str]
    part: Path  # the clip that is looked for, as a file of its own

    def find(self, **wish: object) -> Search:
        """Look for something and return what came of it."""
        *_, last = find(self.app, self.visitor, self.clip, Wish(**wish))
        return last


@pytest.fixture(scope="module")
def app(bundled: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    """The app over the bundled models, without a page."""
    settings = Settings(model=bundled)
    app = App(settings, Engine(settings), Visitors(settings), [], tmp_path_factory.mktemp("home"))
    yield app
    app.visitors.close()


@pytest.fixture(scope="module")
def arrive(app: App, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], tuple]:
    """Let somebody open a file."""

    def arrived(path: Path) -> tuple[Visitor, Clip]:
        visitor = Visitor(tmp_path_factory.mktemp("visitor"))
        return visitor, open_clip(visitor, path, app.settings, silent, Event())

    return arrived


@pytest.fixture(scope="module")
def film(app: App, arrive: Callable, tmp_path_factory: pytest.TempPathFactory) -> Film:
    """A film of six clips."""
    folder = tmp_path_factory.mktemp("film")
    gallery = draw_gallery(1, SCENES)
    write_film([one for one, _ in gallery], folder / "film.mp4")
    write_clip(gallery[SOUGHT][0], folder / "part.mp4")
    visitor, clip = arrive(folder / "film.mp4")
    texts = [caption.text for _, caption in gallery]
    return Film(app, visitor, clip, texts, folder / "part.mp4")


def test_a_search_ends_when_another_clip_is_shown(film: Film, arrive: Callable) -> None:
    visitor, clip = arrive(film.clip.path)
    steps = find(film.app, visitor, clip, Wish(text=film.texts[SOUGHT]))
    next(steps)
    other = replace(clip, id="another")
    visitor.show(other)
    *_, last = steps
    assert last.over and not last.complete and not visitor.passing
    visitor.show(clip)
    *_, last = find(film.app, visitor, clip, Wish(text=film.texts[SOUGHT]))
    assert last.complete and is_there(last)


def is_there(search: Search) -> bool:
    """Tell whether the best clear match is the scene that was looked for."""
    best = search.found.spans[0]
    middle = (best.start + best.end) / 2
    return DURATION_S * SOUGHT < middle < DURATION_S * (SOUGHT + 1)


@pytest.mark.page
@pytest.mark.parametrize(
    ("by", "sense", "compared"),
    [
        ("text", "both", "both"),
        ("sound", "both", "sound"),
        ("frame", "both", "picture"),
        ("range", "sound", "sound"),
        ("range", "picture", "picture"),
        ("clip", "both", "both"),
    ],
)
def test_every_way_to_look_finds_the_scene(film: Film, by: str, sense: str, compared: str) -> None:
    middle = DURATION_S * (SOUGHT + 0.5)
    place = {"frame": {"start": middle}, "range": {"start": 12.0, "end": 16.0}}.get(by, {})
    file = film.part if by in ("sound", "clip") else None
    search = film.find(by=by, text=film.texts[SOUGHT], file=file, sense=sense, **place)
    assert search.over and search.complete and search.wish.sense == compared
    assert is_there(search)
    assert [len(picture) > 500 for picture in search.pictures] == [True] * len(search.ids)
    assert film.clip.embedded.done == len(film.clip.embedded.windows)


def test_the_clip_is_embedded_once(film: Film) -> None:
    film.find(text=film.texts[0])
    kept = film.clip.embedded
    steps = list(find(film.app, film.visitor, film.clip, Wish(text=film.texts[1])))
    assert film.clip.embedded is kept
    assert len(steps) == 2  # what is known, then its pictures


def test_every_scene_is_found_by_its_caption(film: Film) -> None:
    for place, text in enumerate(film.texts):
        [best, *_] = film.find(text=text).found.spans
        assert DURATION_S * place < (best.start + best.end) / 2 < DURATION_S * (place + 1)


def test_no_good_match_is_said_and_the_closest_are_shown(film: Film) -> None:
    search = film.find(text="a dog barks")
    assert search.found.spans == [] and 1 <= len(search.found.misses) <= 3
    assert message_of(film.clip, search) == ("none", {"least": "0.60"})
    rows = list_value(film.clip, search)["items"]
    assert all(row["faint"] and row["thumbnail"] for row in rows)
    data = as_data(search)
    assert data["moments"] == [] and len(data["closest"]) == len(rows)
    assert film.find(text="a dog barks", least=-1.0).found.spans  # unless less is enough


def test_a_weight_counts_the_senses(film: Film) -> None:
    text = film.texts[SOUGHT]
    for weight, sense in ((1.0, "sound"), (0.0, "picture")):
        mixed = film.find(text=text, sound_weight=weight, least=-1.0).curve.score
        alone = film.find(text=text, sense=sense, least=-1.0).curve.score
        assert mixed == pytest.approx(alone)


def test_what_travels_names_no_path(film: Film) -> None:
    search = film.find(text=film.texts[SOUGHT])
    sent = json.dumps(as_data(search)) + json.dumps(list_value(film.clip, search))
    for folder in (film.clip.path.parent, film.part.parent):
        assert str(folder) not in sent
    assert json.dumps(found_values(film.clip, search)[1])  # the drawing holds no NaN
    assert "NaN" not in json.dumps(found_values(film.clip, search)[1])


def test_what_was_found_is_exported(film: Film) -> None:
    search = film.find(text=film.texts[SOUGHT], least=-1.0, top=3)
    made = {form: export(film.app, film.visitor, form) for form in ("csv", "vtt", "edl")}
    with made["csv"].open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(search.found.spans) and {row["path"] for row in rows} == {"film.mp4"}
    assert made["vtt"].read_text().startswith("WEBVTT")
    assert "FROM CLIP NAME: film.mp4" in made["edl"].read_text()
    ticked = search.ids[1:2]
    [wanted] = chosen(film.clip, ticked)
    packed = export(film.app, film.visitor, "zip", ticked)
    with zipfile.ZipFile(packed) as file:
        [name] = file.namelist()
        cut = Path(file.extract(name, packed.parent))
    assert probe(cut).duration_s == pytest.approx(wanted.end - wanted.start, abs=0.1)
    assert packed.is_relative_to(film.visitor.folder)
    with pytest.raises(ExportError, match="no form called exe"):
        export(film.app, film.visitor, "exe")
    film.find(text="a dog barks")
    with pytest.raises(ExportError, match="nothing to export"):
        export(film.app, film.visitor, "csv")
    with pytest.raises(Refused, match="these results are gone"):
        export(film.app, film.visitor, "csv", ticked)


@pytest.mark.page
def test_a_stop_keeps_what_was_found(app: App, film: Film, arrive: Callable) -> None:
    app.engine.looked.clear()  # else what others have looked through is there at once
    visitor, clip = arrive(film.clip.path)
    steps = find(app, visitor, clip, Wish(text=film.texts[0]))
    first = next(steps)
    assert not first.over and not first.complete
    visitor.stop()
    *_, last = steps
    assert last.over and not last.complete
    assert message_of(clip, last)[0] == "stopped"
    *_, whole = find(app, visitor, clip, Wish(text=film.texts[0]))
    assert whole.complete and len(whole.curve.score) > len(last.curve.score)
    assert not visitor.stops


@pytest.mark.parametrize(
    ("wish", "said"),
    [
        ({"text": " "}, "say what to look for"),
        ({"by": "smell"}, "no way to look called smell"),
        ({"text": "x", "sense": "smell"}, "no sense called smell"),
        ({"text": "x", "top": 0}, "a number from 1 to"),
        ({"text": "x", "gap_s": -1.0}, "less than 0"),
        ({"text": "x", "sound_weight": 2.0}, "from 0 to 1"),
        ({"by": "sound"}, "give a sound"),
        ({"by": "clip"}, "give a clip"),
        ({"by": "range"}, "mark a range"),
        ({"by": "range", "start": 3.0, "end": 2.0}, "no range from 3 s to 2 s"),
        ({"by": "range", "start": 90.0, "end": 95.0}, "no range from 90 s"),
    ],
)
def test_what_cannot_be_looked_for_is_one_line(film: Film, wish: dict, said: str) -> None:
    with pytest.raises((Refused, MomentsError), match=said):
        film.find(**wish)
    assert not film.visitor.stops


def test_files_with_one_sense(
    app: App, arrive: Callable, film: Film, silent_clip: Path, sound_clip: Path
) -> None:
    visitor, clip = arrive(silent_clip)
    with pytest.raises(MomentsError, match="no sound track"):
        list(find(app, visitor, clip, Wish(text="a beep", sense="sound")))
    *_, seen = find(app, visitor, clip, Wish(text="a red star", least=-1.0))
    assert list_value(clip, seen)["items"][0]["sound"] is None
    with pytest.raises(Refused, match="no sound in what you gave"):
        film.find(by="sound", file=silent_clip)
    visitor, clip = arrive(sound_clip)
    *_, heard = find(app, visitor, clip, Wish(text="a beep", least=-1.0))
    [row] = list_value(clip, heard)["items"]
    assert row["picture"] is None and row["thumbnail"] == ""
    with pytest.raises(MomentsError, match="no picture"):
        list(find(app, visitor, clip, Wish("frame", start=1.0)))


def test_the_inputs_of_the_tab_are_a_wish() -> None:
    given = ["text", " a dog ", "/x.wav", None, "both", False, 0.3, None, 0, 5]
    assert wish_of(7.0, (1.0, 2.0), *given) == Wish(text=" a dog ")
    assert wish_of(7.0, None, "frame", *given[1:]).start == 7.0
    ranged = wish_of(7.0, (1.0, 2.0), "range", None, *given[2:5], True, 0.3, 0.5, 2, 3)
    assert ranged == Wish("range", "", None, 1.0, 2.0, "both", 0.3, 0.5, 2.0, 3)
    assert wish_of(7.0, None, "sound", *given[1:]).file == Path("/x.wav")
