"""What is written is read again: tables, chapters, edit lists."""

import csv
import re
from dataclasses import replace
from pathlib import Path

import pytest

from avchat.export import (
    ExportError,
    edl,
    timecode,
    write_chapters,
    write_csv,
    write_edl,
    write_subtitles,
)
from avchat.media import MediaInfo
from avchat.moments import Span
from avchat.transcripts import Line, vtt_time

WHY = {"picture": 0.5, "sound": 0.25, "speech": 0.0}
SPANS = [Span(61.5, 65.25, 0.81, WHY), Span(3.0, 4.0, 0.6, WHY)]
NTSC = 30_000 / 1001
INFO = MediaInfo("/films/a film.mp4", 100.0, True, True, fps=25.0)


def test_a_table(tmp_path: Path) -> None:
    write_csv(tmp_path / "a.csv", SPANS, 'films/a "b", c.mp4')
    with (tmp_path / "a.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["path"] for row in rows] == ['films/a "b", c.mp4'] * 2
    assert [(float(row["start"]), float(row["end"])) for row in rows] == [(61.5, 65.25), (3, 4)]
    assert [float(rows[0][name]) for name in ("score", *WHY)] == [0.81, 0.5, 0.25, 0]


def cues(path: Path) -> list[tuple[str, str, str]]:
    """Read WebVTT: times and texts of its cues."""
    head, *blocks = path.read_text(encoding="utf-8").rstrip("\n").split("\n\n")
    assert head == "WEBVTT"
    found = []
    for number, block in enumerate(blocks, 1):
        name, times, text = block.split("\n")
        assert name == str(number)
        found.append((*times.split(" --> "), text))
    return found


def test_chapters_are_in_order_of_time(tmp_path: Path) -> None:
    write_chapters(tmp_path / "a.vtt", SPANS, "a dog\n\n<b> --> cat & co")
    title = "a dog &lt;b&gt; --&gt; cat &amp; co"
    assert cues(tmp_path / "a.vtt") == [
        ("00:00:03.000", "00:00:04.000", f"{title} (0.60)"),
        ("00:01:01.500", "00:01:05.250", f"{title} (0.81)"),
    ]


def test_a_transcript(tmp_path: Path) -> None:
    lines = [Line(0.0, 1.25, "Guten Tag."), Line(3599.9996, 7322.5, "na\u00efve")]
    write_subtitles(tmp_path / "a.vtt", lines)
    assert cues(tmp_path / "a.vtt") == [
        ("00:00:00.000", "00:00:01.250", "Guten Tag."),
        ("01:00:00.000", "02:02:02.500", "na\u00efve"),
    ]
    write_subtitles(tmp_path / "none.vtt", [])
    assert (tmp_path / "none.vtt").read_text() == "WEBVTT\n"


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0, "00:00:00.000"), (59.9996, "00:01:00.000"), (360_000, "100:00:00.000")],
)
def test_times_of_chapters(seconds: float, said: str) -> None:
    assert vtt_time(seconds) == said


@pytest.mark.parametrize(
    ("frame", "fps", "said"),
    [
        (0, 25, "00:00:00:00"),
        (24, 25, "00:00:00:24"),
        (25, 25, "00:00:01:00"),
        (90_000, 25, "01:00:00:00"),
        (30, NTSC, "00:00:01:00"),
        (107_892, NTSC, "00:59:56:12"),  # an hour has 107,892 frames of 108,000 that are counted
        (108_000, NTSC, "01:00:00:00"),
        (86_314, 24_000 / 1001, "00:59:56:10"),
        (3600 * 24 * 25, 25, "00:00:00:00"),
    ],
)
def test_timecodes_are_non_drop(frame: int, fps: float, said: str) -> None:
    assert timecode(frame, fps) == said


def events(text: str) -> list[tuple[str, ...]]:
    """Read the events of an edit list: number, reel, track, the four timecodes."""
    pattern = r"^(\d{3})  (\w+) +(\S+) +C +" + r" ".join([r"(\d\d:\d\d:\d\d:\d\d)"] * 4) + r"\r$"
    return re.findall(pattern, text, flags=re.M)


def test_an_edit_list_of_25_frames() -> None:
    text = edl(SPANS, INFO, "a dog \u00e4")
    assert text.startswith("TITLE: a dog ?\r\nFCM: NON-DROP FRAME\r\n")
    assert events(text) == [
        ("001", "AX", "B", "00:00:03:00", "00:00:04:00", "01:00:00:00", "01:00:01:00"),
        ("002", "AX", "B", "00:01:01:13", "00:01:05:06", "01:00:01:00", "01:00:04:18"),
    ]
    assert text.count("* FROM CLIP NAME: a film.mp4\r\n") == 2
    assert text.isascii() and max(map(len, text.splitlines())) <= 80


def test_an_edit_list_of_29_97_frames_is_exact_to_the_frame() -> None:
    # Frame 53,946 begins at 1799.998 s and is counted as 00:29:58:06.
    start, end = 53_946 / NTSC, (53_946 + 45) / NTSC
    [event] = events(edl([Span(start, end, 1, WHY)], replace(INFO, fps=NTSC), "x"))
    assert event[3:] == ("00:29:58:06", "00:29:59:21", "01:00:00:00", "01:00:01:15")


def test_tracks_and_the_shortest_event_of_an_edit_list() -> None:
    deaf, blind = replace(INFO, has_audio=False), replace(INFO, has_video=False, fps=0.0)
    moment = [Span(1.0, 1.0, 1, WHY)]
    assert events(edl(moment, deaf, "x"))[0][2:5] == ("V", "00:00:01:00", "00:00:01:01")
    assert events(edl(moment, blind, "x"))[0][2:5] == ("A", "00:00:01:00", "00:00:01:01")


@pytest.mark.parametrize("fps", [0.0, 0.5, 120.0])
def test_rates_that_no_edit_list_counts(fps: float, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="a film.mp4: an edit list cannot count"):
        write_edl(tmp_path / "a.edl", SPANS, replace(INFO, fps=fps), "x")
    assert list(tmp_path.iterdir()) == []


def test_files_that_are_there_are_kept(tmp_path: Path) -> None:
    out = tmp_path / "a.csv"
    out.write_text("precious")
    with pytest.raises(ExportError, match="already"):
        write_csv(out, SPANS, "x")
    with pytest.raises(ExportError, match="cannot reach from 2 s to 1 s"):
        write_csv(out, [Span(2, 1, 0.5, WHY)], "x", overwrite=True)
    assert out.read_text() == "precious"
    write_csv(out, SPANS, "x", overwrite=True)
    assert out.read_text().startswith("path,start") and out.stat().st_mode & 0o600 == 0o600
    with pytest.raises(ExportError, match="this is a folder"):
        write_csv(tmp_path, SPANS, "x", overwrite=True)
    with pytest.raises(ExportError, match="No such file"):
        write_csv(tmp_path / "no" / "a.csv", SPANS, "x")
    assert [path.name for path in tmp_path.iterdir()] == ["a.csv"]
