"""Sets of speech, as people have them, to a manifest; none of them is decoded on the way."""

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from avchat.data import DataError, read_manifest
from avchat.data_conversion import convert
from avchat.data_rows import Tally
from avchat.data_speech import QUESTIONS, hub_name
from avchat.media import load_media


def read(source: Path, folder: Path, limit: int | None = None) -> tuple[list[dict], Tally]:
    """Convert a set; return the lines of its manifest."""
    target = folder / "out" / "m.jsonl"
    tally = convert(source, target, "speech", "avchat", limit=limit)
    return [json.loads(line) for line in target.read_text().splitlines()], tally


def test_a_table_that_holds_sound(sound_clip: Path, tmp_path: Path) -> None:
    """Bytes are written beside the manifest, never where a stored name leads."""
    sound = {"bytes": sound_clip.read_bytes(), "path": "../../evil.wav"}
    rows = {
        "id": ["a", "b", "a", "d"],
        "audio": [sound, {"bytes": b"", "path": None}, sound, sound],
        "text": ["Hello.", "Lost.", "There.", " "],
    }
    plain = pa.table(rows)
    # as the Hub has it: the column says that it is sound, which is not to be decoded
    fields = {name: {"dtype": "string", "_type": "Value"} for name in ("id", "text")}
    features = {"info": {"features": {**fields, "audio": {"_type": "Audio"}}}}
    typed = plain.replace_schema_metadata({"huggingface": json.dumps(features)})
    for name, table in (("plain", plain), ("typed", typed)):
        pq.write_table(table, tmp_path / f"{name}.parquet")
        found, tally = read(tmp_path / f"{name}.parquet", tmp_path / name)
        assert [row["id"] for row in found] == ["a", "a-2"]
        assert [row["media"] for row in found] == ["m-sound/000000.wav", "m-sound/000002.wav"]
        assert [row["messages"][1]["content"] for row in found] == ["Hello.", "There."]
        assert all(row["sense"] == "sound" for row in found)
        assert all(row["messages"][0]["content"] in QUESTIONS for row in found)
        assert "1 without sound" in tally.line() and "1 with an empty transcript" in tally.line()
        [first, _] = read_manifest(tmp_path / name / "out" / "m.jsonl")
        assert first.media.read_bytes() == sound_clip.read_bytes()
        assert load_media(first.media).has_audio
    assert not list(tmp_path.parent.glob("evil*")) and not list(tmp_path.rglob("evil*"))
    assert len(read(tmp_path / "plain.parquet", tmp_path / "one", limit=1)[0]) == 1


def test_a_folder_of_sound_files(sound_clip: Path, tmp_path: Path) -> None:
    folder = tmp_path / "set"
    (folder / "clips").mkdir(parents=True)
    shutil.copy(sound_clip, folder / "clips" / "a.wav")
    (folder / "metadata.csv").write_text('file_name,transcription\nclips/a.wav,"Hi, there"\n')
    [found], _ = read(folder, tmp_path)
    assert found["media"] == "../set/clips/a.wav"
    assert found["messages"][1]["content"] == "Hi, there"
    assert not (tmp_path / "out" / "m-sound").exists()


def test_json_lines_with_paths(tmp_path: Path) -> None:
    source = tmp_path / "d.jsonl"
    source.write_text('{"audio": "x/a.wav", "sentence": "one"}\n{"audio": "b.wav"}\n')
    [found], tally = read(source, tmp_path)
    assert found["media"] == "../x/a.wav" and tally.left == {"with an empty transcript": 1}


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("a.parquet", b"x", "cannot be read .*Parquet"),
        ("a.csv", b"a,b\n1,2\n", r"none of its columns \(a, b\) is called audio, "),
        ("a.csv", b"audio,b\n1,2\n", r"none of its columns \(audio, b\) is called text, "),
        ("a.csv", b"", "cannot be read"),
        ("a.json", b'{"audio": 3', "cannot be read"),
        ("a.txt", b"x", "not a folder nor one of .parquet"),
    ],
)
def test_what_is_no_set_is_one_clear_line(
    tmp_path: Path, name: str, content: bytes, why: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=why) as fault:
        read(tmp_path / name, tmp_path)
    assert "\n" not in str(fault.value)
    assert not (tmp_path / "out" / "m.jsonl").exists()


def test_folders_that_are_no_set(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no metadata.csv or metadata.jsonl"):
        read(tmp_path, tmp_path)
    for part in ("train", "test"):
        (tmp_path / part).mkdir()
        (tmp_path / part / "metadata.csv").write_text("file_name,text\na.wav,b\n")
    with pytest.raises(DataError, match="several tables, name one: test/metadata.csv, train/"):
        read(tmp_path, tmp_path)
    with pytest.raises(DataError, match="no such file or folder"):
        read(tmp_path / "gone", tmp_path)


def test_a_set_on_the_hub(tmp_path: Path) -> None:
    assert hub_name("hub:a/b") == ("a/b", None, "")
    assert hub_name("hub:a/b:clean") == ("a/b", "clean", "")
    assert hub_name("hub:a/b::test") == ("a/b", None, "test")
    for wrong in ("hub:", "hub:a:b:c:d"):
        with pytest.raises(DataError, match="must be hub:NAME"):
            hub_name(wrong)
    # tests run with HF_HUB_OFFLINE=1
    with pytest.raises(DataError, match="hub:a/b:clean:test: cannot be read .*Hub"):
        read(Path("hub:a/b:clean:test"), tmp_path)


def test_speech_becomes_ours_alone(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="speech becomes avchat alone"):
        convert(tmp_path / "a.csv", tmp_path / "b.json", "speech", "llava")
    with pytest.raises(DataError, match="media-root is not for speech"):
        convert(tmp_path / "a.csv", tmp_path / "b.jsonl", "speech", "avchat", tmp_path)
