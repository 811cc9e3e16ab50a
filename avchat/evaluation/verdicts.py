"""What was said, beside what is right: a verdict on each answer of a run.

Enters: the folder of a run. Leaves: `Verdict`s: right, wrong, or neither, which is counted and
never taken for wrong nor left out.
"""

from dataclasses import dataclass
from pathlib import Path

from avchat.evaluation.matching_answers import is_right
from avchat.evaluation.records import ANSWERS, Row, read_plan, read_records

Outcome = str  # one of OUTCOMES
OUTCOMES = ("right", "wrong", "unparsed", "missing")


@dataclass(frozen=True)
class Verdict:
    """One answer: to what, under which condition, and what it is worth."""

    id: str
    clip: str
    condition: str
    family: str
    needs: str
    question: str
    answer: str
    said: str | None  # None: there is no answer
    outcome: Outcome
    error: str = ""
    altered: bool = True  # False: the condition had nothing to take away
    also: tuple[str, ...] = ()  # other answers that are as right

    @property
    def right(self) -> bool | None:
        """Tell whether it is right; None where that cannot be told."""
        return {"right": True, "wrong": False}.get(self.outcome)

    @property
    def is_yes_or_no(self) -> bool:
        """Tell whether the question is one of yes or no."""
        return self.answer.lower() in ("yes", "no")


def read_verdicts(folder: Path) -> list[Verdict]:
    """Read a run's verdicts, one an item and condition of its plan."""
    records = read_records(folder / ANSWERS)
    return [verdict(row, records.get(row["key"])) for row in read_plan(folder)]


def verdict(asked: Row, found: Row | None) -> Verdict:
    """Judge one answer by whole-answer match."""
    said = None if found is None else found.get("said")
    return Verdict(
        **{name: asked[name] for name in ("id", "clip", "condition", "family", "needs")},
        question=asked["question"],
        answer=asked["answer"],
        said=said,
        outcome=outcome(said, asked),
        error="not asked yet" if found is None else found.get("error", ""),
        altered=not (found or {}).get("unaltered", False),
        also=tuple(asked["also"]),
    )


def outcome(said: str | None, asked: Row) -> Outcome:
    """Name what an answer is worth; unparsed: it is empty, or names none of the choices."""
    if said is None:
        return "missing"
    right = is_right(said, (asked["answer"], *asked["also"]), asked["choices"])
    return "unparsed" if right is None else "right" if right else "wrong"
