"""Public benchmarks' files, written by hand from their published fields, and what they become."""

import json
import random
import wave
from pathlib import Path

import pytest

from avchat.data_rows import Tally
from avchat.evaluation.items import EvalError, Item
from avchat.evaluation.matching_answers import matched
from avchat.evaluation.retrieval_sets import GALLERIES, Gallery, read_gallery
from avchat.evaluation.set_rows import Clips, pair_of, video_path
from avchat.evaluation.sets import SETS, read_set
from avchat.evaluation.vcg import KINDS, read_vcg
from avchat.metrics import ranks

GOLDEN = Path(__file__).parent / "golden_sets"  # beside golden/, which holds training data's forms


def golden(name: str) -> list[Path]:
    """List a set's files: questions before answers."""
    return sorted(GOLDEN.glob(f"{name}.*"), reverse=True)


def read(name: str, videos: Path, tally: Tally | None = None) -> dict[str, Item]:
    items = read_set(name, golden(name), videos, tally or Tally())
    return {item.id: item for item in items}


def touched(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def written(path: Path, rows: list) -> Path:
    path.write_text(json.dumps(rows))
    return path


def test_every_set_has_a_golden_file(tmp_path: Path) -> None:
    assert all(golden(name) for name in set(SETS) - {"msrvtt-qa"})  # of one form with msvd-qa
    for name in set(SETS) - {"msrvtt-qa"}:
        tally = Tally()
        items = read_set(name, golden(name), tmp_path, tally)
        assert tally.carried == len(items) == len({item.id for item in items})
        assert all(not item.choices or item.answer in item.choices for item in items)


def test_questions_and_answers_meet_by_id(tmp_path: Path) -> None:
    tally = Tally()
    items = read("msvd-qa", touched(tmp_path, "aXbY1_5_15.avi"), tally)
    assert {id: item.answer for id, item in items.items()} == {"7": "bread", "8": "woman"}
    assert items["7"].video == tmp_path / "aXbY1_5_15.avi" and items["7"].family == "what"
    assert items["8"].video == tmp_path / "cZdW2_0_9.mp4"  # it is not there
    said = tally.line()
    assert "1 with a question but no answer" in said and "1 with an answer but no question" in said
    assert read_set("MSRVTT-QA", golden("msvd-qa"), tmp_path, Tally())[0].answer == "bread"


def test_the_order_of_the_answers_does_not_matter(tmp_path: Path) -> None:
    questions = [{"video_name": "v", "question": f"q{k}", "question_id": k} for k in range(20)]
    answers = [{"answer": f"a{k}", "question_id": str(k)} for k in range(20)]
    random.Random(3).shuffle(answers)
    files = [written(tmp_path / "q", questions), written(tmp_path / "a", answers)]
    items = read_set("msvd-qa", files, tmp_path, Tally())
    assert all(item.answer == "a" + item.question[1:] for item in items) and len(items) == 20
    written(tmp_path / "a", [*answers, {"answer": "a", "question_id": 7}])
    with pytest.raises(EvalError, match="line 1: the question_id '7' stands there twice"):
        read_set("msvd-qa", files, tmp_path, Tally())
    written(tmp_path / "a", [{"answer": "a"}])
    with pytest.raises(EvalError, match='"question_id" must be there'):
        read_set("msvd-qa", files, tmp_path, Tally())


def test_activitynet_qa(tmp_path: Path) -> None:
    touched(tmp_path, "v_1QabcdefgXg.mkv", "2RabcdefgYh.webm")
    items = read("activitynet-qa", tmp_path)
    first, second = items["v_1QabcdefgXg_3"], items["v_2RabcdefgYh_7"]
    assert (first.video.name, first.answer, first.family) == ("v_1QabcdefgXg.mkv", "yes", "yes/no")
    assert (second.video.name, second.answer, second.family) == ("2RabcdefgYh.webm", "2", "number")


def test_music_avqa_fills_its_templates(tmp_path: Path) -> None:
    tally = Tally()
    items = read("music-avqa", tmp_path, tally)
    assert items["11"].question == "How many flutes sound with the left erhu in the video?"
    assert items["12"].question == "Is the piano louder than the acoustic_guitar?"
    assert items["11"].answer == "one"
    assert [items[id].needs for id in ("11", "12", "13")] == ["AV", "A", "V"]
    assert items["11"].family == "Audio-Visual Counting"
    assert items["11"].choices == ("more than ten", "no", "one")
    assert tally.left == {"that their authors deleted": 1}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"templ_values": "['piano']"}, "0 slots in the question, 1 values"),
        ({"templ_values": "__import__('os').getcwd()"}, '"templ_values" is no list'),
        ({"type": '["Smell"]'}, "must begin with one of Audio, Visual"),
        ({"type": "[" * 9000}, '"type" is no list'),
        ({"anser": None}, '"anser" must be there'),
        ({"video_id": "a" * 300}, "no file can be called"),
    ],
)
def test_a_wrong_row_is_one_clear_line(tmp_path: Path, change: dict, said: str) -> None:
    row = json.loads((GOLDEN / "music-avqa.json").read_text())[2]
    path = written(tmp_path / "t.json", [row | change])
    with pytest.raises(EvalError, match=said.replace("[", "\\[")) as fault:
        read_set("music-avqa", [path], tmp_path, Tally())
    assert "\n" not in str(fault.value)


def test_avqa_answers_by_index(tmp_path: Path) -> None:
    items = read("avqa", touched(tmp_path, "-HabcdefgHc_30.mp4"))
    assert items["183"].answer == "sailing" and items["183"].needs == "V"
    assert items["183"].video.name == "-HabcdefgHc_30.mp4"
    assert items["184"].answer == "car" and items["184"].needs == "AV"
    assert items["184"].video.name == "x_yabcdefgI_000011.mp4"
    row = json.loads((GOLDEN / "avqa.json").read_text())[0]
    with pytest.raises(EvalError, match="4 choices, none is number 4"):
        read_set("avqa", [written(tmp_path / "t", [row | {"answer": 4}])], tmp_path, Tally())


def test_avhbench_leaves_captions_out(tmp_path: Path) -> None:
    tally = Tally()
    items = list(read("avhbench", tmp_path, tally).values())
    assert [(item.needs, item.answer) for item in items] == [
        ("A", "yes"),
        ("V", "no"),
        ("AV", "yes"),
    ]
    assert tally.left == {"that ask for a caption": 1}
    rows = json.loads((GOLDEN / "avhbench.json").read_text())
    apart = [written(tmp_path / f"{k}.json", [row]) for k, row in enumerate(rows)]
    assert read_set("avhbench", apart, tmp_path, Tally()) == items
    with pytest.raises(EvalError, match='"label" must be yes or no, not perhaps'):
        path = written(tmp_path / "t", [rows[0] | {"label": "Perhaps"}])
        read_set("avhbench", [path], tmp_path, Tally())


def test_cmm_pairs_its_probes(tmp_path: Path) -> None:
    items = list(read("cmm", touched(tmp_path, "vl/object-level/tree/2153.mp4")).values())
    river, tree, rain = items
    assert pair_of(river.id) == pair_of(tree.id) != pair_of(rain.id)
    assert [item.answer for item in items] == ["yes", "no", "yes"]
    assert river.video == tmp_path / "vl/object-level/tree/2153.mp4"
    assert rain.video == tmp_path / "raw_files/al/77.wav" and rain.needs == "A"
    assert river.family == "visual-language" and river.needs == "V"


def test_daily_omni_takes_letters_and_texts(tmp_path: Path) -> None:
    touched(tmp_path, "G_abcdefgGw/G_abcdefgGw_video.mp4", "G_abcdefgGw/G_abcdefgGw_audio.wav")
    first, second = read("daily-omni", tmp_path).values()
    assert first.choices == ("Hello.", "Good night.", "Stop!", "Nothing.")
    assert first.answer == "Good night." and second.answer == "a song"
    assert first.video == tmp_path / "G_abcdefgGw/G_abcdefgGw_video.mp4"


def test_ids_hang_on_what_a_row_says(tmp_path: Path) -> None:
    rows = json.loads((GOLDEN / "daily-omni.json").read_text())
    turned = written(tmp_path / "t", [*rows[::-1], rows[0]])
    items = read_set("daily-omni", [turned], tmp_path, Tally())
    ids = list(read("daily-omni", tmp_path))
    assert [item.id for item in items] == [*ids[::-1], f"{ids[0]}-2"]


def test_own_questions(tmp_path: Path) -> None:
    row = {"id": "a", "video": "c/a.mp4", "question": "q", "answer": "a"}
    path = tmp_path / "own.jsonl"
    path.write_text(json.dumps(row))
    assert read_set("own", [path], None, Tally())[0].video == tmp_path / "c/a.mp4"
    assert read_set("own", [path], tmp_path / "x", Tally())[0].video == tmp_path / "x/c/a.mp4"


@pytest.mark.parametrize(
    ("name", "files", "said"),
    [
        ("music_avqa", 1, "msvd-qa, .*own; music-avqa is meant"),
        ("qqq", 1, "no set is called 'qqq': .*own$"),
        ("msvd-qa", 1, "needs 2 files: questions, answers; 1 are named"),
        ("avhbench", 0, "needs a file of questions; 0 are named"),
    ],
)
def test_a_wrong_name_is_one_line(tmp_path: Path, name: str, files: int, said: str) -> None:
    with pytest.raises(EvalError, match=said):
        read_set(name, [GOLDEN / "cmm.jsonl"] * files, tmp_path, Tally())


def test_faults_of_the_folder(tmp_path: Path) -> None:
    with pytest.raises(EvalError, match="no such folder of clips"):
        read_set("cmm", golden("cmm"), tmp_path / "gone", Tally())
    with pytest.raises(EvalError, match="cmm: name the folder of its clips"):
        read_set("cmm", golden("cmm"), None, Tally())


@pytest.mark.parametrize("ending", [".mp4", ".mkv", ".webm", ".avi", ".mov", ".MP4"])
def test_a_clip_is_found_whatever_its_ending(tmp_path: Path, ending: str) -> None:
    touched(tmp_path, f"a.b{ending}", "a.b.jpg", "a.b.wav", "a.mp4", "xa.b.mp4")
    assert video_path(tmp_path, "a.b") == tmp_path / f"a.b{ending}"


def test_clips_that_are_many_or_none(tmp_path: Path) -> None:
    touched(tmp_path, "a.mp4", "a.mkv", "s.wav", "d/e.webm")
    with pytest.raises(EvalError, match="a.mkv and a.mp4 have one name"):
        video_path(tmp_path, "a")
    clips = Clips(tmp_path)
    assert clips.path("a.mkv") == tmp_path / "a.mkv"  # named whole, it is plain
    assert clips.path("gone") == tmp_path / "gone.mp4"
    assert clips.path("gone", kind="audio") == tmp_path / "gone.wav"
    assert clips.path("gone.mov") == tmp_path / "gone.mov"
    assert clips.path("s") == tmp_path / "s.wav"
    assert clips.path("d/e.avi") == clips.path("d\\e") == tmp_path / "d/e.webm"
    with pytest.raises(EvalError, match="no file can be called"):
        clips.path("a\0b")


def test_each_choice_names_itself(tmp_path: Path) -> None:
    for name in ("music-avqa", "avqa", "avhbench", "cmm", "daily-omni"):
        for one in read(name, tmp_path).values():
            assert matched(one.answer, one) is True
            wrong = [choice for choice in one.choices if choice != one.answer]
            assert wrong and all(matched(choice, one) is False for choice in wrong)
            if set(one.choices) != {"yes", "no"}:
                letter = "ABCDEFG"[one.choices.index(one.answer)]
                assert matched(f"({letter})", one) is True


def test_video_chatgpt(tmp_path: Path) -> None:
    touched(tmp_path, "v_p1Qabcdefgw.mp4")
    tally, items = Tally(), {}
    for kind in KINDS:
        items[kind] = read_vcg(kind, GOLDEN / f"vcg.{kind}_qa.json", tmp_path, tally)
    assert tally.carried == 5 and [len(items[kind]) for kind in KINDS] == [2, 1, 2]
    assert all(one.family == kind and one.needs == "V" for kind in KINDS for one in items[kind])
    assert items["temporal"][0].video == tmp_path / "v_p1Qabcdefgw.mp4"
    first, second = items["consistency"]
    assert first.id != second.id and pair_of(first.id) == pair_of(second.id)
    assert (first.question, second.question) == ("Who rides?", "Which person is on the horse?")
    assert first.answer == second.answer == "A man."
    rows = json.loads((GOLDEN / "vcg.generic_qa.json").read_text())
    turned = read_vcg("generic", written(tmp_path / "t", rows[::-1]), tmp_path, Tally())
    assert turned == items["generic"][::-1]  # ids as well
    other = read_vcg("temporal", written(tmp_path / "t", rows), tmp_path, Tally())
    assert not {one.id for one in other} & {one.id for one in turned}


def test_video_chatgpt_refuses_the_wrong_file(tmp_path: Path) -> None:
    with pytest.raises(EvalError, match="has Q1 and Q2: not generic"):
        read_vcg("generic", GOLDEN / "vcg.consistency_qa.json", tmp_path, Tally())
    with pytest.raises(EvalError, match="lacks Q1 and Q2: not consistency"):
        read_vcg("consistency", GOLDEN / "vcg.generic_qa.json", tmp_path, Tally())
    with pytest.raises(EvalError, match="generic, temporal, consistency"):
        read_vcg("generic_qa", GOLDEN / "vcg.generic_qa.json", tmp_path, Tally())


def silence(path: Path, seconds: float) -> None:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(bytes(2 * round(8000 * seconds)))


def test_msrvtt_1ka_counts_what_is_missing(tmp_path: Path) -> None:
    touched(tmp_path, "video9770.mp4", "video9772.webm", "video1.mp4")
    tally = Tally()
    gallery = read_gallery("msr-vtt-1ka", GOLDEN / "MSRVTT_JSFUSION_test.csv", tmp_path, tally)
    assert [clip.name for clip in gallery.clips] == ["video9770.mp4", "video9772.webm"]
    assert gallery.texts == ["a person, in a kitchen", "a person cooks"]
    assert gallery.missing == [tmp_path / "video9771.mp4"]
    assert gallery.right("text").tolist() == [[True, False], [False, True]]
    assert gallery.line() == "msr-vtt-1ka: 2 texts, 2 clips; 1 of 3 clips missing"
    assert tally.carried == 2 and tally.left == {"of a clip that is missing": 1}


def test_didemo_joins_a_videos_sentences(tmp_path: Path) -> None:
    touched(tmp_path, "12@N00_34_ab.mp4", "56@N00_78_cd.avi")
    gallery = read_gallery("didemo", GOLDEN / "didemo.json", tmp_path, Tally())
    assert gallery.texts == ["a cat appears it leaves.", "rain"]
    assert [clip.name for clip in gallery.clips] == ["12@N00_34_ab.mp4", "56@N00_78_cd.avi"]
    (tmp_path / "list.txt").write_text("56@N00_78_cd.avi\n")
    split = read_gallery("DiDeMo", GOLDEN / "didemo.json", tmp_path, Tally(), tmp_path / "list.txt")
    assert split.texts == ["rain"] and split.name == "didemo (list)" and not split.missing


@pytest.mark.parametrize("bird", ["nhu05001039.wav", "NHU05001039.wav"])
def test_sounddescs_by_a_list_in_small_letters(tmp_path: Path, bird: str) -> None:
    touched(tmp_path, bird, "07076051.wav", "07076052.wav", "07076053.wav")
    tally, split = Tally(), GOLDEN / "sounddescs.test_list.txt"
    gallery = read_gallery("sounddescs", GOLDEN / "sounddescs.csv", tmp_path, tally, split)
    names = [bird, "07076052.wav", "07076053.wav"]
    assert [clip.name for clip in gallery.clips] == names
    assert tally.left == {"in sounddescs.test_list.txt without a caption": 1}
    assert gallery.shared_texts == 2 and "2 texts are another clip's, too" in gallery.line()
    everything = read_gallery("sounddescs", GOLDEN / "sounddescs.csv", tmp_path, Tally())
    assert len(everything.clips) == 4
    (tmp_path / bird).unlink()
    less = read_gallery("sounddescs", GOLDEN / "sounddescs.csv", tmp_path, Tally(), split)
    assert len(less.clips) == 2 and less.missing == [tmp_path / "NHU05001039.wav"]


def test_audiocaps_has_five_captions_of_ten_seconds(tmp_path: Path) -> None:
    silence(tmp_path / "Yrabcdefgvtk_30.wav", 10)
    gallery = read_gallery("audiocaps", GOLDEN / "audiocaps.csv", tmp_path, Tally())
    assert gallery.texts == [f"Rain {k}" for k in range(5)] and gallery.clip_of == [0] * 5
    assert gallery.parts == [None] and [clip.name for clip in gallery.missing] == [
        "UABCDEFGXyE_20.wav"
    ]
    silence(tmp_path / "UABCDEFGXyE.wav", 60)
    gallery = read_gallery("audiocaps", GOLDEN / "audiocaps.csv", tmp_path, Tally())
    assert gallery.parts == [None, (20, 30)] and not gallery.missing


@pytest.mark.parametrize("file", ["rabcdefgvtk_30", "Yrabcdefgvtk_30", "rabcdefgvtk"])
@pytest.mark.parametrize("name", ["rabcdefgvtk", "Yrabcdefgvtk_30.wav"])
def test_audiocaps_by_a_list_of_videos(tmp_path: Path, file: str, name: str) -> None:
    silence(tmp_path / f"{file}.wav", 10)
    silence(tmp_path / "UABCDEFGXyE_20.wav", 10)
    split, tally = tmp_path / "list.txt", Tally()
    split.write_text(f"{name}\nRABCDEFGVTK\n")  # YouTube's names differ by case
    gallery = read_gallery("audiocaps", GOLDEN / "audiocaps.csv", tmp_path, tally, split)
    assert gallery.texts == [f"Rain {k}" for k in range(5)] and not gallery.missing
    assert tally.left == {"in list.txt without a caption": 1}


def test_clotho_both_ways(tmp_path: Path) -> None:
    touched(tmp_path, "Some noise.wav")
    tally = Tally()
    gallery = read_gallery("clotho", GOLDEN / "clotho.csv", tmp_path, tally)
    assert gallery.texts == ["A.", "B.", "C.", "D."] and tally.left == {"with an empty caption": 1}
    assert gallery.right("text").shape == (4, 1) and gallery.right("clip").shape == (1, 4)


def test_a_gallery_fits_the_ranks() -> None:
    clips = [Path("a"), Path("b")]
    gallery = Gallery("x", clips, [None, None], ["1", "2", "3"], [0, 0, 1], [])
    scores = gallery.right("text").astype(float)
    assert ranks(scores, gallery.right("text")).tolist() == [1, 1, 1]
    assert ranks(scores.T, gallery.right("clip")).tolist() == [1, 1]
    assert ranks(-scores, gallery.right("text")).tolist() == [2, 2, 2]


def test_galleries_that_cannot_be(tmp_path: Path) -> None:
    table = GOLDEN / "MSRVTT_JSFUSION_test.csv"
    with pytest.raises(EvalError, match="none of its 3 clips is in"):
        read_gallery("msr-vtt-1ka", table, tmp_path, Tally())
    with pytest.raises(EvalError, match="no such folder"):
        read_gallery("msr-vtt-1ka", table, tmp_path / "gone", Tally())
    with pytest.raises(EvalError, match=", ".join(GALLERIES)):
        read_gallery("msrvtt", table, tmp_path, Tally())
