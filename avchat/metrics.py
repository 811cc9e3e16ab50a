"""Scores of answers: pure functions of what was said and what is right."""

import math
from collections.abc import Callable, Sequence

import numpy as np


def same_answer(said: str, right: str) -> bool:
    """Compare whole answers: case, a final point, spaces and a leading "the", "a" or "it is" do
    not matter.
    """
    return _plain(said) == _plain(right)


def _plain(text: str) -> str:
    words = text.lower().strip().rstrip(".!").split()
    while words and words[0] in ("the", "a", "an", "it", "is", "it's", "its"):
        words = words[1:]
    return " ".join(words)


def mean(scores: Sequence[float]) -> float:
    """Average scores; not a number where there is none."""
    return float(np.mean(scores)) if len(scores) else float("nan")


def bootstrap_interval(
    scores: Sequence[float], clusters: Sequence[str], *, draws: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """Estimate the 95 % interval of a mean by drawing whole clusters (clips, or minimal pairs)
    with replacement.

    Questions on one clip are not independent: drawing single questions would make the interval too
    narrow (Miller, arXiv 2411.00640). The same as `interval_of` the mean, from sums alone.
    """
    if not len(scores):
        return float("nan"), float("nan")
    names = {name: k for k, name in enumerate(dict.fromkeys(clusters))}
    places = np.array([names[name] for name in clusters])
    sums = np.bincount(places, np.asarray(scores, dtype=float))  # [clusters]
    counts = np.bincount(places)
    rng = np.random.default_rng(seed)
    drawn = rng.integers(len(sums), size=(draws, len(sums)))
    means = sums[drawn].sum(1) / counts[drawn].sum(1)  # [draws]
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def crossed_interval(
    scores: np.ndarray, clusters: Sequence[str], *, draws: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """Estimate the 95 % interval of the mean of scores [S, N] of several trained models on the same
    items, by drawing models and whole clusters of items with replacement, each by itself.

    One model alone says nothing of how another start of the same training would come out, and items
    alone do not make it certain (Owen 2007, the pigeonhole bootstrap). It errs to the wide side.
    """
    if not scores.size:
        return float("nan"), float("nan")
    names = {name: k for k, name in enumerate(dict.fromkeys(clusters))}
    places = np.array([names[name] for name in clusters])
    counts = np.bincount(places)  # [clusters]
    sums = np.stack([np.bincount(places, row) for row in scores])  # [S, clusters]
    rng = np.random.default_rng(seed)
    means = []
    for _ in range(draws):
        drawn = rng.integers(len(counts), size=len(counts))
        models = rng.integers(len(sums), size=len(sums))
        total = sums[np.ix_(models, drawn)].sum()
        means.append(total / (len(models) * counts[drawn].sum()))
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def mcnemar(first: Sequence[bool], second: Sequence[bool]) -> float:
    """Test whether two lists of verdicts on the same items differ: the exact p, two-sided.

    Only items on which they differ count; each way is as likely where there is no difference
    (McNemar 1947, the binomial form).
    """
    pairs = list(zip(first, second, strict=True))
    gained = sum(b and not a for a, b in pairs)
    changed = gained + sum(a and not b for a, b in pairs)
    few = min(gained, changed - gained)
    tail = sum(math.comb(changed, k) for k in range(few + 1)) / 2**changed
    return min(1.0, 2 * tail)


def holm(chances: dict[str, float]) -> dict[str, float]:
    """Correct the p of several tests for their number (Holm 1979): none may be taken for chance."""
    corrected, least = {}, 0.0
    for k, (name, p) in enumerate(sorted(chances.items(), key=lambda pair: pair[1])):
        least = max(least, min(1.0, (len(chances) - k) * p))
        corrected[name] = least
    return {name: corrected[name] for name in chances}


def interval_of(
    statistic: Callable[[np.ndarray], float],
    scores: Sequence[float],
    clusters: Sequence[str],
    *,
    draws: int,
    seed: int,
) -> tuple[float, float]:
    """Estimate the 95 % interval of a statistic of scores by the clustered bootstrap."""
    if not len(scores):
        return float("nan"), float("nan")
    values, names = np.asarray(scores, dtype=float), np.asarray(clusters)
    groups = [values[names == name] for name in dict.fromkeys(clusters)]
    rng = np.random.default_rng(seed)
    found = [
        statistic(np.concatenate([groups[i] for i in rng.integers(len(groups), size=len(groups))]))
        for _ in range(draws)
    ]
    low, high = np.quantile(found, [0.025, 0.975])
    return float(low), float(high)


def group_accuracy(right: Sequence[bool], groups: Sequence[str]) -> float:
    """Score minimal pairs: a group counts only when all its questions are answered right."""
    verdicts: dict[str, bool] = {}
    for good, group in zip(right, groups, strict=True):
        verdicts[group] = verdicts.get(group, True) and bool(good)
    return mean([float(v) for v in verdicts.values()])


def ranks(scores: np.ndarray, right: np.ndarray | None = None) -> np.ndarray:
    """Rank the right answer of each query, 1 being best; ties share their average rank.

    Args:
        scores: [Q, G] of queries and gallery, more being better.
        right: bool [Q, G]; None for the diagonal. Where several are right the best counts.

    Raises:
        ValueError: a score is not a number, or a query has no right answer.
    """
    scores = np.asarray(scores, dtype=float)
    if np.isnan(scores).any():
        raise ValueError(f"{int(np.isnan(scores).sum())} of {scores.size} scores are not numbers")
    right = np.eye(*scores.shape, dtype=bool) if right is None else np.asarray(right, dtype=bool)
    if not right.any(1).all():
        raise ValueError("a query has no right answer in the gallery")
    best = np.where(right, scores, -np.inf).max(1, keepdims=True)
    above = (~right & (scores > best)).sum(1)
    # a wrong answer with the same score stands before the right one half of the time
    return 1 + above + (~right & (scores == best)).sum(1) / 2


def retrieval(ranked: np.ndarray, gallery: int) -> dict[str, float]:
    """Summarise ranks: R@1, R@5, R@10, median and mean rank, and the gallery's size."""
    ranked = np.asarray(ranked, dtype=float)
    return {f"R@{k}": float((ranked <= k).mean()) for k in (1, 5, 10)} | {
        "median_rank": float(np.median(ranked)),
        "mean_rank": float(ranked.mean()),
        "queries": len(ranked),
        "gallery": gallery,
    }
