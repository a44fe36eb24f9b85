"""Memorisation check: copies of training images among samples, calibrated on held-out images.

Closeness to the nearest training image is measured in three spaces: pixels, extractor features,
and pixels after alignment. In each, the closest 1 % of held-out images set the bound below which a
sample counts as a near copy. So about 1 % of the samples of a model that copies nothing count as
near copies. Altered copies of training images show which share of such copies would be found.

Data with near relatives, such as icons of two clocks, has held-out images as close as copies. For
aligned pixels the bound may therefore be the closest 2, 5 or 10 %, if that finds more of the
planted copies than it costs in certainty. Only the data decides this, never the samples.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from aigc_ops.modalities.image.metrics.alignment import nearest_aligned
from aigc_ops.modalities.image.metrics.alterations import ALTERATIONS, USUAL, altered
from aigc_ops.modalities.image.metrics.closeness import NEXT, Nearest, nearest, small
from aigc_ops.statistics.copies import EXPECTED, FLAGGED
from aigc_ops.statistics.intervals import Estimate, share_estimate
from aigc_ops.statistics.reference import reference_rows

MIN_HELDOUT = 100  # so that the closest 1 % are one image at least
COPIES_VERSION = 1  # raise it when closeness changes: cached controls are computed again
QUANTILES = (0.01, 0.02, 0.05, 0.1)  # of held-out images that may set a bound
MARGIN = FLAGGED - EXPECTED
MAX_CROSS_FITTED = 1000  # training images that take the place of held-out ones
NUM_PLANTED = 64  # training images of which altered copies are looked for
SPACES = {"pixels": "pixels", "features": "features", "aligned": "aligned pixels"}
"""Spaces in which closeness is measured: the name in code -> that in texts."""

Features = NDArray[np.floating]


class Copies(BaseModel):
    """Near copies in one space, with a 95 % Clopper–Pearson interval of their share."""

    model_config = ConfigDict(frozen=True)

    num: int
    share: float
    low: float
    high: float
    bound: float
    """Closeness below which a sample counts: a quantile of the held-out images."""
    expected: float
    """Share of samples that count if nothing is copied, at most."""

    @property
    def flagged(self) -> bool:
        """Whether the share is significantly above that of a model that copies nothing."""
        return self.low > self.expected + MARGIN


class Memorisation(BaseModel):
    """Result of the memorisation check."""

    model_config = ConfigDict(frozen=True)

    num_samples: int
    num_train: int
    """Number of training images that were searched."""
    num_all: int
    """Number of all training images."""
    control: str
    """What sets the bounds: "held-out images", or "other training images"."""
    num_heldout: int
    """Number of images that set the bounds."""
    num_leaked: int
    """Number of these that equal a training image; they are excluded."""
    exact: int
    """Number of samples that equal a training image, pixel by pixel."""
    copies: dict[str, Copies]
    """Near copies in each of the spaces."""
    found: dict[str, float]
    """Share of altered copies of training images that are found, by alteration."""
    num_planted: int
    """Number of altered copies, of each alteration."""
    flagged: bool

    @property
    def power(self) -> Estimate:
        """The mean share found of the usual alterations, with its 95 % interval."""
        total = len(USUAL) * self.num_planted
        return share_estimate(
            round(sum(self.found[name] for name in USUAL) * self.num_planted), total
        )

    @property
    def summary(self) -> str:
        """Return the result in sentences that claim no more than was tested."""
        some = f"{self.num_train:,} of the " if self.num_train < self.num_all else ""
        searched = f"{self.num_samples:,} samples against {some}{self.num_all:,} training images"
        shares = ", ".join(
            f"{c.share:.1%} ({c.low:.1%} to {c.high:.1%}) in {SPACES[space]}, against at most "
            f"{c.expected:.1%} of {self.control}"
            for space, c in self.copies.items()
        )
        result = f"{searched}: {self.exact} exact copies; near copies {shares}"
        if self.num_leaked:
            result += (
                f" ({self.num_leaked} {self.control} equal a training image and were excluded)"
            )
        if self.flagged:
            result += ". The model copies training images."
        elif self.exact:
            result += ". Exact copies mean memorisation, or duplicates within the data."
        else:
            result += ". No copying was found; more strongly altered copies are not ruled out."
        return f"{result} {self._found_text}"

    @property
    def _found_text(self) -> str:
        ranked = sorted(self.found.items(), key=lambda item: -item[1])
        shares = ", ".join(f"{share:.0%} {name}" for name, share in ranked)
        return f"Of {self.num_planted} planted copies of each kind, this check finds: {shares}."


@dataclass(frozen=True)
class ImageFeatures:
    """Features (N, D) of images, and the first M images, (M, C, H, W) uint8."""

    images: Tensor
    features: Features
    """Of width 0 if images are compared by their pixels alone."""

    def __len__(self) -> int:
        return len(self.images)


@dataclass(frozen=True)
class Bound:
    """What counts as a near copy in a space."""

    closeness: float
    expected: float
    """Share of samples below it if nothing is copied, at most."""


@dataclass(frozen=True)
class CopyControls:
    """Closeness of held-out images and of planted copies, which only the data decides."""

    heldout: Mapping[str, Tensor]
    """(H,) of the held-out images that equal no training image, by space."""
    planted: Mapping[str, Tensor]
    """(A, P) of P altered copies under each of the A alterations, by space."""
    num_leaked: int
    """Number of held-out images that equal a training image."""
    is_cross_fitted: bool = False
    """Whether training images, each compared with the others, take the held-out images' place."""

    def arrays(self) -> dict[str, NDArray[np.floating]]:
        """Return the controls as arrays, to be stored."""
        both = {"heldout": self.heldout, "planted": self.planted}
        arrays = {
            f"{part}.{space}": closeness.numpy()
            for part, spaces in both.items()
            for space, closeness in spaces.items()
        }
        numbers = {"num_leaked": self.num_leaked, "is_cross_fitted": self.is_cross_fitted}
        return {**arrays, **{name: np.array(float(each)) for name, each in numbers.items()}}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[np.floating]]) -> "CopyControls":
        """Return the controls that were stored as arrays."""
        heldout, planted = (
            {space: torch.from_numpy(arrays[f"{part}.{space}"]) for space in SPACES}
            for part in ("heldout", "planted")
        )
        return cls(heldout, planted, int(arrays["num_leaked"]), bool(arrays["is_cross_fitted"]))

    def bounds(self) -> dict[str, Bound]:
        """Return what counts as a near copy, by space."""
        return {space: self._bound(space) for space in self.heldout}

    def _bound(self, space: str) -> Bound:
        heldout = self.heldout[space]
        usual = self.planted[space][[list(ALTERATIONS).index(name) for name in USUAL]]

        def bound(quantile: float) -> Bound:
            closeness = float(heldout.quantile(quantile))
            return Bound(closeness, max(quantile, _highest(quantile, len(heldout)) - MARGIN))

        def copies_needed(quantile: float) -> float:
            """Return the share of copies among 1,000 samples that is about to be flagged.

            It is that of the usual alteration that is found least.
            """
            each = bound(quantile)
            found = float((usual < each.closeness).double().mean(dim=1).min())
            chance = 2 * math.sqrt(quantile * (1 - quantile) / 1000)
            return (each.expected + MARGIN - quantile + chance) / max(found, 1e-9)

        # Of equals, `min` takes the first quantile, the smallest.
        quantiles = QUANTILES if space == "aligned" else QUANTILES[:1]
        return bound(min(quantiles, key=copies_needed))

    def found(self) -> dict[str, float]:
        """Return the share of planted copies below the bound of any space, by alteration."""
        masks = [self.planted[space] < each.closeness for space, each in self.bounds().items()]
        shares = torch.stack(masks).any(dim=0).double().mean(dim=1)
        return dict(zip(ALTERATIONS, shares.tolist(), strict=True))


def copy_controls(
    train: ImageFeatures, heldout: ImageFeatures | None, extract: Callable[[Tensor], Features]
) -> CopyControls | None:
    """Return the controls of a dataset; `extract` computes features of uint8 images.

    Without held-out images, training images take their place, each compared with the others. None
    if fewer than 100 of them differ from all (other) training images, or if there are fewer than
    12 training images.
    """
    own = None
    if heldout is None:
        own = torch.tensor(reference_rows(len(train), MAX_CROSS_FITTED))
        heldout = ImageFeatures(train.images[own], train.features[own])
    if len(heldout) < MIN_HELDOUT or len(train) < NEXT + 2:
        return None
    found = _search(heldout, train, own)
    # Held-out images that leaked into the training set would pull the bounds down to 0.
    leaked = _equal(heldout, train, found["pixels"])
    if (~leaked).sum() < MIN_HELDOUT:
        return None
    sources = train.images[reference_rows(len(train), NUM_PLANTED)]
    copies = torch.cat([altered(sources, name) for name in ALTERATIONS])
    planted = _search(ImageFeatures(copies, extract(copies)), train)
    return CopyControls(
        heldout={space: each.closeness[~leaked] for space, each in found.items()},
        planted={
            space: each.closeness.reshape(len(ALTERATIONS), -1) for space, each in planted.items()
        },
        num_leaked=int(leaked.sum()),
        is_cross_fitted=own is not None,
    )


def detect_copies(
    samples: ImageFeatures, train: ImageFeatures, controls: CopyControls, *, num_all: int
) -> tuple[Memorisation, Nearest]:
    """Return the result, and each sample's nearest training image in features, or in pixels.

    `train` are the images to search, out of `num_all`.
    """
    found = _search(samples, train)
    equal = int(_equal(samples, train, found["pixels"]).sum())
    copies = {
        space: counted(int((found[space].closeness < bound.closeness).sum()), len(samples), bound)
        for space, bound in controls.bounds().items()
    }
    # The model is flagged if the lower bound of a share is too high, in any space, or if exact
    # copies are surely more frequent than duplicates in the data. In data with duplicates,
    # held-out images equal training images too: the usual share.
    num_heldout = len(controls.heldout["pixels"])
    usual = max(EXPECTED, controls.num_leaked / (num_heldout + controls.num_leaked))
    lowest_equal_share = share_estimate(equal, len(samples)).low
    result = Memorisation(
        num_samples=len(samples),
        num_train=len(train),
        num_all=num_all,
        control="other training images" if controls.is_cross_fitted else "held-out images",
        num_heldout=num_heldout,
        num_leaked=controls.num_leaked,
        exact=equal,
        copies=copies,
        found=controls.found(),
        num_planted=controls.planted["pixels"].shape[1],
        flagged=any(each.flagged for each in copies.values()) or lowest_equal_share > usual,
    )
    return result, found.get("features", found["pixels"])


def _search(
    images: ImageFeatures, train: ImageFeatures, own: Tensor | None = None
) -> dict[str, Nearest]:
    """Return the nearest training image of each image, by space.

    `own` (N,) are the images' own indices, if they are training images.
    """
    pixels = [small(each.images).flatten(1) for each in (images, train)]
    found = {
        "pixels": nearest(pixels[0], pixels[1], own),
        "aligned": nearest_aligned(images.images, train.images, own),
    }
    if train.features.shape[1]:
        # Features of those images alone whose pixels are stored as well.
        rows, known = (
            torch.from_numpy(np.asarray(each[:num], np.float32))
            for each, num in ((images.features, len(images)), (train.features, len(train)))
        )
        found["features"] = nearest(rows, known, own)
    return found


def _equal(images: ImageFeatures, train: ImageFeatures, closest: Nearest) -> Tensor:
    """Return an (N,) mask of images that equal their nearest training image, pixel by pixel."""
    return (images.images == train.images[closest.index]).flatten(1).all(dim=1)


def counted(num: int, total: int, bound: Bound) -> Copies:
    """Return the near copies of a space: `num` of `total` samples lie below its bound."""
    share = share_estimate(num, total)
    return Copies(
        num=num,
        share=share.value,
        low=share.low,
        high=share.high,
        bound=bound.closeness,
        expected=bound.expected,
    )


def _highest(quantile: float, num: int) -> float:
    """Return the share of all images below a quantile of `num` of them, at most (99 %)."""
    from scipy.special import betaincinv

    # The share below the k-th of n draws has the Beta distribution of k and n - k + 1.
    rank = max(1, round(quantile * num))
    return float(betaincinv(rank, num - rank + 1, 0.99))
