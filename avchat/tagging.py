"""Heads that name what the generator of the world knows to be there: how the tiny encoders learn to
see and hear, and how the tiny language model learns which object makes which sound.

A real encoder arrives trained. The tiny one starts from nothing, and learns fastest by being told
slot by slot and quarter by quarter what a token should hold. This is supervision by the generator's
truth, not by language; the heads are thrown away.

Legend: B clips, K slots, Q quarters, N tokens, D width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from avchat.world.tags import (
    ACTING,
    HEARD,
    HEARD_SO_FAR,
    NOT_YET,
    SEEN,
    SEEN_SO_FAR,
    Tags,
)

# Shapes are learned last: a small star and a small circle differ in few pixels.
IMPORTANCE = {"shape": 3.0}


class Tagger(nn.Module):
    """Linear heads over visual tokens and audio tokens."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.seen = nn.Linear(width, sum(SEEN.values()) + 2)
        self.heard = nn.Linear(width, sum(HEARD.values()))

    def seen_loss(self, tokens: Tensor, tags: list[Tags]) -> Tensor:
        """Score visual tokens [B, K * Q, D]: what is in each quarter of each frame, and where
        its centre is.
        """
        logits = self.seen(tokens).float()
        loss = _named_loss(logits, SEEN, [t.seen for t in tags])
        centres = _stack([t.centres for t in tags], logits).flatten(1, 2)  # [B, K * Q, 2]
        there = _stack([t.seen["colour"] for t in tags], logits).flatten(1) > 0
        # 4: an error of half the way to the edge should weigh about as much as a wrong class.
        return loss + 4.0 * F.mse_loss(logits[..., -2:][there], centres[there])

    def heard_loss(self, tokens: Tensor, tags: list[Tags]) -> Tensor:
        """Score audio tokens [B, K, D]: what each slot sounds like."""
        return _named_loss(self.heard(tokens).float(), HEARD, [t.heard for t in tags])


class Follower(nn.Module):
    """Linear heads over the language model's states at media tokens: what earlier ones add.

    Which object acts while a sound is heard, how an object has moved, the how-many-eth drum it is:
    facts of two tokens and more. A question then finds them in one step, instead of in three that
    help only once all are learned (see EXPERIMENTS.md).
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.acting = nn.Linear(width, sum(ACTING.values()))
        self.seen = nn.Linear(width, sum(SEEN_SO_FAR.values()))
        self.heard = nn.Linear(width, sum(HEARD_SO_FAR.values()))

    def acting_loss(self, states: Tensor, tags: list[Tags]) -> Tensor:
        """Score states at audio tokens [B, K, D]: which object acts in the slot."""
        return _named_loss(self.acting(states).float(), ACTING, [t.acting for t in tags])

    def seen_loss(self, states: Tensor, tags: list[Tags]) -> Tensor:
        """Score states at visual tokens [B, K * Q, D]: how an object moved and acted so far."""
        return _named_loss(self.seen(states).float(), SEEN_SO_FAR, [t.seen_so_far for t in tags])

    def heard_loss(self, states: Tensor, tags: list[Tags]) -> Tensor:
        """Score states at audio tokens [B, K, D]: how a sound compares with those before."""
        return _named_loss(self.heard(states).float(), HEARD_SO_FAR, [t.heard_so_far for t in tags])


def _stack(arrays: list, beside: Tensor) -> Tensor:
    return torch.stack([torch.from_numpy(a) for a in arrays]).to(beside.device)


def _named_loss(logits: Tensor, sizes: dict[str, int], tags: list[dict]) -> Tensor:
    """Sum the cross-entropies of all named tags, each a mean over rows, by their importance."""
    parts = logits[..., : sum(sizes.values())].flatten(0, -2).split(list(sizes.values()), dim=-1)
    targets = {name: _stack([t[name] for t in tags], logits).flatten() for name in sizes}
    losses = {
        n: F.cross_entropy(p, targets[n], ignore_index=NOT_YET)
        for n, p in zip(sizes, parts, strict=True)
    }
    return sum(IMPORTANCE.get(name, 1.0) * loss for name, loss in losses.items())
