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
"""

import json
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import tyro
from tqdm import tqdm

from avchat.captions import ABOUT
from avchat.config import ModelError, VLSAConfig
from avchat.heads import Vectors, VlsaHead, load_head
from avchat.media import Media, load_media
from avchat.metrics import interval_of, ranks, retrieval
from avchat.world.captions import Caption, caption, draw_gallery
from avchat.world.casting import draw_kind, draw_scene
from avchat.world.clip_file import write_clip
from avchat.world.scenes import Scene

KEEP = 0.95  # our choice: who finds nothing that is there is worse off than who sees too much
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
    json: bool = False
    """Print one JSON object and nothing else."""


def main(run: Retrieval) -> None:
    """Render, embed, rank, print."""
    head = load_head(run.model)
    gallery, both = embed(head, run, "both")
    directions = measure(head, gallery, both)
    directions |= measure_sounds(head, *embed(head, run, "sound"))
    report = {"model": run.model, "seed": run.seed, "directions": directions}
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


def embed(head: VlsaHead, run: Retrieval, about: str) -> tuple[Gallery, dict[str, list[Vectors]]]:
    """Render a gallery to files, decode them, embed them: in full, deafened, and one frame each."""
    gallery = draw_gallery(run.seed, run.clips, about)
    found: dict[str, list[Vectors]] = {"full": [], "deafened": [], "frame": []}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp4"
        for scene, _ in tqdm(gallery, desc=f"gallery: {about}", disable=not sys.stderr.isatty()):
            write_clip(scene, path)
            media = load_media(path, frames=head.frames, size=head.size)
            deaf = replace(media, waveform=media.waveform[:0], has_audio=False)
            for name, one in (("full", media), ("deafened", deaf), ("frame", middle_of(deaf))):
                found[name] += head.clips([one])
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
    return "\n".join(lines)


if __name__ == "__main__":
    try:
        main(tyro.cli(Retrieval, description=__doc__))
    except ModelError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from error
