"""What several tests share: real clips, a small random model on disk, a headless browser."""

import os
import shutil
import signal
import wave
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

# Before any import of the libraries that read them: no test may reach for the network.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
# One thread for each of several test processes (`make test` starts two), else two.
os.environ.setdefault("OMP_NUM_THREADS", "1" if "PYTEST_XDIST_WORKER" in os.environ else "2")

# A shell's background jobs ignore Ctrl-C, and so would the commands that tests interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)

import av  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402
from pages import WAIT_MS, serve  # noqa: E402

from avchat.world.casting import draw_scene  # noqa: E402
from avchat.world.clip_file import write_clip  # noqa: E402
from avchat.world.scenes import Scene  # noqa: E402
from avchat.world.sounds import render_waveform  # noqa: E402

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

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
def silent_clip(clip: Path) -> Path:
    """The same pictures in a file without a sound track."""
    path = clip.with_name("silent.mp4")
    with av.open(str(clip)) as source, av.open(str(path), "w") as target:
        track = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:  # the last packet only says that the track has ended
                packet.stream = track
                target.mux(packet)
    return path


@pytest.fixture(scope="session")
def sound_clip(scene: Scene, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same sound in a file without a picture."""
    path = tmp_path_factory.mktemp("sound") / "sound.wav"
    samples = (render_waveform(scene) * 32767).astype("<i2")
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16_000)
        file.writeframes(samples.tobytes())
    return path


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with random weights, saved: everything is real but what it says."""
    import torch

    from avchat.config import PRESETS
    from avchat.model import AVChat
    from avchat.pool import world_texts
    from avchat.tokenizer import train_tokenizer

    folder = tmp_path_factory.mktemp("model") / "random"
    torch.manual_seed(0)
    AVChat.from_config(PRESETS["tiny"], train_tokenizer(world_texts(200, 0), 768)).save_pretrained(
        folder
    )
    return folder


@pytest.fixture(scope="session")
def manifest(
    clip: Path, silent_clip: Path, sound_clip: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Ten conversations: on both senses, on one, on parts, on nothing; one line is a caption."""
    from staged import write_manifest

    path = tmp_path_factory.mktemp("manifest") / "m.jsonl"
    return write_manifest(path, clip, silent_clip, sound_clip)


@pytest.fixture(scope="session")
def small_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small random model in a folder."""
    from small import build_model

    folder = tmp_path_factory.mktemp("small") / "model"
    build_model().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def whisper_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole Whisper with random weights: it says something, and means nothing."""
    from small import write_whisper

    return write_whisper(tmp_path_factory.mktemp("whisper") / "random.pt")


@pytest.fixture(scope="session")
def bundled() -> str:
    """The name of the model in the package, which must be there: `make demo` runs it."""
    weights = ROOT / "avchat" / "assets" / "tiny" / "model.safetensors"
    assert weights.is_file(), "no bundled model: make tiny"
    return "tiny"


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


@pytest.fixture(scope="session")
def address(bundled: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The app over the bundled model, one for all tests of a process; a test changes nothing that
    another one reads.
    """
    with serve(bundled, tmp_path_factory.mktemp("app")) as address:
        yield address


@pytest.fixture
def open_page(browser: "Browser") -> Iterator[Callable[..., "Page"]]:
    """Open pages that no other visitor shares; none may ask for anything outside this machine, and
    none may report an error.
    """
    contexts, asked, faults = [], [], []

    def opened(address: str, width: int = 1280, height: int = 900, **settings: str) -> "Page":
        context = browser.new_context(viewport={"width": width, "height": height}, **settings)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(WAIT_MS)
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("console", lambda m: faults.append(m.text) if m.type == "error" else None)
        page.goto(address)
        page.wait_for_selector("#ask")
        return page

    yield opened
    for context in contexts:
        context.close()
    outside = [url for url in asked if not url.startswith(("http://127.0.0.1", "data:", "blob:"))]
    assert not outside
    assert not faults
