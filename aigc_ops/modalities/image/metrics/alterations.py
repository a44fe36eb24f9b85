"""Alterations of images that leave them copies to the eye, to measure how many are found."""

import io
import math
from collections.abc import Callable, Mapping

import numpy as np
import torch
from PIL import Image
from torch import Generator, Tensor
from torch.nn import functional

Alteration = Callable[[Tensor, Generator], Tensor]
"""Function of float images (N, C, H, W) in 0 to 255 and a generator, which returns others."""


def altered(images: Tensor, name: str) -> Tensor:
    """Return altered copies of uint8 images (N, C, H, W), the same ones on each call."""
    generator = Generator().manual_seed(list(ALTERATIONS).index(name))
    changed = ALTERATIONS[name](images.float(), generator)
    return changed.round().clamp(0, 255).to(torch.uint8)


def warp(images: Tensor, matrices: Tensor) -> Tensor:
    """Return images resampled under affine maps (N, 2, 3) of coordinates in -1 to 1.

    Pixels from outside an image repeat its edge.
    """
    grid = functional.affine_grid(matrices, list(images.shape), align_corners=False)
    return functional.grid_sample(
        images, grid, mode="bilinear", padding_mode="border", align_corners=False
    )


def affine(zoom: float = 1.0, degrees: float = 0.0, *, mirror: bool = False) -> Tensor:
    """Return the map (2, 3) that shows `zoom` of an image's side, turned and mirrored."""
    cos, sin = (zoom * f(math.radians(degrees)) for f in (math.cos, math.sin))
    sign = -1.0 if mirror else 1.0
    return torch.tensor([[sign * cos, -sin, 0.0], [sign * sin, cos, 0.0]])


def _noise(images: Tensor, generator: Generator) -> Tensor:
    return images + 16 * torch.randn(images.shape, generator=generator)


def _jpeg(images: Tensor, _: Generator) -> Tensor:
    pictures = []
    for image in images.to(torch.uint8).permute(0, 2, 3, 1).numpy():
        content = io.BytesIO()
        # A picture of one channel has two dimensions for Pillow.
        Image.fromarray(image.squeeze(2) if image.shape[2] == 1 else image).save(
            content, "JPEG", quality=30
        )
        pictures.append(np.array(Image.open(content), np.float32).reshape(image.shape))
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)


def _jitter(images: Tensor, generator: Generator) -> Tensor:
    """Change contrast, brightness and each colour's share, each by up to a fifth."""
    num, channels = images.shape[:2]
    contrast, brightness, colour = (
        0.8 + 0.4 * torch.rand(num, each, 1, 1, generator=generator) for each in (1, 1, channels)
    )
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    return ((images - mean) * contrast + mean) * brightness * colour


def _shift(pixels: int) -> Alteration:
    def shift(images: Tensor, generator: Generator) -> Tensor:
        padded = functional.pad(images, (pixels,) * 4, mode="replicate")
        height, width = images.shape[2:]
        moves = torch.randint(0, 8, (len(images),), generator=generator)
        moves += (moves >= 4).to(moves.dtype)  # the eight directions, without staying in place
        rows, columns = pixels * (moves // 3), pixels * (moves % 3)
        shifted = [
            image[:, row : row + height, column : column + width]
            for image, row, column in zip(padded, rows.tolist(), columns.tolist(), strict=True)
        ]
        return torch.stack(shifted)

    return shift


def _crop(share: float) -> Alteration:
    def crop(images: Tensor, generator: Generator) -> Tensor:
        matrices = affine(share).expand(len(images), 2, 3).clone()
        matrices[:, :, 2] = (1 - share) * (2 * torch.rand(len(images), 2, generator=generator) - 1)
        return warp(images, matrices)

    return crop


def _rotation(images: Tensor, generator: Generator) -> Tensor:
    both = torch.stack([affine(degrees=5), affine(degrees=-5)])
    return warp(images, both[torch.randint(0, 2, (len(images),), generator=generator)])


def _blur(images: Tensor, _: Generator) -> Tensor:
    weights = torch.exp(-(torch.arange(-3.0, 4.0) ** 2) / 2)
    weights = weights / weights.sum()
    channels = images.shape[1]
    for shape, padding in (((1, 1, 7, 1), (0, 0, 3, 3)), ((1, 1, 1, 7), (3, 3, 0, 0))):
        kernel = weights.reshape(shape).expand(channels, -1, -1, -1)
        images = functional.conv2d(
            functional.pad(images, padding, mode="replicate"), kernel, groups=channels
        )
    return images


ALTERATIONS: Mapping[str, Alteration] = {
    "noise of 16 levels": _noise,
    "JPEG 30": _jpeg,
    "darker by 30 %": lambda images, _: 0.7 * images,
    "jitter": _jitter,
    "mirrored": lambda images, _: images.flip(3),
    "shifted by 1 pixel": _shift(1),
    "shifted by 2 pixels": _shift(2),
    "shifted by 4 pixels": _shift(4),
    "crop of 90 %": _crop(0.9),
    "crop of 80 %": _crop(0.8),
    "turned by 5°": _rotation,
    "blurred": _blur,
}
"""Alterations by name. Append new ones: the position of one seeds its random numbers."""

USUAL = ("JPEG 30", "jitter", "mirrored", "shifted by 1 pixel", "shifted by 2 pixels")
"""Those whose mean share found is the power of an evaluation."""
