"""A handful of clips to show: one for each sense, and for what needs both. Made once, then kept."""

from pathlib import Path

import numpy as np

from avchat.world import questions
from avchat.world.casting import draw_scene
from avchat.world.clip_file import write_clip

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


def example_clips(folder: Path) -> list[tuple[Path, str]]:
    """Render the example clips that are not in the folder yet; return each with a question."""
    folder.mkdir(parents=True, exist_ok=True)
    return [_example(folder, number, *shown) for number, shown in enumerate(SHOWN)]


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
