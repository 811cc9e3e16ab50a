"""What the words of a question give away: a small classifier that never sees a clip.

Enters: questions with answers, of another split. Leaves: guesses among the choices. A logistic
regression over the words, pairs of words and the family of a question: what a language model alone
could learn from how the set asks.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from avchat.evaluation.items import Item
from avchat.evaluation.matching_answers import plain

STEPS, RATE, DECAY = 300, 0.05, 1e-3  # our choice: more steps change nothing


def features_of(item: Item) -> set[str]:
    """List what is known of a question without its clip."""
    words = plain(item.question)
    return {item.family, *words, *(" ".join(pair) for pair in pairwise(words))}


def guesses(train: Sequence[Item], asked: Sequence[Item], seed: int = 0) -> list[str]:
    """Learn from some questions, and answer others by one of their choices."""
    names = {name: k for k, name in enumerate(sorted({f for i in train for f in features_of(i)}))}
    answers = {a: k for k, a in enumerate(sorted({a for i in train for a in i.choices}))}
    torch.manual_seed(seed)
    weights = torch.zeros(len(names), len(answers), requires_grad=True)
    rows, right = table(train, names), torch.tensor([answers[item.answer] for item in train])
    optimizer = torch.optim.AdamW([weights], lr=RATE, weight_decay=DECAY)
    allowed = choices_of(train, answers)
    for _ in range(STEPS):
        optimizer.zero_grad()
        F.cross_entropy(rows @ weights + allowed, right).backward()
        optimizer.step()
    with torch.no_grad():
        scores = table(asked, names) @ weights + choices_of(asked, answers)
    named = list(answers)
    return [named[k] for k in scores.argmax(1).tolist()]


def table(items: Sequence[Item], names: dict[str, int]) -> Tensor:
    """Lay features out as [items, features], 0 or 1; unknown ones are left out."""
    rows = torch.zeros(len(items), len(names))
    for k, item in enumerate(items):
        rows[k, [names[name] for name in features_of(item) if name in names]] = 1.0
    return rows


def choices_of(items: Sequence[Item], answers: dict[str, int]) -> Tensor:
    """Lay out which answers a question allows: [items, answers], 0 or minus infinity."""
    allowed = torch.full((len(items), len(answers)), float("-inf"))
    for k, item in enumerate(items):
        allowed[k, [answers[one] for one in item.choices if one in answers]] = 0.0
    return allowed
