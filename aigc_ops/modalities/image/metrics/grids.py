"""Grids of samples for reports: by class, nearest pairs, nearest and furthest samples."""

import torch
from PIL import Image
from torch import Tensor

from aigc_ops.modalities.image.pictures import grid

NUM_GRID_ROWS = 16
NUM_GRID_COLUMNS = 10
NUM_PAIRS = 10
NUM_RANKED = 20


def class_grid(images: Tensor, num_classes: int) -> Image.Image:
    """Return a grid of the first samples; one row per class if they cycle through classes."""
    columns = min(NUM_GRID_COLUMNS, len(images) // max(num_classes, 1))
    if not num_classes or not columns:
        return grid(images[: NUM_GRID_COLUMNS**2], NUM_GRID_COLUMNS)
    # Requests cycle through the classes, so sample i has class i % num_classes: reshape to
    # (round, class) and transpose, so that each class is a row.
    rounds = images[: columns * num_classes].reshape(columns, num_classes, *images.shape[1:])
    return grid(rounds[:, :NUM_GRID_ROWS].transpose(0, 1).flatten(0, 1), columns)


def real_grid(images: Tensor, labels: Tensor | None, num_classes: int) -> Image.Image:
    """Return a grid of real images in the layout of `class_grid`, if each class has enough."""
    if labels is None or not num_classes:
        return grid(images[: NUM_GRID_COLUMNS**2], NUM_GRID_COLUMNS)
    rows = [torch.nonzero(labels == label)[:, 0] for label in range(num_classes)]
    # The rarest class limits the columns; a class without images means no rows by class.
    columns = min(NUM_GRID_COLUMNS, *(len(row) for row in rows))
    if not columns:
        return grid(images[: NUM_GRID_COLUMNS**2], NUM_GRID_COLUMNS)
    chosen = torch.cat([row[:columns] for row in rows[:NUM_GRID_ROWS]])
    return grid(images[chosen], columns)


def pairs_grid(samples: Tensor, train: Tensor, index: Tensor, closeness: Tensor) -> Image.Image:
    """Return a grid of samples nearest to training images, each above that image."""
    closest = closeness.argsort()[:NUM_PAIRS]
    return grid(torch.cat([samples[closest], train[index[closest]]]), len(closest))


def ranked_grids(samples: Tensor, distances: Tensor) -> tuple[Image.Image, Image.Image]:
    """Return grids of the samples nearest to real images and of those furthest from any."""
    order = distances.argsort()
    best, worst = order[:NUM_RANKED], order.flip(0)[:NUM_RANKED]
    return (
        grid(samples[best], NUM_GRID_COLUMNS),
        grid(samples[worst], NUM_GRID_COLUMNS),
    )
