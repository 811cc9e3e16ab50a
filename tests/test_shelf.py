"""The library behind the page, without a browser: filling, searching, changing, what is refused."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Event

import numpy as np
import pytest
from PIL import Image

from avchat.app_settings import Settings
from avchat.library import Entry, File, Library
from avchat.media import load_media
from avchat.ui.app import App, Example
from avchat.ui.engine import Engine
from avchat.ui.opening import open_clip
from avchat.ui.progress import silent
from avchat.ui.shelf import (
    Foreign,
    Status,
    library_add,
    library_files,
    library_ready,
    library_rebuild,
    library_remove,
)
from avchat.ui.shelf_search import (
    Hits,
    LibraryWish,
    as_data,
    library_cut,
    library_file,
    library_find,
    library_like,
)
from avchat.ui.visitors import Refused, Visitor, Visitors
from avchat.world.captions import draw_gallery
from avchat.world.clip_file import write_clip, write_film

CLIPS = 5


@dataclass
class Shelf:
    """An app with its library, and a person."""

    app: App
    visitor: Visitor

    def find(self, **wish: object) -> Hits:
        return library_find(self.app, self.visitor, LibraryWish(**wish))

    def add(self, *paths: Path, uploaded: bool = True) -> dict[str, Status]:
        """Add files to the end; return the last word on each."""
        *_, last = library_add(self.app, self.visitor, paths, uploaded=uploaded)
        return {one.name: one for one in last}

    def names(self) -> list[str]:
        return [file["name"] for file in library_files(self.app)["list"]]

    def ids(self) -> dict[str, str]:
        return {file["name"]: file["id"] for file in library_files(self.app)["list"]}


def best(found: Hits) -> str:
    """Name the file that fits best, a good match or not."""
    return [*found.found, *found.closest][0].name


@pytest.fixture(scope="module")
def engine(bundled: str) -> Engine:
    return Engine(Settings(model=bundled))


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> dict[Path, str]:
    """Clips of the world that differ, each with a text that is true of it alone."""
    folder = tmp_path_factory.mktemp("clips")
    made = {}
    for number, (scene, line) in enumerate(draw_gallery(1, CLIPS)):
        write_clip(scene, folder / f"clip{number}.mp4")
        made[folder / f"clip{number}.mp4"] = line.text
    return made


@pytest.fixture(scope="module")
def make(
    engine: Engine, bundled: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., Shelf]]:
    """Make apps over the same models, each with a home and a library of its own."""
    apps = []

    def made(examples: list[Path] = (), **settings: object) -> Shelf:
        chosen = Settings(model=bundled, **settings)
        shown = [Example(path, "", path, "") for path in examples]
        home = tmp_path_factory.mktemp("app") / "home"
        home.mkdir()
        apps.append(App(chosen, engine, Visitors(chosen), shown, home))
        return Shelf(apps[-1], Visitor(tmp_path_factory.mktemp("visitor")))

    yield made
    for app in apps:
        app.visitors.close()


@pytest.fixture(scope="module")
def shelf(make: Callable[..., Shelf], clips: dict[Path, str]) -> Shelf:
    """The app's own library, filled with the example clips."""
    shelf = make(list(clips))
    library_ready(shelf.app)
    return shelf


def test_the_examples_are_there_at_once_and_put_in_once(
    make: Callable[..., Shelf], clips: dict[Path, str]
) -> None:
    shelf = make(list(clips)[:2])
    with pytest.raises(Refused, match="empty"):
        library_files(shelf.app)
    library_ready(shelf.app)
    assert shelf.names() == ["clip0.mp4", "clip1.mp4"]
    assert library_remove(shelf.app, shelf.visitor, [shelf.ids()["clip0.mp4"]]) == 1
    library_ready(shelf.app)
    assert shelf.names() == ["clip1.mp4"], "what was removed does not come back"
    assert list(clips)[0].exists(), "files that are no copies of ours stay"


def test_words_find_the_clip_that_they_are_true_of(shelf: Shelf, clips: dict[Path, str]) -> None:
    right = [best(shelf.find(text=text)) == path.name for path, text in clips.items()]
    assert sum(right) >= CLIPS - 1
    text = list(clips.values())[0]
    wanted, mixed = shelf.find(text=text), shelf.find(text=text, unwanted=text)
    assert mixed.found[0].score == pytest.approx(wanted.found[0].score / 2, abs=1e-5)


def test_no_good_match_is_said_and_the_closest_are_shown(shelf: Shelf) -> None:
    found = shelf.find(text="people dance at a wedding", least=0.99)
    assert not found.found and found.least == 0.99
    assert 1 <= len(found.closest) <= 3
    assert found.closest[0].thumbnail.startswith(b"\xff\xd8")


def test_examples_find_what_they_are_taken_from(
    shelf: Shelf, clips: dict[Path, str], tmp_path: Path
) -> None:
    path = list(clips)[2]
    by_sound = shelf.find(sound=path)
    assert by_sound.sense == "sound" and by_sound.found[0].name == path.name
    assert by_sound.found[0].score == pytest.approx(1, abs=1e-3)
    Image.fromarray(load_media(path, frames=3).frames[1]).save(tmp_path / "still.png")
    by_picture = shelf.find(picture=tmp_path / "still.png")
    assert by_picture.sense == "picture" and best(by_picture) == path.name


def test_the_clip_in_view_is_an_example(
    make: Callable[..., Shelf], shelf: Shelf, tmp_path: Path
) -> None:
    write_film([scene for scene, _ in draw_gallery(1, 3)], tmp_path / "film.mp4")
    with pytest.raises(Refused, match="open a clip first"):
        shelf.find(part="clip")
    with pytest.raises(Refused, match="mark a range"):
        shelf.find(part="range")
    visitor = Visitor(tmp_path / "visitor")
    visitor.folder.mkdir()
    open_clip(visitor, tmp_path / "film.mp4", shelf.app.settings, silent, Event())
    look = {"app": shelf.app, "visitor": visitor}
    by_range = library_find(wish=LibraryWish(part="range", start=4, end=8), **look)
    assert by_range.found[0].name == "clip1.mp4" and by_range.sense == "both"
    by_frame = library_find(wish=LibraryWish(part="frame", start=10.0), **look)
    assert best(by_frame) == "clip2.mp4" and by_frame.sense == "picture"


def test_more_like_a_result_leaves_it_out(shelf: Shelf) -> None:
    first = shelf.find(text="a red circle").closest or shelf.find(text="a red circle").found
    alike = library_like(shelf.app, shelf.visitor, first[0].hash, first[0].start, "sound")
    assert alike.sense == "sound"
    assert first[0].hash not in [one.hash for one in (*alike.found, *alike.closest)]
    with pytest.raises(Refused, match="no such window"):
        library_like(shelf.app, shelf.visitor, "0" * 32, 0.0, "sound")


def test_filters(make: Callable[..., Shelf], clips: dict[Path, str], silent_clip: Path) -> None:
    shelf = make()
    shelf.add(*list(clips)[:2], uploaded=False)
    shelf.add(silent_clip)
    os.utime(list(clips)[0], (0, 0))
    everything = {"text": "a circle", "least": -1.0, "fold": 1.0}

    def names(**wish: object) -> set[str]:
        return {one.name for one in shelf.find(**everything, **wish).found}

    assert names() == {"clip0.mp4", "clip1.mp4", "silent.mp4"}
    assert names(has_sound=True) == {"clip0.mp4", "clip1.mp4"}
    assert names(min_length_s=100.0) == set()
    assert names(after="2000-01-01", before="2001-01-01") == set()
    folders = {one["name"]: one for one in library_files(shelf.app)["folders"]}
    assert folders["added"]["files"] == 1, "uploads count as one folder"
    assert names(folder=folders["added"]["id"]) == {"silent.mp4"}
    for wish, said in (
        ({"after": "yesterday"}, "YYYY-MM-DD"),
        ({"folder": "/etc"}, "no longer in the library"),
        ({"top": 0}, "how many"),
        ({"min_length_s": -1.0}, "seconds"),
    ):
        with pytest.raises(Refused, match=said):
            names(**wish)
    with pytest.raises(Refused, match="say what to look for"):
        shelf.find(text=" ")


def test_near_duplicates_are_folded(
    make: Callable[..., Shelf], clips: dict[Path, str], tmp_path: Path
) -> None:
    first = list(clips)[0]
    (tmp_path / "twin.mp4").write_bytes(first.read_bytes() + bytes(16))  # other bytes, same clip
    shelf = make()
    shelf.add(first, tmp_path / "twin.mp4")
    assert len(shelf.find(text=clips[first], least=-1.0).found) == 1
    assert len(shelf.find(text=clips[first], least=-1.0, fold=1.0).found) == 2


def test_every_file_that_is_added_is_told_of(
    make: Callable[..., Shelf], clips: dict[Path, str], tmp_path: Path
) -> None:
    shelf, (first, second, *_) = make(), clips
    (tmp_path / "broken.mp4").write_text("not a video")
    upload = Path(shutil.copy(first, tmp_path / "upload.mp4"))
    said = shelf.add(upload, tmp_path / "broken.mp4")
    assert said["upload.mp4"].state == "added"
    assert said["broken.mp4"].state == "failed" and "broken.mp4" in said["broken.mp4"].reason
    upload.unlink()  # as Gradio does with uploads
    assert library_file(shelf.app, shelf.ids()["upload.mp4"]).is_file()
    assert shelf.add(first)["clip0.mp4"].state == "there"
    assert len(list(shelf.app.added.iterdir())) == 1, "copies that nobody needs are gone"
    assert shelf.add(second.parent, uploaded=False)["clip1.mp4"].state == "added"
    assert shelf.names() == [f"clip{number}.mp4" for number in range(1, CLIPS)] + ["upload.mp4"]
    assert library_remove(shelf.app, shelf.visitor, [shelf.ids()["upload.mp4"]]) == 1
    assert not list(shelf.app.added.iterdir())
    with pytest.raises(Refused, match="no such file in the library"):
        library_remove(shelf.app, shelf.visitor, ["/etc/passwd"])
    with pytest.raises(Refused, match="no such file or folder"):
        shelf.add(tmp_path / "nowhere", uploaded=False)


def test_adding_can_be_stopped(make: Callable[..., Shelf], clips: dict[Path, str]) -> None:
    shelf = make()
    steps = library_add(shelf.app, shelf.visitor, list(clips))
    assert {one.state for one in next(steps)} <= {"queued", "working"}
    shelf.visitor.stop()
    *_, last = steps
    assert {one.state for one in last} <= {"added", "stopped"}
    assert "stopped" in {one.state for one in last}
    assert not shelf.app.changing.locked() and not shelf.visitor.stops
    assert {one.state for one in shelf.add(*clips).values()} <= {"added", "there"}


@pytest.fixture
def foreign(make: Callable[..., Shelf], clips: dict[Path, str], tmp_path: Path) -> Shelf:
    """A library of a clip that is there and one that is gone, made by another head."""
    place = tmp_path / "library"
    named = {"head_name": str(tmp_path / "other"), "fingerprint": "other", "width": 4}
    library = Library.open(place, create=True, **named)
    vector = np.array([1, 0, 0, 0], np.float32)
    for number, path in enumerate([list(clips)[0], tmp_path / "gone.mp4"]):
        file = File(str(number) * 32, str(path), 1, 0.0, 4.0, True)
        library.add(file, [Entry(0.0, 4.0, vector, vector, vector)])
    return make(library=place)


def test_another_heads_library_is_refused_and_made_anew(foreign: Shelf, tmp_path: Path) -> None:
    for act in (lambda: foreign.find(text="a"), lambda: library_files(foreign.app)):
        with pytest.raises(Foreign, match="another model") as refused:
            act()
        assert "/" not in str(refused.value)
    *_, last = library_rebuild(foreign.app, foreign.visitor)
    assert [(one.name, one.state) for one in last] == [("clip0.mp4", "added")]
    assert foreign.names() == ["clip0.mp4"]
    assert best(foreign.find(text="a circle")) == "clip0.mp4"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["library"], "nothing is left over"


def test_strangers_change_nothing(
    make: Callable[..., Shelf], clips: dict[Path, str], tmp_path: Path
) -> None:
    shelf = make(list(clips)[:1], public=True)
    library_ready(shelf.app)
    assert not library_files(shelf.app)["can_change"]
    assert best(shelf.find(text="a circle")) == "clip0.mp4"
    for change in (
        lambda: shelf.add(list(clips)[1]),
        lambda: shelf.add(tmp_path, uploaded=False),
        lambda: library_remove(shelf.app, shelf.visitor, list(shelf.ids().values())),
        lambda: list(library_rebuild(shelf.app, shelf.visitor)),
    ):
        with pytest.raises(Refused, match="not changed"):
            change()
    assert shelf.names() == ["clip0.mp4"]


def test_ids_travel_and_never_paths(
    make: Callable[..., Shelf], clips: dict[Path, str], tmp_path: Path
) -> None:
    copy = Path(shutil.copy(list(clips)[0], tmp_path / "mine.mp4"))
    shelf = make()
    said = shelf.add(copy, uploaded=False)
    found = shelf.find(text="a circle", least=-1.0)
    told = [library_files(shelf.app), as_data(found), [asdict(one) for one in said.values()]]
    assert "/" not in json.dumps(told)
    hit = found.found[0]
    cut = library_cut(shelf.app, shelf.visitor, hit.hash, 1.0, 2.0)
    assert cut.name == "mine_1.0-2.0.mp4" and shelf.visitor.folder in cut.parents
    copy.unlink()
    assert shelf.find(text="a circle", least=-1.0).found[0].missing
    assert library_files(shelf.app)["list"][0]["missing"]
    with pytest.raises(Refused, match="mine.mp4 is no longer there") as refused:
        library_file(shelf.app, hit.hash)
    assert "/" not in str(refused.value)
    with pytest.raises(Refused, match="no longer in the library"):
        library_file(shelf.app, "/etc/passwd")
