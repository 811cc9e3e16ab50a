"""`avchat index | find | library`: the contracts, the exit codes, one line for every bad input."""

import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from joined import write_joined
from siglip import write_siglip
from small import SMALL_HEAD, build_model, small_head

from avchat import cli
from avchat.transcripts import Transcriber
from avchat.world.casting import draw_scene
from avchat.world.clip_file import write_clip

KEYS = ["clip", "path", "start", "end", "score", "why"]


@pytest.fixture(scope="module")
def siglip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_siglip(tmp_path_factory.mktemp("siglip") / "small")


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six clips of the world."""
    folder = tmp_path_factory.mktemp("clips")
    for seed in range(6):
        scene = draw_scene(np.random.default_rng(seed), "two sources")
        write_clip(scene, folder / f"{seed}.mp4")
    return folder


@pytest.fixture(scope="module")
def library(clips: Path, siglip: Path) -> Path:
    folder = clips.parent / f"{clips.name}-library"
    words = ["index", clips, "--library", folder, "--head", "siglip", "--model", siglip]
    assert cli.main(list(map(str, words))) == 0
    return folder


def run(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    """Run a verb in this process."""
    code = cli.main(list(map(str, words)))
    stdout, stderr = capsys.readouterr()
    return code, stdout, stderr


def found(capsys: pytest.CaptureFixture[str], *words: object) -> list[dict]:
    """Run find and check the contract of its JSON."""
    code, stdout, stderr = run(capsys, "find", *words, "--json")
    assert code == 0, stderr
    hits = json.loads(stdout)
    for hit in hits:
        assert list(hit) == KEYS and list(hit["why"]) == ["picture", "sound", "speech"]
        assert sum(hit["why"].values()) == pytest.approx(hit["score"], abs=1e-4)
    assert [hit["score"] for hit in hits] == sorted((h["score"] for h in hits), reverse=True)
    return hits


def test_index_says_what_it_did_as_json(
    clips: Path, library: Path, siglip: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The library knows its head: neither --head nor --model is needed again."""
    code, stdout, _ = run(capsys, "index", clips, "--library", library, "--json")
    assert code == 0
    report = json.loads(stdout)
    assert list(report) == (
        ["library", "head", "added", "unchanged", "moved", "failed", "windows", "seconds"]
    )
    assert (report["added"], report["unchanged"], report["failed"]) == (0, 6, [])
    assert report["head"] == str(siglip)


def test_shots_instead_of_windows(
    siglip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    film = write_joined(tmp_path / "a.mp4", [(2.0, "red", None), (3.0, "blue", None)])
    words = ["index", film, "--library", tmp_path / "lib", "--cut", "shots", "--json"]
    code, stdout, _ = run(capsys, *words, "--head", "siglip", "--model", siglip)
    assert code == 0 and json.loads(stdout)["windows"] == 2


def test_what_is_said_is_found_by_the_same_words(
    siglip: Path, whisper_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    film = write_joined(tmp_path / "a.mkv", [(3.0, "red", 1000.0)])
    lib = ["--library", tmp_path / "lib"]
    words = ["index", film, *lib, "--head", "siglip", "--model", siglip]
    assert run(capsys, *words, "--transcribe", whisper_file)[0] == 0
    said = " ".join(line.text for line in Transcriber(whisper_file).file_lines(film, 3.0))
    [hit] = found(capsys, re.search(r"\b[a-z]{3,}\b", said)[0], *lib)
    assert hit["why"]["speech"] == pytest.approx(0.5) and hit["why"]["picture"] > 0


def test_a_clip_finds_itself_by_clip_and_by_picture(
    clips: Path, library: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for flag in ("--clip", "--image"):
        hits = found(capsys, flag, clips / "3.mp4", "--library", library, "--top", "1")
        assert [hit["clip"] for hit in hits] == ["3.mp4"]
        assert hits[0]["path"] == str(clips / "3.mp4")
        assert (hits[0]["start"], hits[0]["end"]) == (0, pytest.approx(4, abs=0.1))
        assert hits[0]["score"] == pytest.approx(1, abs=1e-3)
    [other] = found(
        capsys, "--clip", clips / "3.mp4", "--library", library, "--top", "1",
        "--folder", clips, "--sense", "picture",
    )  # fmt: skip
    assert other["clip"] == "3.mp4"


def test_a_head_that_hears_finds_by_sound(
    clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """VLSA with random weights knows nothing: all sounds are alike to it, and fold into one."""
    build_model().save_pretrained(tmp_path / "chat")
    head = small_head(replace(SMALL_HEAD, base=str(tmp_path / "chat")))
    head.save_pretrained(tmp_path / "head")
    folder = tmp_path / "library"
    words = ["index", clips, "--library", folder, "--model", tmp_path / "head"]
    assert run(capsys, *words)[0] == 0
    query = ["--sound", clips / "3.mp4"]  # compared with sounds
    best, *_ = found(capsys, *query, "--library", folder)
    assert best["score"] == pytest.approx(1, abs=0.01)
    assert best["why"]["picture"] == 0
    assert found(capsys, "a drum", "--library", folder)


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("timeline", "no lookup head called timeline comes with this package"),
        ("no-such-model", "no model called no-such-model"),
        ("CHAT", "not a configuration of a lookup head"),
    ],
)
def test_a_head_that_cannot_be_had_is_one_line(
    model: str, said: str, clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if model == "CHAT":
        build_model().save_pretrained(tmp_path / "chat")
        model = str(tmp_path / "chat")
    clip = clips / "0.mp4"
    for words in (["index", clip, "--library", tmp_path / "library"], ["moments", clip, "a drum"]):
        code, stdout, stderr = run(capsys, *words, "--model", model)
        assert code == 2 and not stdout
        assert stderr.startswith("error: ") and said in stderr and stderr.count("\n") == 1


def test_words_weights_and_filters(
    clips: Path, library: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lib = ["--library", library]
    assert found(capsys, "a red circle", *lib)
    mixed = ["a red circle", "--clip", clips / "2.mp4", *lib, "--top", "1"]
    [hit] = found(capsys, *mixed, "--weight", "clip=99", "--weight", "text=0.1")
    assert hit["clip"] == "2.mp4"
    plain = found(capsys, "a red circle", *lib, "--top", "1")[0]["score"]
    less = found(capsys, "a red circle", "--not", "a dog barks", *lib, "--top", "1")[0]["score"]
    apart = [
        found(capsys, *words, "a red circle", *lib, "--top", "50")
        for words in (
            ["--not", "a drum"],
            ["--not", "a cat"],
            ["--not", "a drum", "--not", "a cat"],
        )
    ]
    first, second, both = ({hit["clip"]: hit["score"] for hit in hits} for hits in apart)
    shared = first.keys() & second.keys() & both.keys()
    assert shared and first != second
    for clip in shared:  # all of them count
        assert both[clip] == pytest.approx((first[clip] + second[clip]) / 2, abs=1e-4)
    assert less != pytest.approx(plain)
    for empty in (["--min-length", "60"], ["--before", "2001-02-03"], ["--folder", "/nowhere"]):
        assert found(capsys, "a red circle", *lib, *empty) == []
    assert found(capsys, "circle", *lib, "--has-sound", "--after", "2001-02-03")
    code, stdout, stderr = run(capsys, "find", "circle", *lib, "--threshold", "1.5", "--json")
    assert (code, stdout, stderr) == (0, "[]\n", "note: no good match\n")
    code, stdout, _ = run(capsys, "find", "circle", *lib, "--top", "1")
    assert code == 0 and re.search(r"0\.0 - 4\.0 s  /.*\.mp4  \(picture [+-]\d", stdout)


def test_an_empty_library_is_an_honest_empty_answer(
    siglip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "nothing").mkdir()
    words = ["--library", tmp_path / "lib", "--head", "siglip", "--model", siglip]
    assert run(capsys, "index", tmp_path / "nothing", *words)[0] == 0
    code, stdout, stderr = run(capsys, "find", "dog", "--library", tmp_path / "lib", "--json")
    assert (code, stdout, stderr) == (0, "[]\n", "note: the library is empty\n")


def test_a_file_deleted_after_indexing_is_found_and_said(
    clips: Path, siglip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gone = tmp_path / "gone.mp4"
    gone.write_bytes((clips / "1.mp4").read_bytes())
    lib = ["--library", tmp_path / "lib"]
    head = ["--head", "siglip", "--model", siglip]
    assert run(capsys, "index", gone, tmp_path / "gone.mp4", *lib, *head)[0] == 0
    gone.unlink()
    code, stdout, stderr = run(capsys, "find", "dog", *lib, "--json")
    assert code == 0 and json.loads(stdout)[0]["clip"] == "gone.mp4"
    assert stderr == f"note: {gone} is no longer there\n"
    [file] = json.loads(run(capsys, "library", "list", *lib, "--json")[1])
    assert file["missing"] is True
    assert json.loads(run(capsys, "library", "stats", *lib, "--json")[1])["windows"] == 1
    assert json.loads(run(capsys, "library", "rebuild", *lib, "--json")[1])["files"] == 1
    assert "(missing)" in run(capsys, "library", "list", *lib)[1]
    assert run(capsys, "library", "remove", gone, *lib) == (0, "removed: 1\n", "")
    code, _, stderr = run(capsys, "library", "remove", gone, *lib)
    assert code == 2 and "no file at" in stderr


def test_a_folder_of_the_library_is_found_however_it_is_written(
    clips: Path, library: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    here = found(capsys, "a circle", "--library", library, "--folder", clips, "--fold", 1)
    assert len(here) == 6
    wound = clips / ".." / clips.name
    assert found(capsys, "a circle", "--library", library, "--folder", wound, "--fold", 1) == here
    words = ["find", "a circle", "--library", library, "--folder", clips / "typo"]
    code, stdout, stderr = run(capsys, *words)
    assert (code, stdout) == (0, "")
    assert f"no file of the library is in {clips / 'typo'}" in stderr


BAD = [
    (["index", "--library", "LIB"], "nothing to index"),
    (["index", "CLIPS", "nowhere", "--library", "LIB"], "nowhere: no such file"),
    (["index", "CLIPS", "--library", "LIB", "--overlap", "9"], "overlap"),
    (["index", "CLIPS", "--library", "LIB", "--cut", "thirds"], "thirds"),
    (["index", "CLIPS", "--library", "CLIPS"], "something else"),
    (["index", "CLIPS", "--library", "LIB", "--model", "OTHER"], "its vectors were made by"),
    (["index", "CLIPS", "--library", "NEW", "--head", "siglip"], "hf download google/siglip"),
    (["index", "CLIPS", "--library", "NEW", "--head", "siglip", "--model", "x"], "no such folder"),
    (["index", "CLIPS", "--library", "NEW", "--transcribe", "x"], "no Whisper called x"),
    (["index", "CLIPS", "--library", "NEW", "--transcribe", "CLIP"], "not a Whisper model"),
    (["find", "--library", "LIB"], "the query is empty"),
    (["find", " ", "--library", "LIB"], "the query is empty"),
    (["find", "dog", "--library", "NEW"], "no library here"),
    (["find", "dog", "--library", "CLIP"], "this is a file"),
    (["find", "dog", "--library", "LIB", "--model", "OTHER"], "its vectors were made by"),
    (["find", "dog", "--library", "LIB", "--top", "0"], "--top"),
    (["find", "dog", "--library", "LIB", "--weight", "nose=2"], "--weight nose=2"),
    (["find", "dog", "--library", "LIB", "--weight", "text=-1"], "above 0"),
    (["find", "dog", "--library", "LIB", "--weight", "sound=2"], "no sound in the query to weigh"),
    (["find", "dog", "--library", "LIB", "--not", " "], "--not is empty"),
    (["find", "dog", "--library", "LIB", "--threshold", "nan"], "--threshold nan"),
    (["find", "dog", "--library", "LIB", "--fold", "7"], "--fold 7: must be a cosine"),
    (["find", "dog", "--library", "LIB", "--min-length", "nan"], "--min-length nan"),
    (["find", "dog", "--library", "LIB", "--max-length", "inf"], "--max-length inf"),
    (
        ["find", "dog", "--library", "LIB", "--min-length", "5", "--max-length", "2"],
        "no file is at least 5 s and at most 2 s",
    ),
    (["find", "dog", "--library", "LIB", "--after", "soon"], "--after soon"),
    (["find", "dog", "--library", "LIB", "--sense", "sound"], "hears nothing"),
    (["find", "--sound", "SILENT", "--library", "LIB"], "there is no sound in this file"),
    (["find", "--clip", "SILENT", "--sense", "sound", "--library", "LIB"], "there is no sound"),
    (["find", "--image", "WAV", "--library", "LIB"], "there is no picture in this file"),
    (["find", "--clip", "nowhere.mp4", "--library", "LIB"], "nowhere.mp4: no such file"),
    (["library", "frob", "--library", "LIB"], "frob"),
    (["library", "stats", "--library", "NEW"], "no library here"),
    (["library", "remove", "--library", "LIB"], "avchat library remove PATH"),
]


@pytest.mark.parametrize(("words", "said"), BAD, ids=lambda v: " ".join(v)[:50] if v else "")
def test_a_bad_argument_is_one_line_and_exit_code_2(
    words: list[str],
    said: str,
    clips: Path,
    library: Path,
    silent_clip: Path,
    sound_clip: Path,
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    capsys: pytest.CaptureFixture[str],
) -> None:
    names = {
        "LIB": library,
        "CLIPS": clips,
        "CLIP": clips / "0.mp4",
        "NEW": tmp_path / "new",
        "SILENT": silent_clip,
        "WAV": sound_clip,
    }
    if "OTHER" in words:
        names["OTHER"] = write_siglip(tmp_path / "other", seed=1)
        words = [*words, *(["--head", "siglip"] if words[0] == "index" else [])]
    code, stdout, stderr = run(capsys, *(names.get(word, word) for word in words))
    assert (code, stdout) == (2, "")
    lines = stderr.splitlines()
    assert lines[-1].startswith("error: ") and said in lines[-1], stderr
    assert "Traceback" not in stderr and not (tmp_path / "new").exists()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_ctrl_c_stops_and_the_same_command_goes_on(
    clips: Path, siglip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "many"
    folder.mkdir()
    for n in range(16):  # appended bytes make other files of the same film
        bytes_ = (clips / f"{n % 6}.mp4").read_bytes()
        (folder / f"{n}.mp4").write_bytes(bytes_ + n.to_bytes(8, "big"))
    words = ["index", folder, "--library", tmp_path / "lib", "--head", "siglip", "--model", siglip]
    command = [sys.executable, "-m", "avchat.cli", *map(str, words)]
    env = os.environ | {"PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, stdout=-1, stderr=-1, env=env) as process:
        for _ in range(1200):
            if len(list((tmp_path / "lib" / "windows.lance" / "data").glob("*"))) >= 2:
                break
            try:
                process.wait(0.1)
            except subprocess.TimeoutExpired:
                continue
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    assert b"Traceback" not in stderr and stderr.endswith(b"stopped\n")
    code, stdout, _ = run(capsys, *words, "--json")
    report = json.loads(stdout)
    assert code == 0 and report["unchanged"] >= 2 and report["added"] >= 1
    assert report["unchanged"] + report["added"] == 16


def test_help_of_the_lookup_verbs_imports_nothing_heavy() -> None:
    code = (
        "import sys, avchat.cli\n"
        "for verb in ('index', 'find', 'library'):\n"
        "    try: avchat.cli.main([verb, '--help'])\n"
        "    except SystemExit: pass\n"
        "heavy = {'torch', 'transformers', 'lancedb', 'av'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "--library" in done.stdout and "--not" in done.stdout
