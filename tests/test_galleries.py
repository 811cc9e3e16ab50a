"""A lookup head on a benchmark's gallery: who finds whom, what is counted, what a kill leaves."""

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest

from avchat.data_rows import Tally
from avchat.evaluation.galleries import SENSES, VECTORS, directions, embed_clips, reweighted, score
from avchat.evaluation.items import EvalError
from avchat.evaluation.retrieval_sets import Gallery, read_gallery
from avchat.heads import Head, load_head
from avchat.media import load_media
from avchat.metrics import ranks


@pytest.fixture(scope="module")
def head(bundled: str) -> Head:
    return load_head("tiny")


@pytest.fixture
def gallery(clip: Path, silent_clip: Path, tmp_path: Path) -> Gallery:
    """Two clips that are there, one of them without sound, one that is no video, one missing."""
    for name, source in (("one", clip), ("two", silent_clip)):
        shutil.copy(source, tmp_path / f"{name}.mp4")
    (tmp_path / "bad.mp4").write_text("not a video")
    with (tmp_path / "test.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["key", "vid_key", "video_id", "sentence"])
        for k, name in enumerate(("one", "two", "bad", "gone")):
            rows.writerow([f"ret{k}", f"msr{k}", name, f"a text of {name}"])
    return read_gallery("msr-vtt-1ka", tmp_path / "test.csv", tmp_path, Tally())


def test_what_is_missing_is_counted_and_each_direction_has_its_name(
    head: Head, gallery: Gallery, tmp_path: Path
) -> None:
    assert len(gallery.clips) == 3 and len(gallery.missing) == 1
    rows = embed_clips(head, gallery, tmp_path / "run", lambda done, of: None)
    assert sum("error" in row for row in rows) == 1
    found = directions(gallery, rows, head.texts(gallery.texts))
    sizes = {name: (row["queries"], row["gallery"]) for name, row in found.items()}
    assert sizes == {
        "text to clip": (2, 2),
        "clip to text": (2, 2),
        "text to picture": (2, 2),
        "picture to text": (2, 2),
        "text to sound": (1, 1),
        "sound to text": (1, 1),
        "picture to sound": (1, 1),
        "sound to picture": (1, 1),
    }
    again = directions(gallery, rows, head.texts(gallery.texts), reweight=True)
    assert {n for n in again if n.endswith(", re-weighted")} and again.items() >= found.items()


def test_a_second_run_embeds_what_is_missing(head: Head, gallery: Gallery, tmp_path: Path) -> None:
    path = tmp_path / "run" / VECTORS
    embed_clips(head, gallery, path.parent, lambda done, of: None)
    whole = path.read_bytes()
    lines = whole.splitlines(keepends=True)
    path.write_bytes(lines[0] + lines[1][:40])  # as a kill leaves it
    rows = embed_clips(head, gallery, path.parent, lambda done, of: None)
    assert path.read_bytes() == whole and len(rows) == 3
    embed_clips(head, gallery, path.parent, lambda done, of: None)
    # what could not be decoded is tried again, the others are not
    assert path.read_bytes() == whole + lines[2]


def test_vectors_of_a_file_are_the_head_s(head: Head, gallery: Gallery, tmp_path: Path) -> None:
    [row, *_] = embed_clips(head, gallery, tmp_path / "run", lambda done, of: None)
    media = load_media(gallery.clips[0], frames=head.frames, size=head.size)
    [alone] = head.clips([media])
    # the end of a window is a sample or two off the end of the file
    assert all(np.dot(row[sense], vars(alone)[sense]) > 0.999 for sense in SENSES)


def test_a_known_matrix_gives_known_figures() -> None:
    scores = np.array([[0.9, 0.1, 0.2], [0.8, 0.7, 0.1], [0.3, 0.2, 0.3]])
    found = score(scores, np.eye(3, dtype=bool), ["a", "b", "c"])
    assert list(ranks(scores)) == [1, 2, 1.5]  # the tie is shared
    assert found["R@1"] == pytest.approx(1 / 3) and found["R@5"] == 1 and found["gallery"] == 3
    scores[1, 1] = np.nan
    with pytest.raises(EvalError, match="not numbers"):
        score(scores, np.eye(3, dtype=bool), ["a", "b", "c"])


def test_re_weighting_lets_queries_share() -> None:
    scores = np.array([[0.9, 0.8], [0.89, 0.1]])  # both like the first best
    assert list(ranks(scores)) == [1, 2]
    hot = reweighted(scores)
    assert hot.shape == scores.shape and hot[0, 1] > hot[1, 1]
    assert list(ranks(hot)) == [2, 2]  # the second clip is the first query's, which alone likes it
    # both like the first clip best, the second query hardly: where they share each has its own
    wanted = np.array([[0.9, 0.2], [0.89, 0.88]])
    assert list(ranks(wanted)) == [1, 2] and list(ranks(reweighted(wanted))) == [1, 1]
    turned = np.eye(2, dtype=bool)[::-1]
    assert list(ranks(reweighted(wanted)[::-1], turned)) == [1, 1]
