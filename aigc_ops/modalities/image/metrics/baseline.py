"""The trivial baseline of images: independent pixels, each a Gaussian fitted to the training data.

With classes, each class has its own. A model whose samples are no nearer to the data than these
has learnt less than the mean and spread of each pixel.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor

from aigc_ops.compute.random import derive_seed
from aigc_ops.modalities.image.model import ImageData


class PixelGaussian:
    """Mean and standard deviation of each pixel of the training images, by class."""

    def __init__(self, data: ImageData) -> None:
        # One class after the other, because all images as doubles may not fit into memory.
        labels = torch.zeros(len(data), dtype=torch.int64) if data.labels is None else data.labels
        self._labels = labels
        self._moments = {
            label: torch.std_mean(data.images[labels == label].double(), dim=0, correction=0)
            for label in set(labels.tolist())
        }

    def sample(self, indices: NDArray[np.intp], *, seed: int) -> Tensor:
        """Return one image for each index, (N, C, H, W) uint8: the same for the same index.

        Classes are as frequent as in the training images.
        """
        images = []
        for index in indices.tolist():
            generator = Generator().manual_seed(derive_seed(seed, index))
            row = int(torch.randint(len(self._labels), (1,), generator=generator))
            deviation, mean = self._moments[int(self._labels[row])]
            noise = torch.randn(mean.shape, generator=generator, dtype=mean.dtype)
            images.append((mean + deviation * noise).round().clamp(0, 255).to(torch.uint8))
        return torch.stack(images)
