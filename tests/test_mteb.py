"""The adapter for mteb: its own metrics, on clips of the world, against ours."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("mteb", reason="mteb is not installed (extra [mteb])")

import mteb
from datasets import Audio, Dataset, Video
from mteb.abstasks.retrieval import AbsTaskRetrieval
from mteb.abstasks.retrieval_dataset_loaders import RetrievalSplitData
from mteb.abstasks.task_metadata import TaskMetadata
from mteb.models.models_protocols import EncoderProtocol

from avchat.evaluation.items import EvalError
from avchat.evaluation.mteb_model import HeadEncoder
from avchat.library_query import file_vectors
from avchat.metrics import ranks, retrieval
from avchat.world.captions import draw_gallery
from avchat.world.clip_file import write_clip

CLIPS = 8


@pytest.fixture(scope="module")
def encoder() -> HeadEncoder:
    return HeadEncoder("tiny")


@pytest.fixture(scope="module")
def gallery(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Path], list[str]]:
    folder = tmp_path_factory.mktemp("gallery")
    drawn = draw_gallery(77, CLIPS, "both")
    paths = [folder / f"{k}.mp4" for k in range(CLIPS)]
    for path, (scene, _) in zip(paths, drawn, strict=True):
        write_clip(scene, path)
    return paths, [line.text for _, line in drawn]


def columns(paths: list[Path], names: tuple[str, ...]) -> Dataset:
    """Make a data set with the clips' bytes, as one from the Hub has them."""
    held = [{"bytes": path.read_bytes(), "path": path.name} for path in paths]
    rows = Dataset.from_dict({"id": [path.stem for path in paths], **dict.fromkeys(names, held)})
    kinds = {"video": Video(), "audio": Audio()}
    for name in names:
        rows = rows.cast_column(name, kinds[name])
    return rows


def task_of(
    paths: list[Path], texts: list[str], names: tuple[str, ...], category: str
) -> AbsTaskRetrieval:
    """Define a task that looks for clips by their texts."""

    class Worlds(AbsTaskRetrieval):
        metadata = TaskMetadata(
            name="AvworldRetrieval",
            description="Clips of avchat's world by their captions.",
            dataset={"path": "avchat/world", "revision": "1"},
            type="Any2AnyRetrieval",
            category=category,
            eval_splits=["test"],
            eval_langs=["eng-Latn"],
            main_score="hit_rate_at_5",
            modalities=["text", *names],
            prompt={"query": "not used"},
        )

        def load_data(self, num_proc: int | None = None, **kwargs: Any) -> None:
            ids = [path.stem for path in paths]
            self.dataset = {
                "default": {
                    "test": RetrievalSplitData(
                        queries=Dataset.from_dict({"id": ids, "text": texts}),
                        corpus=columns(paths, names),
                        relevant_docs={one: {one: 1} for one in ids},
                        top_ranked=None,
                    )
                }
            }
            self.data_loaded = True

    return Worlds()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("names", "category", "sense"),
    [
        (("video",), "t2v", "picture"),
        (("audio",), "t2a", "sound"),
        (("video", "audio"), "t2va", "both"),
    ],
)
def test_mteb_measures_what_we_measure(
    encoder: HeadEncoder,
    gallery: tuple[list[Path], list[str]],
    names: tuple[str, ...],
    category: str,
    sense: str,
) -> None:
    paths, texts = gallery
    found = mteb.evaluate(encoder, task_of(paths, texts, names, category), cache=None)
    theirs = found[0].scores["test"][0]
    vectors = np.stack([vars(file_vectors(encoder.head, path))[sense] for path in paths])
    ours = retrieval(ranks(encoder.head.texts(texts) @ vectors.T), len(paths))
    for k in (1, 5):
        assert theirs[f"hit_rate_at_{k}"] == pytest.approx(ours[f"R@{k}"])


def test_the_adapter_is_what_mteb_asks_for(encoder: HeadEncoder) -> None:
    assert isinstance(encoder, EncoderProtocol)
    meta = encoder.mteb_model_meta
    assert meta.name == "avchat/tiny" and meta.revision == encoder.head.fingerprint
    a, b = np.eye(3, 4, dtype=np.float32), np.eye(2, 4, dtype=np.float32)
    assert encoder.similarity(a, b).tolist() == [[1, 0], [0, 1], [0, 0]]
    assert encoder.similarity_pairwise(a[:2], b).tolist() == [1, 1]


def test_what_cannot_be_embedded_is_one_line(
    encoder: HeadEncoder, gallery: tuple[list[Path], list[str]]
) -> None:
    class Loader:
        def __init__(self, rows: Dataset) -> None:
            self.dataset = rows

    with pytest.raises(EvalError, match="texts or media, not nothing"):
        encoder.encode(Loader(Dataset.from_dict({"id": ["1"]})))
    with pytest.raises(EvalError, match="not \\['audio', 'text'\\]"):
        encoder.encode(Loader(Dataset.from_dict({"audio": ["1"], "text": ["2"]})))
