"""Optional interface: a discriminator, which separates training data from samples."""

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

NUM_SCORED = 64
"""Examples of each split that are scored during training."""
MIN_SCORED = 20
"""Fewer examples of a split are too few to compare."""
OVERFITTED = 0.75
"""AUC from which on a discriminator has overfitted."""
ADVICE = (
    "give more data, set model.augmentations, a smaller model.critic_width or model.r1, or stop "
    "earlier"
)


@runtime_checkable
class HasDiscriminator(Protocol):
    """A family that trains a discriminator beside the network that samples."""

    def discriminator_scores(self, batch: dict[str, Tensor]) -> Tensor:
        """Return the discriminator's scores (N,) of examples, on the CPU; higher is more real.

        The model is in eval mode, and no state may change.
        """


def scored_rows(num: int, most: int) -> Tensor:
    """Return up to `most` indices, spread evenly over `num` rows."""
    # Spread, because rows are often sorted by class.
    return torch.linspace(0, num - 1, min(num, most)).round().long()


def pairs_above(train: Tensor, heldout: Tensor) -> Tensor:
    """Return (N, M): 1 where the first is greater than the second, 0.5 where they are equal."""
    differences = train[:, None] - heldout[None, :]
    return (differences.sign() + 1) / 2
