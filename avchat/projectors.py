"""Features to rows of the language model: pooling, then a two-layer MLP for each sense.

`plan` says from times alone which tokens a clip gets, so that a prompt can be laid out before
anything is encoded; `VisualProjector` and `AudioProjector` make exactly those tokens.

`pool` does the first half alone, in which no trained weight has a part, so that what frozen
encoders give can be kept; what takes `Features` takes the `PooledFeatures` of it, too.

Legend: G clips of equal shape, T frames, P patches of a frame, S audio states, N tokens, J bins,
D width.
"""

import math
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from avchat.config import ConfigError, ProjectorConfig
from avchat.encoders import STATES_HZ, Features, Inputs, Sense

CELL_STD = 0.5  # as the token embeddings of the tiny preset; must stand out beside the content
TIME_PERIODS_S = tuple(0.5 * 2.0**k for k in range(10))  # half a second to 256 s


@dataclass(frozen=True)
class Slot:
    """A run of media tokens in the sequence: its visual tokens, then its audio tokens."""

    start_s: float  # on the file's clock
    end_s: float
    time_s: float | None  # written before the tokens; None: no time is written
    visual: int
    audio: int


class Pooled(NamedTuple):
    """The pooled features of the clips that have a sense: which, their rows, the rows' times."""

    present: list[int]
    rows: list[Tensor]  # [N, D in] each
    times_s: list[Tensor]  # [N] each, since the start of the part


@dataclass(frozen=True)
class PooledFeatures:
    """What the projectors' MLPs get of one clip: pooled, before any trained weight.

    How the sound is cut depends on the frames beside it, so both cuts are kept.
    """

    visual: Tensor | None  # [N, D in] rows of VisualProjector.rows
    audio: Tensor | None  # [N, D in] rows of AudioProjector.rows, by the slots of the whole clip
    audio_alone: Tensor | None  # [N', D in] by those of the sound alone; None: as `audio`
    frame_times_s: tuple[float, ...]  # on the file's clock
    num_states: int
    start_s: float
    duration_s: float

    def only(self, sense: Sense) -> "PooledFeatures":
        """Return this clip without the sense that is switched off: what pooling it without would
        give.
        """
        clip = self
        if sense not in ("both", "picture"):
            audio = self.audio if self.audio_alone is None else self.audio_alone
            clip = replace(self, visual=None, frame_times_s=(), audio=audio, audio_alone=None)
        if sense not in ("both", "sound"):
            clip = replace(clip, audio=None, audio_alone=None, num_states=0)
        return clip

    def to(self, device: torch.device | str) -> "PooledFeatures":
        """Return this clip on a device."""
        names = ("visual", "audio", "audio_alone")
        held = {name: value for name in names if (value := self.__dict__[name]) is not None}
        return replace(self, **{name: value.to(device) for name, value in held.items()})


Encoded = list[Features] | list[PooledFeatures]


@dataclass(frozen=True)
class MediaTokens:
    """The projected tokens of one clip, each sense in the order of the slots."""

    visual: Tensor  # [N, D]; N is 0 where nothing is seen
    audio: Tensor  # [N, D]
    slots: tuple[Slot, ...]


def plan(
    clip: Inputs | Features | PooledFeatures,
    config: ProjectorConfig,
    frames: int,
    num_patches: int,
) -> tuple[Slot, ...]:
    """Lay out a clip's tokens.

    Args: frames: slots of a clip without a picture; num_patches: patches of one encoded frame.
    """
    if not clip.frame_times_s and not clip.num_states:
        return ()
    if config.layout == "timeline":
        return _plan_timeline(clip, config, frames)
    end_s = clip.start_s + clip.duration_s
    num_frames = len(clip.frame_times_s)
    # a still picture has its patches alone, as Bunny was taught (our choice: P1 speaks of video)
    seen = num_patches + (num_frames if num_frames > 1 else 0) if num_frames else 0
    visual = Slot(clip.start_s, end_s, None, seen, 0)
    audio = Slot(clip.start_s, end_s, None, 0, config.audio_tokens if clip.num_states else 0)
    return visual, audio


def _plan_timeline(
    clip: Inputs | Features | PooledFeatures, config: ProjectorConfig, frames: int
) -> tuple[Slot, ...]:
    """Give each frame the slot between the midpoints to its neighbours.

    Without a picture, or with one still picture beside a sound track, the part is cut in `frames`
    equal slots. So it is cut when frames repeat (a file with fewer frames than were asked for).
    """
    times, num_frames = clip.frame_times_s, len(clip.frame_times_s)
    start_s, end_s = clip.start_s, clip.start_s + clip.duration_s
    num_slots = num_frames if num_frames > 1 or not clip.num_states else frames
    rising = all(later > earlier for earlier, later in zip(times, times[1:], strict=False))
    if num_slots == num_frames and rising:
        middles = [(a + b) / 2 for a, b in zip(times, times[1:], strict=False)]
        edges = [start_s, *(min(max(middle, start_s), end_s) for middle in middles), end_s]
        centres = list(times)
    else:
        edges = [start_s + clip.duration_s * k / num_slots for k in range(num_slots + 1)]
        centres = [(a + b) / 2 for a, b in zip(edges, edges[1:], strict=False)]
    audio = config.audio_tokens if clip.num_states else 0
    return tuple(
        Slot(edges[k], edges[k + 1], centres[k], config.grid**2 if k < num_frames else 0, audio)
        for k in range(num_slots)
    )


def bin_means(states: Tensor, edges: Tensor) -> Tensor:
    """Average states over bins with fractional edges, [..., S, D] -> [..., J, D].

    Args: edges: [J + 1], rising, in states; what lies outside 0..S counts as absent. A bin without
    any state is zero.
    """
    num_states = states.shape[-2]
    # float64: a running sum over hours of sound loses small differences (Apple GPUs have no such)
    exact = torch.float32 if states.device.type == "mps" else torch.float64
    edges = edges.clamp(0, num_states).to(states.device, exact)
    values = states.to(exact)
    sums = F.pad(values.cumsum(-2), (0, 0, 1, 0))  # [..., S + 1, D]
    whole = edges.floor().long().clamp(max=num_states - 1)
    part = (edges - whole)[:, None]
    integral = sums[..., whole, :] + part * values[..., whole, :]  # [..., J + 1, D]
    widths = edges.diff()[:, None]
    means = integral.diff(dim=-2) / widths.clamp(min=1e-9)
    return torch.where(widths > 0, means, 0.0).to(states.dtype)


def time_features(times_s: Tensor) -> Tensor:
    """Describe times by sines and cosines of fixed periods, [N] -> [N, 2 * periods]."""
    periods = torch.tensor(TIME_PERIODS_S, device=times_s.device)
    angles = 2 * math.pi * times_s[:, None] / periods
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


def slot_edges(slots: tuple[Slot, ...], parts: int) -> Tensor:
    """Cut each slot in equal parts; return all edges in seconds, [slots * parts + 1]."""
    starts = torch.tensor([slot.start_s for slot in slots], dtype=torch.float64)
    ends = torch.tensor([slot.end_s for slot in slots], dtype=torch.float64)
    steps = torch.arange(parts, dtype=torch.float64) / parts
    inner = starts[:, None] + (ends - starts)[:, None] * steps
    return torch.cat([inner.flatten(), ends[-1:]])


class Mlp(nn.Module):
    """Linear, exact GELU, Linear (LLaVA's mlp2x_gelu), with an optional norm and time in front.

    Under DeepSpeed's ZeRO-3 a weight is empty outside of the forward of the module that owns it:
    sizes come from that module, of the weight are asked dtype and device alone.
    """

    def __init__(self, config: ProjectorConfig, width_in: int, width_out: int) -> None:
        super().__init__()
        hidden = config.hidden or width_out
        self.norm = nn.LayerNorm(width_in) if config.input_norm else nn.Identity()
        self.mlp = nn.Sequential(
            nn.Linear(width_in, hidden), nn.GELU(), nn.Linear(hidden, width_out)
        )
        self.output_norm = nn.LayerNorm(width_out) if config.output_norm else nn.Identity()
        self.time = None
        if config.time_embedding:
            self.time = nn.Linear(2 * len(TIME_PERIODS_S), width_out)

    def forward(self, rows: Tensor, times_s: Tensor) -> Tensor:
        """Project pooled rows [N, D in] with their centre times [N] to tokens [N, D out]."""
        return self.content(rows) + self.position(times_s)

    def content(self, rows: Tensor) -> Tensor:
        """Project pooled rows [..., D in] without their times."""
        return self.output_norm(self.mlp(self.norm(rows.to(self.mlp[0].weight.dtype))))

    def position(self, times_s: Tensor) -> Tensor:
        """Embed centre times [N] -> [N, D out]; zeros where times are not used."""
        weight, width = self.mlp[-1].weight, self.mlp[-1].out_features
        if self.time is None:
            return torch.zeros(len(times_s), width, dtype=weight.dtype, device=weight.device)
        times = time_features(times_s.to(weight.device, torch.float32))
        return self.time(times.to(weight.dtype))


class VisualProjector(nn.Module):
    """Patch features to visual tokens."""

    def __init__(
        self, config: ProjectorConfig, width_in: int, width_out: int, num_patches: int
    ) -> None:
        super().__init__()
        self.config, self.width_out = config, width_out
        self.side = math.isqrt(num_patches)
        stacked = 1
        if config.layout == "timeline" and config.patches == "stack":
            if self.side % config.grid:
                raise ConfigError(f"config: {self.side} patches a side, grid {config.grid}")
            stacked = (self.side // config.grid) ** 2
        self.mlp = Mlp(config, width_in * stacked, width_out)
        self.cells = None
        if config.cell_embedding:
            self.cells = nn.Parameter(CELL_STD * torch.randn(config.grid**2, width_out))

    def forward(self, clips: Encoded, slots: list[tuple[Slot, ...]]) -> list[Tensor]:
        """Project each clip's frames to tokens [N, D]; N is 0 for a clip that is not seen."""
        seen, pooled, times = self.rows(clips, slots)
        tokens = _project(self.mlp, len(clips), seen, pooled, times)
        return tokens if self.cells is None else [t + self.cells_of(len(t)) for t in tokens]

    def rows(self, clips: Encoded, slots: list[tuple[Slot, ...]]) -> Pooled:
        """Pool the frames of the clips that are seen, without projecting them."""
        seen = [k for k, clip in enumerate(clips) if clip.visual is not None]
        pooled = _ready(clips, seen, "visual") or _in_groups(
            seen, lambda k: clips[k].visual.shape, lambda g: self._pool(_stack(clips, g, "visual"))
        )
        return Pooled(seen, pooled, [self._times(clips[k], slots[k]) for k in seen])

    def cells_of(self, num_tokens: int) -> Tensor:
        """Repeat the vectors of the cells [N, D]: row by row in a frame, frame after frame."""
        return self.cells.repeat(num_tokens // self.config.grid**2, 1)

    def _pool(self, visual: Tensor) -> Tensor:
        """Pool [G, T, P, D] to [G, N, D']."""
        if self.config.layout == "pooled":
            # Video-ChatGPT: one average a frame, then one average a patch
            frames = visual.mean(2) if visual.shape[1] > 1 else visual[:, 0, :0]
            return torch.cat([frames, visual.mean(1)], dim=1)
        clips, frames, _, width = visual.shape
        grid, cell = self.config.grid, self.side // self.config.grid
        if self.config.patches == "stack":
            cells = visual.view(clips, frames, grid, cell, grid, cell, width)
            cells = cells.permute(0, 1, 2, 4, 3, 5, 6)  # G T gridY gridX cellY cellX D
            return cells.reshape(clips, frames * grid * grid, cell * cell * width)
        maps = visual.view(clips * frames, self.side, self.side, width).permute(0, 3, 1, 2)
        maps = F.adaptive_avg_pool2d(maps, grid)  # [G * T, D, grid, grid]
        return maps.flatten(2).transpose(1, 2).reshape(clips, frames * grid * grid, width)

    def _times(self, clip: Features | PooledFeatures, slots: tuple[Slot, ...]) -> Tensor:
        """Return each token's time since the start of the part (zeros where none is used)."""
        times = [clip.start_s if slot.time_s is None else slot.time_s for slot in slots]
        counts = torch.tensor([slot.visual for slot in slots])
        return (torch.tensor(times, dtype=torch.float64) - clip.start_s).repeat_interleave(counts)


class AudioProjector(nn.Module):
    """Whisper states to audio tokens."""

    def __init__(self, config: ProjectorConfig, width_in: int, width_out: int) -> None:
        super().__init__()
        self.config, self.width_out = config, width_out
        self.mlp = Mlp(config, width_in * config.audio_bins, width_out)

    def forward(self, clips: Encoded, slots: list[tuple[Slot, ...]]) -> list[Tensor]:
        """Project each clip's states to tokens [N, D]; N is 0 for a clip that is not heard."""
        return _project(self.mlp, len(clips), *self.rows(clips, slots))

    def rows(self, clips: Encoded, slots: list[tuple[Slot, ...]]) -> Pooled:
        """Pool the states of the clips that are heard, without projecting them."""
        heard = [k for k, clip in enumerate(clips) if clip.audio is not None]
        pooled = _ready(clips, heard, "audio") or _in_groups(
            heard,
            lambda k: (clips[k].audio.shape, slots[k], clips[k].start_s),
            lambda g: self._pool(_stack(clips, g, "audio"), slots[g[0]], clips[g[0]].start_s),
        )
        return Pooled(heard, pooled, [self._times(clips[k], slots[k]) for k in heard])

    def _pool(self, states: Tensor, slots: tuple[Slot, ...], start_s: float) -> Tensor:
        """Pool states [G, S, D] to tokens of stacked bins [G, N, bins * D]."""
        bins = self.config.audio_bins
        if self.config.layout == "pooled":
            parts = self.config.audio_tokens * bins
            means = F.adaptive_avg_pool1d(states.transpose(1, 2), parts).transpose(1, 2)
        else:
            edges_s = slot_edges(slots, self.config.audio_tokens * bins)
            means = bin_means(states, (edges_s - start_s) * STATES_HZ)
        return means.reshape(len(states), -1, bins * states.shape[-1])

    def _times(self, clip: Features | PooledFeatures, slots: tuple[Slot, ...]) -> Tensor:
        """Return each token's centre since the start of the part (zeros for pooled)."""
        if self.config.layout == "pooled":
            return torch.zeros(self.config.audio_tokens, dtype=torch.float64)
        edges = slot_edges(slots, self.config.audio_tokens) - clip.start_s
        return (edges[1:] + edges[:-1]) / 2


def pool(
    clips: list[Features], visual: VisualProjector, audio: AudioProjector, frames: int
) -> list[PooledFeatures]:
    """Pool clips, as `project` does before its MLPs."""
    alone = [clip.only("sound") for clip in clips]
    slots, slots_alone = (
        [plan(clip, visual.config, frames, visual.side**2) for clip in some]
        for some in (clips, alone)
    )
    seen, heard = visual.rows(clips, slots), audio.rows(clips, slots)
    timeline = visual.config.layout == "timeline"  # `pooled` cuts the sound alike in any case
    cut = [k for k in heard.present if timeline and _cuts(slots[k]) != _cuts(slots_alone[k])]
    heard_alone = audio.rows([alone[k] for k in cut], [slots_alone[k] for k in cut])
    rows = (
        dict(zip(seen.present, seen.rows, strict=True)),
        dict(zip(heard.present, heard.rows, strict=True)),
        dict(zip(cut, heard_alone.rows, strict=True)),
    )
    return [
        PooledFeatures(
            *(found.get(k) for found in rows),
            clip.frame_times_s,
            clip.num_states,
            clip.start_s,
            clip.duration_s,
        )
        for k, clip in enumerate(clips)
    ]


def _cuts(slots: tuple[Slot, ...]) -> list[tuple[float, float]]:
    return [(slot.start_s, slot.end_s) for slot in slots]


def project(
    clips: Encoded, visual: VisualProjector, audio: AudioProjector, frames: int
) -> list[MediaTokens]:
    """Project clips to media tokens: one MLP call a sense for all clips."""
    slots = [plan(clip, visual.config, frames, visual.side**2) for clip in clips]
    rows = zip(visual(clips, slots), audio(clips, slots), slots, strict=True)
    return [MediaTokens(*row) for row in rows]


def _stack(clips: list[Features], group: list[int], sense: str) -> Tensor:
    return torch.stack([clips[k].visual if sense == "visual" else clips[k].audio for k in group])


def _ready(clips: Encoded, indices: list[int], sense: str) -> list[Tensor]:
    """Take the rows of clips that are pooled already; none of others."""
    chosen = [clips[k] for k in indices]
    return [
        clip.visual if sense == "visual" else clip.audio
        for clip in chosen
        if isinstance(clip, PooledFeatures)
    ]


def _in_groups(
    indices: list[int], key: Callable[[int], object], pool: Callable[[list[int]], Tensor]
) -> list[Tensor]:
    """Pool clips of equal shape and times in one go; return the pooled rows in index order."""
    groups: dict[object, list[int]] = defaultdict(list)
    for k in indices:
        groups[key(k)].append(k)
    pooled = {}
    for group in groups.values():
        pooled.update(zip(group, pool(group), strict=True))
    return [pooled[k] for k in indices]


def _project(
    mlp: Mlp, num_clips: int, present: list[int], pooled: list[Tensor], times: list[Tensor]
) -> list[Tensor]:
    """Run the MLP once over the rows of all clips that have any, and deal the tokens out.

    It runs on no rows too: each rank of a distributed run must touch the same parameters.
    """
    first = mlp.mlp[0]
    no_rows = [torch.zeros(0, first.in_features, device=first.weight.device)]
    pooled = [rows.to(no_rows[0].dtype) for rows in pooled]  # bf16's autocast takes no fp16
    tokens = mlp(torch.cat(pooled or no_rows), torch.cat(times or [torch.zeros(0)]))
    dealt = dict(zip(present, tokens.split([len(rows) for rows in pooled] or [0]), strict=False))
    return [dealt.get(k, tokens[:0]) for k in range(num_clips)]
