"""Manifests -> what would go wrong in training, before anything is trained.

A fault stops a run or spoils what it measures; a note is worth a look. Every clip is decoded as
training decodes it. Its media tokens follow from its times alone, so no language model is loaded;
the model's encoders run to tell copies that were encoded again, and for nothing else.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path

from avchat.captions import CaptionedFile, captioned_file
from avchat.data import DataError, Sample, parse_line, sample_of, text_lines
from avchat.data_answers import biases, is_blank
from avchat.data_conversion import OURS, guess
from avchat.data_layout import Layout
from avchat.data_likeness import alike
from avchat.data_look import Key, Look, key_of, look_at_all
from avchat.data_report import Finding, Manifest, Report
from avchat.data_rows import no_file, wrong_root
from avchat.data_split import digest
from avchat.encoders import lacking
from avchat.prompt import PromptError, check_budget


def check(
    paths: Sequence[Path],
    load: Callable[[], Layout],
    frames: int = 8,
    copies: bool = True,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Report:
    """Check manifests, which share no clip if they are parts of one set.

    Args: load: finds the model to be trained, where one is needed; frames: that are decoded of a
    captioned clip where none is; copies: look for clips that look and sound nearly the same.
    """
    if len({path.resolve() for path in paths}) < len(paths):
        raise DataError(f"{paths[-1]}: a manifest is named twice")
    report = Report()
    report.manifests = [read(path, report) for path in paths]
    there = find_missing(report)
    keys = sorted({key_of(x) for one in report.manifests for x in one.samples} - {None}, key=str)
    keys = [key for key in keys if key[0] in there]
    copies = copies and len(there) > 1
    talks = not all(one.captions for one in report.manifests)
    layout = load() if talks or copies else None
    if layout is not None and talks:
        report.context, frames = layout.context, layout.config.frames
    looks = look_at_all(keys, frames, layout if copies else None, progress)
    for manifest in report.manifests:
        check_clips(manifest, looks, report)
        check_twins(manifest, report)
        check_answers(manifest, report)
        measure(manifest, looks, layout, report)
    check_leaks(report, there)
    check_alike(report, looks)
    return report


def read(path: Path, report: Report) -> Manifest:
    """Read a manifest of conversations or of captions; lines that cannot be used are faults."""
    samples, kinds, bad = [], Counter(), []
    for number, line in text_lines(path):
        try:
            row = parse_line(path, number, line)
            is_caption = "caption" in row and "messages" not in row
            kinds["captions" if is_caption else "conversations"] += 1
            samples.append((captioned_file if is_caption else sample_of)(path, number, row))
        except DataError as error:
            bad.append(Finding("line", str(path), str(error)))
    if not samples:
        raise_of_form(path)
    if not samples and not bad or len(kinds) > 1:
        what = "no samples" if not kinds else "conversations and captions in one file"
        raise DataError(f"{path}: {what}")
    report.faults += bad
    if "captions" in kinds and len(samples) == 1:
        report.faults.append(Finding("few", str(path), "1 caption; matching needs at least two"))
    return Manifest(path, tuple(samples), "captions" in kinds)


def raise_of_form(path: Path) -> None:
    """Raise DataError, saying how it becomes a manifest, for a file of another form."""
    form = guess(path)
    if form not in ("", OURS):
        raise DataError(
            f"{path}: this looks like {form}, not a manifest: avchat data convert {path} NEW.jsonl "
            f"--from {form} --to avchat"
        )


def find_missing(report: Report) -> set[Path]:
    """Report files that are not there; return those that are."""
    there: set[Path] = set()
    for manifest in report.manifests:
        media = {sample.media for sample in manifest.samples} - {None}
        found = {path for path in media if path.is_file()}
        lost = media - found
        there |= found
        if hint := wrong_root(manifest.path, lost):
            report.faults.append(Finding("root", str(manifest.path), hint))
            continue
        for path in sorted(lost):
            where = place(manifest, [x for x in manifest.samples if x.media == path])
            report.faults.append(Finding("missing", where, no_file(path)))
    return there


def place(manifest: Manifest, samples: Sequence[Sample | CaptionedFile]) -> str:
    """Name a sample, or the first of several."""
    more = f" and {len(samples) - 1} more" if len(samples) > 1 else ""
    return f"{manifest.path}, sample {samples[0].id}{more}"


def check_clips(manifest: Manifest, looks: dict[Key, Look], report: Report) -> None:
    """Report clips that cannot be read, or lack the sense that a sample is about."""
    about: dict[Key, list[Sample | CaptionedFile]] = {}
    for sample in manifest.samples:
        if (key := key_of(sample)) in looks:
            about.setdefault(key, []).append(sample)
    for key, samples in about.items():
        found, where, name = looks[key], place(manifest, samples), key[0].name
        if found.clip is None:
            report.faults.append(Finding("unreadable", where, found.fault))
            continue
        for sample in samples:
            sense = sample.sense if isinstance(sample, Sample) else sample.of
            if lack := lacking(found.clip.frame_times_s, found.clip.num_states, sense):
                text = f"{name}: there is no {lack}, and the sample is about it alone"
                report.faults.append(Finding(f"no {lack}", place(manifest, [sample]), text))
        if found.warnings:
            text = f"{name}: {'; '.join(found.warnings)}"
            report.notes.append(Finding("damaged", where, text))


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
        where, key = place(manifest, [sample]), (key_of(sample), sense, said)
        if key in first:
            report.notes.append(Finding("double", where, f"says the same as sample {first[key]}"))
        first.setdefault(key, sample.id)
        if isinstance(sample, Sample) and len(set(sample.turns)) < len(sample.turns):
            report.notes.append(Finding("turn", where, "asks and answers the same twice"))


def check_answers(manifest: Manifest, report: Report) -> None:
    """Report answers and captions in which nothing is said; collect the others."""
    said = []
    for sample in manifest.samples:
        is_talk = isinstance(sample, Sample)
        texts = [turn.answer or "" for turn in sample.turns] if is_talk else [sample.caption]
        if any(is_blank(text) for text in texts):
            text = "nothing of an answer can be seen, so nothing would be trained"
            report.faults.append(Finding("empty", place(manifest, [sample]), text))
        said += texts
    report.said += said
    if not manifest.captions:
        for text in biases(said):
            report.notes.append(Finding("biased", str(manifest.path), text))


def measure(
    manifest: Manifest, looks: dict[Key, Look], layout: Layout | None, report: Report
) -> None:
    """Measure answers in tokens, captions in words; report conversations that do not fit."""
    for sample in manifest.samples:
        if isinstance(sample, CaptionedFile):
            report.captions.append(len(sample.caption.split()))
            continue
        assert layout is not None, "a model is found where there are conversations"
        report.answers += [len(layout.prompt.answer_ids(turn.answer)) for turn in sample.turns]
        slots = None
        if (key := key_of(sample)) is not None:
            found = looks.get(key)
            if found is None or found.clip is None:
                continue
            slots = layout.plan(found.clip.only(sample.sense))
        ids = layout.prompt.build(slots, sample.turns).ids
        report.tokens.append(len(ids))
        try:
            check_budget(ids, layout.context, question=False)
        except PromptError:
            media = sum(token < 0 for token in ids)
            text = (
                f"{media} media tokens + {len(ids) - media} text tokens + 1 are more than the "
                f"model's context of {layout.context}"
            )
            report.faults.append(Finding("too long", place(manifest, [sample]), text))


def check_leaks(report: Report, there: set[Path]) -> None:
    """Report what two manifests share: clips, by content, and conversations of text alone."""
    clips = [{sample.media for sample in one.samples} & there for one in report.manifests]
    sizes = Counter(size for paths in clips for size in {path.stat().st_size for path in paths})
    first: dict[str, tuple[int, Path]] = {}
    told: dict[tuple, tuple[int, str]] = {}
    for number, (manifest, paths) in enumerate(zip(report.manifests, clips, strict=True)):
        for path in sorted(paths):
            if sizes[path.stat().st_size] < 2:  # files of unlike sizes are not read
                continue
            other, name = first.setdefault(digest(path), (number, path))
            if other != number:
                text = f"{path.name} is also in {report.manifests[other].path}, as {name.name}"
                report.faults.append(Finding("shared", str(manifest.path), text))
        for sample in manifest.samples:
            if sample.media is None:
                other, name = told.setdefault(sample.turns, (number, sample.id))
                if other != number:
                    text = f"its text is also in {report.manifests[other].path}, sample {name}"
                    report.faults.append(Finding("shared", place(manifest, [sample]), text))


def check_alike(report: Report, looks: dict[Key, Look]) -> None:
    """Note clips that look and sound nearly like another: each with the one it is most like."""
    known = [(key, found.traits) for key, found in looks.items() if found.traits is not None]
    pairs = [(known[a][0], known[b][0], cosine) for a, b, cosine in alike([x for _, x in known])]
    where: dict[Key, list[int]] = {}
    for number, manifest in enumerate(report.manifests):
        for key in {key_of(sample) for sample in manifest.samples}:
            where.setdefault(key, []).append(number)
    met: set[tuple[Key, int, int]] = set()
    for one, other, cosine in pairs:
        for a, b in product(where[one], where[other]):
            (b, late), (a, early) = sorted([(a, one), (b, other)], key=str, reverse=True)
            if one[0] == other[0] or (late, b, a) in met:
                continue
            met |= {(late, b, a), (early, a, b)}
            names = f"{late[0].name} looks and sounds nearly like {early[0].name}"
            of = "" if a == b else f" of {report.manifests[a].path}"
            text = f"{names}{of} (cosine {cosine:.2f}): a copy?"
            kind = "alike" if a == b else "likely shared"
            report.notes.append(Finding(kind, str(report.manifests[b].path), text))
