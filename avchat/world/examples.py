"""A handful of clips to show: one for each sense, one for both, a film to find moments in.

Made once, then kept.
"""

from pathlib import Path

import numpy as np

from avchat.world import questions
from avchat.world.captions import draw_gallery
from avchat.world.casting import draw_scene
from avchat.world.clip_file import write_clip, write_film

# kind of scene, family of the question asked about it
SHOWN = (
    ("one source", "which_object"),
    ("two sources", "which_object_of_two"),
    ("sounds", "sound_kind"),
    ("speech", "word"),
    ("order", "order"),
    ("pictures", "describe"),
)
SEED = 2026
FILM_SCENES = 10  # of 4 s each
SOUGHT = 6  # the scene that is looked for


def example_clips(folder: Path) -> list[tuple[Path, str]]:
    """Render the example clips that are not in the folder yet; return each with a question."""
    folder.mkdir(parents=True, exist_ok=True)
    return [_example(folder, number, *shown) for number, shown in enumerate(SHOWN)]


def example_film(folder: Path) -> tuple[Path, str]:
    """Render the example film if it is not in the folder yet; return it with words that fit one
    scene of it and no other.
    """
    folder.mkdir(parents=True, exist_ok=True)
    gallery = draw_gallery(SEED, FILM_SCENES)
    path = folder / f"film-of-{FILM_SCENES}-scenes-{SEED}.mp4"
    if not path.exists():
        torn = path.with_suffix(".part.mp4")
        write_film([scene for scene, _ in gallery], torn)
        torn.rename(path)
    return path, gallery[SOUGHT][1].text


def _example(folder: Path, number: int, kind: str, family: str) -> tuple[Path, str]:
    rng = np.random.default_rng([SEED, number])
    while True:  # until a scene comes that the family can be asked about
        scene = draw_scene(rng, kind)
        asked = {q.family: q for q in questions.every_question(scene, rng)}
        asked["describe"] = questions.describe(scene, rng)
        if family in asked:
            break
    path = folder / f"{number}-{family}-{scene.seed}.mp4"
    if not path.exists():
        torn = path.with_suffix(".part.mp4")
        write_clip(scene, torn)
        torn.rename(path)
    return path, asked[family].question
