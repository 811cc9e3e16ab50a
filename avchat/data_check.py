"""Manifests -> what would go wrong in training, before anything is trained.

A fault stops a run or spoils what it measures; a note is worth a look. Every clip is decoded as
training decodes it; no encoder runs: a clip's media tokens follow from its times alone.
"""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from avchat.captions import CaptionedFile, captioned_file
from avchat.data import DataError, Sample, read_lines, sample_of
from avchat.data_conversion import OURS, guess
from avchat.data_report import Finding, Manifest, Report
from avchat.data_split import digest
from avchat.encoders import STATE_SAMPLES, Inputs
from avchat.media import MediaError, load_media
from avchat.model import AVChat
from avchat.prompt import PromptError, check_budget

LOOK_SIZE = 32  # pixels: frames are decoded for their times, not for what they show
Key = tuple[Path, float | None, float | None]  # a part of a file


@dataclass(frozen=True)
class Look:
    """What decoding a part of a file showed."""

    clip: Inputs | None  # without pixels and mels: times alone
    fault: str = ""
    warnings: tuple[str, ...] = ()


def read(path: Path, report: Report) -> Manifest:
    """Read a manifest of conversations or of captions; lines that cannot be used are faults."""
    samples, kinds = [], Counter()
    for number, row in rows_of(path):
        is_caption = "caption" in row and "messages" not in row
        kinds["captions" if is_caption else "conversations"] += 1
        try:
            samples.append((captioned_file if is_caption else sample_of)(path, number, row))
        except DataError as error:
            report.faults.append(Finding("line", str(path), str(error)))
    if len(kinds) != 1:
        what = "no samples" if not kinds else "conversations and captions in one file"
        raise DataError(f"{path}: {what}")
    if kinds["captions"] == 1:
        report.faults.append(Finding("few", str(path), "1 caption; matching needs at least two"))
    return Manifest(path, tuple(samples), "captions" in kinds)


def rows_of(path: Path) -> list[tuple[int, dict]]:
    """Read the lines of a manifest; DataError says how a file of another form becomes one."""
    try:
        return list(read_lines(path))
    except DataError as error:
        form = guess(path)
        if form in ("", OURS):
            raise
        raise DataError(
            f"{path}: this looks like {form}, not a manifest: avchat data convert {path} NEW.jsonl "
            f"--from {form} --to avchat"
        ) from error


def key_of(sample: Sample | CaptionedFile) -> Key:
    """Name the part of a file that a sample is about."""
    return sample.media, sample.start_s, sample.end_s


def look(key: Key, frames: int) -> Look:
    """Decode a part of a file, in a process of its own, and keep its times."""
    path, start, end = key
    try:
        media = load_media(path, frames=frames, size=LOOK_SIZE, start=start, end=end, isolate=True)
    except MediaError as error:
        return Look(None, str(error))
    times = tuple(float(time) for time in media.frame_times_s) if len(media.frames) else ()
    states = -(-len(media.waveform) // STATE_SAMPLES)
    clip = Inputs(None, None, states, times, float(media.start_s), float(media.duration_s))
    return Look(clip, warnings=media.warnings)


def check(
    paths: Iterable[Path],
    model: Callable[[], AVChat],
    frames: int = 8,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Report:
    """Check manifests, which share no clip if they are parts of one set.

    Args: model: loads the model to be trained, where there are conversations; frames: that are
    decoded of a captioned clip.
    """
    report = Report()
    report.manifests = [read(path, report) for path in paths]
    loaded = None if all(one.captions for one in report.manifests) else model()
    if loaded is not None:
        report.context, frames = loaded.context, loaded.config.frames
    there = find_missing(report)
    keys = sorted({key_of(x) for one in report.manifests for x in one.samples}, key=str)
    keys = [key for key in keys if key[0] in there]
    looks = {}
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        seen = pool.map(lambda key: look(key, frames), keys)
        for done, (key, found) in enumerate(zip(keys, seen, strict=True), 1):
            looks[key] = found
            progress(done, len(keys))
    for manifest in report.manifests:
        check_clips(manifest, looks, report)
        check_twins(manifest, report)
        measure(manifest, looks, loaded, report)
    check_leaks(report, there)
    return report


def find_missing(report: Report) -> set[Path]:
    """Report files that are not there; return those that are."""
    there: set[Path] = set()
    for manifest in report.manifests:
        media = {sample.media for sample in manifest.samples}
        found = {path for path in media if path.is_file()}
        lost = media - found
        there |= found
        if root := other_root(manifest.path, lost):
            text = (
                f"{len(lost)} paths are relative to {root}, not to the manifest: avchat data "
                f"convert {manifest.path} NEW.jsonl --from avchat --to avchat --media-root {root}"
            )
            report.faults.append(Finding("root", str(manifest.path), text))
            continue
        for path in sorted(lost):
            where = place(manifest, [x for x in manifest.samples if x.media == path])
            report.faults.append(Finding("missing", where, f"no such file: {path}"))
    return there


def other_root(manifest: Path, lost: set[Path]) -> Path | None:
    """Find the parent folder, or the current one, from which every lost path leads to a file."""
    own = manifest.parent
    names = {path.relative_to(own) for path in lost if path.is_relative_to(own)}
    if not lost or len(names) < len(lost):
        return None
    folders = [*own.resolve().parents, Path.cwd()]
    return next((at for at in folders if all((at / name).is_file() for name in names)), None)


def place(manifest: Manifest, samples: Sequence[Sample | CaptionedFile]) -> str:
    """Name a sample, or the first of several."""
    more = f" and {len(samples) - 1} more" if len(samples) > 1 else ""
    return f"{manifest.path}, sample {samples[0].id}{more}"


def check_clips(manifest: Manifest, looks: dict[Key, Look], report: Report) -> None:
    """Report clips that cannot be read, or lack the sense that a sample is about."""
    about: dict[Key, list[Sample | CaptionedFile]] = {}
    for sample in manifest.samples:
        about.setdefault(key_of(sample), []).append(sample)
    for key, samples in about.items():
        found, where, name = looks.get(key), place(manifest, samples), key[0].name
        if found is None:
            continue
        if found.clip is None:
            report.faults.append(Finding("unreadable", where, found.fault))
            continue
        for sample in samples:
            if lack := lacking(found.clip, sample):
                text = f"{name}: there is no {lack}, and the sample is about it alone"
                report.faults.append(Finding(f"no {lack}", place(manifest, [sample]), text))
        if found.warnings:
            text = f"{name}: {'; '.join(found.warnings)}"
            report.notes.append(Finding("damaged", where, text))


def lacking(clip: Inputs, sample: Sample | CaptionedFile) -> str:
    """Tell which sense a sample is about that its clip lacks; empty where all is well."""
    sense = sample.sense if isinstance(sample, Sample) else sample.of
    if sense == "sound" and not clip.num_states:
        return "sound"
    return "picture" if sense == "picture" and not clip.frame_times_s else ""


def check_twins(manifest: Manifest, report: Report) -> None:
    """Report ids that two samples have, samples that come twice, turns that come twice in one."""
    ids = Counter(sample.id for sample in manifest.samples)
    for name, count in ids.items():
        if count > 1:
            text = f"{count} samples have the id {name}"
            report.faults.append(Finding("id", str(manifest.path), text))
    first: dict[tuple, str] = {}
    for sample in manifest.samples:
        said = sample.turns if isinstance(sample, Sample) else (sample.caption, sample.of)
        sense = sample.sense if isinstance(sample, Sample) else ""
        where, key = place(manifest, [sample]), (*key_of(sample), sense, said)
        if key in first:
            report.notes.append(Finding("double", where, f"says the same as sample {first[key]}"))
        first.setdefault(key, sample.id)
        if isinstance(sample, Sample) and len(set(sample.turns)) < len(sample.turns):
            report.notes.append(Finding("turn", where, "asks and answers the same twice"))


def measure(
    manifest: Manifest, looks: dict[Key, Look], model: AVChat | None, report: Report
) -> None:
    """Measure answers in tokens, captions in words; report conversations that do not fit."""
    for sample in manifest.samples:
        if isinstance(sample, CaptionedFile):
            report.captions.append(len(sample.caption.split()))
            continue
        assert model is not None, "a model is loaded where there are conversations"
        report.answers += [len(model.prompt.answer_ids(turn.answer)) for turn in sample.turns]
        found = looks.get(key_of(sample))
        if found is None or found.clip is None:
            continue
        row = model.prompt.build(model.plan(found.clip.only(sample.sense)), sample.turns)
        report.tokens.append(len(row.ids))
        try:
            check_budget(row.ids, model.context, question=False)
        except PromptError:
            media = sum(token < 0 for token in row.ids)
            text = (
                f"{media} media tokens + {len(row.ids) - media} text tokens + 1 are more than the "
                f"model's context of {model.context}"
            )
            report.faults.append(Finding("too long", place(manifest, [sample]), text))


def check_leaks(report: Report, there: set[Path]) -> None:
    """Report clips that two manifests share, by content; files of unlike sizes are not read."""
    clips = [{sample.media for sample in one.samples} & there for one in report.manifests]
    sizes = Counter(size for paths in clips for size in {path.stat().st_size for path in paths})
    first: dict[str, tuple[int, Path]] = {}
    for number, (manifest, paths) in enumerate(zip(report.manifests, clips, strict=True)):
        for path in sorted(paths):
            if sizes[path.stat().st_size] < 2:
                continue
            other, name = first.setdefault(digest(path), (number, path))
            if other != number:
                text = f"{path.name} is also in {report.manifests[other].path}, as {name.name}"
                report.faults.append(Finding("shared", str(manifest.path), text))
