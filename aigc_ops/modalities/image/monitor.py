"""Online metrics of image training: pixel distances between samples and real images."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from aigc_ops.compute.random import sample_seeds
from aigc_ops.interfaces.model import Generative
from aigc_ops.interfaces.request import SampleRequest
from aigc_ops.modalities.image.model import Images
from aigc_ops.modalities.image.requests import LABEL
from aigc_ops.sampling import sampler

NUM_SAMPLES = 200
NUM_REAL = 500
MANY_CLASSES = 100  # with more classes, NUM_SAMPLES gives fewer than two samples per class
SIDE = 16  # pixels to which images are averaged before they are compared
NEIGHBOUR = 5  # k of the coverage, as in Naeem et al. 2020
MIN_IMAGES = 50  # with fewer real images, duplicates are expected even from a good model


class SampleMonitor:
    """Metrics over fixed requests and real images; the images are read at the first call."""

    def __init__(self, train: Images) -> None:
        self._train = train
        self._requests: list[SampleRequest] = []
        self._real: SampleFigures | None = None

    def __call__(self, model: Generative[Any]) -> Mapping[str, float]:
        if self._real is None:
            self._requests = sampler.requests(model, NUM_SAMPLES, seed=0)
            if model.num_classes > MANY_CLASSES:  # a second sample of each class, for its spread
                self._requests += sampler.requests(model, MANY_CLASSES, seed=1)
            self._real = SampleFigures(self._train, [LABEL.of(each) for each in self._requests])
        return self._real.compare(sampler.generate(model, self._requests))


class SampleFigures:
    """Distances between samples and real images, in pixels averaged to 16 a side.

    `coverage`: share of real images with a sample nearer than their 5th real neighbour
    (Naeem et al. 2020, eq. 4). `duplicates`: share of samples that are nearer to another sample
    than 99 % of equally many real images are to each other; omitted below 50 images.
    `class_spread`: mean distance within a class over that of the real class, the minimum over
    classes; the mean for more than 100 classes, which have few images each. `energy_distance`:
    Székely & Rizzo 2013, eq. 2.1, unbiased, over the real images' mean distance; 0 for equal
    distributions. No metric is returned if all real images are equal.
    """

    def __init__(self, data: Images, labels: Sequence[int | None]) -> None:
        """Read the real images; `labels` are those of the samples, None without classes."""
        indices = _fixed_sample(data, NUM_REAL)
        # Read in storage order, because random access to a stream would read whole row groups
        # again and again; argsort of argsort is the inverse permutation.
        chosen = data.take(indices.sort().values).take(indices.argsort().argsort())
        self._pixels, self._classes = _pixels(chosen.images), chosen.labels
        self._sample_classes = None if None in labels else torch.tensor(labels)
        self._is_of_many_classes = data.shape.num_classes > MANY_CLASSES
        self._between = _distances(self._pixels, self._pixels)
        self._radius = _nearest(self._between, min(NEIGHBOUR, len(chosen) - 1))
        # Equal numbers on both sides: nearest distances shrink as images are added.
        self._num = min(len(labels), len(chosen))
        self._close = _nearest(self._between[: self._num, : self._num], 1).quantile(0.01)

    def compare(self, samples: Tensor) -> dict[str, float]:
        """Return the metrics of (N, C, H, W) uint8 samples."""
        pixels = _pixels(samples)
        within, across = _distances(pixels, pixels), _distances(self._pixels, pixels)
        real_mean, sample_mean = _mean_distance(self._between), _mean_distance(within)
        # All real images are equal: ratios to their distances do not exist.
        if not real_mean:
            return {}
        figures = {
            "coverage": (across.min(dim=1).values <= self._radius).float().mean(),
            # Unbiased, so it may be slightly negative.
            "energy_distance": (2 * across.mean() - real_mean - sample_mean) / real_mean,
            "class_spread": self._class_spread(within),
        }
        if self._num >= MIN_IMAGES:
            nearest = _nearest(within[: self._num, : self._num], 1)
            figures["duplicates"] = (nearest <= self._close).float().mean()
        return {f"samples/{name}": float(value) for name, value in figures.items()}

    def _class_spread(self, within: Tensor) -> Tensor:
        if self._classes is None or self._sample_classes is None:
            return _mean_distance(within) / _mean_distance(self._between)
        # Too few images per class for a minimum over classes: pool the pairs of all classes.
        if self._is_of_many_classes:
            sample_pairs, real = _pairs(self._sample_classes), _pairs(self._classes)
            between = self._between[real] if real.any() else self._between
            return within[sample_pairs].mean() / between.mean().clamp(min=1e-6)
        ratios = []
        for label in range(int(self._sample_classes.max()) + 1):
            real, fake = self._classes == label, self._sample_classes == label
            if real.sum() > 1 and fake.sum() > 1:
                spread = _mean_distance(self._between[real][:, real])
                if spread > 0:  # a class of equal images cannot collapse
                    ratios.append(_mean_distance(within[fake][:, fake]) / spread)
        return torch.stack(ratios).min() if ratios else torch.tensor(1.0)


def _fixed_sample(data: Images, num: int) -> Tensor:
    """Return indices of up to `num` images, in a random order that is the same at every call."""
    keys = torch.tensor(sample_seeds(0, len(data)))
    return keys.argsort()[:num]


def _pixels(images: Tensor) -> Tensor:
    """Return uint8 images averaged to at most 16 x 16 pixels, (N, D) float32."""
    side = min(SIDE, images.shape[2])
    return functional.adaptive_avg_pool2d(images.float() / 255, side).flatten(1)


def _distances(rows: Tensor, others: Tensor) -> Tensor:
    """Return the (N, M) Euclidean distances of all pairs of rows."""
    # Not by matrix products, whose rounding gives equal rows a distance above 0.
    return torch.cdist(rows, others, compute_mode="donot_use_mm_for_euclid_dist")


def _nearest(distances: Tensor, neighbour: int) -> Tensor:
    """Return the (N,) distance of each row to its neighbour of that rank, itself excluded."""
    # Column 0 is each row's distance to itself.
    ranked = distances.sort(dim=1).values
    return ranked[:, min(neighbour, ranked.shape[1] - 1)]


def _pairs(classes: Tensor) -> Tensor:
    """Return an (N, N) mask of the pairs of different rows with equal classes."""
    return (classes[:, None] == classes).fill_diagonal_(False)


def _mean_distance(distances: Tensor) -> Tensor:
    """Return the mean over pairs of different rows; the diagonal must be 0."""
    num = len(distances)
    return distances.sum() / max(1, num * (num - 1))
