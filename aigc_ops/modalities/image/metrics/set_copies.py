"""Copies of one set of images in another, without a model or a split that was held out."""

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import JsonValue
from torch import Tensor
from torch.nn import functional

from aigc_ops.core.artifacts import Score
from aigc_ops.core.tracking import progress_bar
from aigc_ops.interfaces.evaluation import COPIES, COPY_POWER
from aigc_ops.modalities.image.image_sets import ImageSet
from aigc_ops.modalities.image.metrics.alterations import USUAL
from aigc_ops.modalities.image.metrics.closeness import small
from aigc_ops.modalities.image.metrics.memorisation import (
    MIN_HELDOUT,
    ImageFeatures,
    copy_controls,
    detect_copies,
)
from aigc_ops.statistics.comparability import EXACT_INTERVAL, score_of
from aigc_ops.statistics.intervals import Estimate, share_estimate
from aigc_ops.statistics.reference import reference_rows

MAX_IMAGES = 10_000
"""Images of a set that are compared, evenly spread."""
MAX_CONTROL, CONTROL_SHARE = 500, 0.2


def set_copies(real: ImageSet, fake: ImageSet, *, reference: str) -> dict[str, Score]:
    """Return the shares of fake images that copy a real one, exactly or nearly.

    Near copies are those closer to a real image than 99 % of other real images are: a fifth of
    the real images, at most 500, is compared with the rest. With fewer than 100 such images, only
    exact copies are counted. `reference` is the digest of the real images.
    """
    # 1. Exact copies, by content and size.
    (real_small, real_digests), (fake_small, fake_digests) = _read(real), _read(fake)
    known = set(real_digests)
    terms: dict[str, JsonValue] = {
        "n": len(fake_digests),
        "num_train": len(real_digests),
        "reference": reference,
        "interval": EXACT_INTERVAL,
    }
    equal = share_estimate(sum(each in known for each in fake_digests), len(fake_digests))
    values = {"exact_copies": score_of(equal, terms)}
    # 2. Near copies, by pixels of images that are averaged to a common size.
    side = min(each.shape[2] for each in (*real_small, *fake_small))
    real_images, fake_images = (
        torch.cat([functional.adaptive_avg_pool2d(each.float(), side) for each in images])
        .round()
        .to(torch.uint8)
        for images in (real_small, fake_small)
    )
    control = reference_rows(len(real_images), min(MAX_CONTROL, int(CONTROL_SHARE * len(known))))
    rest = np.setdiff1d(np.arange(len(real_images)), control)
    if len(control) < MIN_HELDOUT:
        return values
    controls = copy_controls(_bare(real_images[rest]), _bare(real_images[control]), _no_features)
    if controls is None:
        return values
    found, _ = detect_copies(_bare(fake_images), _bare(real_images), controls, num_all=len(real))
    terms |= {"control": len(control), "side": side}
    for space, copies in found.copies.items():
        estimate = Estimate(copies.share, copies.low, copies.high)
        values[f"{COPIES}{space}"] = score_of(
            estimate, {**terms, "expected": round(copies.expected, 4)}
        )
    power_terms: dict[str, JsonValue] = {"n": found.num_planted, "alterations": list(USUAL)}
    return {**values, COPY_POWER: score_of(found.power, {**terms, **power_terms})}


def _bare(images: Tensor) -> ImageFeatures:
    """Return images that are compared by their pixels alone."""
    return ImageFeatures(images, _no_features(images))


def _no_features(images: Tensor) -> NDArray[np.float32]:
    return np.empty((len(images), 0), np.float32)


def _read(images: ImageSet) -> tuple[Sequence[Tensor], list[bytes]]:
    """Return images averaged to at most 32 x 32 pixels, (1, 3, S, S), and digests of the whole."""
    rows = reference_rows(len(images), MAX_IMAGES)
    smaller, digests = [], []
    with progress_bar(total=len(rows), desc=f"copies in {images.path.name}", unit="images") as bar:
        for image in images.images(rows):
            digests.append(hashlib.sha256(f"{image.shape}".encode() + image.tobytes()).digest())
            smaller.append(small(torch.from_numpy(image)[None]).mul(255).round().to(torch.uint8))
            bar.update()
    return smaller, digests
