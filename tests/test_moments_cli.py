"""`avchat moments`: what it prints and writes with a real small head; one line for bad input."""

import json
from pathlib import Path

import pytest
from joined import ColourHead, write_joined
from small import write_speaker

from avchat import cli
from avchat.input_error import InputError
from avchat.media import probe
from avchat.moments_cli import Moments, clock, search
from avchat.transcripts import Transcriber

SCENES = [(6.0, "grey", None), (3.0, "red", 1000.0), (3.0, "grey", None)]


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of 12 s: red and a tone from 6 to 9."""
    return write_joined(tmp_path_factory.mktemp("film") / "a film.mp4", SCENES)


def run(verb: Moments, head: ColourHead | None = None) -> None:
    """Search with the head that knows colours."""
    search(verb, probe(verb.video), head or ColourHead(), isolate=False)


def test_everything_is_written(film: Path, tmp_path: Path, capsys) -> None:
    files = {name: tmp_path / f"a.{name}" for name in ("csv", "vtt", "edl")}
    verb = Moments(film, "red", top=1, sense="picture", json=True, cut=tmp_path, **files)
    run(verb)
    [span] = json.loads(capsys.readouterr().out)
    assert set(span) == {"clip", "path", "start", "end", "score", "why"}
    assert set(span["why"]) == {"picture", "sound", "speech"}
    assert span["path"] == str(film)
    assert (span["start"], span["end"]) == pytest.approx((6, 9), abs=0.8)
    assert all(file.stat().st_size > 50 for file in files.values())
    [clip] = tmp_path.glob("01_a_film_*.mp4")
    assert probe(clip).duration_s == pytest.approx(span["end"] - span["start"], abs=2.1)
    with pytest.raises(InputError, match="already.*; .*already"):
        run(verb)
    verb = Moments(film, "red", top=1, cut=tmp_path, exact=True, overwrite=True)
    run(verb)
    assert "encoded" in capsys.readouterr().err


def test_words_and_no_good_match(film: Path, capsys) -> None:
    run(Moments(film, "tone", sense="sound", top=1))
    line = capsys.readouterr().out
    assert line.startswith("0:00:0") and "sound 0.9" in line and line.count("\n") == 1
    run(Moments(film, "high", sense="sound", json=True), ColourHead(threshold=0.5))
    assert json.loads(capsys.readouterr().out) == []
    run(Moments(film, "high", sense="sound"), ColourHead(threshold=0.5))
    assert capsys.readouterr().out == "no good match\n"


def test_what_is_said_is_searched_too(film: Path, tmp_path: Path, capsys) -> None:
    """A Whisper that says a line where it is silent, which is dropped, and one where a tone is."""
    script = [0.0, " nobody says this", 5.0, 5.0, " who is it?", 8.0]
    transcriber = Transcriber(write_speaker(tmp_path / "a.pt", script), "cpu")
    [said] = transcriber.file_lines(film, 12.0)
    assert (said.start, said.end, said.text) == (5.0, 8.0, "who is it?")
    search(
        Moments(film, said.text, json=True), probe(film), ColourHead(), transcriber, isolate=False
    )
    spans = json.loads(capsys.readouterr().out)
    best = max(spans, key=lambda one: one["why"]["speech"])
    assert best["why"]["speech"] == 0.5
    assert best["start"] <= said.start + 0.001 and said.end - 0.001 <= best["end"]
    assert all(sum(one["why"].values()) == pytest.approx(one["score"], abs=1e-3) for one in spans)


def test_a_clock() -> None:
    assert [clock(s) for s in (0, 59.96, 3723.44)] == ["0:00:00.0", "0:01:00.0", "1:02:03.4"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["moments", "FILM"], "TEXT"),
        (["moments", "FILM", " "], "text to look for is empty"),
        (["moments", "FILM", "red", "--top", "0"], "top must be at least 1"),
        (["moments", "FILM", "red", "--sense", "smell"], "smell"),
        (["moments", "FILM", "red", "--head", "ear"], "ear"),
        (["moments", "FILM", "red", "--exact"], "--exact belongs to --cut"),
        (["moments", "FILM", "red", "--transcribe", "x"], "no Whisper called x"),
        (["moments", "FILM", "red", "--transcribe", "x", "--sense", "picture"], "--transcribe"),
        (["moments", "FILM", "red", "--csv", "THERE"], "already"),
        (["moments", "FILM", "red", "--csv", "OUT/no/a.csv"], "there is no folder"),
        (["moments", "FILM", "red", "--csv", "OUT/a", "--vtt", "OUT/a"], "files of their own"),
        (["moments", "FILM", "red", "--cut", "THERE"], "cannot be a folder"),
        (["moments", "OUT/gone.mp4", "red"], "gone.mp4: no such file"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else "",
)
def test_a_bad_argument_is_one_line(
    arguments: list[str], said: str, film: Path, tmp_path: Path, capsys
) -> None:
    (tmp_path / "there").write_text("precious")
    names = {"FILM": str(film), "THERE": str(tmp_path / "there")}
    words = [names.get(w, w.replace("OUT", str(tmp_path))) for w in arguments]
    assert cli.main(words) == 2
    stdout, stderr = capsys.readouterr()
    assert stdout == "" and stderr.startswith("error: ") and stderr.count("\n") == 1
    assert said in stderr and (tmp_path / "there").read_text() == "precious"


def test_a_sense_that_is_missing_is_one_line(silent_clip: Path) -> None:
    with pytest.raises(InputError, match="no sound track"):
        run(Moments(silent_clip, "tone", sense="sound"))
