"""Other trainers' forms, written by hand from their published fields, both ways."""

import json
import shutil
import wave
from pathlib import Path
from typing import Any

import pytest

from avchat.captions import read_captions
from avchat.data import DataError, read_manifest
from avchat.data_conversion import SOURCES, TARGETS, convert, guess
from avchat.data_rows import Tally, read_rows


def said(*texts: str, who: str = "from", text: str = "value") -> list[dict[str, str]]:
    """Alternate the speakers of a sharegpt conversation, or of messages."""
    names = ("human", "gpt") if who == "from" else ("user", "assistant")
    return [{who: names[k % 2], text: words} for k, words in enumerate(texts)]


def messages(*texts: str) -> list[dict[str, str]]:
    return said(*texts, who="role", text="content")


def swift(files: dict[str, list[str]], *texts: str) -> dict:
    return {"messages": messages(*texts), **files}


def ours(media: str, *texts: str, **more: Any) -> dict:
    return {"media": media, **more, "messages": messages(*texts)}


GOLDEN = Path(__file__).parent / "golden"
OURS = ".avchat.jsonl"
# A form's file, FORM[.VARIANT].json, .jsonl or .csv, beside what our manifest makes of it.
PUBLISHED = sorted(path for path in GOLDEN.iterdir() if not path.name.endswith(OURS))
# What is read in several shapes is written in one.
WRITTEN = [path for path in PUBLISHED if path.stem in TARGETS]


def form_of(path: Path) -> str:
    return path.name.split(".")[0]


def name_of(path: Path) -> str:
    """Name a test case."""
    return path.stem


def write(path: Path, rows: list) -> Path:
    path.write_text(json.dumps(rows))
    return path


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def carried(folder: Path, form: str, *rows: dict) -> tuple[list[dict], Tally]:
    """Convert samples to our manifest."""
    tally = convert(write(folder / "in.json", list(rows)), folder / "m.jsonl", form, "avchat")
    return lines(folder / "m.jsonl"), tally


@pytest.mark.parametrize("path", PUBLISHED, ids=name_of)
def test_a_published_sample_is_read(tmp_path: Path, path: Path) -> None:
    tally = convert(path, tmp_path / "m.jsonl", form_of(path), "avchat", tmp_path)
    expected = lines(path.with_name(path.stem + OURS))
    assert lines(tmp_path / "m.jsonl") == expected
    assert tally.carried == len(expected) and not tally.left
    read = read_captions if "caption" in expected[0] else read_manifest
    files = [tmp_path / row["media"] if "media" in row else None for row in expected]
    assert [sample.media for sample in read(tmp_path / "m.jsonl")] == files


@pytest.mark.parametrize("path", WRITTEN, ids=name_of)
def test_a_published_sample_is_written_back(tmp_path: Path, path: Path) -> None:
    own = shutil.copy(path.with_name(path.stem + OURS), tmp_path / "m.jsonl")
    back = tmp_path / f"back{path.suffix}"
    assert not convert(Path(own), back, "avchat", form_of(path)).left
    assert [row for _, row in read_rows(back)] == [row for _, row in read_rows(path)]


def test_every_form_has_a_published_sample() -> None:
    assert {form_of(path) for path in PUBLISHED} == set(SOURCES) - {"avchat", "speech"}
    assert {form_of(path) for path in WRITTEN} == set(TARGETS) - {"avchat"}


@pytest.mark.parametrize("path", PUBLISHED, ids=name_of)
def test_a_form_is_recognised_by_a_sample(path: Path) -> None:
    # three that say of themselves what another would say, too; a table of two plain columns
    alike = {"llama-factory": "ms-swift", "video-chatgpt": "llava"}
    alike |= {"sounddescs.pickled": "", "valor.mapper": ""}
    assert guess(path) == alike.get(path.stem, form_of(path))
    assert guess(path.with_name(path.stem + OURS)) == "avchat"


def test_video_chatgpt_puts_the_tag_after_and_before_by_turns(tmp_path: Path) -> None:
    rows = [{"id": str(k), **ours(f"{k}.mp4", f"q{k}", "a")} for k in range(3)]
    (tmp_path / "m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    convert(tmp_path / "m.jsonl", tmp_path / "out.json", "avchat", "video-chatgpt")
    asked = [
        row["conversations"][0]["value"] for row in json.loads((tmp_path / "out.json").read_text())
    ]
    assert asked == ["q0\n<video>", "<video>\nq1", "q2\n<video>"]


HI = '{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}'
HI2 = '{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}'
TALK = said("<video>\nWhat?", "Rain.")


@pytest.mark.parametrize(
    ("form", "bad", "why"),
    [
        ("video-salmonn-2", {"conversations": said("Hi", "Hello")}, "1 without a clip"),
        (
            "llava",
            {"conversations": said("<image>\nHi", "Hello")},
            "with a tag, but without a file",
        ),
        ("llama-factory", {"messages": messages("<audio>q", "a")}, "with a tag, but without"),
        ("llava", {"video": "a.mp4", "image": "b.jpg", "conversations": TALK}, "more than one"),
        ("llava", {"image": ["a.jpg", "b.jpg"], "conversations": TALK}, "more than one file"),
        (
            "video-salmonn-2",
            {"video": "a.mp4", "audio": "b.wav", "conversations": TALK},
            "than one",
        ),
        ("ms-swift", swift({"videos": ["a.mp4", "b.mp4"]}, "<video>q", "a"), "more than one file"),
        ("llava", {"video": "a.mp4", "conversations": said("<video>\n", "Rain.")}, "empty turn"),
        (
            "llava",
            {"video": "a.mp4", "conversations": TALK[:1]},
            "not questions with their answers",
        ),
        ("video-chatgpt-raw", {"q": " ", "a": "b", "video_id": "c"}, "empty turn"),
        (
            "video-chatgpt-raw",
            {"q": "a", "a": "b", "video_id": "c\0"},
            "path that no file can have",
        ),
        ("llava", {"video": "a" * 300, "conversations": TALK}, "path that no file can have"),
    ],
)
def test_what_cannot_be_carried_is_counted(tmp_path: Path, form: str, bad: dict, why: str) -> None:
    good = next(row for path in WRITTEN if form_of(path) == form for _, row in read_rows(path))
    rows, tally = carried(tmp_path, form, bad, good)
    assert len(rows) == 1 and tally.left.total() == 1
    assert tally.line().startswith("1 of 2 samples left out") and why in tally.line()
    with pytest.raises(DataError, match="nothing to carry over.*1 of 1"):
        convert(write(tmp_path / "in.json", [bad]), tmp_path / "none.jsonl", form, "avchat")
    assert not (tmp_path / "none.jsonl").exists()


def test_a_system_turn_is_left_behind_and_counted(tmp_path: Path) -> None:
    system = {"role": "system", "content": "Be kind."}
    row = {"messages": [system, *messages("<video>q", "a")], "videos": ["a.mp4"]}
    [found], tally = carried(tmp_path, "ms-swift", row)
    assert found["messages"] == messages("q", "a")
    assert "a system turn (1)" in tally.line() and not tally.left


@pytest.mark.parametrize(
    ("form", "row", "why"),
    [
        ("llava", ours("a.mp4", "q", "a", start=1), "of a part of a file"),
        ("llava", ours("a.mp4", "q", "a", sense="sound"), "of the sound alone"),
        ("video-salmonn-2", {"messages": messages("q", "a")}, "of text alone"),
        ("video-chatgpt-raw", {"messages": messages("q", "a")}, "without a video"),
        ("video-salmonn-2-plus", ours("a.wav", "q", "a", sense="sound"), "of the sound alone"),
        ("video-salmonn-2", ours("a.mp4", "q", "a", start=1), "that has no end"),
        ("video-chatgpt", ours("a.wav", "q", "a", sense="sound"), "without a video"),
        ("video-chatgpt-raw", ours("a.mp4", "q", "a", "q", "b"), "of several turns"),
        ("ms-swift", ours("a.mp4", "a <video>?", "a"), "holds a tag"),
        ("ms-swift", ours("a.mp4", "q", "a", sense="none"), "neither picture nor sound"),
    ],
)
def test_what_another_form_cannot_say_is_counted(
    tmp_path: Path, form: str, row: dict, why: str
) -> None:
    (tmp_path / "m.jsonl").write_text(json.dumps(row) + "\n" + json.dumps(ours("b.mp4", "q", "a")))
    tally = convert(tmp_path / "m.jsonl", tmp_path / "out.json", "avchat", form)
    assert tally.carried == 1 and tally.left.total() == 1 and why in tally.line()
    assert len(json.loads((tmp_path / "out.json").read_text())) == 1


def test_the_sense_picture_is_counted_where_it_is_lost(tmp_path: Path) -> None:
    (tmp_path / "m.jsonl").write_text(json.dumps(ours("a.mp4", "q", "a", sense="picture")))
    tally = convert(tmp_path / "m.jsonl", tmp_path / "out.json", "avchat", "videollama2")
    assert "the sense picture (1)" in tally.line()


def test_paths_follow_the_root_and_the_new_place(tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    source = write(tmp_path / "in.json", [{"id": "1", "video": "x/a.mp4", "conversations": TALK}])
    target = tmp_path / "deep" / "er" / "m.jsonl"
    convert(source, target, "llava", "avchat", tmp_path / "videos")
    assert lines(target)[0]["media"] == "../../videos/x/a.mp4"
    back = tmp_path / "back.jsonl"
    convert(target, back, "avchat", "llava", tmp_path / "videos")
    assert lines(back)[0]["video"] == "x/a.mp4"
    wrong = tmp_path / "deep" / "wrong.jsonl"  # of paths that are relative to videos
    wrong.write_text(json.dumps(ours("x/a.mp4", "q", "a")))
    convert(wrong, tmp_path / "right.jsonl", "avchat", "avchat", tmp_path / "videos")
    assert lines(tmp_path / "right.jsonl")[0]["media"] == "videos/x/a.mp4"


def test_samples_of_one_id_are_told_apart(tmp_path: Path) -> None:
    row = {"video": "a.mp4", "conversations": TALK}
    rows, tally = carried(tmp_path, "llava", *({"id": name, **row} for name in ("a", "a", "a-2")))
    assert len({row["id"] for row in rows}) == 3 and rows[2]["id"] == "a-2"
    assert "an id of their own" in tally.line()


@pytest.mark.parametrize(
    ("text", "form", "said"),
    [
        ('[{"id": 1, "conversations": [' + HI + ']},\n{"id": 2,,}]', "llava", "line 2: not JSON"),
        ('[\n\n{"id": 1, "conversations": 3}]', "llava", "line 3: needs conversations"),
        ('[{"id": 1} {"id": 2}]', "ms-swift", "line 1: needs messages"),
        (
            '[{"messages": [' + HI2 + ']}\n {"id": 2}]',
            "ms-swift",
            "line 2: not JSON .Expecting ','",
        ),
        ("[" * 100_000, "llava", "line 1: not JSON"),
        ('[{"messages": "\\ud800"}]', "ms-swift", "line 1: not JSON .*surrogate"),
        ("[] x", "llava", "line 1: not JSON .Extra data"),
        ('[{"instruction": "q"}]', "llama-factory", "needs instruction and output"),
        ('{"messages": []}\n\n{"messages', "ms-swift", "line 3: not JSON"),
        ('[{"video": "a.mp4", "messages": []}]', "llava", "line 1: needs conversations"),
        ('[{"video": "a.mp4", "messages": []}]', "llava", "looks like ms-swift"),
        ('[{"video": 3, "conversations": []}]', "llava", "video must be a path"),
        ('[{"video": "a.mp4", "conversations": ["x"]}]', "llava", "needs from and value"),
        ('["x"]', "llava", "line 1: needs an object"),
        ('[{"q": "x"}]', "video-chatgpt-raw", "needs q, a and video_id"),
        (
            "audiocap_id,caption\n1,x\n",
            "audiocaps",
            "line 1: needs the columns start_time, youtube",
        ),
        (
            "file_name,caption_1,caption_2,caption_3,caption_4,caption_5\na.wav,x\n",
            "clotho",
            "line 2",
        ),
        ('{"videos": []}', "msrvtt", "videos and sentences"),
        ('{"sentences": [{}]}', "msrvtt", "sentence 1: needs video_id"),
        ('[\n{"video_id": "a", "desc": 3}]', "valor", "line 2: needs video_id and desc"),
        ("name,text\na,b\n", "sounddescs", "line 1: needs the columns description, id"),
        ("id,description\n ,b\n", "sounddescs", "line 2: id is empty"),
        ("audiocap_id,youtube_id,start_time,caption\n1,x,nan,y\n", "audiocaps", "line 2: start"),
    ],
)
def test_a_malformed_file_is_one_clear_line(
    tmp_path: Path, text: str, form: str, said: str
) -> None:
    (tmp_path / "in").write_text(text)
    with pytest.raises(DataError, match=said) as fault:
        convert(tmp_path / "in", tmp_path / "out.jsonl", form, "avchat")
    assert "\n" not in str(fault.value)


def test_captions_of_msrvtt(tmp_path: Path) -> None:
    table = {
        "videos": [
            {"video_id": "video0", "start time": 137.72, "end time": 149.44, "split": "train"}
        ],
        "sentences": [
            {"caption": "a car", "video_id": "video0", "sen_id": 3},
            {"caption": " ", "video_id": "video0", "sen_id": 4},
        ],
    }
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips" / "video0.webm").touch()
    source = tmp_path / "t.json"
    source.write_text(json.dumps(table, indent=1))
    assert guess(source) == "msrvtt"
    tally = convert(source, tmp_path / "m.jsonl", "msrvtt", "avchat", tmp_path / "clips")
    assert lines(tmp_path / "m.jsonl") == [
        {"id": "3", "media": "clips/video0.webm", "caption": "a car"}
    ]
    assert "1 with an empty caption" in tally.line()


def write_silence(path: Path, seconds: float) -> None:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(bytes(2 * round(8000 * seconds)))


def test_captions_of_audiocaps_take_ten_seconds_of_a_whole_video(tmp_path: Path) -> None:
    write_silence(tmp_path / "abc_30.wav", 10)
    write_silence(tmp_path / "Ydef.wav", 10)
    write_silence(tmp_path / "ghi.wav", 60)
    source = tmp_path / "t.csv"
    names = "audiocap_id,youtube_id,start_time,caption\n"
    source.write_text(names + '1,abc,30,"A dog, far"\n2,def,40,Rain\n3,ghi,5,Wind\n4,jkl,6,Fire\n')
    assert guess(source) == "audiocaps"
    tally = convert(source, tmp_path / "m.jsonl", "audiocaps", "avchat")
    assert lines(tmp_path / "m.jsonl") == [
        {"id": "1", "media": "abc_30.wav", "caption": "A dog, far", "of": "sound"},
        {"id": "2", "media": "Ydef.wav", "caption": "Rain", "of": "sound"},
        {"id": "3", "media": "ghi.wav", "start": 5, "end": 15, "caption": "Wind", "of": "sound"},
        {"id": "4", "media": "jkl_6.wav", "caption": "Fire", "of": "sound"},
    ]
    assert "a file found" in tally.line() and "(1)" in tally.line()


def test_a_pickle_is_not_opened(tmp_path: Path) -> None:
    (tmp_path / "descriptions.pkl").write_bytes(b"x")
    with pytest.raises(DataError, match="a pickle can run programs.*CSV with the columns id and"):
        convert(tmp_path / "descriptions.pkl", tmp_path / "m.jsonl", "sounddescs", "avchat")


def test_what_a_sample_did_not_have_or_cannot_keep_is_counted(tmp_path: Path) -> None:
    row = {"video": "a.mp4", "conversations": TALK, "ce_only": True, "stream": False}
    rows, tally = carried(tmp_path, "llava", row, {"id": "x", **row})
    assert [row["id"] for row in rows] == ["0", "x"]
    assert "an id, which they did not have, so their number is it (1)" in tally.line()
    assert "the field ce_only (2), the field stream (2)" in tally.line()


def test_no_more_than_the_limit_is_read(tmp_path: Path) -> None:
    source = tmp_path / "in.json"
    source.write_text('[{"id": 1, "conversations": [' + HI + "]}, not JSON")
    tally = convert(source, tmp_path / "m.jsonl", "llava", "avchat", limit=1)
    assert tally.carried == 1 == len(lines(tmp_path / "m.jsonl"))
    table = GOLDEN / "clotho.csv"
    assert convert(table, tmp_path / "c.jsonl", "clotho", "avchat", limit=3).carried == 3


def test_texts_as_windows_writes_them(tmp_path: Path) -> None:
    """A byte order mark, CRLF, backslashes; and a line separator that JSON allows in a text."""
    row = {"id": "1", "video": "v\\a.mp4", "conversations": said("<video>\nq", "a\u2028b")}
    text = json.dumps([row], ensure_ascii=False, indent=1).replace("\n", "\r\n")
    (tmp_path / "in.json").write_bytes(b"\xef\xbb\xbf" + text.encode())
    convert(tmp_path / "in.json", tmp_path / "m.jsonl", "llava", "avchat")
    [sample] = read_manifest(tmp_path / "m.jsonl")
    assert sample.media == tmp_path / "v" / "a.mp4" and sample.turns[0].answer == "a\u2028b"
    (tmp_path / "v").mkdir()
    (tmp_path / "v" / "a.mp4").touch()
    own = json.dumps(ours("v\\a.mp4", "q", "a"))
    (tmp_path / "w.jsonl").write_bytes(b"\xef\xbb\xbf" + own.encode() + b"\r\n\r\n")
    [sample] = read_manifest(tmp_path / "w.jsonl")
    assert sample.media == tmp_path / "v" / "a.mp4"


def test_a_table_becomes_ours_alone_and_nothing_is_written_over_itself(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="captions"):
        convert(tmp_path / "t.csv", tmp_path / "x.json", "clotho", "llava")
    with pytest.raises(DataError, match="name another file"):
        convert(tmp_path / "x.json", tmp_path / "x.json", "llava", "ms-swift")
    with pytest.raises(DataError, match="is a folder"):
        convert(tmp_path / "x.json", tmp_path, "llava", "avchat")
    with pytest.raises(DataError, match="no such folder"):
        convert(tmp_path / "x.json", tmp_path / "y.json", "llava", "avchat", tmp_path / "gone")
    assert set(TARGETS) < set(SOURCES)
