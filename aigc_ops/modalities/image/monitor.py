"""Distances between samples and real images, measured in moments while a model trains."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from aigc_ops.compute.random import sample_seeds
from aigc_ops.interfaces.model import Generative
from aigc_ops.interfaces.request import SampleRequest
from aigc_ops.modalities.image.model import Images
from aigc_ops.sampling import sampler

NUM_SAMPLES = 200
NUM_REAL = 500
MANY_CLASSES = 100  # of which fewer than two samples each would be drawn
SIDE = 16  # pixels to which images are averaged before they are compared
NEIGHBOUR = 5
FEWEST_IMAGES = 50  # to tell repetition by: a model that knows fewer by heart draws most again


class SampleMonitor:
    """Figures over a fixed set of requests and of real images, which are read at the first call."""

    def __init__(self, train: Images) -> None:
        self._train = train
        self._requests: list[SampleRequest] = []
        self._real: SampleFigures | None = None

    def __call__(self, model: Generative[Any]) -> Mapping[str, float]:
        if self._real is None:
            self._requests = sampler.requests(model, NUM_SAMPLES, seed=0)
            if model.num_classes > MANY_CLASSES:  # each of these once more
                self._requests += sampler.requests(model, MANY_CLASSES, seed=1)
            self._real = SampleFigures(self._train, [each.label for each in self._requests])
        return self._real.compare(sampler.draw(model, self._requests))


class SampleFigures:
    """Distances between samples and real images, in pixels averaged to 16 a side.

    `coverage`: share of real images with a sample nearer than their 5th real neighbour
    (Naeem et al. 2020, eq. 4). `duplicates`: share of samples, no more than there are real
    images, nearer to another than 99 % of as many real images are to one another; left out
    below 50, of which a good model too draws most twice. `class_spread`: least mean distance
    within a class, over that of the real class; of more than 100 classes the mean instead, for
    each has few images here. `energy_distance`: Székely & Rizzo 2013, eq. 2.1, unbiased, over
    the real images' mean distance; 0 for equal distributions. Nothing is told by real images
    that are all equal.
    """

    def __init__(self, data: Images, labels: Sequence[int | None]) -> None:
        """`labels`: those of the samples to come, None each for data without classes."""
        places = _spread_over(data, NUM_REAL)
        # Taken as they lie, since a stream reads a group of neighbours for each.
        chosen = data.take(places.sort().values).take(places.argsort().argsort())
        self._pixels, self._classes = _pixels(chosen.images), chosen.labels
        self._sample_classes = None if None in labels else torch.tensor(labels)
        self._is_of_many_classes = data.shape.num_classes > MANY_CLASSES
        self._between = _distances(self._pixels, self._pixels)
        self._radius = _nearest(self._between, min(NEIGHBOUR, len(chosen) - 1))
        self._num = min(len(labels), len(chosen))
        self._close = _nearest(self._between[: self._num, : self._num], 1).quantile(0.01)

    def compare(self, samples: Tensor) -> dict[str, float]:
        """The figures of (N, C, H, W) uint8 samples."""
        pixels = _pixels(samples)
        within, across = _distances(pixels, pixels), _distances(self._pixels, pixels)
        real_mean, sample_mean = _mean_distance(self._between), _mean_distance(within)
        if not real_mean:
            return {}
        figures = {
            "coverage": (across.min(dim=1).values <= self._radius).float().mean(),
            "energy_distance": (2 * across.mean() - real_mean - sample_mean) / real_mean,
            "class_spread": self._class_spread(within),
        }
        if self._num >= FEWEST_IMAGES:
            nearest = _nearest(within[: self._num, : self._num], 1)
            figures["duplicates"] = (nearest <= self._close).float().mean()
        return {f"samples/{name}": float(value) for name, value in figures.items()}

    def _class_spread(self, within: Tensor) -> Tensor:
        if self._classes is None or self._sample_classes is None:
            return _mean_distance(within) / _mean_distance(self._between)
        if self._is_of_many_classes:
            drawn, real = _pairs(self._sample_classes), _pairs(self._classes)
            between = self._between[real] if real.any() else self._between
            return within[drawn].mean() / between.mean().clamp(min=1e-6)
        ratios = []
        for label in range(int(self._sample_classes.max()) + 1):
            real, drawn = self._classes == label, self._sample_classes == label
            if real.sum() > 1 and drawn.sum() > 1:
                spread = _mean_distance(self._between[real][:, real])
                if spread > 0:  # a class of equal images has nothing to lose
                    ratios.append(_mean_distance(within[drawn][:, drawn]) / spread)
        return torch.stack(ratios).min() if ratios else torch.tensor(1.0)


def _spread_over(data: Images, num: int) -> Tensor:
    """Indices of up to `num` images, in an order of no meaning, the same each time."""
    keys = torch.tensor(sample_seeds(0, len(data)))
    return keys.argsort()[:num]


def _pixels(images: Tensor) -> Tensor:
    """(N, D) float32 of uint8 images, averaged to at most 16 x 16 pixels."""
    side = min(SIDE, images.shape[2])
    return functional.adaptive_avg_pool2d(images.float() / 255, side).flatten(1)


def _distances(rows: Tensor, others: Tensor) -> Tensor:
    """(N, M), exactly 0 for equal rows, which the way by matrix products is not."""
    return torch.cdist(rows, others, compute_mode="donot_use_mm_for_euclid_dist")


def _nearest(distances: Tensor, neighbour: int) -> Tensor:
    """(N,) distance of each row to its neighbour of that rank, itself left out."""
    ranked = distances.sort(dim=1).values
    return ranked[:, min(neighbour, ranked.shape[1] - 1)]


def _pairs(classes: Tensor) -> Tensor:
    """(N, N) whether two different rows are of one class."""
    return (classes[:, None] == classes).fill_diagonal_(False)


def _mean_distance(distances: Tensor) -> Tensor:
    """Mean over pairs of different rows."""
    num = len(distances)
    return distances.sum() / max(1, num * (num - 1))
