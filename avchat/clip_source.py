"""Where a sample's clip comes from while a model is trained: the cache of frozen features, or its
file, decoded each time it is wanted.

Both say beforehand how long a clip is in tokens (`times`), and give a clip or the reason why not.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import torch

from avchat.data import Sample
from avchat.encoders import STATES_HZ, Inputs
from avchat.features import FeatureCache, Part, part_of
from avchat.media import MediaError, load_media, probe
from avchat.model import AVChat
from avchat.projectors import PooledFeatures

Clip = Inputs | PooledFeatures
NOTHING = PooledFeatures(None, None, None, (), 0, 0.0, 0.0)
UNTOLD_S = 10.0  # taken as the length of a file that does not tell its own


class Unusable(Exception):
    """A clip that cannot be had; the message says why."""


@dataclass(frozen=True)
class Cached:
    """Clips out of the cache: exact lengths, no decoding, no encoding."""

    cache: FeatureCache

    def times(self, sample: Sample) -> Clip:
        """Return a clip without its tensors. Raises Unusable, as the cache has it."""
        part = part_of(sample)
        if reason := self.cache.fault(part):
            raise Unusable(reason)
        return self.cache.times(part)

    def clips(self, samples: Sequence[Sample]) -> list[Clip | Unusable]:
        """Give the clips of samples."""
        return [self.cache[part_of(sample)] for sample in samples]


@dataclass(frozen=True)
class Decoded:
    """Clips out of their files; encoded at once, without gradients, unless encoders are trained."""

    model: AVChat
    workers: int
    encoders_learn: bool = False
    _probed: dict[Part, Clip | Unusable] = field(default_factory=dict)

    def look(self, samples: Sequence[Sample], progress: Callable[[int, int], None]) -> None:
        """Open the files of samples, many at a time, so that `times` knows them."""
        parts = list(dict.fromkeys(part_of(s) for s in samples if s.media is not None))
        with ThreadPoolExecutor(self.workers) as pool:
            for done, (part, found) in enumerate(
                zip(parts, pool.map(self._estimate, parts), strict=True), 1
            ):
                self._probed[part] = found
                progress(done, len(parts))

    def times(self, sample: Sample) -> Clip:
        """Return a clip without its tensors, as its file describes itself: a frame too many is
        possible. Raises Unusable where the file cannot be opened.
        """
        found = self._probed[part_of(sample)]
        if isinstance(found, Unusable):
            raise found
        return found

    def _estimate(self, part: Part) -> Clip | Unusable:
        try:
            info = probe(part.path)
        except MediaError as error:
            return Unusable(str(error))
        start = part.start_s or 0.0
        end = info.duration_s or start + UNTOLD_S
        end = end if part.end_s is None else min(part.end_s, end)
        length = max(end - start, 0.0)
        frames = self.model.config.frames if info.has_video and not info.is_still else 1
        frames = frames if info.has_video else 0
        times = tuple(start + length * (k + 0.5) / frames for k in range(frames))
        states = round(length * STATES_HZ) if info.has_audio else 0
        return PooledFeatures(None, None, None, times, states, start, length)

    def clips(self, samples: Sequence[Sample]) -> list[Clip | Unusable]:
        """Decode the clips of samples; those that can be are encoded together."""
        with ThreadPoolExecutor(self.workers) as pool:
            found = list(pool.map(self._decode, samples))
        if self.encoders_learn:
            return found
        whole = [clip for clip in found if isinstance(clip, Inputs)]
        with torch.no_grad():
            pooled = iter(self.model.pool(self.model.encode(whole)) if whole else [])
        return [next(pooled) if isinstance(clip, Inputs) else clip for clip in found]

    def _decode(self, sample: Sample) -> Inputs | Unusable:
        part = part_of(sample)
        try:
            media = load_media(
                part.path,
                frames=self.model.config.frames,
                size=None,
                start=part.start_s,
                end=part.end_s,
            )
        except MediaError as error:
            return Unusable(str(error))
        return self.model.prepare(media)
