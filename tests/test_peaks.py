"""Curves written by hand: where peaks are, how far they reach, when they are one."""

import numpy as np
import pytest

from avchat.peaks import Peak, find_peaks, ground, merge, smooth, summits


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([], []),
        ([1], [1]),
        ([1, 5], [1, 5]),
        ([0, 4, 0], [0, 2, 0]),
        ([4, 0, 0, 8], [4, 1, 2, 8]),
    ],
)
def test_smoothing(values: list, expected: list) -> None:
    assert smooth(np.asarray(values, float)).tolist() == expected


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0, 0, 0, 1], 0),  # a peak on the floor
        ([0.1, 0.2, 0.2, 0.3, 0.9], 0.2),  # the usual noise is the ground
        ([0.9, 0.9, 0.9, 0.1], 0.1),  # it fills most of the file
        ([0.5], 0.5),
    ],
)
def test_the_ground_that_peaks_stand_on(values: list, expected: float) -> None:
    assert ground(np.asarray(values)) == expected


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([], []),
        ([3], [0]),
        ([1, 2, 3], [2]),
        ([3, 2, 1], [0]),
        ([1, 3, 1, 5, 1], [3, 1]),
        ([1, 3, 3, 1], [1]),
        ([1, 3, 3, 4], [3]),
        ([2, 2, 2], [0]),
        ([5, 1, 5], [0, 2]),
    ],
)
def test_summits_highest_first(values: list, expected: list) -> None:
    assert summits(np.asarray(values, float)) == expected


@pytest.mark.parametrize(
    ("peaks", "gap", "expected"),
    [
        ([], 1, []),
        ([(0, 2, 0.5), (5, 6, 0.9)], 1, [(5, 6, 0.9), (0, 2, 0.5)]),
        ([(0, 2, 0.5), (2.5, 6, 0.9)], 1, [(0, 6, 0.9)]),
        ([(0, 9, 0.5), (2, 3, 0.9), (9.5, 12, 0.1)], 1, [(0, 12, 0.9)]),
        ([(4, 5, 0.3), (0, 1, 0.7)], 0, [(0, 1, 0.7), (4, 5, 0.3)]),
    ],
)
def test_merging(peaks: list, gap: float, expected: list) -> None:
    merged = merge([Peak(*peak, place=int(10 * peak[2])) for peak in peaks], gap)
    assert [(p.start_s, p.end_s, p.score) for p in merged] == expected
    assert all(p.place == int(10 * p.score) for p in merged)


FLOOR = [0.0] * 9


def found(values: list, top: int = 5, gap: float = 0.0) -> list[tuple]:
    """Find the peaks of a curve with a window a second, rounded."""
    times = np.arange(len(values)) + 0.5
    peaks = find_peaks(times, np.asarray(values, float), 0.0, len(values), top=top, gap_s=gap)
    return [(round(p.start_s, 2), round(p.end_s, 2), p.score, p.place) for p in peaks]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([], []),
        ([0.4], [(0, 1, 0.4, 0)]),
        ([0.4, 0.405, 0.4], [(0, 3, 0.405, 1)]),  # flat: it is everywhere or nowhere
        # between 0.25 and 0.75 of the smoothed curve, half of the height lies in the middle
        ([*FLOOR, 1, 1, 1, 1, *FLOOR], [(9, 13, 1, 9)]),
        ([1, 1, 1, *FLOOR, *FLOOR], [(0, 3, 1, 0)]),
        ([*FLOOR, *FLOOR, 1, 1, 1], [(18, 21, 1, 18)]),
        ([*FLOOR, 1, 1, 1, *FLOOR, 0.5, 0.5, 0.5, *FLOOR], [(9, 12, 1, 9), (21, 24, 0.5, 21)]),
        # a shoulder is no span of its own, and does not make the peak's any longer:
        # smoothed 0.55, 0.41, 0.44, 0.45, 0.34: it stays above half of 0.45 down to the peak
        ([*FLOOR, 1, 1, 1, 0.4, 0.4, 0.45, 0.45, 0.45, *FLOOR], [(9, 12.86, 1, 9)]),
    ],
)
def test_spans_of_a_curve(values: list, expected: list) -> None:
    assert found(values) == expected


def test_spans_close_to_each_other_are_one_and_the_best_are_kept() -> None:
    values = [0, 0, 1, 1, 0, 0, 0, 0.8, 0.8, 0, 0, 0, 0, 0, 0, 0, 0.6, 0.6, 0, 0]
    assert len(found(values)) == 3
    assert [span[2] for span in found(values, top=2)] == [1, 0.8]
    joined = found(values, gap=4.0)
    assert len(joined) == 2 and joined[0][0] < 2 and joined[0][1] > 9
