"""Memorisation check: copies of training images among samples, calibrated on held-out images.

An image's closeness is its distance to the nearest training image over the mean distance to the
next ten, a ratio as in Carlini et al. 2023. It is near 1 for an ordinary image and near 0 for a
copy, in dense and in sparse regions of the data. The closest 1 % of held-out images set the
bound below which a sample counts as a near copy. So about 1 % of the samples of a model that
copies nothing count as near copies.
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

NEXT = 10  # further training images that the nearest one is compared with
MIN_HELDOUT = 100  # so that the closest 1 % are one image at least
SIDE = 32  # pixels to which images are averaged before they are compared
CANDIDATES = 32  # training images whose distances are computed exactly
AT_ONCE = 4096  # training images per matrix product

Features = NDArray[np.floating]


class Copies(BaseModel):
    """Near copies in one space, with a 95 % Clopper–Pearson interval of their share."""

    model_config = ConfigDict(frozen=True)

    num: int
    share: float
    low: float
    high: float
    bound: float
    """Closeness below which a sample counts, the 1 % quantile of the held-out images."""


class Memorisation(BaseModel):
    """Result of the memorisation check."""

    model_config = ConfigDict(frozen=True)

    num_samples: int
    num_train: int
    """Number of training images that were searched."""
    num_all: int
    """Number of all training images."""
    num_heldout: int
    """Number of held-out images that set the bounds."""
    num_leaked: int
    """Number of held-out images that equal a training image; they are excluded."""
    exact: int
    """Number of samples that equal a training image, pixel by pixel."""
    in_pixels: Copies
    in_features: Copies
    flagged: bool

    @property
    def summary(self) -> str:
        """Return the result in a sentence that claims no more than was tested."""
        some = f"{self.num_train:,} of the " if self.num_train < self.num_all else ""
        searched = f"{self.num_samples:,} samples against {some}{self.num_all:,} training images"
        shares = ", ".join(
            f"{c.share:.1%} ({c.low:.1%} to {c.high:.1%}) in {space}"
            for space, c in {"pixels": self.in_pixels, "features": self.in_features}.items()
        )
        result = (
            f"{searched}: {self.exact} exact copies; near copies {shares}, against {EXPECTED:.0%} "
            "of held-out images"
        )
        if self.num_leaked:
            result += (
                f" ({self.num_leaked} held-out images equal a training image and were excluded)"
            )
        if self.flagged:
            return f"{result}. The model copies training images."
        if self.exact:
            return f"{result}. Exact copies mean memorisation, or duplicates within the data."
        return f"{result}. No copying was found; more strongly altered copies are not ruled out."


@dataclass(frozen=True)
class Nearest:
    """The nearest training row of each row."""

    index: Tensor
    """(N,) int64."""
    closeness: Tensor
    """(N,) distance to the nearest row over the mean distance to the next ten."""


@dataclass(frozen=True)
class ImageFeatures:
    """Features (N, D) of images, and the first M images, (M, C, H, W) uint8."""

    images: Tensor
    features: Features

    def __len__(self) -> int:
        return len(self.images)


def detect_copies(
    samples: ImageFeatures, train: ImageFeatures, heldout: ImageFeatures, *, num_all: int
) -> tuple[Memorisation, Nearest] | None:
    """Return the result, and each sample's nearest training image in features.

    `train` are the images to search, out of `num_all`. None if there are fewer than 100
    held-out images that differ from all of them, or fewer than 12 training images.
    """
    if len(heldout) < MIN_HELDOUT or len(train) < NEXT + 2 or not len(samples):
        return None
    # 1. Distances in pixels. They also find exact copies, and held-out images that leaked into
    #    the training set, which would pull the bound down to 0.
    sample_pixels, train_pixels, heldout_pixels = (
        _pixels(part.images) for part in (samples, train, heldout)
    )
    in_pixels = nearest(sample_pixels, train_pixels)
    heldout_in_pixels = nearest(heldout_pixels, train_pixels)
    equal, leaked = _equal(samples, train, in_pixels), _equal(heldout, train, heldout_in_pixels)
    if (~leaked).sum() < MIN_HELDOUT:
        return None
    # 2. Distances in features, of the images whose pixels are stored as well.
    features = [
        torch.from_numpy(np.asarray(part.features[: len(part)], np.float32))
        for part in (samples, train, heldout)
    ]
    in_features = nearest(features[0], features[1])
    heldout_in_features = nearest(features[2], features[1])
    pixels = _copies(in_pixels.closeness, heldout_in_pixels.closeness[~leaked])
    others = _copies(in_features.closeness, heldout_in_features.closeness[~leaked])
    # 3. Flag the model if the lower bound of a share is too high, in either space, or if exact
    #    copies are surely more frequent than duplicates in the data.
    lowest_equal_share = share_estimate(int(equal.sum()), len(samples)).low
    # In data with duplicates, held-out images equal training images too: the usual share.
    usual = max(EXPECTED, float(leaked.float().mean()))
    result = Memorisation(
        num_samples=len(samples),
        num_train=len(train),
        num_all=num_all,
        num_heldout=int((~leaked).sum()),
        num_leaked=int(leaked.sum()),
        exact=int(equal.sum()),
        in_pixels=pixels,
        in_features=others,
        flagged=max(pixels.low, others.low) > FLAGGED or lowest_equal_share > usual,
    )
    return result, in_features


def _equal(images: ImageFeatures, train: ImageFeatures, closest: Nearest) -> Tensor:
    """Return an (N,) mask of images that equal their nearest training image, pixel by pixel."""
    return (images.images == train.images[closest.index]).flatten(1).all(dim=1)


def nearest(rows: Tensor, train: Tensor) -> Nearest:
    """Return the nearest training row (M, D) of each row (N, D)."""
    # 1. Choose candidates by matrix products, block by block. Subtracting the centre first
    #    reduces their rounding error.
    centre = train.mean(dim=0)
    num = min(CANDIDATES, len(train))
    distances = torch.full((len(rows), num), torch.inf)
    indices = torch.zeros(len(rows), num, dtype=torch.int64)
    for start, part in _parts(train, AT_ONCE):
        both = torch.cat([distances, torch.cdist(rows - centre, part - centre)], dim=1)
        block_indices = torch.arange(start, start + len(part)).expand(len(rows), -1)
        distances, order = both.topk(num, largest=False)
        indices = torch.cat([indices, block_indices], dim=1).gather(1, order)
    # 2. Compute the candidates' distances exactly: products subtract large numbers, which blurs
    #    the small distances of near copies.
    for start, few in _parts(rows, CANDIDATES):
        near = train[indices[start : start + len(few)]]
        distances[start : start + len(few)] = (near - few[:, None]).norm(dim=2)
    distances, order = distances.sort(dim=1)
    # 3. Relate the smallest distance to those of the next ten candidates.
    others = distances[:, 1 : NEXT + 1].mean(dim=1)
    closeness = distances[:, 0] / others.clamp(min=1e-12)
    return Nearest(indices.gather(1, order)[:, 0], closeness)


def _parts(rows: Tensor, at_once: int) -> Iterator[tuple[int, Tensor]]:
    for start in range(0, len(rows), at_once):
        yield start, rows[start : start + at_once]


def _pixels(images: Tensor) -> Tensor:
    """Return uint8 images averaged to at most 32 x 32 pixels, (N, D) float."""
    small = functional.adaptive_avg_pool2d(images.float() / 255, min(SIDE, images.shape[2]))
    return small.flatten(1)


def _copies(closeness: Tensor, heldout: Tensor) -> Copies:
    bound = float(heldout.quantile(EXPECTED))
    num, total = int((closeness < bound).sum()), len(closeness)
    share = share_estimate(num, total)
    return Copies(num=num, share=share.value, low=share.low, high=share.high, bound=bound)
