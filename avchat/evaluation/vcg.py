"""The benchmark of Video-ChatGPT, of which a judge scores the answers -> items.

Three files [notes; repo mbzuai-oryx/Video-ChatGPT, quantitative_evaluation]: generic_qa.json and
temporal_qa.json with video_name, Q, A; consistency_qa.json with video_name, Q1, Q2, A, the same
question in two wordings. The answers were written from captions of what is seen: none needs sound.
"""

from collections.abc import Iterator
from pathlib import Path

from avchat.data_rows import Tally
from avchat.evaluation.items import EvalError, Item, check_ids
from avchat.evaluation.set_rows import Clips, Line, Named, read_set_lines

KINDS = ("generic", "temporal", "consistency")


def read_vcg(kind: str, path: Path, videos: Path, tally: Tally) -> list[Item]:
    """Read one of the three files, whatever it is called.

    Args:
        kind: of KINDS; it is the items' family, and a part of their ids.
        tally: counts the items that are read.

    Returns:
        Of consistency two items a row, whose ids pair_of makes equal.

    Raises:
        EvalError: another kind, a file of another kind, no rows, a row without a field.
        DataError: the file cannot be read.
    """
    if kind not in KINDS:
        raise EvalError(f"no kind of questions is called {kind!r:.40}: {', '.join(KINDS)}")
    clips, named = Clips(videos), Named()
    items = [item for line in read_set_lines(path) for item in _items(kind, line, clips, named)]
    if not items:
        raise EvalError(f"{path}: no questions")
    check_ids(path, items)
    tally.carried += len(items)
    return items


def _items(kind: str, line: Line, clips: Clips, named: Named) -> Iterator[Item]:
    """Make one item of a row, or two: an id hangs on what the row says, not on where it stands."""
    paired = "Q1" in line.row
    if paired != (kind == "consistency"):
        raise EvalError(f"{line.where}: {'has' if paired else 'lacks'} Q1 and Q2: not {kind}")
    names = ("Q1", "Q2") if paired else ("Q",)
    video, answer = line.word("video_name"), line.word("A")
    questions = [line.word(name) for name in names]
    id = named.id(kind, video, questions, answer)
    for number, question in enumerate(questions, 1):
        yield Item(
            id=f"{id}/{number}" if paired else id,
            video=clips.path(video),
            question=question,
            answer=answer,
            family=kind,
            needs="V",
        )
