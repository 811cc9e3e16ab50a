"""What turns clips and queries into vectors for lookup: a VLSA head.

A head holds the frozen encoders that it was trained on, and nothing of the chat model's language
model: lookup needs no more.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from avchat.config import Config, ModelError
from avchat.encoders import build_audio, build_vision, encode, input_spec, prepare
from avchat.media import Media
from avchat.patches import SIDE, pixel_clip
from avchat.saved import ASSETS, find_checkpoint, fingerprint, read_weights
from avchat.vlsa import VLSA, Embeddings

BUNDLED = ASSETS / "vlsa"


class HeadError(ModelError):
    """A head that cannot be had; the message is one line in the user's words."""


@dataclass(frozen=True)
class Vectors:
    """One clip or window as unit vectors, float32 [D]; None where a sense is absent."""

    picture: np.ndarray | None
    sound: np.ndarray | None
    both: np.ndarray | None  # of what is there


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
        self.threshold = vlsa.config.threshold
        self.spec = None
        if vlsa.config.kind == "features":
            self._load_encoders(vlsa.config.base, vlsa.config.base_fingerprint)
        self.size = SIDE if self.spec is None else self.spec.image_size

    def _load_encoders(self, base: str, wanted: str | None) -> None:
        folder = find_checkpoint(base)
        config = Config.load(folder)
        self.vision, self.audio = build_vision(config.vision), build_audio(config.audio)
        weights = read_weights(folder)
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


def load_head(name: str) -> VlsaHead:
    """Load a head: "tiny" for the bundled one, or the folder of one; HeadError when it cannot."""
    folder = BUNDLED if name == "tiny" else find_checkpoint(name)
    if name == "tiny" and not folder.is_dir():
        raise HeadError("the bundled lookup head is not in this package: make it with `make tiny`")
    return VlsaHead(name, VLSA.from_pretrained(folder))
