"""Finding: index, scan and numpy agree; filters, folding, fusion, thresholds; reasons that sum."""

from pathlib import Path

import numpy as np
import pytest
from test_library import WIDTH, entries_of, file_of, new, units

from avchat.library import Entry, Library, LibraryError
from avchat.library_find import UNWANTED, Filters, Found, Query, find


def by_hand(vectors: np.ndarray, wanted: np.ndarray, top: int) -> list[int]:
    """Rank vectors [W, D] by their dot product with one, without a store."""
    return np.argsort(-(vectors @ wanted))[:top].tolist()


def places(found: list[Found]) -> list[int]:
    """Number what was found of `entries_of`."""
    return [round(one.start / 4) for one in found]


def assert_reasons_sum(found: list[Found]) -> None:
    for one in found:
        assert sum(one.why.values()) == pytest.approx(one.score, abs=1e-5)
        assert list(one.why) == ["picture", "sound", "speech"]


def clustered(rng: np.random.Generator, count: int) -> np.ndarray:
    """Draw vectors about 60 centres, as clips of like scenes lie."""
    vectors = units(rng, 60)[rng.integers(0, 60, count)] + 0.7 * units(rng, count)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> tuple[Library, np.ndarray]:
    """3,000 windows with an index, 200 more that it does not have yet."""
    rng = np.random.default_rng(0)
    vectors = clustered(rng, 3200)
    library = new(tmp_path_factory.mktemp("many") / "lib", index_rows=2000)
    library.add(file_of("film", duration_s=12800.0), entries_of(vectors[:3000]))
    library.tend()
    later = [
        Entry(4.0 * n, 4.0 * n + 4, v, None, v) for n, v in enumerate(vectors[3000:], start=3000)
    ]
    library.add(file_of("late", duration_s=12800.0, has_sound=False), later)
    return library, vectors


def test_a_scan_is_the_ranking_by_hand(many: tuple[Library, np.ndarray]) -> None:
    library, vectors = many
    for wanted in units(np.random.default_rng(1), 5):
        found = find(library, Query(((wanted, 2.0),)), top=20, fold=2.0, exact=True)
        assert places(found) == by_hand(vectors, wanted, 20)
        np.testing.assert_allclose(
            [one.score for one in found], np.sort(vectors @ wanted)[::-1][:20], atol=1e-5
        )
        assert_reasons_sum(found)


def test_the_index_finds_what_a_scan_finds(many: tuple[Library, np.ndarray]) -> None:
    library, vectors = many
    assert library.stats()["indexed"] == ["picture", "sound", "both"]
    hits = 0
    for wanted in clustered(np.random.default_rng(2), 20):
        found = find(library, Query(((wanted, 1.0),)), top=10, fold=2.0)
        hits += len(set(places(found)) & set(by_hand(vectors, wanted, 10)))
    assert hits >= 0.98 * 200


def test_several_weighted_and_unwanted_vectors_are_one_score(
    many: tuple[Library, np.ndarray],
) -> None:
    library, vectors = many
    a, b, c, d = units(np.random.default_rng(3), 4)
    query = Query(((a, 3.0), (b, 1.0)), ((c, 1.0), (d, 1.0)))
    scores = 0.75 * vectors @ a + 0.25 * vectors @ b - UNWANTED * (vectors @ c + vectors @ d) / 2
    found = find(library, query, top=10, fold=2.0, exact=True)
    assert places(found) == np.argsort(-scores)[:10].tolist()
    assert_reasons_sum(found)
    with pytest.raises(LibraryError, match="the same"):
        find(library, Query(((a, 1.0),), ((a / UNWANTED, 1.0),)))


def test_a_sense_that_is_absent_is_not_found_by_it(many: tuple[Library, np.ndarray]) -> None:
    library, vectors = many
    query = Query(((vectors[3100], 1.0),), sense="sound")
    assert all(one.clip == "film.mp4" for one in find(library, query, top=50, exact=True))
    assert all(one.clip == "film.mp4" for one in find(library, query, top=50))
    [best] = find(library, Query(((vectors[3100], 1.0),)), top=1)
    assert best.clip == "late.mp4" and best.why["sound"] == 0
    assert best.why["picture"] == pytest.approx(1)


def test_a_threshold_makes_no_good_match_an_answer(many: tuple[Library, np.ndarray]) -> None:
    library, vectors = many
    query = Query(((vectors[7], 1.0),))
    found = find(library, query, top=50, threshold=0.9, fold=2.0, exact=True)
    assert len(found) == (vectors @ vectors[7] >= 0.9).sum()
    assert find(library, Query(((-vectors[7], 1.0),)), threshold=0.99) == []


def test_why_gives_each_sense_its_share(tmp_path: Path) -> None:
    """`both` lies between picture and sound; the sense that the query is nearer to has more."""
    library = new(tmp_path / "lib")
    picture, sound = np.eye(WIDTH, dtype=np.float32)[:2]
    both = (picture + sound) / np.sqrt(2)
    library.add(file_of("a"), [Entry(0, 4, picture, sound, both)])
    query = Query((((0.6 * picture + 0.8 * sound), 1.0),))
    [one] = find(library, query)
    assert one.score == pytest.approx(1.4 / np.sqrt(2))
    assert one.why["sound"] - one.why["picture"] == pytest.approx(0.2)
    assert_reasons_sum([one])
    [heard] = find(library, Query(query.wanted, sense="sound"))
    assert heard.why == {"picture": 0.0, "sound": pytest.approx(0.8), "speech": 0.0}


def test_filters(tmp_path: Path) -> None:
    library = new(tmp_path / "lib")
    rng = np.random.default_rng(0)
    vectors = units(rng, 4)
    files = [
        file_of("a"),
        file_of("sub/b", has_sound=False),
        file_of("sub/c", duration_s=100.0),
        file_of("sub_d", mtime_s=2000.0),
    ]
    for file, vector in zip(files, vectors, strict=True):
        library.add(file, [Entry(0, 4, vector, None, vector)])
    query = Query(((vectors[0], 1.0),))

    def names(**filters: object) -> str:
        return "".join(sorted(one.clip[-5] for one in find(library, query, Filters(**filters))))

    assert names() == "abcd"
    assert names(folder="/films/sub") == names(folder="/films/sub/") == "bc"
    assert names(folder="/films/%") == ""
    assert names(min_length_s=50) == "c" and names(max_length_s=8) == "abd"
    assert names(has_sound=True) == "acd" and names(has_sound=False) == "b"
    assert names(after_s=1500) == "d" and names(before_s=1500) == "abc"
    assert names(folder="/films/sub", has_sound=True, before_s=1500) == "c"


def test_a_filter_that_leaves_far_windows_alone_finds_them_by_the_index(tmp_path: Path) -> None:
    """The cells nearest to the question hold nothing of the folder that is asked for."""
    library = new(tmp_path / "lib", index_rows=2000)
    vectors = clustered(np.random.default_rng(0), 4000)
    order = np.argsort(-(vectors @ vectors[0]))
    library.add(file_of("near/film", duration_s=2e4), entries_of(vectors[order[:3990]]))
    library.add(file_of("far/film", duration_s=2e4), entries_of(vectors[order[3990:]]))
    library.tend()
    assert library.index_of("both")
    query = Query(((vectors[0], 1.0),))
    found = find(library, query, Filters(folder="/films/far"), top=5, fold=2.0)
    assert [one.start for one in found] == [0.0, 4.0, 8.0, 12.0, 16.0]


def test_near_duplicates_and_overlapping_windows_are_folded(tmp_path: Path) -> None:
    library = new(tmp_path / "lib")
    a, b, c = units(np.random.default_rng(0), 3)
    windows = [Entry(2.0 * n, 2.0 * n + 4, v, None, v) for n, v in enumerate((a, b, c))]
    library.add(file_of("film"), windows)  # 0-4, 2-6, 4-8 s
    copy = a + 0.01 * b
    copy /= np.linalg.norm(copy)
    library.add(file_of("copy"), [Entry(0, 4, copy, None, copy)])
    query = Query(((a, 1.0),))
    found = find(library, query)
    assert [(one.clip, one.start) for one in found][0] == ("film.mp4", 0)
    assert len(found) == 2 and found[1].start in (2, 4)
    assert [one.clip for one in find(library, query, fold=2.0)][:2] == ["film.mp4", "copy.mp4"]


def test_clips_that_differ_in_one_sense_are_not_folded(tmp_path: Path) -> None:
    library = new(tmp_path / "lib")
    a, b, c = units(np.random.default_rng(0), 3)
    library.add(file_of("bark"), [Entry(0, 4, a, b, a)])
    library.add(file_of("meow"), [Entry(0, 4, a, c, a)])
    library.add(file_of("mute"), [Entry(0, 4, a, None, a)])
    found = {one.clip for one in find(library, Query(((a, 1.0),)))}
    assert found == {"bark.mp4", "meow.mp4", "mute.mp4"}


@pytest.mark.parametrize("index_rows", [20_000, 500])
def test_folding_does_not_eat_the_answer(index_rows: int, tmp_path: Path) -> None:
    """A thousand windows of one still scene: the next other clip is found behind them."""
    library = new(tmp_path / "lib", index_rows=index_rows)
    a, b = units(np.random.default_rng(0), 2)
    library.add(file_of("still"), entries_of(np.repeat(a[None], 1000, axis=0)))
    library.add(file_of("other"), entries_of(b[None]))
    library.tend()
    assert bool(library.index_of("both")) == (index_rows == 500)
    found = find(library, Query(((a, 1.0),)), top=2)
    assert [one.clip for one in found] == ["still.mp4", "other.mp4"]


def test_what_was_said_is_fused_with_what_is_seen(tmp_path: Path) -> None:
    library = new(tmp_path / "lib")
    rng = np.random.default_rng(0)
    vectors = units(rng, 30)
    for n, vector in enumerate(vectors):
        said = {3: "The dogs were barking.", 9: "a barking dog, a dog!"}.get(n)
        library.add(file_of(f"f{n}"), [Entry(0, 4, vector, None, vector, b"", said)])
    query = Query(((vectors[3], 1.0),), text="a dog barks")
    found = find(library, query, top=5)
    assert {one.clip for one in found} >= {"f3.mp4", "f9.mp4"}
    assert found[0].clip == "f3.mp4" and found[0].score > 0.98
    assert found[0].why["speech"] > 0.45 and found[0].why["picture"] == pytest.approx(0.5)
    assert_reasons_sum(found)
    alone = find(library, Query(text="dog"))
    assert {one.clip for one in alone} == {"f3.mp4", "f9.mp4"}
    assert alone[0].why == {"picture": 0.0, "sound": 0.0, "speech": 1.0}
    # words of the query keep a window that is below the threshold; nobody said "zebra"
    assert {one.clip for one in find(library, query, threshold=1.1)} == {"f3.mp4", "f9.mp4"}
    assert find(library, Query(((vectors[3], 1.0),), text="zebra"), threshold=1.1) == []
    assert find(library, Query(text='zebra" AND (')) == []
    library.tend()
    assert [one.clip for one in find(library, query, top=5)] == [one.clip for one in found]


def test_an_empty_library_and_an_empty_query(tmp_path: Path) -> None:
    library = new(tmp_path / "lib")
    [vector] = units(np.random.default_rng(0), 1)
    assert find(library, Query(((vector, 1.0),), text="dog")) == []
    with pytest.raises(LibraryError, match="empty"):
        find(library, Query(text=" "))


def test_a_file_deleted_after_indexing_is_found_and_marked(tmp_path: Path) -> None:
    library = new(tmp_path / "lib")
    [vector] = units(np.random.default_rng(0), 1)
    (tmp_path / "a.mp4").write_bytes(b"x")
    file = file_of("a")
    library.add(type(file)(**vars(file) | {"path": str(tmp_path / "a.mp4")}), entries_of([vector]))
    assert [one.missing for one in find(library, Query(((vector, 1.0),)))] == [False]
    (tmp_path / "a.mp4").unlink()
    assert [one.missing for one in find(library, Query(((vector, 1.0),)))] == [True]
