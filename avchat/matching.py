"""The global losses of VLSA: which sound, picture and text belong together (P2, Eq. 7 to 9).

Negatives are the other rows of the batch on all ranks. Each rank computes the losses of its own
rows against everybody's, as sums; gradients flow back to the rank that a row came from. So the sum
over ranks is the loss of one process with the whole batch.

Legend: B rows of this rank, G rows of all ranks, D width.
"""

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

NEVER = -1e9  # a logit that takes no part; infinities would make NaN where a row has no partner


def gather(rows: Tensor) -> Tensor:
    """Join the rows of all ranks [B, ...] -> [G, ...], with gradients, in the order of the
    ranks.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return rows
    if rows.is_floating_point():
        return _Gather.apply(rows)
    return _gather(rows)


class _Gather(torch.autograd.Function):
    """Gather with gradients: what all ranks ask of a row is summed on the rank that made it."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        ctx.count = len(rows)
        return _gather(rows)

    @staticmethod
    def backward(ctx: Any, grads: Tensor) -> Tensor:
        summed = grads.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(summed)
        return summed[dist.get_rank() * ctx.count :][: ctx.count]


def _gather(rows: Tensor) -> Tensor:
    parts = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, rows.contiguous())
    return torch.cat(parts)


def own_rows(count: int, device: torch.device) -> Tensor:
    """Number this rank's rows among those of all ranks [B]."""
    rank = dist.get_rank() if dist.is_available() and dist.is_initialized() else 0
    return rank * count + torch.arange(count, device=device)


def contrast(
    first: Tensor,
    second: Tensor,
    there: Tensor,
    temperature: float | Tensor,
    same: Tensor | None = None,
) -> Tensor:
    """Sum the symmetric InfoNCE of this rank's pairs (P2, Eq. 7).

    Args:
        first, second: embeddings [B, D] of any length; their cosine is what counts.
        there: [B] whether a row has both sides; others are neither asked nor offered.
        same: [B] numbers; rows of one number are no negatives of each other (ours: two clips with
            one caption are not wrong answers to it).
    """
    a, b = F.normalize(first, dim=-1), F.normalize(second, dim=-1)
    all_a, all_b, all_there = gather(a), gather(b), gather(there)
    own = own_rows(len(a), a.device)
    barred = ~all_there[None].expand(len(a), -1)  # B G
    if same is not None:
        barred = barred | (same[:, None] == gather(same)[None])
    barred = barred.scatter(1, own[:, None], False)  # a row's own partner is always offered
    total = a.new_zeros(())
    for rows, columns in ((a, all_b), (b, all_a)):
        logits = (rows @ columns.T / temperature).masked_fill(barred, NEVER)  # B G
        total = total + (F.cross_entropy(logits, own, reduction="none") * there).sum()
    return total / 2


class Matcher(nn.Module):
    """Tell whether two global tokens belong together: one layer and a sigmoid (P2, Eq. 8).

    The paper does not say what the layer sees. Ours sees both tokens and their product: a sum of
    two linear scores, which is all that it could say of the two alone, cannot tell a pair.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.score = nn.Linear(3 * width, 1)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Score pairs [B, D], [B, D] -> logits [B]."""
        return self.score(torch.cat([first, second, first * second], dim=-1)).squeeze(-1)

    def loss(self, first: Tensor, second: Tensor, there: Tensor, hard: bool = False) -> Tensor:
        """Sum the cross-entropy of this rank's pairs, and of the same with `first` replaced.

        Args:
            hard: replace by the likeliest wrong partner instead of the next row that has one (the
                rows of a batch are drawn at random, so the next one is a random replacement).
        """
        # of one size, so that the product counts beside the two
        a, b = (F.layer_norm(x, x.shape[-1:]) for x in (first, second))
        others, all_there = gather(a), gather(there)
        own = own_rows(len(a), a.device)
        if int(all_there.sum()) < 2:
            return 0.0 * self(a, b).sum()
        if hard:
            likeness = F.normalize(b, dim=-1) @ F.normalize(others, dim=-1).T  # B G
            barred = (~all_there[None]).expand_as(likeness).scatter(1, own[:, None], True)
            wrong = likeness.masked_fill(barred, NEVER).argmax(1)
        else:
            present = all_there.nonzero().squeeze(1)
            # rows that are absent get a partner too, and no weight
            after = torch.searchsorted(present, own, right=True) % len(present)
            wrong = present[after]
        right, replaced = self(a, b), self(others[wrong], b)
        losses = F.binary_cross_entropy_with_logits(right, torch.ones_like(right), reduction="none")
        losses = losses + F.binary_cross_entropy_with_logits(
            replaced, torch.zeros_like(replaced), reduction="none"
        )
        return (losses * there).sum() / 2
