"""What several tests share: real clips, a small random model on disk, a headless browser."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

# Before any import of the libraries that read them: no test may reach for the network.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ.setdefault("OMP_NUM_THREADS", "2")

import numpy as np  # noqa: E402
import pytest  # noqa: E402

from avchat.world.clip_file import write_clip  # noqa: E402
from avchat.world.scenes import Scene, draw_scene  # noqa: E402

if TYPE_CHECKING:
    from playwright.sync_api import Browser

ROOT = Path(__file__).resolve().parent.parent
SHARED_MEDIA = ROOT.parent / "shared" / "media"
# Without the flags for the background, Chromium looks for its vendor's hosts at every start.
CHROMIUM_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="session")
def shared_media() -> Path:
    """The folder of real clips beside the project; tests that need it are skipped without it."""
    if not SHARED_MEDIA.is_dir():
        pytest.skip(f"no real clips at {SHARED_MEDIA}")
    return SHARED_MEDIA


@pytest.fixture(scope="session")
def scene() -> Scene:
    """A scene with one object whose events are in time with the sound."""
    return draw_scene(np.random.default_rng(5), "one source")


@pytest.fixture(scope="session")
def clip(scene: Scene, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """That scene as an mp4 file of 4 s, H.264 and AAC."""
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    write_clip(scene, path)
    return path


@pytest.fixture(scope="session")
def browser() -> "Iterator[Browser]":
    """Debian's Chromium, headless. Skipped where there is none, unless AVCHAT_REQUIRE_BROWSER=1."""
    found = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    if found is None:
        missing = "no Chromium: set CHROMIUM=/path/to/it"
        if os.environ.get("AVCHAT_REQUIRE_BROWSER") == "1":
            pytest.fail(missing)
        pytest.skip(missing)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=CHROMIUM_FLAGS)
        yield browser
        browser.close()
