"""The repository -> a folder ready to be pushed to a Hugging Face Space: `make space`.

    python -m avchat.space build/space --model me/my-model --zero

It holds what the app needs and nothing else: README.md whose front matter configures the Space,
app.py, the package with the bundled model, requirements.txt, the licence.
"""

import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from huggingface_hub import CardData, metadata_load
from tyro.conf import Positional

from avchat.app_settings import Settings
from avchat.input_error import InputError, in_one_line, say

ROOT = Path(__file__).resolve().parent.parent
# Of the versions that ZeroGPU takes (2.8.0, 2.9.1, 2.10.0, 2.11.0) the newest; with a range, pip
# would take the newest of all, and the Space is refused.
ZERO_TORCH = "torch==2.11.0"
LEFT_OUT = ("__pycache__", "*.pyc", "make.py")
# The Hub takes files over 10 MiB from git by LFS alone, and the bundled model is larger.
ATTRIBUTES = "".join(
    f"*.{kind} filter=lfs diff=lfs merge=lfs -text\n" for kind in ("safetensors", "npz")
)
BODY = """\
# {title}

{about}

Under each answer it says what the answer rests on: frames seen, seconds heard, what was missing.
The model is {model}{note}.

Variables of the Space set it (avchat/app_settings.py lists them all): `AVCHAT_MODEL` names another
model (a name on the Hub), `AVCHAT_MAX_MINUTES` the longest clip. The Space is for strangers: it
shows no folder of its machine, and nothing in its library can be changed.
{zero}"""
ZERO_NOTE = """
Made for ZeroGPU: choose that hardware in the Space's settings. A call asks for as many seconds of a
GPU as the clip is likely to take; what was encoded of a clip is kept for the next question.
"""


@dataclass(frozen=True)
class Space:
    """Write a folder that runs as a Hugging Face Space."""

    out: Positional[Path]
    """folder to write: new, empty, or one of a Space, whose app is then replaced"""
    model: Annotated[str, tyro.conf.arg(metavar="NAME")] = Settings.model
    """the model that it shows: the bundled tiny, or a name on the Hub"""
    zero: bool = False
    """for ZeroGPU: with a version of torch that it takes"""


def write_space(space: Space, root: Path = ROOT) -> Path:
    """Write the folder; InputError says in one line why it cannot be.

    Args: root: the repository that is taken.
    """
    check(space, root)
    out = space.out
    out.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(out / "avchat", ignore_errors=True)
    shutil.copytree(root / "avchat", out / "avchat", ignore=shutil.ignore_patterns(*LEFT_OUT))
    shutil.copyfile(root / "LICENSE", out / "LICENSE")
    (out / "README.md").write_text(readme(space, root), encoding="utf-8")
    (out / "app.py").write_text(entry(space, root), encoding="utf-8")
    (out / "requirements.txt").write_text(requirements(space, root), encoding="utf-8")
    if not (out / ".gitattributes").exists():
        (out / ".gitattributes").write_text(ATTRIBUTES, encoding="utf-8")
    return out


def check(space: Space, root: Path) -> None:
    """Refuse what cannot become a Space."""
    if not (root / "app.py").is_file():
        raise InputError("a Space is made from avchat's repository: run this there")
    named = space.model == Settings.model or space.model.count("/") == 1
    if not named or Path(space.model).is_dir():
        raise InputError(
            f"--model {space.model}: a Space has tiny, or a name on the Hub as me/my-model "
            "(avchat push puts a model there)"
        )
    if space.zero and space.model == Settings.model:
        say("note: the bundled model needs no GPU; free CPU hardware runs it as fast")
    here = space.out.resolve()
    if here == root or here.is_relative_to(root / "avchat") or root.is_relative_to(here):
        raise InputError(f"{space.out}: name a folder of its own")
    if here.exists() and not here.is_dir():
        raise InputError(f"{space.out}: not a folder")
    if here.is_dir() and any(here.iterdir()) and not is_space(here):
        raise InputError(f"{space.out}: holds something else than a Space; name another folder")


def is_space(folder: Path) -> bool:
    """Tell whether a folder holds a Space, by the front matter of its README."""
    card = folder / "README.md"
    return card.is_file() and "sdk" in (metadata_load(card) or {})


def readme(space: Space, root: Path) -> str:
    """Write the card: the repository's own front matter, and what this model changes in it."""
    told = metadata_load(root / "README.md")
    bundled = space.model == Settings.model
    if not bundled:
        told["models"] = [space.model]
        told["preload_from_hub"] = [space.model]
        told["startup_duration_timeout"] = "1h"
    if not bundled and not space.zero:
        told["suggested_hardware"] = "t4-small"
    note = ", which knows a toy world of shapes and sounds and nothing else" if bundled else ""
    body = BODY.format(
        title=told["title"],
        about=told["short_description"] + ".",
        model="the bundled model" if bundled else space.model,
        note=note,
        zero=ZERO_NOTE if space.zero else "",
    )
    return f"---\n{CardData(**told).to_yaml()}\n---\n\n{body}"


def entry(space: Space, root: Path) -> str:
    """Write app.py, which names the model unless a variable of the Space does."""
    text = (root / "app.py").read_text(encoding="utf-8")
    if space.model == Settings.model:
        return text
    docstring, end, code = text.partition('"""\n\n')
    named = f'import os\n\nos.environ.setdefault("AVCHAT_MODEL", "{space.model}")\n\n'
    return docstring + end + named + code


def requirements(space: Space, root: Path) -> str:
    """Write requirements.txt; for ZeroGPU with a version of torch that it takes."""
    lines = (root / "requirements.txt").read_text(encoding="utf-8").splitlines()
    lines = [line for line in lines if not line.startswith("#")]
    if space.zero:
        lines = [ZERO_TORCH if line.startswith("torch>") else line for line in lines]
    return "\n".join(lines) + "\n"


def main(space: Space) -> int:
    """Write the folder and say how it gets to the Hub; return the exit code."""
    try:
        out = write_space(space)
    except InputError as error:
        say(in_one_line(error))
        return 2
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    print(f"{out}: {size / 1e6:.0f} MB. To push it: hf upload me/avchat {out} --repo-type space")
    return 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Space, description=__doc__)))
