"""Conversations in the forms that others train on <-> samples of our manifest.

What the others leave unsaid, and our choice:
- A file with an audio key alone is of the sense sound; an image, or a video of which the form does
  not say whether it is heard, is of both: a clip without sound says so by itself.
- video-SALMONN-2 says it, by a path for the sound beside the video's, Plus by `use_audio`: a video
  without it is of the sense picture. A sound whose name is the video's but for the ending is the
  video's own; any other is a second file, and a sample of ours has one.
- A sample without a file is a conversation of text alone, in the forms whose trainers take such.
- A sample of a part of a file is left out where the form knows whole files alone: on the whole file
  its answers would be wrong.
"""

from collections.abc import Callable
from pathlib import Path

from avchat.data import DataError, Sample
from avchat.data_rows import LeftOut, Place, Row, Tally, kind_of
from avchat.data_turns import (
    MESSAGES,
    SHAREGPT,
    file_or_text,
    read_alpaca,
    read_turns,
    surely_file,
    write_turns,
)
from avchat.encoders import Sense
from avchat.prompt import Turn


def sense_of(kind: str) -> Sense:
    """Tell the sense of a file by its kind, where the form says no more."""
    return "sound" if kind == "audio" else "both"


def written_kind(sample: Sample) -> str:
    """Tell as what a sample's file is written: image, audio or video."""
    if sample.media is None:
        raise LeftOut("of text alone")
    if sample.sense == "none":
        raise LeftOut("that use neither picture nor sound")
    return "audio" if sample.sense == "sound" else kind_of(sample.media) or "video"


def whole(sample: Sample) -> Sample:
    """Let pass a sample of a whole file."""
    if sample.start_s is not None or sample.end_s is not None:
        raise LeftOut("of a part of a file")
    return sample


def seen(sample: Sample, tally: Tally) -> str:
    """Tell the kind of a file in a form that knows no senses; empty where there is none."""
    if sample.media is None:
        return ""
    kind = written_kind(whole(sample))
    if sample.sense == "picture":
        tally.lost["the sense picture"] += 1
    return kind


def name_of(row: Row, index: int, tally: Tally) -> str:
    """Tell the id of a sample; its number, counted, where it has none."""
    if row.get("id") is None:
        tally.lost["an id, which they did not have, so their number is it"] += 1
        return str(index)
    return str(row["id"])


def join(place: Place, name: str) -> Path | None:
    """Join a path to its root; None where there is no path."""
    return place.root / name if name else None


def read_llava(row: Row, index: int, place: Place, tally: Tally) -> Sample:
    """Read LLaVA, and VideoLLaMA2's audio_visual, which adds the key audio."""
    kind, name = file_or_text(row, "image", "video", "audio")
    turns = read_turns(row, SHAREGPT, tally)
    return Sample(name_of(row, index, tally), join(place, name), turns, sense=sense_of(kind))


def write_videollama2(sample: Sample, index: int, place: Place, tally: Tally) -> Row:
    """Write VideoLLaMA2's audio_visual: one key, one tag."""
    kind = seen(sample, tally)
    file = {kind: place.name(sample.media)} if sample.media is not None else {}
    return {"id": sample.id, **file, "conversations": write_turns(sample, SHAREGPT, kind)}


def write_llava(sample: Sample, index: int, place: Place, tally: Tally) -> Row:
    """Write LLaVA, which hears nothing."""
    if sample.media is not None and written_kind(sample) == "audio":
        raise LeftOut("of the sound alone")
    return write_videollama2(sample, index, place, tally)


def read_salmonn(row: Row, index: int, place: Place, tally: Tally) -> Sample:
    """Read video-SALMONN-2: paths for picture and sound, and the part of them."""
    kind, name = surely_file(row, "image", "video", "audio")
    part = row.get("timestamps") or [None, None]
    if not isinstance(part, list) or len(part) != 2:
        raise DataError("timestamps must be a start and an end")
    sense: Sense = "picture" if kind == "video" else sense_of(kind)
    turns = read_turns(row, SHAREGPT, tally)
    return Sample(name_of(row, index, tally), place.root / name, turns, *part, sense=sense)


def write_salmonn(sample: Sample, index: int, place: Place, tally: Tally) -> Row:
    """Write video-SALMONN-2: the tag is always the image's; the sound is a file of its own."""
    kind = written_kind(sample)
    name = place.name(sample.media)
    row: Row = {"id": sample.id, kind: name}
    if kind == "video" and sample.sense == "both":
        row["audio"] = str(Path(name).with_suffix(".wav"))
        if not sample.media.with_suffix(".wav").exists():
            tally.lost["the sound as a .wav file at 16 kHz, which it wants beside the video"] += 1
    if sample.end_s is not None:
        row["timestamps"] = [sample.start_s or 0.0, sample.end_s]
    elif sample.start_s is not None:
        raise LeftOut("of a part of a file that has no end")
    return row | {"conversations": write_turns(sample, SHAREGPT, "image")}


def read_salmonn_plus(row: Row, index: int, place: Place, tally: Tally) -> Sample:
    """Read video-SALMONN-2 Plus: `use_audio` says whether the video is heard."""
    kind, name = surely_file(row, "image", "video", "audio")
    silent = kind == "video" and not row.get("use_audio")
    sense: Sense = "picture" if silent else sense_of(kind)
    turns = read_turns(row, SHAREGPT, tally)
    return Sample(name_of(row, index, tally), place.root / name, turns, sense=sense)


def write_salmonn_plus(sample: Sample, index: int, place: Place, tally: Tally) -> Row:
    """Write video-SALMONN-2 Plus."""
    kind = written_kind(whole(sample))
    if kind == "audio":
        raise LeftOut("of the sound alone")
    heard = {"use_audio": sample.sense == "both"} if kind == "video" else {}
    said = write_turns(sample, SHAREGPT, kind)
    return {"id": sample.id, kind: place.name(sample.media), **heard, "conversations": said}


def read_chatgpt_raw(row: Row, index: int, place: Place, tally: Tally) -> Sample:
    """Read Video-ChatGPT as published: a question, an answer, a video without its ending."""
    texts = [row.get(name) for name in ("q", "a", "video_id")]
    if not all(isinstance(text, str) for text in texts):
        raise DataError("needs q, a and video_id, three texts")
    question, answer, video = texts
    if not question.strip() or not answer.strip():
        raise LeftOut("with an empty turn")
    media = place.clip(video, ".mp4", tally)
    return Sample(f"{video}-{index}", media, (Turn(question.strip(), answer.strip()),))


def write_chatgpt_raw(sample: Sample, index: int, place: Place, tally: Tally) -> Row:
    """Write Video-ChatGPT as published."""
    if len(sample.turns) > 1:
        raise LeftOut("of several turns")
    video_alone(sample, tally)
    [turn] = sample.turns
    return {"q": turn.question, "a": turn.answer, "video_id": sample.media.stem}


def read_chatgpt(row: Row, index: int, place: Place, tally: Tally) -> Sample:
    """Read Video-ChatGPT as its trainer takes it: a video's name with the ending .pkl."""
    _, name = surely_file(row, "video")
    media = place.clip(Path(name).stem, ".mp4", tally)
    return Sample(name_of(row, index, tally), media, read_turns(row, SHAREGPT, tally))


def write_chatgpt(sample: Sample, index: int, place: Place, tally: Tally) -> Row:
    """Write Video-ChatGPT as its trainer takes it: the tag after the question, then before one."""
    video_alone(sample, tally)
    stem = sample.media.stem
    said = write_turns(sample, SHAREGPT, "video", before=bool(index % 2))
    return {"id": stem, "video": f"{stem}.pkl", "conversations": said}


def video_alone(sample: Sample, tally: Tally) -> None:
    """Let pass a video, of which Video-ChatGPT keeps the name alone."""
    if seen(sample, tally) != "video":
        raise LeftOut("without a video")
    tally.lost["their ids, which become those of the videos"] += 1


def read_messages(row: Row, index: int, place: Place, tally: Tally) -> Sample:
    """Read ms-swift: messages with roles, lists of files beside them."""
    kind, name = file_or_text(row, "images", "videos", "audios")
    turns = read_turns(row, MESSAGES, tally)
    return Sample(name_of(row, index, tally), join(place, name), turns, sense=sense_of(kind))


def read_llama_factory(row: Row, index: int, place: Place, tally: Tally) -> Sample:
    """Read LLaMA-Factory: messages with roles, or its sharegpt, or its alpaca; lists of files.

    The names are the defaults of the columns and tags that a dataset_info.json may rename.
    """
    kind, name = file_or_text(row, "images", "videos", "audios")
    if "instruction" in row:
        turns = read_alpaca(row, tally)
    else:
        turns = read_turns(row, SHAREGPT if "conversations" in row else MESSAGES, tally)
    return Sample(name_of(row, index, tally), join(place, name), turns, sense=sense_of(kind))


def write_messages(sample: Sample, index: int, place: Place, tally: Tally) -> Row:
    """Write ms-swift and LLaMA-Factory's form."""
    kind = seen(sample, tally)
    tally.lost["their ids"] += 1
    row: Row = {"messages": write_turns(sample, MESSAGES, kind)}
    return row | ({f"{kind}s": [place.name(sample.media)]} if sample.media is not None else {})


Read = Callable[[Row, int, Place, Tally], Sample]
Write = Callable[[Sample, int, Place, Tally], Row]
FORMATS: dict[str, tuple[Read, Write]] = {
    "llava": (read_llava, write_llava),
    "videollama2": (read_llava, write_videollama2),
    "video-salmonn-2": (read_salmonn, write_salmonn),
    "video-salmonn-2-plus": (read_salmonn_plus, write_salmonn_plus),
    "video-chatgpt-raw": (read_chatgpt_raw, write_chatgpt_raw),
    "video-chatgpt": (read_chatgpt, write_chatgpt),
    "ms-swift": (read_messages, write_messages),
    "llama-factory": (read_llama_factory, write_messages),
}
# What is read of a sample; any other field is counted as lost.
FIELDS = {
    "llava": "id image video audio conversations system",
    "videollama2": "id image video audio conversations system",
    "video-salmonn-2": "id image video audio timestamps conversations system",
    "video-salmonn-2-plus": "id image video audio use_audio conversations system",
    "video-chatgpt-raw": "id q a video_id",
    "video-chatgpt": "id video conversations system",
    "ms-swift": "id images videos audios messages system",
    "llama-factory": (
        "id images videos audios messages conversations system instruction input output history"
    ),
}
