"""What a check of training data finds, on real small clips: every kind of finding, and no other."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from clips import RATE, TIMES, click, write_clip
from transformers import PhiConfig, SiglipConfig, SiglipVisionConfig

from avchat import data_check
from avchat.config import TINY, LanguageConfig, VisionConfig
from avchat.data import DataError, read_manifest
from avchat.data_answers import biases, script_of, spread_of
from avchat.data_layout import context_of, load_layout, patches_of
from avchat.data_report import Report, as_json, as_text
from avchat.data_split import split
from avchat.model import AVChat


def talk(name: str, media: Path | str | None, *answers: str, **more: Any) -> str:
    """Write a line about a clip, or of text alone: one question for each answer."""
    said = []
    for answer in answers or ("a dog",):
        said.append({"role": "user", "content": f"{name}, {len(said)}?"})
        said.append({"role": "assistant", "content": answer})
    row = {"id": name, "media": None if media is None else str(media), **more, "messages": said}
    return json.dumps({key: value for key, value in row.items() if value is not None})


def caption(name: str, media: Path, text: str = "a dog", **more: Any) -> str:
    return json.dumps({"id": name, "media": str(media), "caption": text, **more})


def write(path: Path, *lines: str) -> Path:
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return path


def checked(*paths: Path, copies: bool = False, model: str = "tiny") -> Report:
    return data_check.check(paths, lambda: load_layout(model), copies=copies)


def kinds(report: Report) -> tuple[list[str], list[str]]:
    return [x.kind for x in report.faults], [x.kind for x in report.notes]


def test_a_sound_set_has_no_finding(
    clip: Path, silent_clip: Path, sound_clip: Path, tmp_path: Path
) -> None:
    picture = tmp_path / "still.png"
    with av.open(str(silent_clip)) as file:
        next(file.decode(video=0)).to_image().save(picture)
    report = checked(
        write(
            tmp_path / "m.jsonl",
            talk("both", clip),
            talk("part", clip, "a cat", start=0.5, end=2),
            talk("seen", silent_clip, "one", "two", sense="picture"),
            talk("heard", sound_clip, sense="sound"),
            talk("still", picture),
            talk("text", None, "four"),
        )
    )
    assert kinds(report) == ([], [])
    found = as_json(report)
    assert found["ok"] and found["tokens"]["count"] == 6 and found["answers"]["count"] == 7
    assert found["manifests"][0] == {
        "path": str(tmp_path / "m.jsonl"),
        "kind": "conversations",
        "samples": 6,
        "clips": 4,
        "texts": 1,
    }


def test_the_layout_is_that_of_the_whole_model(clip: Path, bundled: str) -> None:
    """The slow oracle: what is found without the language model is what the model itself says."""
    layout, model = load_layout(bundled), AVChat.from_pretrained(bundled, device="cpu")
    assert layout.context == model.context and layout.num_patches == model.vision.num_patches
    media = data_check.look_at_all([(clip, None, None)], 8, None, lambda *_: None)
    inputs = media[clip, None, None].clip
    assert layout.plan(inputs) == model.plan(inputs)
    ours, whole = layout.sight.vision.state_dict(), model.vision.state_dict()
    assert ours.keys() == whole.keys() and all((ours[k] == whole[k]).all() for k in ours)


def test_the_layout_of_bases_in_folders_is_read_from_their_configs(tmp_path: Path) -> None:
    vision = SiglipVisionConfig(image_size=48, patch_size=8).to_dict()
    SiglipConfig(vision_config=vision, text_config={}).save_pretrained(tmp_path / "siglip")
    PhiConfig(max_position_embeddings=99).save_pretrained(tmp_path / "phi")
    config = replace(
        TINY,
        vision=VisionConfig(hub=str(tmp_path / "siglip")),
        language=LanguageConfig(hub=str(tmp_path / "phi")),
    )
    assert (patches_of(config), context_of(config)) == (36, 99)
    assert patches_of(TINY) == 64 and context_of(TINY) == 1024


# a line, what is said of it
BAD_LINES = [
    ("{not json", "not JSON"),
    ("[1, 2]", "needs an object"),
    ('{"media": 3, "messages": []}', "media, a path"),
    ('{"media": "", "messages": []}', "media, a path"),
    ('{"media": null, "messages": []}', "media, a path"),
    (talk("x", "a" * 300), "media, a path"),
    (talk("x", "a\0"), "media, a path"),
    ('{"id": "\\ud800", "messages": []}', "surrogate"),
    (talk("x", "a.mp4", start=float("nan")), "start must be"),
    (talk("x", "a.mp4", end=float("inf")), "end must be"),
    (talk("x", "a.mp4", end=10**400), "end must be"),
    (talk("x", "a.mp4", start=-1), "start must be"),
    (talk("x", "a.mp4", start=True), "start must be a number"),
    (talk("x", "a.mp4", start=3, end=3), "end, 3 s, must be after the start, 3 s"),
    (talk("x", "a.mp4", end=0), "must be after the start, 0 s"),
    (talk("x", None, end=2), "there is no media"),
    (talk("x", "a.mp4", sense=["ears"]), "sense must be one of"),
    (talk("x", "a.mp4", " "), "a message of assistant is empty"),
    ('{"media": "a.mp4", "messages": [{"role": "user", "content": "q"}]}', "pairs of user and"),
]


def test_a_bad_line_stops_nothing(clip: Path, tmp_path: Path) -> None:
    lines = [line for line, _ in BAD_LINES]
    path = write(tmp_path / "m.jsonl", *lines, talk("good", clip))
    report = checked(path)
    with pytest.raises(DataError, match="line 1: not JSON"):
        read_manifest(path)  # as training reads it
    assert kinds(report) == (["line"] * len(lines), [])
    assert len(report.tokens) == 1
    for number, ((_, why), fault) in enumerate(zip(BAD_LINES, report.faults, strict=True), 1):
        assert f"m.jsonl, line {number}: " in fault.text and why in fault.text, fault.text


def test_clips_that_cannot_be_used(clip: Path, silent_clip: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(clip.read_bytes()[:2000])
    (tmp_path / "empty.mp4").touch()
    report = checked(
        write(
            tmp_path / "m.jsonl",
            talk("gone", "gone.mp4"),
            talk("gone too", "gone.mp4"),
            talk("folder", tmp_path),
            talk("broken", broken),
            talk("empty", "empty.mp4"),
            talk("mute", silent_clip, sense="sound"),
            talk("after", clip, start=100),
        )
    )
    faults, notes = kinds(report)
    assert sorted(faults) == ["missing"] * 2 + ["no sound"] + ["unreadable"] * 3
    texts = {fault.where.split("sample ")[1]: fault.text for fault in report.faults}
    assert texts["gone and 1 more"].startswith("no such file") and "folder" in texts["folder"]
    assert not notes


def test_a_sound_that_is_not_there_and_a_picture_that_is_not(
    silent_clip: Path, sound_clip: Path, tmp_path: Path
) -> None:
    report = checked(
        write(
            tmp_path / "m.jsonl",
            talk("deaf", silent_clip, sense="sound"),
            talk("blind", sound_clip, sense="picture"),
        )
    )
    assert kinds(report)[0] == ["no sound", "no picture"]


def test_what_is_said_twice_or_not_at_all(clip: Path, tmp_path: Path) -> None:
    same = talk("a", clip, "yes")
    twice = json.loads(talk("d", clip, "one"))
    twice["messages"] *= 2
    report = checked(
        write(
            tmp_path / "m.jsonl",
            same,
            same,
            same.replace('"a"', '"b"'),
            talk("c", clip, "\u200b\u2060"),
            json.dumps(twice),
        )
    )
    assert sorted(kinds(report)[0]) == ["empty", "id"]
    assert sorted(kinds(report)[1]) == ["double", "double", "turn"]


def test_conversations_that_do_not_fit(clip: Path, tmp_path: Path) -> None:
    path = write(
        tmp_path / "m.jsonl", talk("a", clip, "word " * 1100), talk("b", None, "x " * 1100)
    )
    report = checked(path)
    assert kinds(report)[0] == ["too long", "too long"]
    assert "0 media tokens" in report.faults[1].text and "context of 1024" in report.faults[0].text
    assert as_json(report)["tokens"]["histogram"][-1]["samples"] == 2


def test_answers_that_need_no_clip_are_noted(tmp_path: Path) -> None:
    names = [f"{k}" for k in range(30)]
    same = write(tmp_path / "s.jsonl", *(talk(k, None, "Red.", k) for k in names[:20]))
    rest = [talk(k, None, f"no {k}", "yes!", "Yes.", "yes", "yes", "yes") for k in names]
    assert kinds(checked(same)) == ([], [])  # half of the answers are not most of them
    report = checked(write(tmp_path / "y.jsonl", *rest))
    assert kinds(report) == ([], ["biased", "biased"])
    assert "83% of the answers are the same: yes" in report.notes[0].text
    assert "83% of the answers yes or no are yes" in report.notes[1].text
    assert not biases(["yes"] * 19)


def test_scripts_and_common_answers() -> None:
    texts = [
        "A dog.",
        "a  DOG",
        "\u0441\u043e\u0431\u0430\u043a\u0430",
        "\u72d7",
        "4",
        "No, it is.",
    ]
    assert [script_of(text) for text in texts] == [
        "latin",
        "latin",
        "cyrillic",
        "cjk",
        "none",
        "latin",
    ]
    found = spread_of(texts)
    assert found["scripts"] == {"latin": 0.5, "cyrillic": 0.1667, "cjk": 0.1667, "none": 0.1667}
    assert found["common"][0] == {"answer": "a dog", "count": 2, "share": 0.3333}
    assert found["different"] == 5 and (found["yes"], found["no"]) == (0.0, 0.1667)


def test_parts_of_a_set_share_neither_bytes_nor_text(
    clip: Path, silent_clip: Path, tmp_path: Path
) -> None:
    copy = shutil.copy(clip, tmp_path / "copy.mp4")
    one = write(tmp_path / "1.jsonl", talk("a", clip), talk("t", None, "four"))
    two = write(tmp_path / "2.jsonl", talk("a", copy), talk("t", None, "four"), talk("u", None))
    report = checked(one, two)
    assert kinds(report) == (["shared", "shared"], [])
    assert "copy.mp4 is also in" in report.faults[0].text and "clip.mp4" in report.faults[0].text
    with pytest.raises(DataError, match="named twice"):
        checked(one, tmp_path / "." / "1.jsonl")


def encoded_again(source: Path, target: Path) -> Path:
    """Write a smaller, coarser copy, with its sound in another codec at another rate."""
    with av.open(str(source)) as read, av.open(str(target), "w") as out:
        seen = read.streams.video[0]
        small_size = [side * 3 // 8 * 2 for side in (seen.width, seen.height)]
        video = out.add_stream("libx264", rate=25, options={"crf": "32"})
        video.width, video.height, video.pix_fmt = *small_size, "yuv420p"
        audio = out.add_stream("libmp3lame", rate=22_050, layout="mono")
        resampler = av.AudioResampler("fltp", "mono", 22_050)
        for frame in read.decode(video=0, audio=0):
            if isinstance(frame, av.VideoFrame):
                small = frame.reformat(*small_size, "yuv420p")
                small.pict_type = 0
                out.mux(video.encode(small))
            else:
                for part in resampler.resample(frame):
                    out.mux(audio.encode(part))
        out.mux(video.encode(None))
        out.mux(audio.encode(None))
    return target


def test_a_copy_that_was_encoded_again(
    clip: Path, sound_clip: Path, bundled: str, tmp_path: Path
) -> None:
    copy = encoded_again(clip, tmp_path / "again.mkv")
    other = write_clip(tmp_path / "other.mp4", TIMES, sound=click(2, 1))
    third = write_clip(tmp_path / "third.mp4", TIMES[:20], sound=click(1, 0.2)[: RATE // 2])
    one = write(tmp_path / "1.jsonl", talk("a", clip), talk("b", other))
    two = write(tmp_path / "2.jsonl", talk("a", copy), talk("b", third))
    report = checked(one, two, copies=True, model=bundled)
    assert kinds(report) == ([], ["likely shared"])
    assert "again.mkv looks and sounds nearly like clip.mp4 of" in report.notes[0].text
    assert report.notes[0].where == str(two)
    three = write(tmp_path / "3.jsonl", talk("a", clip), talk("b", copy), talk("c", other))
    assert kinds(checked(three, copies=True, model=bundled)) == ([], ["alike"])
    # two clips alone, of which the mean says nothing
    four = write(tmp_path / "4.jsonl", talk("a", clip), talk("b", other))
    assert kinds(checked(four, copies=True, model=bundled)) == ([], [])
    # a clip and its own sound are alike in the one sense that both have
    five = write(tmp_path / "5.jsonl", talk("a", clip), talk("b", sound_clip), talk("c", other))
    assert kinds(checked(five, copies=True, model=bundled)) == ([], ["alike"])


def test_captions_are_checked_without_a_model(
    clip: Path, silent_clip: Path, tmp_path: Path
) -> None:
    def no_model() -> None:
        raise AssertionError("no model is needed")

    path = write(
        tmp_path / "c.jsonl",
        caption("a", clip),
        caption("b", silent_clip, "a cat", of="sound"),
        caption("c", clip, "\u200b"),
        json.dumps({"caption": "of nothing"}),
    )
    report = data_check.check([path], no_model, copies=False)
    assert kinds(report)[0] == ["line", "no sound", "empty"]
    assert report.captions == [2, 2, 1]
    alone = write(tmp_path / "one.jsonl", caption("a", clip))
    assert kinds(data_check.check([alone], no_model, copies=False))[0] == ["few"]
    mixed = write(tmp_path / "m.jsonl", caption("a", clip), talk("b", clip))
    with pytest.raises(DataError, match="conversations and captions in one file"):
        checked(mixed)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "no samples"),
        (b"\n \r\n", "no samples"),
        (b"\xff\xfe\x00a", "not text in UTF-8"),
        (b'[{"image": "a.jpg", "conversations": []}]', "looks like llava.*--from llava --to avch"),
        (b"file_name,caption_1,caption_2,caption_3,caption_4,caption_5\n", "looks like clotho"),
    ],
)
def test_a_file_that_is_no_manifest(tmp_path: Path, content: bytes, why: str) -> None:
    path = tmp_path / "m.jsonl"
    path.write_bytes(content)
    with pytest.raises(DataError, match=why):
        checked(path)
    with pytest.raises(DataError, match="directory"):
        checked(tmp_path)


def test_paths_that_are_relative_to_elsewhere(clip: Path, tmp_path: Path) -> None:
    (tmp_path / "clips").mkdir()
    (tmp_path / "lists").mkdir()
    for name in ("a.mp4", "b.mp4"):
        shutil.copy(clip, tmp_path / "clips" / name)
    lines = [talk(name, f"clips/{name}.mp4") for name in "ab"]
    path = write(tmp_path / "lists" / "m.jsonl", *lines)
    assert kinds(checked(path)) == (["root"], [])
    with pytest.raises(DataError, match=f"2 paths are relative to {tmp_path}.*--media-root"):
        split(path, tmp_path / "parts")
    with pytest.raises(DataError, match="no such file: .*a.mp4 .and 1 more"):
        split(write(tmp_path / "n.jsonl", talk("a", "a.mp4"), talk("b", "b.mp4")), tmp_path)


def test_the_words_of_a_report(clip: Path, tmp_path: Path) -> None:
    lines = [talk(f"{k}", None, "Yes.", "no") for k in range(30)]
    gone = [talk(f"gone {k}", f"gone{k}.mp4") for k in range(25)]
    report = checked(write(tmp_path / "m.jsonl", talk("a", clip), *lines, *gone))
    said = "\n".join(as_text(report))
    assert "56 conversations about 26 files, 30 of them of text alone" in said
    assert 'said most: "yes" 35%, "no" 35%, "a dog" 30%; 3 different' in said
    assert "scripts: latin 100%" in said and "begin with yes: 35%, with no: 35%" in said
    assert "fault: missing: and 5 more, which --json lists" in said
    assert len(as_json(report)["faults"]) == 25
    assert np.sum([one["samples"] for one in as_json(report)["tokens"]["histogram"]]) == 31
