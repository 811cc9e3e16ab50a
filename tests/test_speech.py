"""Where words are said: what fits, what is joined, and what is no match."""

import pytest

from avchat.moments import Span, fused
from avchat.peaks import Peak
from avchat.speech import said_spans
from avchat.transcripts import Line

LINES = [
    Line(0, 2, "the moon is up"),
    Line(5, 7, "the Eagle has landed"),
    Line(7.5, 9, "we copy, Eagle"),
    Line(20, 22, "the eagle, again"),
    Line(30, 31, "the the the"),
]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("eagle", [(5, 9), (20, 22)]),
        ("the eagle has landed", [(5, 7)]),
        ("MOON!", [(0, 2)]),
        ("the moon over the sea", []),  # less than half of the weight of its words
        ("a dog", []),
        ("?!", []),
    ],
)
def test_where_words_are_said(text: str, expected: list) -> None:
    assert [(one.start_s, one.end_s) for one in said_spans(LINES, text, 1.0)] == expected
    assert said_spans([], text, 1.0) == []


def test_speech_is_fused_as_in_a_library() -> None:
    spans = [
        Span(10, 14, 0.8, {"picture": 0.6, "sound": 0.2, "speech": 0.0}),
        Span(40, 44, 0.7, {"picture": 0.7, "sound": -0.1, "speech": 0.0}),
    ]
    said = [Peak(42, 46, 1.0, 0), Peak(60, 61, 0.5, 3)]
    assert fused(spans, []) == spans
    both, seen, heard = fused(spans, said)
    assert (both.start, both.end) == (40, 46), "it goes on while the words do"
    assert both.score == pytest.approx(0.5 * 61 / 62 + 0.5)
    assert both.why == pytest.approx({"picture": 0.5 * 61 / 62, "sound": 0, "speech": 0.5})
    assert seen.why == pytest.approx({"picture": 0.375, "sound": 0.125, "speech": 0})
    assert (heard.start, heard.end, heard.score) == (60, 61, pytest.approx(0.5 * 61 / 62))
    assert sum(heard.why.values()) == heard.why["speech"] == heard.score
