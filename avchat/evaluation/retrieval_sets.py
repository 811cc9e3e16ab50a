"""Files of public benchmarks of retrieval -> galleries: clips, texts, and which text is of which.

A gallery holds what is there. A clip that is missing makes the gallery smaller and each recall
higher, so what is missing is a part of it, and its line is to stand beside every figure.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from avchat.caption_tables import audiocaps, clotho, read_table, sounddescs
from avchat.data_rows import Place, Tally, kind_of, read_text
from avchat.evaluation.items import EvalError
from avchat.evaluation.set_rows import Clips, Line, read_set_lines

Part = tuple[float, float] | None  # seconds of a clip; None for all of it


class Caption(NamedTuple):
    """What is said of a clip, or of a part of it."""

    clip: Path
    part: Part
    text: str
    names: tuple[str, ...] = ()  # by which lists may call the clip, besides its file's


@dataclass(frozen=True)
class Gallery:
    """Clips and texts of which one finds the other: T texts, C clips."""

    name: str
    clips: list[Path]
    parts: list[Part]  # of each clip: AudioCaps asks for ten seconds of a whole video
    texts: list[str]
    clip_of: list[int]  # of each text: which clip it was written for
    missing: list[Path]  # clips that are not there; their texts are no queries

    def right(self, queries: Literal["text", "clip"]) -> np.ndarray:
        """Tell what is right: bool [T, C] where texts ask for clips, [C, T] where clips for texts.

        One text belongs to one clip alone, as in the published protocols, even where another
        clip's says the same: `shared_texts` counts those.
        """
        right = np.zeros((len(self.texts), len(self.clips)), dtype=bool)
        right[np.arange(len(self.texts)), self.clip_of] = True
        return right if queries == "text" else right.T

    @property
    def shared_texts(self) -> int:
        """Count texts that stand word for word at another clip, too: no model can tell them."""
        clips: dict[str, set[int]] = {}
        for text, clip in zip(self.texts, self.clip_of, strict=True):
            clips.setdefault(text.lower(), set()).add(clip)
        return sum(len(clips[text.lower()]) > 1 for text in self.texts)

    def first(self, count: int | None) -> "Gallery":
        """Keep the first so many clips, with their texts; None: all."""
        kept = [k for k, clip in enumerate(self.clip_of) if count is None or clip < count]
        return replace(
            self,
            clips=self.clips[:count],
            parts=self.parts[:count],
            texts=[self.texts[k] for k in kept],
            clip_of=[self.clip_of[k] for k in kept],
        )

    def line(self) -> str:
        """Say in one line how large the gallery is and what it lacks."""
        total = len(self.clips) + len(self.missing)
        counts = f"{len(self.texts)} texts, {len(self.clips)} clips"
        shared = f", {self.shared_texts} texts are another clip's, too" if self.shared_texts else ""
        return f"{self.name}: {counts}; {len(self.missing)} of {total} clips missing{shared}"


def read_gallery(
    name: str, path: Path, folder: Path, tally: Tally, split: Path | None = None
) -> Gallery:
    """Read a benchmark's captions, and find its clips in a folder.

    Args:
        name: of GALLERIES.
        tally: counts captions that are read, and those left out, with the reason.
        split: a list of the clips that count, one a line; None for all in the file. For SoundDescs
            it is the split: test_list.txt of its authors, or that of Weck & Serra's cleaned,
            group-filtered splits (arXiv 2302.12258): name both figures.

    Raises:
        EvalError: no such benchmark, no such folder, no clip is there.
        DataError: a file that cannot be read, with the line.
    """
    if name.lower() not in GALLERIES:
        raise EvalError(f"no gallery is called {name!r:.40}: {', '.join(GALLERIES)}")
    if not folder.is_dir():
        raise EvalError(f"{folder}: no such folder of clips")
    name = name.lower()
    captions = GALLERIES[name](path, folder, tally)
    if split is not None:
        captions = _of_split(captions, split, tally, any_case=name == "sounddescs")
    gallery = _gathered(f"{name} ({split.stem})" if split else name, captions, tally)
    if not gallery.clips:
        lost = f"none of its {len(gallery.missing)} clips is in {folder}"
        raise EvalError(f"{path}: {lost if gallery.missing else 'no captions'}. {tally.line()}")
    return gallery


def _gathered(name: str, captions: Iterator[Caption], tally: Tally) -> Gallery:
    """Put each clip in once, with all its texts; those that are not there apart."""
    index: dict[tuple[Path, Part], int] = {}
    missing: dict[Path, bool] = {}
    texts, clip_of = [], []
    for clip, part, text, _ in captions:
        if not text.strip():
            tally.left["with an empty caption"] += 1
            continue
        if clip not in missing:
            missing[clip] = not clip.is_file()
        if missing[clip]:
            tally.left["of a clip that is missing"] += 1
            continue
        clip_of.append(index.setdefault((clip, part), len(index)))
        texts.append(text.strip())
        tally.carried += 1
    lost = [clip for clip, gone in missing.items() if gone]
    return Gallery(name, [c for c, _ in index], [p for _, p in index], texts, clip_of, lost)


def _of_split(
    captions: Iterator[Caption], split: Path, tally: Tally, *, any_case: bool
) -> Iterator[Caption]:
    """Yield captions of the clips in a list; names in it that have none are counted.

    Args: any_case: for SoundDescs, whose lists say nhu05051077 where the BBC's table says
        NHU05051077; names of YouTube differ by case.
    """
    fold = str.lower if any_case else str
    wanted = {fold(_stem(line)) for line in read_text(split).split("\n") if line.strip()}
    found = set()
    for caption in captions:
        if names := wanted & {fold(name) for name in (caption.clip.stem, *caption.names)}:
            found |= names
            yield caption
    if alone := len(wanted - found):
        tally.left[f"in {split.name} without a caption"] += alone


def _stem(name: str) -> str:
    path = Path(name.strip())
    return path.stem if kind_of(path) else path.name


def msrvtt_1ka(path: Path, folder: Path, tally: Tally) -> Iterator[Caption]:
    """Read the 1k-A test of MSR-VTT: MSRVTT_JSFUSION_test.csv, one caption a clip.

    Columns key, vid_key, video_id, sentence [notes; README of CLIP4Clip].
    """
    clips = Clips(folder)
    for _, row in read_table(path, {"key", "vid_key", "video_id", "sentence"}):
        yield Caption(clips.path(row["video_id"]), None, row["sentence"])


def didemo(path: Path, folder: Path, tally: Tally) -> Iterator[Caption]:
    """Read DiDeMo: all sentences of a video joined to one paragraph, in the file's order.

    test_data.json: video, with an ending that the file may not have, description, times and more
    [repo ArrowLuo/CLIP4Clip, the loader]. Its test_list.txt is a split.
    """
    clips, said = Clips(folder), dict[str, list[str]]()
    for line in read_set_lines(path):
        said.setdefault(line.word("video"), []).append(_description(line))
    for video, sentences in said.items():
        yield Caption(clips.path(video), None, " ".join(filter(None, sentences)))


def _description(line: Line) -> str:
    text = line.row.get("description")
    if not isinstance(text, str):
        raise EvalError(f'{line.where}: "description" must be there, and be text')
    return text.strip()


def audiocaps_sounds(path: Path, folder: Path, tally: Tally) -> Iterator[Caption]:
    """Read AudioCaps' test.csv, five captions a clip, as avchat.caption_tables does.

    A list may name a clip by its video, with or without the start and a Y before it.
    """
    rows = audiocaps(path, Place(folder), Tally())  # _gathered counts what is missing
    table = read_table(path, {"youtube_id", "start_time"})
    for row, (_, line) in zip(rows, table, strict=True):
        part = (row["start"], row["end"]) if "start" in row else None
        video, start = line["youtube_id"], line["start_time"]
        names = (video, f"Y{video}", f"{video}_{start}", f"Y{video}_{start}")
        yield Caption(row["media"], part, row["caption"], names)


def clotho_sounds(path: Path, folder: Path, tally: Tally) -> Iterator[Caption]:
    """Read Clotho's captions, five a clip, as avchat.caption_tables does."""
    for row in clotho(path, Place(folder), Tally()):
        yield Caption(row["media"], None, row["caption"])


def sounddescs_sounds(path: Path, folder: Path, tally: Tally) -> Iterator[Caption]:
    """Read SoundDescs, one description a clip, as avchat.caption_tables does.

    A file is found in small letters, too, as its authors' lists name it.
    """
    place = Place(folder)
    small = {stem.lower(): file for (kind, stem), file in place.stems.items() if kind == "audio"}
    for row in sounddescs(path, place, Tally()):
        media = row["media"]
        file = media if media.is_file() else small.get(media.stem.lower(), media)
        yield Caption(file, None, row["caption"])


GALLERIES: dict[str, Callable[[Path, Path, Tally], Iterator[Caption]]] = {
    "msr-vtt-1ka": msrvtt_1ka,
    "didemo": didemo,
    "audiocaps": audiocaps_sounds,
    "clotho": clotho_sounds,
    "sounddescs": sounddescs_sounds,
}
