"""Other trainers' forms, written by hand from their published fields, both ways."""

import json
import wave
from pathlib import Path
from typing import Any

import pytest

from avchat.data import DataError, read_manifest
from avchat.data_conversion import SOURCES, TARGETS, convert, guess
from avchat.data_rows import Tally


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


# form, a sample of it, the same in our manifest (without its id)
GOLDEN = [
    (
        "llava",
        {"id": "7", "image": "a.jpg", "conversations": said("<image>\nWho?", "A cat.", "So?", "-")},
        ours("a.jpg", "Who?", "A cat.", "So?", "-"),
    ),
    (
        "llava",
        {"id": "8", "video": "v/a.mp4", "conversations": said("<video>\nWhat?", "Rain.")},
        ours("v/a.mp4", "What?", "Rain."),
    ),
    (
        "videollama2",
        {"id": "9", "audio": "a.wav", "conversations": said("<audio>\nWhat?", "A horn.")},
        ours("a.wav", "What?", "A horn.", sense="sound"),
    ),
    (
        "videollama2",
        {"id": "10", "video": "a.mp4", "conversations": said("<video>\nWhat?", "A horn.")},
        ours("a.mp4", "What?", "A horn."),
    ),
    (
        "videollama2",
        {"id": "11", "image": "a.png", "conversations": said("<image>\nWhat?", "A horn.")},
        ours("a.png", "What?", "A horn."),
    ),
    (
        "video-salmonn-2",
        {
            "id": "12",
            "video": "v/a.mp4",
            "audio": "v/a.wav",
            "timestamps": [1.5, 9],
            "conversations": said("<image>\nWhat?", "A horn."),
        },
        ours("v/a.mp4", "What?", "A horn.", start=1.5, end=9),
    ),
    (
        "video-salmonn-2",
        {"id": "13", "video": "a.mp4", "conversations": said("<image>\nWhat?", "Rain.")},
        ours("a.mp4", "What?", "Rain.", sense="picture"),
    ),
    (
        "video-salmonn-2",
        {"id": "14", "audio": "a.wav", "conversations": said("<image>\nWhat?", "Rain.")},
        ours("a.wav", "What?", "Rain.", sense="sound"),
    ),
    (
        "video-salmonn-2-plus",
        {
            "id": "15",
            "video": "a.mp4",
            "use_audio": True,
            "conversations": said("<video>\nWhat?", "Rain."),
        },
        ours("a.mp4", "What?", "Rain."),
    ),
    (
        "video-salmonn-2-plus",
        {
            "id": "16",
            "video": "a.mp4",
            "use_audio": False,
            "conversations": said("<video>\nWhat?", "Rain."),
        },
        ours("a.mp4", "What?", "Rain.", sense="picture"),
    ),
    (
        "video-chatgpt-raw",
        {"q": "What?", "a": "Rain.", "video_id": "v_1"},
        ours("v_1.mp4", "What?", "Rain."),
    ),
    (
        "video-chatgpt",
        {"id": "v_1", "video": "v_1.pkl", "conversations": said("What?\n<video>", "Rain.")},
        ours("v_1.mp4", "What?", "Rain."),
    ),
    (
        "ms-swift",
        swift({"videos": ["a.mp4"]}, "<video>\nWhat?", "Rain.", "Where?", "Here."),
        ours("a.mp4", "What?", "Rain.", "Where?", "Here."),
    ),
    ("ms-swift", swift({"images": ["a.jpg"]}, "<image>\nWho?", "I."), ours("a.jpg", "Who?", "I.")),
    (
        "llama-factory",
        swift({"audios": ["a.wav"]}, "<audio>\nWhat?", "Rain."),
        ours("a.wav", "What?", "Rain.", sense="sound"),
    ),
]


def write(path: Path, rows: list) -> Path:
    path.write_text(json.dumps(rows))
    return path


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def carried(folder: Path, form: str, *rows: dict) -> tuple[list[dict], Tally]:
    """Convert samples to our manifest."""
    tally = convert(write(folder / "in.json", list(rows)), folder / "m.jsonl", form, "avchat")
    return lines(folder / "m.jsonl"), tally


@pytest.mark.parametrize(("form", "foreign", "own"), GOLDEN)
def test_a_published_sample_goes_both_ways(
    tmp_path: Path, form: str, foreign: dict, own: dict
) -> None:
    [found], tally = carried(tmp_path, form, foreign)
    named = "id" in foreign and form != "video-chatgpt"
    assert named == (found["id"] == foreign.get("id", "")) or form == "video-chatgpt"
    assert {key: value for key, value in found.items() if key != "id"} == own
    assert tally.carried == 1 and not tally.left
    convert(tmp_path / "m.jsonl", tmp_path / "back.json", "avchat", form)
    assert json.loads((tmp_path / "back.json").read_text()) == [foreign]
    [sample] = read_manifest(tmp_path / "m.jsonl")
    assert sample.media == tmp_path / own["media"]


def test_every_form_has_a_published_sample() -> None:
    assert {form for form, *_ in GOLDEN} == set(TARGETS) - {"avchat"}


@pytest.mark.parametrize("form", [form for form in TARGETS if form != "avchat"])
def test_a_form_is_recognised_by_a_sample(tmp_path: Path, form: str) -> None:
    foreign = next(row for name, row, _ in GOLDEN if name == form)
    alike = {"llama-factory": "ms-swift", "video-chatgpt": "llava"}
    assert guess(write(tmp_path / "in.json", [foreign])) == alike.get(form, form)


def test_video_chatgpt_puts_the_tag_after_and_before_by_turns(tmp_path: Path) -> None:
    rows = [{"id": str(k), **ours(f"{k}.mp4", f"q{k}", "a")} for k in range(3)]
    (tmp_path / "m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    convert(tmp_path / "m.jsonl", tmp_path / "out.json", "avchat", "video-chatgpt")
    asked = [
        row["conversations"][0]["value"] for row in json.loads((tmp_path / "out.json").read_text())
    ]
    assert asked == ["q0\n<video>", "<video>\nq1", "q2\n<video>"]


TALK = said("<video>\nWhat?", "Rain.")


@pytest.mark.parametrize(
    ("form", "bad", "why"),
    [
        ("llava", {"conversations": said("Hi", "Hello")}, "1 without a clip"),
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
    ],
)
def test_what_cannot_be_carried_is_counted(tmp_path: Path, form: str, bad: dict, why: str) -> None:
    good = next(row for name, row, _ in GOLDEN if name == form)
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
        ('[{"id": 1},\n{"id": 2,,}]', "llava", "line 2: not JSON"),
        ('{"messages": []}\n\n{"messages', "ms-swift", "line 3: not JSON"),
        ('[{"video": "a.mp4", "messages": []}]', "llava", "sample 1: needs conversations"),
        ('[{"video": "a.mp4", "messages": []}]', "llava", "looks like ms-swift"),
        ('[{"video": 3, "conversations": []}]', "llava", "video must be a path"),
        ('[{"video": "a.mp4", "conversations": ["x"]}]', "llava", "needs from and value"),
        ('["x"]', "llava", "sample 1: needs an object"),
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


def test_captions_of_clotho(tmp_path: Path) -> None:
    source = tmp_path / "t.csv"
    header = "file_name," + ",".join(f"caption_{k}" for k in range(1, 6))
    source.write_text(f"{header}\nA b.wav,one,two,three,four,five\n")
    assert guess(source) == "clotho"
    convert(source, tmp_path / "m.jsonl", "clotho", "avchat")
    found = lines(tmp_path / "m.jsonl")
    assert [row["caption"] for row in found] == ["one", "two", "three", "four", "five"]
    assert found[0] == {"id": "A b-1", "media": "A b.wav", "caption": "one", "of": "sound"}


def test_a_table_becomes_ours_alone_and_nothing_is_written_over_itself(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="captions"):
        convert(tmp_path / "t.csv", tmp_path / "x.json", "clotho", "llava")
    with pytest.raises(DataError, match="name another file"):
        convert(tmp_path / "x.json", tmp_path / "x.json", "llava", "ms-swift")
    with pytest.raises(DataError, match="no such folder"):
        convert(tmp_path / "x.json", tmp_path / "y.json", "llava", "avchat", tmp_path / "gone")
    assert set(TARGETS) < set(SOURCES)
