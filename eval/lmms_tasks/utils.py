"""What the task files here share: questions on clips as avchat writes them, asked of any model.

    AVWORLD=worlds/v1     the world: a folder of `avchat world`
    AVCHAT_SETS=sets      other sets: of `eval/qa.py SET ... --output sets/SET --write`

Answers are matched as eval/qa.py matches them. An answer that names no choice, or several, counts
as wrong here, as is usual in lmms-eval; how many there are stands beside the accuracy.
"""

import math
import os
from pathlib import Path
from typing import Any

from avchat.evaluation.items import Item
from avchat.evaluation.matching_answers import matched

Doc = dict[str, Any]

SETS = Path(os.environ.get("AVCHAT_SETS", "sets")).absolute()
WORLD = Path(os.environ.get("AVWORLD", "worlds/v1")).absolute()


HOW = {"avworld": f"avchat world {WORLD} --benchmark"}  # to make a task's questions
FOLDERS = {
    "avworld": WORLD,
    "music_avqa": SETS / "music-avqa",
    "avqa": SETS / "avqa",
    "avhbench": SETS / "avhbench",
    "cmm": SETS / "cmm",
    "daily_omni": SETS / "daily-omni",
}


def __getattr__(task: str) -> dict[str, str]:
    """Give the `data_files` of a task, where a task file names `utils.TASK`.

    Raises:
        FileNotFoundError: they are not there; says how they are made.
    """
    if task not in FOLDERS:
        raise AttributeError(task)
    path = FOLDERS[task] / "questions.jsonl"
    if not path.is_file():
        name = FOLDERS[task].name
        how = HOW.get(
            task, f"python eval/qa.py {name} FILE --videos CLIPS --output {path.parent} --write"
        )
        raise FileNotFoundError(f"{path}: no questions; make them with: {how}")
    return {"test": str(path)}


def short_of_world(docs: Any) -> Any:
    """Keep what has a short answer, as eval/world.py asks it; paths become whole ones."""
    kept = docs.filter(lambda doc: len(doc["choices"]) > 0)
    return kept.map(lambda doc: {"video": str(WORLD / doc["video"])})


def visual(doc: Doc) -> list[Any]:
    """Give the clip: its path, or its path with the seconds of a part."""
    if doc.get("start") is None and doc.get("end") is None:
        return [doc["video"]]
    part = {"video_start": doc.get("start"), "video_end": doc.get("end")}
    return [{"type": "video", "url": doc["video"], **part}]


def text(doc: Doc, lmms_eval_specific_kwargs: dict[str, Any] | None = None) -> str:
    """Write the question; with the answers that there may be, unless the model does without."""
    said = doc["question"]
    if doc["choices"] and (lmms_eval_specific_kwargs or {}).get("name_choices", True):
        said += f"\nAnswer with exactly one of: {', '.join(doc['choices'])}."
    return said


def target(doc: Doc) -> str:
    """Give the right answer."""
    return doc["answer"]


def choices(doc: Doc) -> list[str]:
    """List the answers that there may be."""
    return doc["choices"]


def right_choice(doc: Doc) -> int:
    """Give the place of the right answer among them."""
    return doc["choices"].index(doc["answer"])


def scored(doc: Doc, right: bool | None) -> dict[str, Doc]:
    """Score a document, and once more by what it needs; documents on one clip are one cluster."""
    row = {"score": float(right is True), "video": doc["video"]}
    found = {"accuracy": row, "unparsed": {**row, "score": float(right is None)}}
    return found | ({f"accuracy_{doc['needs']}": row} if doc.get("needs") else {})


def answered(doc: Doc, results: list[str]) -> dict[str, Doc]:
    """Score an answer in words."""
    item = Item(
        id=doc["id"],
        video=Path(doc["video"]),
        question=doc["question"],
        answer=doc["answer"],
        choices=tuple(doc["choices"]),
        also=tuple(doc.get("also") or ()),
    )
    return scored(doc, matched(results[0], item))


def weighed(doc: Doc, results: list[Any]) -> dict[str, Doc]:
    """Score the likelihoods of the choices: the likeliest one is the answer.

    Where all are minus infinity the clip could not be decoded, and none is.
    """
    found = [likelihood_of(result) for result in results]
    if max(found) == -math.inf:
        return scored(doc, None)
    return scored(doc, found.index(max(found)) == right_choice(doc))


def likelihood_of(result: Any) -> float:
    """Take the likelihood of a pair, or of its text: what lmms-eval's log of a killed run gives."""
    return float(result.strip("[]").split(",")[0] if isinstance(result, str) else result[0])


def mean(rows: list[Doc]) -> float:
    """Average scores."""
    return sum(row["score"] for row in rows) / len(rows)
