"""Closeness of images to their nearest training image, in any space of vectors.

An image's closeness is its distance to the nearest training image over the mean distance to the
next ten, a ratio as in Carlini et al. 2023. It is near 1 for an ordinary image and near 0 for a
copy, in dense and in sparse regions of the data.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

NEXT = 10  # further training images that the nearest one is compared with
SIDE = 32  # pixels to which images are averaged before they are compared
CANDIDATES = 32  # training images whose distances are computed exactly
AT_ONCE = 4096  # training images per matrix product


@dataclass(frozen=True)
class Nearest:
    """The nearest training row of each row."""

    index: Tensor
    """(N,) int64."""
    closeness: Tensor
    """(N,) distance to the nearest row over the mean distance to the next ten."""


def nearest(rows: Tensor, train: Tensor, own: Tensor | None = None) -> Nearest:
    """Return the nearest training row (M, D) of each row (N, D).

    `own` (N,) are the rows' own indices, if they are training rows: each is compared with the
    others.
    """
    # 1. Choose candidates by matrix products, block by block. Subtracting the centre first
    #    reduces their rounding error.
    centre = train.mean(dim=0)
    num = min(CANDIDATES, len(train))
    distances = torch.full((len(rows), num), torch.inf)
    indices = torch.zeros(len(rows), num, dtype=torch.int64)
    for start, part in parts(train, AT_ONCE):
        both = torch.cat([distances, torch.cdist(rows - centre, part - centre)], dim=1)
        block_indices = torch.arange(start, start + len(part)).expand(len(rows), -1)
        distances, order = both.topk(num, largest=False)
        indices = torch.cat([indices, block_indices], dim=1).gather(1, order)
    # 2. Compute the candidates' distances exactly: products subtract large numbers, which blurs
    #    the small distances of near copies.
    for start, few in parts(rows, CANDIDATES):
        near = train[indices[start : start + len(few)]]
        distances[start : start + len(few)] = (near - few[:, None]).norm(dim=2)
    return relative(distances, indices, own)


def relative(distances: Tensor, indices: Tensor, own: Tensor | None = None) -> Nearest:
    """Return the nearest of each row's candidates (N, K), relative to the next ten.

    Candidates at infinite distance, and the rows' `own` indices (N,), do not count.
    """
    if own is not None:
        distances = distances.masked_fill(indices == own[:, None], torch.inf)
    distances, order = distances.sort(dim=1)
    others = distances[:, 1 : NEXT + 1].mean(dim=1)
    closeness = distances[:, 0] / others.clamp(min=1e-12)
    return Nearest(indices.gather(1, order)[:, 0], closeness)


def parts(rows: Tensor, at_once: int) -> Iterator[tuple[int, Tensor]]:
    """Yield consecutive blocks of rows, each with the index of its first row."""
    for start in range(0, len(rows), at_once):
        yield start, rows[start : start + at_once]


def small(images: Tensor) -> Tensor:
    """Return uint8 images averaged to at most 32 x 32 pixels, (N, C, S, S) float in 0 to 1."""
    return functional.adaptive_avg_pool2d(images.float() / 255, min(SIDE, *images.shape[2:]))
