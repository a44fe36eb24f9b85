"""Spherical interpolation of Gaussian latent codes."""

import torch
from torch import Tensor

LEAST_SINE = 1e-3  # below it, two directions are so nearly parallel that they have no plane


def slerp(start: Tensor, end: Tensor, num: int) -> Tensor:
    """Return (num, D) codes on the arc from one code (D,) to another, both ends included.

    Shoemake 1985, as White 2016 uses it for generative networks: codes on the straight line
    between two Gaussian ones are shorter than any that the network has seen. Nearly parallel codes
    are interpolated linearly, and so are those of one dimension.
    """
    weights = torch.linspace(0, 1, num)[:, None]
    cosine = torch.nn.functional.cosine_similarity(start, end, dim=0).clamp(-1, 1)
    angle = cosine.acos()
    if angle.sin() < LEAST_SINE:
        return torch.lerp(start, end, weights)
    # Divided first, so that the shares are exactly 1 and 0 at the ends.
    of_start = torch.sin((1 - weights) * angle) / angle.sin()
    of_end = torch.sin(weights * angle) / angle.sin()
    return of_start * start + of_end * end
