"""Measure a lookup head on clips of the world that it was never trained on: rendered to files,
decoded, found.

    python eval/retrieval.py --model tiny --clips 500 --seed 1 --json

Two galleries are drawn: "clips", with captions of picture and sound that are each true of one clip
alone, and "sounds", with captions of sound tracks that are each unlike all others. All six
directions between text, picture and sound are measured, and text against picture and sound encoded
together ("clip"), with the same head deafened beside it; and whether one frame finds the picture
that it is from. Raw cosine; nothing is re-weighted over
the queries. Intervals: 95 %, bootstrap over queries. Last, where the head has a threshold on the
cosine: how often it keeps a clip that a caption is true of, and refuses a caption true of none.

    python eval/retrieval.py --model runs/tiny/vlsa/model --seed 2 --calibrate

writes into a head's folder the threshold that keeps 95 % (`KEEP`) of what is right.

    python eval/retrieval.py --set msr-vtt-1ka --file MSRVTT_JSFUSION_test.csv --videos clips/ \\
        --model runs/mine/vlsa --output runs/1ka

measures a head on a public set, from its own file: msr-vtt-1ka, didemo, audiocaps, clotho,
sounddescs (--split: a list of the clips that count, as its authors' test_list.txt or that of the
cleaned splits). How many clips are missing, or lack a sense, stands beside the figures. Vectors are
kept in the output folder, with a manifest: the same command goes on where it was stopped. --dry-run
says how many clips and captions there are; with --limit the result is marked as partial.
"""

import json
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from avchat.captions import ABOUT
from avchat.config import VLSAConfig
from avchat.data_rows import Tally
from avchat.evaluation.costs import RENDER, Cost
from avchat.evaluation.galleries import directions, embed_clips
from avchat.evaluation.items import EvalError
from avchat.evaluation.progress import bar
from avchat.evaluation.records import Row, write_whole
from avchat.evaluation.report import json_of
from avchat.evaluation.retrieval_sets import Gallery as SetGallery
from avchat.evaluation.retrieval_sets import read_gallery
from avchat.evaluation.session import check_script, plan_lines
from avchat.evaluation.tables import cost_line
from avchat.heads import Kind, Vectors, VlsaHead, load_head, sha256_of
from avchat.media import Media, load_media
from avchat.metrics import interval_of, ranks, retrieval
from avchat.script import run_script
from avchat.world.captions import Caption, caption, draw_gallery
from avchat.world.casting import draw_kind, draw_scene
from avchat.world.clip_file import write_clip
from avchat.world.scenes import Scene

KEEP = 0.95  # our choice: who finds nothing that is there is worse off than who sees too much
TOGETHER = 16  # clips that are embedded at once
Gallery = list[tuple[Scene, Caption]]


@dataclass(frozen=True)
class Retrieval:
    """Measure a lookup head on the world."""

    model: str = "tiny"
    """The bundled head (tiny) or the folder of one."""
    clips: int = 500
    """Size of each gallery."""
    seed: int = 1
    calibrate: bool = False
    """Write the threshold into the head's folder."""
    set: str = ""
    """A public set in place of the world."""
    file: Path | None = None
    """The set's file of captions."""
    videos: Path | None = None
    """The folder of its clips."""
    split: Path | None = None
    """A list of the clips that count, one a line."""
    output: Path | None = None
    """The folder in which the set's vectors are kept."""
    kind: Kind = "vlsa"
    """siglip: pictures by the weights of a public SigLIP alone."""
    reweight: bool = False
    """Also rank by scores that are re-weighted over all queries ("dual softmax"), in rows of their
    own: no search has all queries at once."""
    limit: int | None = None
    """Of a set only the first so many clips: the result is marked as partial."""
    dry_run: bool = False
    """Say how many clips and captions there are, and do nothing."""
    json: bool = False
    """Print one JSON object and nothing else."""


def main(run: Retrieval) -> None:
    """Render, embed, rank, print."""
    check_limit(run)
    if run.dry_run:
        return say_plan(run)
    if run.set:
        return measure_set(run)
    head = load_head(run.model, run.kind)
    cost = Cost()
    gallery, both = embed(head, run, "both", cost)
    found = measure(head, gallery, both)
    found |= measure_sounds(head, *embed(head, run, "sound", cost))
    report = {"model": run.model, "seed": run.seed, "directions": found, "cost": cost.found()}
    if run.calibrate or head.threshold is not None:
        right, wrong = likeness(head, gallery, both["full"], run.seed)
        threshold = float(np.quantile(right, 1 - KEEP)) if run.calibrate else head.threshold
        report["threshold"] = {
            "cosine": threshold,
            "right_kept": float((right >= threshold).mean()),
            "absent_refused": float((wrong < threshold).mean()),
        }
    if run.calibrate:
        replace(VLSAConfig.load(Path(run.model)), threshold=threshold).save(Path(run.model))
    print(json.dumps(report) if run.json else table(report))


def check_limit(run: Retrieval) -> None:
    """Raise EvalError where --limit leaves nothing, or there is no set."""
    if run.limit is None:
        return
    if not run.set:
        raise EvalError("--limit goes with --set; of the world --clips says how many")
    if run.limit < 1:
        raise EvalError(f"--limit {run.limit}: leaves no clip")


def needed(run: Retrieval) -> tuple[Path, Path, Path]:
    """Return the set's file, the folder of its clips and that of the run; EvalError without."""
    if run.file is None or run.videos is None or run.output is None:
        raise EvalError(f"--set {run.set}: needs --file, --videos and --output")
    return run.file, run.videos, run.output


def say_plan(run: Retrieval) -> None:
    """Say how many clips and captions would be measured; nothing is written."""
    tally = Tally()
    if run.set:
        file, videos, _ = needed(run)
        gallery = read_gallery(run.set, file, videos, tally, run.split)
        some = gallery.first(run.limit)
        counts = {"set": gallery.name, "clips": len(some.clips), "captions": len(some.texts)}
        plan = counts | {"clips_missing": len(gallery.missing), "partial": run.limit is not None}
    else:  # a gallery of both senses and one of sounds, with a caption each
        plan = {"set": "the world", "clips": 2 * run.clips, "captions": 2 * run.clips}
    print(json_of(plan) if run.json else plan_lines(plan))
    if tally.line() and not run.json:
        print(tally.line())


def measure_set(run: Retrieval) -> None:
    """Measure a head on a public set."""
    file, videos, output = needed(run)
    check_script(output)
    head = load_head(run.model, run.kind)
    tally, cost = Tally(), Cost()
    whole = read_gallery(run.set, file, videos, tally, run.split)
    gallery = whole.first(run.limit)
    with bar("clips") as told:
        rows = embed_clips(head, gallery, output, told, cost, facts_of(run, gallery))
    faults = [row["error"] for row in rows if "error" in row]
    lacking = {s: sum(r.get(s) is None for r in rows) - len(faults) for s in ("picture", "sound")}
    report = {
        "model": run.model,
        "set": gallery.name,
        "partial": run.limit is not None,
        "texts": len(gallery.texts),
        "clips": len(gallery.clips),
        "missing": len(gallery.missing),
        "undecodable": len(faults),
        "without_picture": lacking["picture"],
        "without_sound": lacking["sound"],
        "directions": directions(gallery, rows, head.texts(gallery.texts), run.reweight),
        "cost": cost.found(),
    }
    write_whole(output / "report.json", json_of(report, indent=1) + "\n")
    if run.json:
        print(json_of(report))
        return
    print(whole.line(), *filter(None, [tally.line()]), sep="\n")
    if run.limit is not None:
        print(f"partial: of the first {len(gallery.clips)} clips alone")
    print(f"{len(faults)} clips could not be decoded", *faults[:3], sep="; ")
    print(f"without sound: {lacking['sound']}, without picture: {lacking['picture']}")
    print(table(report))


def facts_of(run: Retrieval, gallery: SetGallery) -> Row:
    """Say for the manifest what is measured: the head, the set, the hashes of its files."""
    files = {path.name: sha256_of([path]) for path in (run.file, run.split) if path}
    data = {"set": gallery.name, "files": files}
    return {"name": run.model, "kind": run.kind, "data": data, "limit": run.limit}


def embed(
    head: VlsaHead, run: Retrieval, about: str, cost: Cost
) -> tuple[Gallery, dict[str, list[Vectors]]]:
    """Render a gallery to files, decode them, embed them: in full, deafened, and one frame each."""
    gallery = draw_gallery(run.seed, run.clips, about)
    found: dict[str, list[Vectors]] = {"full": [], "deafened": [], "frame": []}
    with tempfile.TemporaryDirectory() as folder, bar(f"gallery: {about}") as told:
        path = Path(folder) / "clip.mp4"
        for first in range(0, len(gallery), TOGETHER):
            media = []
            for scene, _ in gallery[first : first + TOGETHER]:
                with cost.timed(RENDER):
                    write_clip(scene, path)
                with cost.timed("decode"):
                    media.append(load_media(path, frames=head.frames, size=head.size))
            deaf = [replace(one, waveform=one.waveform[:0], has_audio=False) for one in media]
            frames = [middle_of(one) for one in deaf]
            with cost.timed("embed"):
                for name, some in (("full", media), ("deafened", deaf), ("frame", frames)):
                    found[name] += head.clips(some)
            cost.clips += len(media)
            told(first + len(media), len(gallery))
    return gallery, found


def middle_of(media: Media) -> Media:
    """Keep the middle frame alone."""
    kept = [len(media.frames) // 2]
    return replace(media, frames=media.frames[kept], frame_times_s=media.frame_times_s[kept])


def measure(head: VlsaHead, gallery: Gallery, made: dict[str, list[Vectors]]) -> dict:
    """Measure what a caption of picture and sound finds, and what finds it."""
    texts = head.texts([line.text for _, line in gallery])
    clips, pictures = stack(made["full"], "both"), stack(made["full"], "picture")
    # every caption of this gallery says something about the sound
    deafened = stack(made["deafened"], "both")
    found = {
        "text to clip": score(texts @ clips.T),
        "text to clip, deafened": score(texts @ deafened.T),
        "clip to text": score(clips @ texts.T),
    }
    seen = np.array(
        [[Caption("", line.seen, None).fits(s) for s, _ in gallery] for _, line in gallery]
    )
    found["text to picture"] = score(texts @ pictures.T, seen)
    found["picture to text"] = score(pictures @ texts.T, seen.T)
    sounds = stack(made["full"], "sound")
    return found | {
        "frame to picture": score(stack(made["frame"], "picture") @ pictures.T),
        "picture to sound": score(pictures @ sounds.T),
        "sound to picture": score(sounds @ pictures.T),
    }


def measure_sounds(head: VlsaHead, gallery: Gallery, made: dict[str, list[Vectors]]) -> dict:
    """Measure what a caption of the sound finds, and what finds it."""
    texts, sounds = head.texts([line.text for _, line in gallery]), stack(made["full"], "sound")
    return {"text to sound": score(texts @ sounds.T), "sound to text": score(sounds @ texts.T)}


def likeness(
    head: VlsaHead, gallery: Gallery, full: list[Vectors], seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the cosines of clips with captions true of them, and of captions that are true of no
    clip with the clip that they are most like; captions of both senses and of each alone.
    """
    rng = np.random.default_rng([16, seed])
    clips = stack(full, "both")
    right, wrong = [], []
    for place, (scene, _) in enumerate(gallery):
        lines = [caption(scene, rng, about) for about in ABOUT]
        right.append(head.texts([line.text for line in lines]) @ clips[place])
        other = draw_scene(rng, draw_kind(rng))
        lines = [caption(other, rng, about) for about in ABOUT]
        absent = [x.text for x in lines if not any(x.fits(s) for s, _ in gallery)]
        if absent:
            wrong.append((head.texts(absent) @ clips.T).max(axis=1))
    return np.concatenate(right), np.concatenate(wrong)


def stack(found: list[Vectors], sense: str) -> np.ndarray:
    """Stack one sense of all clips, [G, D]."""
    return np.stack([getattr(vectors, sense) for vectors in found])


def score(scores: np.ndarray, right: np.ndarray | None = None) -> dict:
    """Rank and summarise one direction, with the interval of R@1."""
    ranked = ranks(scores, right)
    spread = interval_of(
        lambda chosen: float((chosen <= 1).mean()),
        ranked,
        [str(k) for k in range(len(ranked))],
        draws=1000,
        seed=0,
    )
    return retrieval(ranked, scores.shape[1]) | {"R@1_interval": spread}


def table(report: dict) -> str:
    """Lay the report out for reading."""
    lines = [f"{'':24s}    R@1 (95 %)            R@5   R@10  median   mean  gallery"]
    for name, row in report["directions"].items():
        low, high = row["R@1_interval"]
        lines.append(
            f"{name:24s} {row['R@1']:6.3f} ({low:.3f} to {high:.3f}) {row['R@5']:6.3f} "
            f"{row['R@10']:6.3f} {row['median_rank']:7.1f} {row['mean_rank']:6.1f} "
            f"{row['gallery']:8d}"
        )
    if "threshold" in report:
        found = report["threshold"]
        lines.append(
            f"threshold {found['cosine']:.3f}: keeps {found['right_kept']:.3f} of what is right, "
            f"refuses {found['absent_refused']:.3f} of what is not there"
        )
    return "\n".join([*lines, cost_line(report)])


if __name__ == "__main__":
    run_script(main, Retrieval, __doc__)
