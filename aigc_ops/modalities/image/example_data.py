"""Small datasets of generated images, on which image families are tested."""

import torch

from aigc_ops.core.artifacts import ImageShape
from aigc_ops.modalities.image.model import ImageData

SHAPES = {
    "28 grey labelled": ImageShape(channels=1, height=28, width=28, class_names=("a", "b", "c")),
    "32 colour": ImageShape(channels=3, height=32, width=32),
    "8 one class": ImageShape(channels=3, height=8, width=8, class_names=("only",)),
}


def example_data() -> dict[str, ImageData]:
    """Return 32 images of each shape."""
    return {name: _images(shape, 32) for name, shape in SHAPES.items()}


def _images(shape: ImageShape, num: int) -> ImageData:
    """Return horizontal and vertical gradients with noise, so that there is structure to learn."""
    generator = torch.Generator().manual_seed(0)
    ramp = torch.linspace(0, 180, shape.width).expand(shape.height, shape.width)
    images = torch.stack([ramp if index % 2 else ramp.T for index in range(num)])[:, None]
    images = images + torch.randint(0, 60, (num, shape.channels, *ramp.shape), generator=generator)
    labels = torch.arange(num) % shape.num_classes if shape.num_classes else None
    return ImageData(images.to(torch.uint8), labels, shape)
