"""Lengths of samples -> rows that are filled to the brim, and groups of rows alike in length.

Pure functions on numbers: batches.py says what they are the lengths of.
"""

from bisect import bisect_left, insort
from collections.abc import Sequence

import numpy as np

JITTER = 0.2  # our choice: rows of each epoch hold other samples together, and are as full


def fill_rows(
    lengths: Sequence[int], capacity: int, rng: np.random.Generator | None = None
) -> list[list[int]]:
    """Pack items into rows of at most `capacity`: best fit, longest first.

    An item longer than a row gets one of its own. The bound of best fit decreasing is 11/9 of the
    fewest rows plus a constant; with many short items next to nothing is left over.

    Args: rng: mixes the order a little, so that each epoch joins other items.

    Returns:
        Rows of item numbers, each item in one row.
    """
    sizes = np.asarray(lengths, dtype=float)
    if rng is not None:
        sizes = sizes * (1 + JITTER * rng.random(len(sizes)))
    rows: list[list[int]] = []
    room: list[tuple[int, int]] = []  # (what is left, row), sorted
    for item in np.argsort(-sizes, kind="stable").tolist():
        at = bisect_left(room, (lengths[item], -1))
        if at < len(room):
            left, row = room.pop(at)
        else:
            left, row = max(capacity, lengths[item]), len(rows)
            rows.append([])
        rows[row].append(item)
        insort(room, (left - lengths[item], row))
    return rows


def group_alike(
    lengths: Sequence[int],
    order: Sequence[int],
    group: int,
    rng: np.random.Generator,
    mix: int = 16,
) -> list[int]:
    """Reorder items so that each `group` of neighbours is of about one length.

    Stretches of `mix` groups of the given random order are sorted, cut into groups, and the groups
    are shuffled: batches stay random where it matters, and a step pads little.
    """
    reordered: list[int] = []
    for first in range(0, len(order), group * mix):
        stretch = sorted(order[first : first + group * mix], key=lambda k: lengths[k])
        groups = [stretch[k : k + group] for k in range(0, len(stretch), group)]
        short = [groups.pop()] if len(groups[-1]) < group else []  # stays last: groups keep in step
        groups = [groups[k] for k in rng.permutation(len(groups))]
        reordered += [item for one in [*groups, *short] for item in one]
    return reordered
