"""What differences and intervals are judged by, against other ways to compute the same."""

from itertools import product

import numpy as np
import pytest

from avchat.evaluation.report import verdict_on
from avchat.metrics import bootstrap_interval, holm, interval_of, mcnemar

# lost, gained, p by hand: twice the tail of a fair coin, at most 1
BY_HAND = [
    (0, 0, 1.0),
    (1, 0, 1.0),
    (1, 1, 1.0),
    (0, 5, 2 / 32),
    (0, 6, 2 / 64),
    (6, 0, 2 / 64),
    (1, 7, 2 * (1 + 8) / 256),
    (2, 8, 2 * (1 + 10 + 45) / 1024),
    (5, 5, 1.0),
]


def verdicts(lost: int, gained: int, same: int = 7) -> tuple[list[bool], list[bool]]:
    """Make two lists that differ so often each way, and agree on both verdicts otherwise."""
    agreed = [k % 2 == 0 for k in range(same)]
    first = [True] * lost + [False] * gained + agreed
    return first, [False] * lost + [True] * gained + agreed


@pytest.mark.parametrize(("lost", "gained", "p"), BY_HAND)
def test_mcnemar_by_hand(lost: int, gained: int, p: float) -> None:
    first, second = verdicts(lost, gained)
    assert mcnemar(first, second) == pytest.approx(p, rel=1e-12)
    assert mcnemar(second, first) == mcnemar(first, second)  # two-sided
    assert mcnemar(*verdicts(lost, gained, same=500)) == mcnemar(first, second)


def test_mcnemar_is_the_binomial_test() -> None:
    stats = pytest.importorskip("scipy.stats")
    for lost, gained in product(range(0, 40, 3), range(0, 40, 3)):
        if lost + gained:
            expected = stats.binomtest(gained, lost + gained).pvalue
            assert mcnemar(*verdicts(lost, gained)) == pytest.approx(expected, rel=1e-9)


def test_holm_by_hand() -> None:
    """Holm 1979: the smallest p times how many there are, the next times one less, never falling
    and never above 1.
    """
    found = holm({"b": 0.04, "a": 0.01, "c": 0.03, "d": 0.005})
    assert list(found) == ["b", "a", "c", "d"]  # in the order in which they came
    expected = {"d": 0.02, "a": 0.03, "c": 0.06, "b": 0.06}
    assert found == pytest.approx(expected)
    assert holm({"a": 0.6, "b": 0.7, "c": 0.001}) == pytest.approx({"a": 1, "b": 1, "c": 0.003})
    assert holm({"a": 0.04}) == {"a": 0.04} and holm({}) == {}


@pytest.mark.parametrize("sizes", [(1,) * 30, (3, 1, 7, 2, 2, 9, 1, 4), (12,), (5, 5)])
def test_the_bootstrap_from_sums_is_that_of_the_mean(sizes: tuple[int, ...]) -> None:
    rng = np.random.default_rng(4)
    clips = [f"c{k}" for k, size in enumerate(sizes) for _ in range(size)]
    scores = rng.random(len(clips)).round(2).tolist()
    shuffled = rng.permutation(len(clips))  # questions on one clip need not stand together
    scores, clips = [scores[k] for k in shuffled], [clips[k] for k in shuffled]
    for draws, seed in ((1000, 0), (300, 5)):
        ours = bootstrap_interval(scores, clips, draws=draws, seed=seed)
        slow = interval_of(lambda x: float(x.mean()), scores, clips, draws=draws, seed=seed)
        assert ours == pytest.approx(slow, abs=1e-12)
    assert ours[0] <= ours[1]


def test_an_interval_over_clips_is_wider_than_over_questions() -> None:
    """Ten questions on each of twelve clips, of which a model knows all or none."""
    scores = [float(k % 2) for k in range(12) for _ in range(10)]
    clips = [f"c{k}" for k in range(12) for _ in range(10)]
    low, high = bootstrap_interval(scores, clips)
    alone = bootstrap_interval(scores, [str(k) for k in range(120)])
    assert high - low > 2.5 * (alone[1] - alone[0])
    assert all(np.isnan(bootstrap_interval([], [])))


@pytest.mark.parametrize(
    ("low", "high", "p", "clips", "said"),
    [
        (0.1, 0.4, 0.01, 10, "better"),
        (-0.4, -0.1, 0.01, 10, "worse"),
        (0.1, 0.4, 0.049, 10, "better"),
        (0.1, 0.4, 0.05, 10, "no difference shown"),  # the interval alone is not enough
        (-0.4, -0.1, 0.2, 10, "no difference shown"),
        (0.0, 0.4, 0.01, 10, "no difference shown"),  # 0 on the edge is not left out
        (-0.4, 0.0, 0.01, 10, "no difference shown"),
        (-0.1, 0.4, 0.01, 10, "no difference shown"),  # nor is the test alone
        (0.1, 0.4, 0.01, 9, "too few clips"),
    ],
)
def test_a_difference_is_told_where_interval_and_test_agree(
    low: float, high: float, p: float, clips: int, said: str
) -> None:
    assert verdict_on({"interval": [low, high], "p": p, "clips": clips}) == said
