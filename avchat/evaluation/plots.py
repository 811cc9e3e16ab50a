"""Reports -> a picture: accuracy by family, with its interval, a colour and a sign a run."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from avchat.evaluation.items import EvalError
from avchat.evaluation.report import Row

MARKS = "osD^vP*X"  # a run is told by its sign too, not by its colour alone


def plot(reports: Sequence[Row], condition: str, out: Path) -> None:
    """Draw runs under one condition, or the conditions of one run, as PNG.

    Raises:
        EvalError: it cannot be written, or has another ending than .png.
    """
    if out.suffix.lower() != ".png":
        raise EvalError(f"{out}: a plot is a PNG; let its name end in .png")
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise EvalError("a plot needs matplotlib: pip install 'avchat[eval]'") from error
    drawn = series(reports, condition)
    groups = list(dict.fromkeys(group for _, scores in drawn for group in scores))
    figure = Figure(figsize=(9, 1.2 + 0.16 * len(groups) * max(2, len(drawn))))
    axes = figure.subplots()
    for k, (name, scores) in enumerate(drawn):
        kept = [group for group in groups if group in scores and scores[group]["scored"]]
        middle = np.array([100 * scores[group]["accuracy"] for group in kept])
        ends = 100 * np.array([scores[group]["interval"] for group in kept]).reshape(-1, 2)
        shift = (k - (len(drawn) - 1) / 2) * 0.8 / len(drawn)
        axes.errorbar(
            middle,
            [groups.index(group) + shift for group in kept],
            xerr=np.clip([middle - ends[:, 0], ends[:, 1] - middle], 0, None),
            fmt=MARKS[k % len(MARKS)],
            markersize=4,
            capsize=2,
            label=name,
        )
    axes.set_yticks(range(len(groups)), groups)
    axes.invert_yaxis()
    axes.set_xlim(0, 100)
    axes.set_xlabel("accuracy in %, 95 % interval over clips")
    axes.grid(axis="x", alpha=0.3)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.06), ncols=4, fontsize="small")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(out, format="png", dpi=120, bbox_inches="tight")
    except OSError as error:
        raise EvalError(f"{out}: cannot be written ({error.strerror})") from error


def series(reports: Sequence[Row], condition: str) -> list[tuple[str, Row]]:
    """List what is drawn: of one run its conditions, of several one condition."""
    if len(reports) == 1:
        return list(reports[0]["conditions"].items())
    missing = [report["run"] for report in reports if condition not in report["conditions"]]
    if missing:
        raise EvalError(f"{missing[0]}: was not asked under the condition {condition}")
    return [(report["run"], report["conditions"][condition]) for report in reports]
