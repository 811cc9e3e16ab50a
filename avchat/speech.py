"""Lines of what is said in a file, and a text -> the parts in which words of the text are said."""

import math
import re
from collections import Counter
from collections.abc import Sequence

from avchat.peaks import Peak, merge
from avchat.transcripts import Line

LEAST = 0.5  # how much of a text, by the weight of its words, a line must hold: our choice


def said_spans(lines: Sequence[Line], text: str, gap_s: float) -> list[Peak]:
    """Find where words of a text are said, the best first; less than `gap_s` apart is one part.

    A line scores the share of the text's words that are in it, in 0..1. Words count by how seldom
    the lines hold them (inverse document frequency): "the" does not make a line fit.
    """
    wanted, held = words(text), [words(line.text) for line in lines]
    if not wanted:
        return []
    counts = Counter(word for some in held for word in some)
    weight = {word: math.log(1 + len(lines) / (1 + counts[word])) for word in wanted}
    total = sum(weight.values())
    found = []
    for place, (line, some) in enumerate(zip(lines, held, strict=True)):
        share = sum(weight[word] for word in wanted & some) / total
        if share >= LEAST:
            found.append(Peak(line.start, line.end, share, place))
    return merge(found, gap_s)


def words(text: str) -> set[str]:
    """Split a text into its words, in lower case."""
    return set(re.findall(r"\w+", text.lower()))
