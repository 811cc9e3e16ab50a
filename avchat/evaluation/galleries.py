"""Clips and texts of a benchmark embedded by a lookup head, and what finds what.

Enters: a gallery, a head. Leaves: vectors, kept in a folder as lines that a killed run goes on
from, and the run's manifest; then ranks in six directions, by name. Raw cosine: what is re-weighted
over the queries knows them all beforehand, and stands in rows of its own.

Legend: C clips, T texts, D width.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from avchat.evaluation.costs import Cost
from avchat.evaluation.hashes import hashes_in
from avchat.evaluation.items import EvalError, key_of
from avchat.evaluation.records import Records, Row, manifest, save_manifest
from avchat.evaluation.retrieval_sets import Gallery, Part
from avchat.heads import Head
from avchat.library_query import file_vectors
from avchat.media import MediaError
from avchat.metrics import bootstrap_interval, ranks, retrieval

VECTORS = "vectors.jsonl"
SENSES = ("both", "picture", "sound")
NAMES = {"both": "clip", "picture": "picture", "sound": "sound"}  # as directions say them
TEMPERATURE = 100.0  # of the re-weighting: CLIP's, as those use it who publish it

Told = Callable[[int, int], None]


def embed_clips(
    head: Head,
    gallery: Gallery,
    folder: Path,
    told: Told,
    cost: Cost | None = None,
    facts: Row | None = None,
) -> list[Row]:
    """Give each clip a row with its vectors by sense, or with `error`; what is there is kept.

    Args: cost: what this run takes is added to it; facts: for the manifest.
    """
    cost = cost or Cost()
    with Records(folder / VECTORS) as records, hashes_in(folder) as hashes:
        keys = [
            key_of(head.fingerprint, hashes.of(clip), part)
            for clip, part in zip(gallery.clips, gallery.parts, strict=True)
        ]
        about = {"model": head.fingerprint, "n": len(gallery.texts), "clips": len(keys)}
        with manifest(folder, (facts or {}) | about) as found:
            before = found["seconds"]
            for k, key in enumerate(keys):
                if records.missing([key]):
                    with cost.timed("decode and embed"):
                        row = embedded(head, gallery.clips[k], gallery.parts[k])
                        records.add([{"key": key} | row])
                    cost.clips += 1
                    found["clips_asked"] += 1
                    found["seconds"] = summed(before, cost.seconds)
                    save_manifest(folder, found)
                told(k + 1, len(keys))
        return [records.rows[key] for key in keys]


def summed(first: dict[str, float], second: dict[str, float]) -> dict[str, float]:
    """Add seconds to seconds, stage by stage."""
    return {name: first.get(name, 0.0) + second.get(name, 0.0) for name in {**first, **second}}


def embedded(head: Head, clip: Path, part: Part) -> Row:
    """Embed one clip: a list of D numbers for each sense that it has, else None."""
    start, end = part or (None, None)
    try:
        found = vars(file_vectors(head, clip, start, end))
    except MediaError as error:
        return {"error": " ".join(str(error).split())}
    return {sense: None if found[sense] is None else found[sense].tolist() for sense in SENSES}


def directions(
    gallery: Gallery, rows: list[Row], texts: np.ndarray, reweight: bool = False
) -> dict[str, Row]:
    """Measure who finds whom, six directions by name, and text against the whole clip.

    Args: texts: float32 [T, D] of unit length. A clip that lacks a sense is out of the galleries of
    that sense, with its texts: N stands beside each figure.
    """
    found: dict[str, Row] = {}
    for sense in SENSES:
        kept = [k for k, row in enumerate(rows) if row.get(sense) is not None]
        if not kept:
            continue
        vectors = np.array([rows[k][sense] for k in kept], dtype=np.float32)  # [C, D]
        right = gallery.right("text")[:, kept]
        asked = right.any(1)
        scores = texts[asked] @ vectors.T  # [T, C]
        name = NAMES[sense]
        clips = [str(gallery.clips[gallery.clip_of[k]]) for k in np.flatnonzero(asked)]
        found |= both_ways("text", name, scores, right[asked], clips)
        if reweight:
            found |= both_ways("text", name, scores, right[asked], clips, ", re-weighted")
    pairs = [k for k, r in enumerate(rows) if r.get("picture") is not None and r.get("sound")]
    if pairs:
        pictures, sounds = (np.array([rows[k][s] for k in pairs]) for s in ("picture", "sound"))
        clips = [str(gallery.clips[k]) for k in pairs]
        right = np.eye(len(pairs), dtype=bool)
        found |= both_ways("picture", "sound", pictures @ sounds.T, right, clips)
    return found


def both_ways(
    first: str, second: str, scores: np.ndarray, right: np.ndarray, clips: list[str], how: str = ""
) -> dict[str, Row]:
    """Measure first to second and back. Args: clips: of each row of the scores, for intervals."""
    there, back = scores, scores.T
    if how:
        there, back = reweighted(there), reweighted(back)
    columns = [str(k) for k in range(scores.shape[1])]
    return {
        f"{first} to {second}{how}": score(there, right, clips),
        f"{second} to {first}{how}": score(back, right.T, columns),
    }


def score(scores: np.ndarray, right: np.ndarray, clips: list[str]) -> Row:
    """Rank and sum up one direction, with the interval of R@1 over clips; NaN is an error."""
    try:
        ranked = ranks(scores, right)
    except ValueError as error:
        raise EvalError(f"{error}: the head gives no direction for some of them") from error
    interval = bootstrap_interval([float(rank <= 1) for rank in ranked], clips)
    return retrieval(ranked, scores.shape[1]) | {"R@1_interval": list(interval)}


def reweighted(scores: np.ndarray) -> np.ndarray:
    """Re-weight scores [Q, G] by how much each gallery item likes each query ("dual softmax").

    It needs all queries at once, which no search has: never to be compared with raw cosine.
    """
    heat = TEMPERATURE * (scores - scores.max(0, keepdims=True))
    return scores * np.exp(heat) / np.exp(heat).sum(0, keepdims=True)
