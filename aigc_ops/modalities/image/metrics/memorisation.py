"""Whether samples are copies of training images, calibrated on real images never trained on.

An image's closeness is its distance to the nearest training image over its mean distance to
the next ten (as Carlini et al. 2023 relate them): near 1 for an image that is merely like
others, near 0 for a copy, wherever it lies. The closest 1 % of held-out images set the bound
below which a sample counts as a near copy, so of a model that copies nothing about 1 % do.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from torch import Tensor
from torch.nn import functional

from aigc_ops.statistics.copies import EXPECTED, FLAGGED
from aigc_ops.statistics.intervals import share_estimate

NEXT = 10
MIN_HELDOUT = 100
SIDE = 32
"""Pixels a side to which images are averaged before they are compared."""
CANDIDATES = 32
"""Training images whose distances are taken exactly."""
AT_ONCE = 4096

Features = NDArray[np.floating]


class Copies(BaseModel):
    """Samples that are near copies in one space, with a Clopper–Pearson 95 % interval."""

    model_config = ConfigDict(frozen=True)

    num: int
    share: float
    low: float
    high: float
    bound: float
    """Closeness below which a sample counts: that of the closest 1 % of held-out images."""


class Memorisation(BaseModel):
    """What was found out about copying."""

    model_config = ConfigDict(frozen=True)

    num_samples: int
    num_train: int
    """Training images searched."""
    num_all: int
    """Training images there are."""
    num_heldout: int
    """Held-out images that set the bounds."""
    num_leaked: int
    """Held-out images that equal a training image, which set none."""
    exact: int
    """Samples equal to a training image, pixel by pixel."""
    in_pixels: Copies
    in_features: Copies
    flagged: bool

    @property
    def told(self) -> str:
        """The finding in a sentence, which claims no more than was looked at."""
        some = f"{self.num_train:,} of the " if self.num_train < self.num_all else ""
        searched = f"{self.num_samples:,} samples against {some}{self.num_all:,} training images"
        shares = ", ".join(
            f"{c.share:.1%} ({c.low:.1%} to {c.high:.1%}) in {space}"
            for space, c in {"pixels": self.in_pixels, "features": self.in_features}.items()
        )
        found = (
            f"{searched}: {self.exact} exact copies; near copies {shares}, where held-out images "
            f"give {EXPECTED:.0%}"
        )
        if self.num_leaked:
            found += f" ({self.num_leaked} others equal a training image and were left out)"
        if self.flagged:
            return f"{found}. Training images are being copied."
        if self.exact:
            return f"{found}. Few as they are, equal images are copies, or the data repeats itself."
        return f"{found}. No copying was found; copies that were altered more are not ruled out."


@dataclass(frozen=True)
class Nearest:
    """Each row's nearest training row."""

    index: Tensor
    """(N,) int64."""
    closeness: Tensor
    """(N,) distance to it over the mean distance to the next ones."""


@dataclass(frozen=True)
class Pictured:
    """Features (N, D) of images, and the first of the images, (M, C, H, W) uint8."""

    images: Tensor
    features: Features

    def __len__(self) -> int:
        return len(self.images)


def look_for_copies(
    drawn: Pictured, train: Pictured, heldout: Pictured, *, num_all: int
) -> tuple[Memorisation, Nearest] | None:
    """What was found, and each sample's nearest training image in features.

    `train` are those of `num_all` that are searched. None with fewer than 100 held-out images
    unlike any of these, which bound nothing, or 12 training images.
    """
    if len(heldout) < MIN_HELDOUT or len(train) < NEXT + 2 or not len(drawn):
        return None
    here, real, unseen = (_pixels(each.images) for each in (drawn, train, heldout))
    in_pixels, of_unseen = nearest(here, real), nearest(unseen, real)
    equal, leaked = _equal(drawn, train, in_pixels), _equal(heldout, train, of_unseen)
    if (~leaked).sum() < MIN_HELDOUT:
        return None
    features = [
        torch.from_numpy(np.asarray(each.features[: len(each)], np.float32))
        for each in (drawn, train, heldout)
    ]
    in_features = nearest(features[0], features[1])
    unseen_features = nearest(features[2], features[1])
    pixels = _copies(in_pixels.closeness, of_unseen.closeness[~leaked])
    others = _copies(in_features.closeness, unseen_features.closeness[~leaked])
    surely_equal = share_estimate(int(equal.sum()), len(drawn)).low
    # Data that repeats itself gives equal images to held-out ones too.
    usual = max(EXPECTED, float(leaked.float().mean()))
    found = Memorisation(
        num_samples=len(drawn),
        num_train=len(train),
        num_all=num_all,
        num_heldout=int((~leaked).sum()),
        num_leaked=int(leaked.sum()),
        exact=int(equal.sum()),
        in_pixels=pixels,
        in_features=others,
        flagged=max(pixels.low, others.low) > FLAGGED or surely_equal > usual,
    )
    return found, in_features


def _equal(images: Pictured, train: Pictured, found: Nearest) -> Tensor:
    """(N,) bool: which images are their nearest training image, pixel by pixel."""
    return (images.images == train.images[found.index]).flatten(1).all(dim=1)


def nearest(rows: Tensor, train: Tensor) -> Nearest:
    """The nearest of training rows (M, D) to each of rows (N, D).

    Matrix products choose candidates, whose distances are then taken one by one: products
    alone would blur those of near copies.
    """
    centre = train.mean(dim=0)
    num = min(CANDIDATES, len(train))
    distances = torch.full((len(rows), num), torch.inf)
    indices = torch.zeros(len(rows), num, dtype=torch.int64)
    for start, part in _parts(train, AT_ONCE):
        both = torch.cat([distances, torch.cdist(rows - centre, part - centre)], dim=1)
        places = torch.arange(start, start + len(part)).expand(len(rows), -1)
        distances, order = both.topk(num, largest=False)
        indices = torch.cat([indices, places], dim=1).gather(1, order)
    for start, few in _parts(rows, CANDIDATES):
        near = train[indices[start : start + len(few)]]
        distances[start : start + len(few)] = (near - few[:, None]).norm(dim=2)
    distances, order = distances.sort(dim=1)
    others = distances[:, 1 : NEXT + 1].mean(dim=1)
    closeness = distances[:, 0] / others.clamp(min=1e-12)
    return Nearest(indices.gather(1, order)[:, 0], closeness)


def _parts(rows: Tensor, at_once: int) -> Iterator[tuple[int, Tensor]]:
    for start in range(0, len(rows), at_once):
        yield start, rows[start : start + at_once]


def _pixels(images: Tensor) -> Tensor:
    """(N, D) float of uint8 images, averaged to at most 32 x 32 pixels."""
    small = functional.adaptive_avg_pool2d(images.float() / 255, min(SIDE, images.shape[2]))
    return small.flatten(1)


def _copies(closeness: Tensor, unseen: Tensor) -> Copies:
    bound = float(unseen.quantile(EXPECTED))
    num, total = int((closeness < bound).sum()), len(closeness)
    share = share_estimate(num, total)
    return Copies(num=num, share=share.value, low=share.low, high=share.high, bound=bound)
