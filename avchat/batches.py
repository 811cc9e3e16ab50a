"""Samples of manifests -> batches by number, for the user's own data.

Each epoch is a fresh shuffle in which every sample comes once. Rows are cut from one endless
stream, so micro-batch k of size b holds rows k * b to (k + 1) * b however many processes there are,
and a resumed run goes on where it stopped. Rows of a step are about equally long; packed, full.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from avchat.clip_source import NOTHING, Cached, Clip, Decoded, Unusable
from avchat.collate import Batch, collate
from avchat.data import DataError, Sample
from avchat.encoders import Inputs, Sense, lacking
from avchat.model import AVChat
from avchat.packing import fill_rows, group_alike
from avchat.prompt import Packed, PromptError, check_budget, join_rows
from avchat.run_log import Counts

NO_CLIP = Inputs(None, None, 0, (), 0.0, 0.0)
Row = list[tuple[int, Sense]]  # samples by number, each with the sense it is trained in


@dataclass(frozen=True)
class Layout:
    """How samples become rows."""

    group: int = 1  # rows of an optimiser step, over all processes
    pack: int = 0  # tokens of a packed row; 0: a row a sample
    sound_only: float = 0.0  # how often a sample of both senses is trained with its sound alone
    picture_only: float = 0.0
    shuffle: bool = True
    seed: int = 0


class Batches:
    """Batches by number over samples; those that cannot be used are left out and listed."""

    def __init__(
        self,
        model: AVChat,
        samples: Sequence[Sample],
        source: Cached | Decoded,
        layout: Layout,
        *,
        skip_bad: bool = False,
    ) -> None:
        """Look at every sample once.

        Args: skip_bad: leave out what cannot be used, and list it in `skipped`.

        Raises:
            DataError: a sample cannot be used (the first, and how many more), or none can.
        """
        self.model, self.source, self.layout, self.skip_bad = model, source, layout, skip_bad
        self.skipped: dict[str, str] = {}  # sample -> why
        self._lengths: dict[tuple[int, Sense], int] = {}
        self._epochs: dict[int, list[Row]] = {}  # the two newest
        self._starts = [0]  # rows before each epoch
        self.samples: list[Sample] = []
        self._clips: list[Clip] = []  # without tensors
        for sample in samples:
            self._admit(sample)
        if self.skipped and (not skip_bad or not self.samples):
            name, reason = next(iter(self.skipped.items()))
            more = f" (and {len(self.skipped) - 1} more)" if len(self.skipped) > 1 else ""
            way = "none is left" if skip_bad else "--skip-bad trains on the others"
            raise DataError(f"sample {name}: {reason}{more}; {way}")

    def _admit(self, sample: Sample) -> None:
        """Take a sample whose clip is there and that fits the model's context."""
        try:
            clip = NOTHING if sample.media is None else self.source.times(sample)
            if sample.media is not None and (
                lack := lacking(clip.frame_times_s, clip.num_states, sample.sense)
            ):
                raise Unusable(f"{sample.media.name}: no {lack}, and the sample is about it alone")
            self._row(sample, clip.only(sample.sense))
        except (Unusable, PromptError) as error:
            self.skipped[sample.id] = str(error)
            return
        self.samples.append(sample)
        self._clips.append(clip)

    def _row(self, sample: Sample, clip: Clip) -> Packed:
        """Lay out a sample's conversation. Raises PromptError where it is too long."""
        slots = None if sample.media is None else self.model.plan(clip)
        row = self.model.prompt.build(slots, sample.turns)
        check_budget(row.ids, self.model.context, question=False)
        return row

    def senses(self) -> set[str]:
        """Tell what there is to learn from: sound, picture, both or neither."""
        pairs = zip(self.samples, self._clips, strict=True)
        clips = [clip.only(sample.sense) for sample, clip in pairs]
        found = {"sound"} if any(clip.num_states for clip in clips) else set()
        return found | ({"picture"} if any(clip.frame_times_s for clip in clips) else set())

    def steps(self, epochs: float) -> int:
        """Count the optimiser steps of so many epochs."""
        whole = int(epochs)
        rows = self._start(whole) + (epochs - whole) * len(self._rows(whole))
        return max(1, -int(-rows // self.layout.group))

    def __len__(self) -> int:
        """Return the number of rows of the first epoch."""
        return len(self._rows(0))

    def at(self, number: int, size: int) -> tuple[Batch, Counts]:
        """Make micro-batch `number` of `size` rows; where rows are not shuffled, the last is
        shorter.
        """
        places = range(number * size, (number + 1) * size)
        if not self.layout.shuffle:
            places = places[: max(len(self) - number * size, 0)]
        return self._batch([self._row_at(place) for place in places])

    def _row_at(self, place: int) -> Row:
        """Find a row of the endless stream."""
        if not self.layout.shuffle:
            return self._rows(0)[place]
        while place >= self._starts[-1]:
            self._start(len(self._starts))
        epoch = int(np.searchsorted(self._starts, place, side="right")) - 1
        return self._rows(epoch)[place - self._starts[epoch]]

    def _start(self, epoch: int) -> int:
        """Count the rows before an epoch."""
        while len(self._starts) <= epoch:
            self._starts.append(self._starts[-1] + len(self._rows(len(self._starts) - 1)))
        return self._starts[epoch]

    def _rows(self, epoch: int) -> list[Row]:
        """Lay out the rows of an epoch."""
        if epoch not in self._epochs:
            if len(self._epochs) > 1:
                del self._epochs[min(self._epochs)]
            self._epochs[epoch] = self._lay_out(epoch)
        return self._epochs[epoch]

    def _lay_out(self, epoch: int) -> list[Row]:
        layout = self.layout
        rng = np.random.default_rng([layout.seed, epoch])
        senses = [self._sense(k, draw) for k, draw in enumerate(rng.random(len(self.samples)))]
        lengths = [self._length(k, sense) for k, sense in enumerate(senses)]
        if layout.pack:
            mixed = rng if layout.shuffle else None
            rows = fill_rows(lengths, min(layout.pack, self.model.context), mixed)
            order = rng.permutation(len(rows)) if layout.shuffle else range(len(rows))
            return [[(item, senses[item]) for item in rows[k]] for k in order]
        if layout.shuffle:
            # stretches no longer than an epoch: a sample hardly meets itself in a step
            mix = max(1, min(16, len(lengths) // layout.group))
            shuffled = rng.permutation(len(lengths)).tolist()
            order = group_alike(lengths, shuffled, layout.group, rng, mix)
        else:
            order = sorted(range(len(lengths)), key=lambda k: lengths[k])
        return [[(item, senses[item])] for item in order]

    def _sense(self, k: int, draw: float) -> Sense:
        """Choose the sense that a sample is trained in: its own, or one of both by chance."""
        sense, clip = self.samples[k].sense, self._clips[k]
        if sense != "both" or not (clip.frame_times_s and clip.num_states):
            return sense
        if draw < self.layout.sound_only:
            return "sound"
        return "picture" if draw < self.layout.sound_only + self.layout.picture_only else "both"

    def _length(self, k: int, sense: Sense) -> int:
        if (k, sense) not in self._lengths:
            row = self._row(self.samples[k], self._clips[k].only(sense))
            self._lengths[k, sense] = len(row.ids)
        return self._lengths[k, sense]

    def _batch(self, rows: list[Row]) -> tuple[Batch, Counts]:
        wanted = [item for row in rows for item in row]
        with_clip = [k for k, _ in wanted if self.samples[k].media is not None]
        found = iter(self.source.clips([self.samples[k] for k in with_clip]))
        packed, clips = [], []
        for row in rows:
            parts = []
            for k, sense in row:
                sample = self.samples[k]
                clip = self._nothing() if sample.media is None else next(found)
                part, clip = self._part(sample, sense, clip)
                parts.append(part)
                clips.append(clip)
            packed.append(parts[0] if len(parts) == 1 else join_rows(parts))
        batch = collate(packed, clips)
        tokens = sum(len(row.ids) for row in packed)
        return batch, Counts(len(wanted), tokens, batch.ids.numel())

    def _part(self, sample: Sample, sense: Sense, clip: Clip | Unusable) -> tuple[Packed, Clip]:
        """Lay out a sample with its clip; where it fails now, its words with no weight, which
        train nothing.
        """
        try:
            if isinstance(clip, Unusable):
                raise clip
            clip = clip.only(sense)
            return self._row(sample, clip), clip
        except (Unusable, PromptError) as error:
            if not self.skip_bad:
                raise DataError(
                    f"sample {sample.id}: {error}; --skip-bad trains on the others"
                ) from error
            self.skipped[sample.id] = str(error)
            row = self.model.prompt.build(None, sample.turns[:1])
            return replace(row, weights=(0.0,) * len(row.weights)), self._nothing()

    def _nothing(self) -> Clip:
        """Return the clip of a sample without one, of the kind that the others are."""
        learn = isinstance(self.source, Decoded) and self.source.encoders_learn
        return NO_CLIP if learn else NOTHING
