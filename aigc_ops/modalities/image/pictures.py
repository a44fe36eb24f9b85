"""Convert image tensors to pictures: single images, and grids."""

import math

from PIL import Image
from torch import Tensor

GRID_PADDING = 2


def to_pil(image: Tensor) -> Image.Image:
    """Return a (C, H, W) uint8 image as a Pillow image, greyscale for one channel."""
    array = image.permute(1, 2, 0).cpu().numpy()
    return Image.fromarray(array[..., 0] if array.shape[-1] == 1 else array)


def grid(images: Tensor, columns: int | None = None) -> Image.Image:
    """Return a grid of (N, C, H, W) uint8 images, row by row, separated by 2 px of white.

    Small images are enlarged by an integer factor to about 64 px, without smoothing.
    """
    num, _, height, width = images.shape
    columns = columns or max(1, math.ceil(math.sqrt(num)))
    rows = max(1, math.ceil(num / columns))
    scale = max(1, round(64 / max(height, width, 1)))
    high, wide = height * scale + GRID_PADDING, width * scale + GRID_PADDING
    size = (columns * wide + GRID_PADDING, rows * high + GRID_PADDING)
    sheet = Image.new("L" if images.shape[1] == 1 else "RGB", size, "white")
    for index, image in enumerate(images):
        picture = to_pil(image).resize((width * scale, height * scale), Image.Resampling.NEAREST)
        left, top = index % columns * wide, index // columns * high
        sheet.paste(picture, (left + GRID_PADDING, top + GRID_PADDING))
    return sheet
