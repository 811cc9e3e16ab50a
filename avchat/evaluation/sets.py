"""Files of public benchmarks of questions on videos -> items.

What each file holds is said at its reader, with where that is from: [repo] was read in the
benchmark's own repository, [HF] on its dataset card, [notes] in our survey of November 2026 alone.
None of the videos comes with a file: they are looked for in a folder, by name.
"""

import difflib
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from avchat.data_rows import Tally
from avchat.evaluation.items import EvalError, Item, check_ids, read_items
from avchat.evaluation.set_rows import YES_NO, Clips, Line, Named, read_set_lines

Reader = Callable[[Sequence[Path], Clips, Tally], Iterator[Item]]

# of answers to `type` in ActivityNet-QA [repo MILVLG/activitynet-qa, dataset/README.md]
ACTIVITYNET_TYPES = (
    "motion",
    "spatial relationship",
    "temporal relationship",
    "yes/no",
    "colour",
    "object",
    "location",
    "number",
    "other",
)
QUESTION_WORDS = ("what", "who", "how", "when", "where")
MUSIC_NEEDS = {"Audio": "A", "Visual": "V", "Audio-Visual": "AV"}
AVQA_NEEDS = {"View": "V", "Sound": "A", "Both": "AV"}
# which sense the question is about, our reading of its text; the other one misleads
AVHBENCH_NEEDS = {
    "Audio-driven Video Hallucination": "V",
    "Video-driven Audio Hallucination": "A",
    "AV Matching": "AV",
}
CMM_NEEDS = {"visual": "V", "audio": "A"}
SLOT = re.compile(r"<[^<>]*>")
LETTER = re.compile(r"\s*\(?([A-Za-z])\s*[).:]\s*")


def read_set(name: str, files: Sequence[Path], videos: Path | None, tally: Tally) -> list[Item]:
    """Read a benchmark's files of questions.

    Args:
        name: of SETS, or "own" for a file as read_items reads it.
        files: of the set: questions and answers, in this order, where it has them apart.
        videos: the folder of its clips; None for "own" alone: the folder that its file is in.
        tally: counts what is read and what is left out, with the reason; its line is to be said.

    Raises:
        EvalError: no such set, not its files, a row without a field, an id that stands there twice.
        DataError: a file that cannot be read, with the line.
    """
    name = name.lower()
    if name not in (*SETS, OWN):
        close = difflib.get_close_matches(name, (*SETS, OWN), 1)
        meant = f"; {close[0]} is meant?" if close else ""
        raise EvalError(f"no set is called {name!r:.40}: {', '.join((*SETS, OWN))}{meant}")
    number, reader = SETS.get(name, (1, None))
    if not files or (number and len(files) != number):
        needed = "2 files: questions, answers" if number == 2 else "a file of questions"
        raise EvalError(f"{name}: needs {needed}; {len(files)} are named")
    if reader is None:
        return read_items(files[0], videos, tally)
    if videos is None:
        raise EvalError(f"{name}: name the folder of its clips")
    items = list(reader(files, Clips(videos), tally))
    check_ids(files[0], items)
    if not items:
        raise EvalError(f"{files[0]}: no questions. {tally.line()}".rstrip(". "))
    tally.carried += len(items)
    return items


def _by_id(path: Path) -> dict[str, Line]:
    """Read rows by question_id, a number or a text; EvalError where one stands there twice."""
    found: dict[str, Line] = {}
    for line in read_set_lines(path):
        id = line.word("question_id")
        if id in found:
            raise EvalError(f"{line.where}: the question_id {id!r:.60} stands there twice")
        found[id] = line
    return found


def _pairs(files: Sequence[Path], tally: Tally) -> Iterator[tuple[str, Line, Line]]:
    """Join questions and answers by question_id; who has no partner is counted.

    The order of the two files differs where one of them was filtered or shuffled, and joined by
    position each question then gets another's answer.
    """
    questions, answers = (_by_id(path) for path in files)
    for id, question in questions.items():
        if id in answers:
            yield id, question, answers[id]
        else:
            tally.left["with a question but no answer"] += 1
    if alone := len(answers.keys() - questions.keys()):
        tally.left["with an answer but no question"] += alone


def captions_qa(files: Sequence[Path], clips: Clips, tally: Tally) -> Iterator[Item]:
    """Read MSVD-QA and MSRVTT-QA as Video-ChatGPT and its followers pass them on.

    test_q.json: video_name, question, question_id; test_a.json: answer, question_id [notes; not
    confirmed in a repository, and some copies of the answers may lack the id: they are refused].
    The family is the question's first word, by which both sets are usually reported.
    """
    for id, question, answer in _pairs(files, tally):
        asked = question.word("question")
        first = asked.split()[0].lower()
        yield Item(
            id=id,
            video=clips.path(question.word("video_name")),
            question=asked,
            answer=answer.word("answer"),
            family=first if first in QUESTION_WORDS else "",
        )


def activitynet_qa(files: Sequence[Path], clips: Clips, tally: Tally) -> Iterator[Item]:
    """Read ActivityNet-QA.

    test_q.json: video_name, question, question_id; test_a.json: answer, type (0 to 8),
    question_id [repo MILVLG/activitynet-qa]. A video is called by its name or by v_ and its name.
    """
    for id, question, answer in _pairs(files, tally):
        name, kind = question.word("video_name"), answer.word("type")
        if not kind.isdecimal() or int(kind) >= len(ACTIVITYNET_TYPES):
            raise EvalError(f'{answer.where}: "type" must be 0 to 8, not {kind:.20}')
        yield Item(
            id=id,
            video=clips.path(f"v_{name}", name),
            question=question.word("question"),
            answer=answer.word("answer"),
            family=ACTIVITYNET_TYPES[int(kind)],
        )


def music_avqa(files: Sequence[Path], clips: Clips, tally: Tally) -> Iterator[Item]:
    """Read MUSIC-AVQA, and its rephrasings of the same form.

    video_id, question_id, type, question_content, templ_values, anser (so spelled)
    [repo GeWu-Lab/MUSIC-AVQA, the loaders; its json files were not seen]. Two of them are lists
    written as texts. The choices are all answers of the file: 42 in the test file.
    """
    lines = [line for line in read_set_lines(files[0]) if not _deleted(line, tally)]
    choices = tuple(sorted({line.word("anser") for line in lines}))
    for line in lines:
        kind = line.words("type")
        if not kind or kind[0] not in MUSIC_NEEDS:
            senses = ", ".join(MUSIC_NEEDS)
            raise EvalError(f'{line.where}: "type" must begin with one of {senses}')
        yield Item(
            id=line.word("question_id"),
            video=clips.path(line.word("video_id")),
            question=_filled(line),
            answer=line.word("anser"),
            choices=choices,
            family=" ".join(kind),
            needs=MUSIC_NEEDS[kind[0]],
        )


def _deleted(line: Line, tally: Tally) -> bool:
    """Count a question that its authors withdrew: question_deleted, where it is there, is 1."""
    gone = str(line.row.get("question_deleted", 0)) not in ("0", "False")
    if gone:
        tally.left["that their authors deleted"] += 1
    return gone


def _filled(line: Line) -> str:
    """Put the values of a question's template into its <slots>, in their order."""
    question, values = line.word("question_content"), line.words("templ_values")
    slots = SLOT.findall(question)
    if len(slots) != len(values):
        raise EvalError(f"{line.where}: {len(slots)} slots in the question, {len(values)} values")
    given = iter(values)
    return SLOT.sub(lambda slot: next(given), question)


def avqa(files: Sequence[Path], clips: Clips, tally: Tally) -> Iterator[Item]:
    """Read AVQA: clips of VGGSound, four choices, the answer as the index of one.

    id, video_name, question_text, multi_choice, answer (0 to 3), question_relation, question_type
    [HF ytaek-oh/avqa]. A clip is called VIDEO_000030 there; as VIDEO_30 it is found as well.
    """
    for line in read_set_lines(files[0]):
        name = line.word("video_name")
        video, _, start = name.rpartition("_")
        short = [f"{video}_{int(start)}"] if video and start.isdecimal() else []
        relation = str(line.row.get("question_relation", ""))
        choices = line.words("multi_choice")
        index = line.row.get("answer")
        yield Item(
            id=line.word("id"),
            video=clips.path(name, *short),
            question=line.word("question_text"),
            answer=_at(line, choices, index) if isinstance(index, int) else _chosen(line, choices),
            choices=tuple(choices),
            family=str(line.row.get("question_type", "")),
            needs=AVQA_NEEDS.get(relation, ""),
        )


def _at(line: Line, choices: list[str], index: int) -> str:
    if not 0 <= index < len(choices) or isinstance(index, bool):
        raise EvalError(f"{line.where}: there are {len(choices)} choices, none is number {index}")
    return choices[index]


def _chosen(line: Line, choices: list[str], name: str = "answer") -> str:
    """Return the choice that an answer gives: by its text, or by its letter."""
    answer = line.word(name)
    text = answer[len(sign[0]) :] if (sign := LETTER.match(answer)) else answer
    for given in (answer, text):
        if given in choices:
            return given
    letter = sign[1] if sign else answer
    if len(letter) != 1 or not "A" <= letter.upper() <= "Z":
        raise EvalError(f"{line.where}: the answer, {answer!r:.40}, is not among the choices")
    return _at(line, choices, ord(letter.upper()) - ord("A"))


def avhbench(files: Sequence[Path], clips: Clips, tally: Tally) -> Iterator[Item]:
    """Read AVHBench: one file, or all of those that it has for single videos.

    video_id, task, text, label [repo kaist-ami/AVHBench, README]. Its captions to be written are
    no questions of yes and no: they are counted. A video_id is a file's name, so a swapped sound is
    asked about where the file says ID_swap [not confirmed that it does].
    """
    named = Named()
    for line in (line for path in files for line in read_set_lines(path)):
        task, video, text = line.word("task"), line.word("video_id"), line.word("text")
        if "captioning" in task.lower():
            tally.left["that ask for a caption"] += 1
            continue
        label = line.one_of("label", YES_NO)
        yield Item(
            id=named.id(task, video, text, label),
            video=clips.path(video),
            question=text,
            answer=label,
            choices=YES_NO,
            family=task,
            needs=AVHBENCH_NEEDS.get(task, ""),
        )


def cmm(files: Sequence[Path], clips: Clips, tally: Tally) -> Iterator[Item]:
    """Read CMM, The Curse of Multi-Modalities: of each sample one question is yes, one is no.

    category, sub_category, modality, granularity, correlation_type, video_path, audio_path, one of
    which may be null, question, answer [repo DAMO-NLP-SG/CMM, evaluation/final_output.json]. Paths
    are relative to the folder of clips, or, without their first part, to that. Of a sample with
    both the video is asked about. The two questions share pair_of(id).
    """
    named = Named()
    for line in read_set_lines(files[0]):
        media = "video_path" if line.row.get("video_path") else "audio_path"
        path = line.word(media).replace("\\", "/").removeprefix("./")
        answer = line.one_of("answer", YES_NO)
        of = line.word("sub_category"), line.word("granularity"), path, line.row.get("audio_path")
        short = [path.partition("/")[2]] if "/" in path else []
        yield Item(
            id=named.id(*of, tail=f"/{answer}"),
            video=clips.path(path, *short, kind="video" if media == "video_path" else "audio"),
            question=line.word("question"),
            answer=answer,
            choices=YES_NO,
            family=line.word("sub_category"),
            needs=CMM_NEEDS.get(str(line.row.get("modality", "")), ""),
        )


def daily_omni(files: Sequence[Path], clips: Clips, tally: Tally) -> Iterator[Item]:
    """Read Daily-Omni: four choices, the answer as a letter or as a text.

    qa.json: Question, Choice, Answer, video_id, Type, video_duration [repo Lliar-liar/Daily-Omni,
    the test scripts; that Choice is a list whose texts begin with their letters is not confirmed:
    with and without letters is read]. A clip is VIDEO/VIDEO_video.mp4, or VIDEO.mp4.
    """
    named = Named()
    for line in read_set_lines(files[0]):
        video, question = line.word("video_id"), line.word("Question")
        choices = _without_letters(line.words("Choice"))
        answer = _chosen(line, choices, "Answer")
        yield Item(
            id=named.id(video, question, choices, answer),
            video=clips.path(f"{video}/{video}_video", f"{video}_video", video),
            question=question,
            answer=answer,
            choices=tuple(choices),
            family=line.word("Type"),
        )


def _without_letters(choices: list[str]) -> list[str]:
    """Take "A. " off choices, where all of them have their letters, in order."""
    signs = [LETTER.match(choice) for choice in choices]
    letters = "".join(sign[1].upper() if sign else "-" for sign in signs)
    if not choices or letters != "ABCDEFGHIJKLMNOPQRSTUVWXYZ"[: len(choices)]:
        return choices
    return [choice[len(sign[0]) :] for choice, sign in zip(choices, signs, strict=True) if sign]


OWN = "own"
# how many files a set has (0: one or more) and who reads them
SETS: dict[str, tuple[int, Reader]] = {
    "msvd-qa": (2, captions_qa),
    "msrvtt-qa": (2, captions_qa),
    "activitynet-qa": (2, activitynet_qa),
    "music-avqa": (1, music_avqa),
    "avqa": (1, avqa),
    "avhbench": (0, avhbench),
    "cmm": (1, cmm),
    "daily-omni": (1, daily_omni),
}
