"""Reading images for a reconstruction, and their errors."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from aigc_ops.interfaces.latents import ReconstructionHooks
from aigc_ops.interfaces.media import Media, Picture
from aigc_ops.interfaces.row import Row
from aigc_ops.modalities.image.decoding import pixels_of
from aigc_ops.modalities.image.pictures import grid

PEAK = 255
NUM_PAIR_COLUMNS = 5


class ImageReconstruction(ReconstructionHooks[Tensor]):
    """Images in the size and channels of the model; the error is the PSNR."""

    metric = "psnr"
    definition = (
        "peak signal-to-noise ratio in dB, 10 log10(255² / MSE), of the mean squared error over "
        "all pixels and channels of all images; higher is better"
    )

    def read(self, model: Any, rows: Sequence[Row]) -> Tensor:
        shape = model.shape
        # As the data: `data.image.size` crops and resizes to a square, other sizes must fit.
        size = shape.height if shape.height == shape.width else None
        images = np.empty((len(rows), shape.channels, shape.height, shape.width), dtype=np.uint8)
        for index, row in enumerate(rows):
            images[index] = pixels_of(
                row,
                shape,
                size,
                advice="resize it to the size of the model's images",
                repair="; repair or remove it",
            )
        return torch.from_numpy(images)

    def errors(self, samples: Tensor, reconstructions: Tensor) -> list[float]:
        """Return the mean squared error of each image, in levels of 0 to 255 squared."""
        differences = samples.double() - reconstructions.double()
        return differences.square().flatten(1).mean(dim=1).tolist()

    def score(self, errors: Sequence[float]) -> float | None:
        # All images have the same size, so the mean of their errors is that over all pixels.
        mean = sum(errors) / len(errors)
        return 10 * math.log10(PEAK**2 / mean) if mean else None

    def pairs(self, samples: Tensor, reconstructions: Tensor) -> Media:
        """Return a grid of images, each to the left of its reconstruction."""
        both = torch.stack([samples, reconstructions], dim=1).flatten(0, 1)
        return Picture(grid(both, 2 * min(len(samples), NUM_PAIR_COLUMNS)))
