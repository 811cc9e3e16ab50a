"""What is installed here and what is missing, with the command that gets it.

Nothing in, one report out: a dict for `avchat doctor --json`, lines of text for people. Nothing is
fatal: a missing piece is a line of the report.
"""

import os
import platform
import re
import shutil
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path
from typing import Any

from avchat import config

# Not in the metadata of an install: Gradio converts odd files for its player with ffmpeg.
PROGRAMS = {"ffmpeg": "optional: lets the browser play HEVC, AVI and the like"}
GIB = 1024**3


def report() -> dict[str, Any]:
    """Look at this machine; takes a few seconds, since it imports torch and decodes a clip."""
    return {
        "avchat": {"version": _version("avchat") or "from source", "path": str(_root())},
        "python": platform.python_version(),
        "platform": platform.platform(),
        "torch": _version("torch"),
        "devices": devices(),
        "memory_gib": memory_gib(),
        "packages": packages(),
        "programs": programs(),
        "decoding": decoding(),
        "models": models(),
    }


def devices() -> list[dict[str, Any]]:
    """List what torch can compute on, best first, with its memory where torch knows it."""
    import torch

    found: list[dict[str, Any]] = []
    for index in range(torch.cuda.device_count()):
        card = torch.cuda.get_device_properties(index)
        memory = round(card.total_memory / GIB, 1)
        found.append({"device": f"cuda:{index}", "name": card.name, "memory_gib": memory})
    if torch.backends.mps.is_available():
        found.append({"device": "mps", "name": platform.processor()})
    name = platform.processor() or platform.machine()
    return [*found, {"device": "cpu", "name": name, "threads": torch.get_num_threads()}]


def memory_gib() -> float | None:
    """Read the size of this machine's memory in GiB; None where the system does not say."""
    if sys.platform == "win32":
        return None
    return round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / GIB, 1)


def packages() -> list[dict[str, Any]]:
    """Compare each dependency that avchat declares with what is installed."""
    from packaging.requirements import Requirement

    rows = []
    for line in _requirements():
        wanted = Requirement(line)
        extra = re.search(r"extra == ['\"](\w+)['\"]", line)
        if wanted.marker and not wanted.marker.evaluate({"extra": extra[1] if extra else ""}):
            continue
        version = _version(wanted.name)
        fits = version is not None and wanted.specifier.contains(version, prereleases=True)
        target = f"avchat[{extra[1]}]" if extra else f"{wanted.name}{wanted.specifier}"
        rows.append(
            {
                "name": wanted.name,
                "version": version,
                "wanted": str(wanted.specifier),
                "for": extra[1] if extra else "avchat",
                "ok": fits,
                "get": None if fits else f"pip install '{target}'",
            }
        )
    return rows


def programs() -> list[dict[str, Any]]:
    """Look for the programs that avchat can use but does not need."""
    return [
        {"name": name, "path": shutil.which(name), "note": note} for name, note in PROGRAMS.items()
    ]


def decoding() -> dict[str, Any]:
    """Write a clip (H.264 + AAC) and read it back: the shortest proof that the decoders work."""
    import numpy as np

    from avchat.media import MediaError, load_media
    from avchat.world.casting import draw_scene
    from avchat.world.clip_file import write_clip

    versions = {name: _version(name) for name in ("decord2", "av")}
    with tempfile.TemporaryDirectory() as folder:
        clip = Path(folder) / "clip.mp4"
        write_clip(draw_scene(np.random.default_rng(0), "one source"), clip)
        started = time.perf_counter()
        try:
            media = load_media(clip, frames=16)
        except MediaError as error:
            return {"ok": False, "error": str(error), **versions}
        seconds = round(time.perf_counter() - started, 3)
    ok = media.has_video and media.has_audio and len(media.frames) == 16
    return {"ok": ok, "frames": len(media.frames), "seconds": seconds, **versions}


def models() -> list[dict[str, Any]]:
    """List the bundled model and the public ones that the presets build on: here, or how to get."""
    weights = _root() / "assets" / "tiny" / "model.safetensors"
    ready = weights.is_file()
    megabytes = round(weights.stat().st_size / 1e6, 1) if ready else None
    row = {"name": "tiny", "for": "the toy world", "ready": ready, "megabytes": megabytes}
    rows = [{**row, "get": None if ready else "make tiny"}]
    users: dict[tuple[str, str], list[str]] = {}
    for preset in config.PRESETS.values():
        for kind, part in (("hub", preset.vision), ("hub", preset.language)):
            users.setdefault((kind, part.hub or ""), []).append(preset.name)
        users.setdefault(("whisper", preset.audio.hub or ""), []).append(preset.name)
    for (kind, name), presets in users.items():
        if name:
            rows.append({**_public_model(kind, name), "for": ", ".join(presets)})
    return rows


def as_text(found: dict[str, Any]) -> str:
    """Lay a report out for people: one line a thing, what is missing with the command to get it."""
    lines = [
        f"avchat {found['avchat']['version']}, Python {found['python']}, {found['platform']}",
        f"torch {found['torch'] or 'missing'}, memory {found['memory_gib'] or '?'} GiB",
    ]
    for device in found["devices"]:
        size = device.get("memory_gib")
        size = f"{size} GiB" if size else f"{device.get('threads', '?')} threads"
        lines.append(f"device   {device['device']:<8} {device['name']}, {size}")
    for row in found["packages"]:
        state = row["version"] or "missing"
        lines.append(_line("package", row["name"], state, row["ok"], row["get"]))
    for row in found["programs"]:
        found_it = row["path"] is not None
        lines.append(
            _line("program", row["name"], row["path"] or "not found", found_it, row["note"])
        )
    test = found["decoding"]
    state = (
        f"H.264 + AAC read in {test['seconds']} s" if test["ok"] else test.get("error", "failed")
    )
    lines.append(_line("decoding", "test clip", state, test["ok"], "pip install decord2 av"))
    for row in found["models"]:
        state = f"ready, for {row['for']}" if row["ready"] else f"not here; for {row['for']}"
        lines.append(_line("model", row["name"], state, row["ready"], row["get"]))
    return "\n".join(lines)


def _line(kind: str, name: str, state: str, ok: bool, get: str | None) -> str:
    hint = f"   -> {get}" if get and not ok else ""
    return f"{kind:<8} {name:<34} {state}{hint}"


def _public_model(kind: str, name: str) -> dict[str, Any]:
    """Say whether a public model's files lie in the cache of the library that loads it."""
    if kind == "whisper":
        home = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
        ready = (home / "whisper" / f"{name}.pt").is_file()
        get = f"python -c \"import whisper; whisper.load_model('{name}')\""
        return {"name": f"whisper {name}", "ready": ready, "get": None if ready else get}
    from huggingface_hub import try_to_load_from_cache

    ready = isinstance(try_to_load_from_cache(name, "config.json"), str)
    return {"name": name, "ready": ready, "get": None if ready else f"hf download {name}"}


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _root() -> Path:
    return Path(config.__file__).resolve().parent


def _requirements() -> list[str]:
    """Read what the install declares; a Space runs from the folder, with requirements.txt alone."""
    declared = metadata.requires("avchat") if _version("avchat") else None
    if declared is not None:
        return declared
    lines = (_root().parent / "requirements.txt").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]
