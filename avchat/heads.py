"""What turns clips and queries into vectors of one space, for the library.

Enter: decoded clips, or texts. Leave: unit vectors whose dot product says how well they fit.

Legend: T frames, N texts, L tokens of a text, C colours, D width.
"""

import hashlib
import json
import re
import string
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError
from safetensors import SafetensorError
from torch import Tensor
from transformers import PreTrainedTokenizerFast, SiglipModel
from transformers.utils import logging

from avchat.checkpoints import read_checkpoint
from avchat.config import PRESETS, ModelError
from avchat.encoders import (
    InputSpec,
    build_audio,
    build_vision,
    encode,
    input_spec,
    prepare,
    preprocess_frames,
)
from avchat.media import Media
from avchat.patches import SIDE, pixel_clip
from avchat.saved import ASSETS, find_checkpoint, fingerprint
from avchat.vlsa import VLSA, Embeddings

BUNDLED = ASSETS / "heads"  # a folder for each

SIGLIP = "google/siglip-so400m-patch14-384"
SIGLIP_FRAMES = 4  # of a window: our choice
SIGLIP_FILES = ["config.json", "*.safetensors", "tokenizer*.json", "*.safetensors.index.json"]
FINGERPRINT_DIGITS = 16
CHUNK = 64  # frames or texts that go through a tower at once

Kind = Literal["vlsa", "siglip"]


class HeadError(ModelError):
    """Say in one line why a head cannot be had."""


@dataclass(frozen=True)
class Vectors:
    """The vectors of one clip or window: float32 [D], unit length; None where a sense is absent."""

    picture: np.ndarray | None
    sound: np.ndarray | None
    both: np.ndarray | None  # of what is there; equals the one sense where only one is


class Head(Protocol):
    """A model that gives clips and texts vectors in one space."""

    name: str
    fingerprint: str  # of its weights: vectors of heads that differ in it must not meet
    width: int
    frames: int  # it wants of a window
    size: int  # pixels a side of a frame
    hears: bool
    window_s: float  # length of the parts that it knows best
    shortest_s: float  # length of the shortest that it can judge
    threshold: float | None  # cosine below which a text and a clip do not fit; None: unknown

    def clips(self, media: Sequence[Media]) -> list[Vectors]:
        """Give each clip its vectors."""
        ...

    def texts(self, texts: Sequence[str]) -> np.ndarray:
        """Give each text its vector, float32 [N, D] of unit length."""
        ...


def load_head(name: str, kind: Kind = "vlsa") -> Head:
    """Load a head by the name of its model, a folder or a Hub id; HeadError where it cannot be."""
    if kind == "siglip":
        return SiglipHead(name)
    return VlsaHead(name, VLSA.from_pretrained(find_head(name)))


def find_head(name: str) -> Path:
    """Find the folder of a bundled VLSA head, a folder or a Hub id; HeadError if there is none."""
    if (BUNDLED / name).is_dir():
        return BUNDLED / name
    if name in PRESETS:
        raise HeadError(
            f"no lookup head called {name} comes with this package: train one "
            "(train/vlsa.py) and name its folder with --model"
        )
    return find_checkpoint(name)


class VlsaHead:
    """VLSA with the encoders that it was trained on."""

    hears = True

    def __init__(self, name: str, vlsa: VLSA, device: torch.device | None = None) -> None:
        """Load the encoders; HeadError when they are not those that the head was trained on."""
        self.name, self.vlsa = name, vlsa
        self.device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
        vlsa.to(self.device).eval()
        self.fingerprint = fingerprint(vlsa.state_dict())
        self.width, self.frames = vlsa.config.width, vlsa.config.frames
        self.window_s, self.threshold = vlsa.config.window_s, vlsa.config.threshold
        self.shortest_s = self.window_s  # half of a clip is no clip that it has met
        self.spec = None
        if vlsa.config.kind == "features":
            self._load_encoders(vlsa.config.base, vlsa.config.base_fingerprint)
        self.size = SIDE if self.spec is None else self.spec.image_size

    def _load_encoders(self, base: str, wanted: str | None) -> None:
        folder = find_checkpoint(base)
        found = read_checkpoint(folder)
        config = found.config
        self.vision, self.audio = build_vision(config.vision), build_audio(config.audio)
        weights = found.weights()
        for prefix, encoder in (("vision.", self.vision), ("audio.", self.audio)):
            own = {n.removeprefix(prefix): w for n, w in weights.items() if n.startswith(prefix)}
            if own:  # encoders of the Hub are not in our checkpoints
                encoder.load_state_dict(own)
            encoder.to(self.device).eval().requires_grad_(False)
        parts = (("vision.", self.vision), ("audio.", self.audio))
        loaded = {f"{prefix}{n}": w for prefix, part in parts for n, w in part.state_dict().items()}
        if wanted is not None and fingerprint(loaded) != wanted:
            raise HeadError(
                f"{self.name}: was trained on other encoders than {base} has now; train it again "
                "(train/vlsa.py)"
            )
        self.spec = input_spec(self.vision, self.audio, config.vision)

    @torch.inference_mode()
    def clips(self, media: Sequence[Media]) -> list[Vectors]:
        """Embed decoded clips: what is seen, what is heard, and both together."""
        if self.spec is None:
            inputs = [pixel_clip(m).to(self.device) for m in media]
        else:
            ready = [prepare(m, self.spec).to(self.device) for m in media]
            inputs = encode(ready, self.vision, self.audio, chunk=64)
        found: Embeddings = self.vlsa.embed_clips(inputs)
        picture, sound, both = (x.cpu().numpy() for x in found[:3])
        seen, heard = found.seen.tolist(), found.heard.tolist()
        return [
            Vectors(
                picture[k] if seen[k] else None,
                sound[k] if heard[k] else None,
                both[k] if seen[k] or heard[k] else None,
            )
            for k in range(len(media))
        ]

    def texts(self, texts: Sequence[str]) -> np.ndarray:
        """Embed texts: unit vectors, float32 [N, D]."""
        return self.vlsa.embed_texts(texts).cpu().numpy()


class SiglipHead:
    """SigLIP's own two towers: picture search with public weights alone. It hears nothing.

    The vector of a clip is the mean of its frames' unit vectors, made a unit vector again.
    """

    hears = False
    window_s, shortest_s = 8.0, 2.0  # it sees frame by frame: our choice
    threshold = None  # depends on the weights, and these are anyone's

    def __init__(self, name: str = SIGLIP) -> None:
        """Load a SigLIP of the published form from a folder or the Hub; HeadError if there is none.

        Both generations with a fixed picture size are read: SigLIP and SigLIP 2.
        """
        folder = find_folder(name)
        check_folder(name, folder)
        try:
            with quietly():
                model = SiglipModel.from_pretrained(folder, dtype=torch.float32)
                self.tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
        except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
            said = str(error).strip().splitlines() or [type(error).__name__]
            raise HeadError(f"{name}: this SigLIP cannot be loaded ({said[0][:200]})") from error
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model = model.to(self.device).eval()
        self.name, self.frames = name, SIGLIP_FRAMES
        self.size = model.config.vision_config.image_size
        self.width = model.config.vision_config.hidden_size
        self.max_tokens = model.config.text_config.max_position_embeddings
        said = [folder / "config.json", folder / "tokenizer.json"]
        self.fingerprint = sha256_of([*folder.glob("*.safetensors"), *said])[:FINGERPRINT_DIGITS]

    @torch.inference_mode()
    def clips(self, media: Sequence[Media]) -> list[Vectors]:
        """Give each clip the vector of its picture; a clip without one has none at all."""
        spec = InputSpec(self.size, "stretch", "bicubic", num_mels=0, window_states=0)
        frames = [preprocess_frames(clip.frames, spec) for clip in media if len(clip.frames)]
        if not frames:
            return [Vectors(None, None, None) for _ in media]
        pieces = torch.cat(frames).split(CHUNK)
        rows = torch.cat([self._see(piece) for piece in pieces]).split([len(f) for f in frames])
        means = iter(F.normalize(row.mean(dim=0), dim=-1).cpu().numpy() for row in rows)
        seen = [next(means) if len(clip.frames) else None for clip in media]
        return [Vectors(vector, None, vector) for vector in seen]

    def _see(self, pixels: Tensor) -> Tensor:
        """Give frames [T, C, size, size] unit vectors [T, D]."""
        states = self.model.vision_model(pixel_values=pixels.to(self.device))
        return F.normalize(states.pooler_output, dim=-1)

    @torch.inference_mode()
    def texts(self, texts: Sequence[str]) -> np.ndarray:
        """Give each text its vector, float32 [N, D] of unit length."""
        rows = torch.tensor([self.ids(text) for text in texts], device=self.device)
        pieces = [
            self.model.text_model(input_ids=piece).pooler_output for piece in rows.split(CHUNK)
        ]
        return F.normalize(torch.cat(pieces), dim=-1).cpu().numpy()

    def ids(self, text: str) -> list[int]:
        """Turn a text into ids, cut or padded to [L] as SigLIP was trained: without a mask."""
        ids = self.tokenizer(canonical(text), add_special_tokens=False)["input_ids"]
        ids = [*ids[: self.max_tokens - 1], self.tokenizer.eos_token_id]
        return ids + [self.tokenizer.pad_token_id] * (self.max_tokens - len(ids))


@contextmanager
def quietly() -> Iterator[None]:
    """Keep transformers from talking while it loads: published SigLIPs have it warn of ids that
    nobody uses.
    """
    level, shown = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if shown:
            logging.enable_progress_bar()


def canonical(text: str) -> str:
    """Write a text as SigLIP's tokenizer does before it cuts it: lower case, no punctuation."""
    bare = text.lower().translate(str.maketrans("", "", string.punctuation))
    return re.sub(r"\s+", " ", bare).strip()


def find_folder(name: str) -> Path:
    """Find a SigLIP's folder, downloading it from the Hub if needed; HeadError where it cannot."""
    if Path(name).is_dir():
        return Path(name)
    reason = "there is none on the Hub"
    if name.count("/") == 1:
        try:
            return Path(snapshot_download(name, allow_patterns=SIGLIP_FILES))
        except (RepositoryNotFoundError, HFValidationError):
            pass  # the reason above is the true one
        except OSError as error:
            reason = f"the Hub could not be asked ({type(error).__name__}); hf download {name}"
    raise HeadError(f"no SigLIP called {name}: no such folder, and {reason}")


def check_folder(name: str, folder: Path) -> None:
    """Raise HeadError unless a folder holds a SigLIP with its tokenizer."""
    for file in ("config.json", "tokenizer.json"):
        if not (folder / file).is_file():
            raise HeadError(f"{name}: no SigLIP here ({file} is missing)")
    if not any(folder.glob("*.safetensors")):
        raise HeadError(f"{name}: no SigLIP here (its weights, model.safetensors, are missing)")
    try:
        kind = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type")
    except (ValueError, AttributeError) as error:
        raise HeadError(f"{name}: its config.json cannot be read") from error
    if kind != "siglip":
        raise HeadError(f"{name}: a model of type {kind}, not a SigLIP")


def sha256_of(paths: Iterable[Path]) -> str:
    """Hash files by their bytes, in the order of their names; hexadecimal."""
    digest = hashlib.sha256()
    for path in sorted(paths):
        with path.open("rb") as file:
            while piece := file.read(1 << 20):
                digest.update(piece)
    return digest.hexdigest()
