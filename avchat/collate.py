"""Rows and clips -> one padded batch, and the attention mask of rows that hold several samples.

Legend: B rows, L tokens of a row, C trained columns.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from avchat.encoders import Inputs
from avchat.projectors import Encoded
from avchat.prompt import IGNORE, Packed

PAD_BLOCK = -1


@dataclass(frozen=True)
class Batch:
    """Rows padded on the right. `blocks` and `positions` are None where all rows are causal."""

    clips: list[Inputs] | Encoded  # in the order of the rows, which may hold several or none
    ids: Tensor  # [B, L]; below zero: placeholders
    labels: Tensor  # [B, L], not shifted
    weights: Tensor  # [B, L], of the labels in the loss
    columns: Tensor  # [C] columns whose next token is trained in some row
    blocks: Tensor | None = None  # [B, L]
    positions: Tensor | None = None  # [B, L]

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "Batch":
        """Return this batch on a device (accelerate calls it with `non_blocking`)."""
        names = ("ids", "labels", "weights", "columns", "blocks", "positions")
        tensors = {name: self.__dict__[name] for name in names}
        moved = {
            name: None if value is None else value.to(device, non_blocking=non_blocking)
            for name, value in tensors.items()
        }
        return replace(self, clips=[clip.to(device) for clip in self.clips], **moved)

    @property
    def supervised(self) -> float:
        """Sum the weights of the trained tokens: what a step's loss is divided by."""
        return float((self.weights * (self.labels != IGNORE)).sum())


def collate(rows: Sequence[Packed], clips: list[Inputs] | Encoded) -> Batch:
    """Pad packed rows on the right and join them with their clips, in the order of the rows."""
    labels = _pad([row.labels for row in rows], IGNORE)
    blocks = positions = None
    if any(row.blocks is not None for row in rows):
        blocks = _pad([row.blocks or (0,) * len(row.ids) for row in rows], PAD_BLOCK)
        positions = _pad([row.positions or tuple(range(len(row.ids))) for row in rows], 0)
    return Batch(
        clips=clips,
        ids=_pad([row.ids for row in rows], 0),
        labels=labels,
        weights=_pad([row.weights for row in rows], 0.0),
        columns=(labels[:, 1:] != IGNORE).any(0).nonzero().squeeze(1),
        blocks=blocks,
        positions=positions,
    )


def _pad(rows: Sequence[tuple], value: float) -> Tensor:
    width = max(len(row) for row in rows)
    return torch.tensor([[*row, *(value,) * (width - len(row))] for row in rows])


def block_mask(
    blocks: Tensor,
    dtype: torch.dtype,
    positions: Tensor | None = None,
    window: int | None = None,
) -> Tensor:
    """Turn blocks [B, L] into an additive attention mask [B, 1, L, L].

    A token sees what stands before it in its own block and in block 0. Each sees itself, so that no
    row of the softmax is empty. Args: positions [B, L], window: of a language model that sees only
    so many tokens back, itself included.
    """
    length = blocks.shape[1]
    before = torch.ones(length, length, dtype=torch.bool, device=blocks.device).tril()
    shared = (blocks[:, None, :] == 0) | (blocks[:, None, :] == blocks[:, :, None])  # B query key
    seen = (before & shared) | torch.eye(length, dtype=torch.bool, device=blocks.device)
    if positions is not None and window is not None:
        seen &= positions[:, :, None] - positions[:, None, :] < window
    mask = torch.zeros(seen.shape, dtype=dtype, device=blocks.device)
    return mask.masked_fill(~seen, torch.finfo(dtype).min)[:, None]
