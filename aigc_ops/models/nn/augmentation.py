"""Differentiable augmentation (Zhao et al. 2020).

Real and generated images are augmented alike, and gradients pass through: so the generator does
not learn to generate augmented images.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from aigc_ops.compute.random import Noise

Augmentation = Literal["color", "translation", "cutout"]
MAX_SHIFT = 1 / 8  # of a side
CUTOUT = 1 / 2  # of a side


def augment(images: Tensor, kinds: Sequence[Augmentation], noise: Noise) -> Tensor:
    """Return images (B, C, H, W) in [-1, 1], each augmented at random, differentiable."""
    for kind in kinds:
        images = _AUGMENTATIONS[kind](images, noise)
    return images


def _color(images: Tensor, noise: Noise) -> Tensor:
    """Change brightness by ±0.5, saturation by 0 to 2 times, contrast by 0.5 to 1.5 times."""
    # The ranges are those of the paper's code. Values may leave [-1, 1] and are not clipped, which
    # would cut gradients.
    brightness, saturation, contrast = noise.uniform(3)[:, :, None, None, None].unbind(1)
    images = images + brightness - 0.5
    grey = images.mean(dim=1, keepdim=True)
    images = (images - grey) * (2 * saturation) + grey
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    return (images - mean) * (contrast + 0.5) + mean


def _translation(images: Tensor, noise: Noise) -> Tensor:
    """Move images by up to an eighth of a side each way; the border is filled with black."""
    height, width = images.shape[2:]
    shifts = [round(MAX_SHIFT * height), round(MAX_SHIFT * width)]
    down, right = (noise.integers(2 * shift + 1) for shift in shifts)
    padded = functional.pad(images, (shifts[1], shifts[1], shifts[0], shifts[0]), value=-1.0)
    # One gather for the whole batch: a loop of slices would start a kernel for each image, and its
    # offsets would have to be read back from the GPU.
    rows = down[:, None] + torch.arange(height, device=images.device)
    columns = right[:, None] + torch.arange(width, device=images.device)
    batch = torch.arange(len(images), device=images.device)[:, None, None]
    moved = padded.permute(0, 2, 3, 1)[batch, rows[:, :, None], columns[:, None, :]]
    return moved.permute(0, 3, 1, 2)


def _cutout(images: Tensor, noise: Noise) -> Tensor:
    """Make a rectangle of half a side each way grey; it may extend beyond the border."""
    height, width = images.shape[2:]
    sides = [round(CUTOUT * height), round(CUTOUT * width)]
    centres = [noise.integers(length + 1) for length in (height, width)]
    inside = []
    for length, side, centre in zip((height, width), sides, centres, strict=True):
        offset = torch.arange(length, device=images.device) - (centre[:, None] - side // 2)
        inside.append((offset >= 0) & (offset < side))
    hole = inside[0][:, None, :, None] & inside[1][:, None, None, :]
    return images.masked_fill(hole, 0.0)


_AUGMENTATIONS = {"color": _color, "translation": _translation, "cutout": _cutout}
