"""Decode dataset rows into images; an error names the first damaged row."""

from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray

from aigc_ops.core.artifacts import ImageShape
from aigc_ops.core.errors import DataError
from aigc_ops.interfaces.labels import class_of
from aigc_ops.interfaces.row import Row
from aigc_ops.modalities.image.config import ImageDataConfig
from aigc_ops.modalities.image.files import decode, fit
from aigc_ops.modalities.image.model import ImageData


def image_data(
    rows: Iterable[Row], count: int, settings: ImageDataConfig, shape: ImageShape
) -> ImageData:
    """Return `count` rows as images of that shape; raises DataError naming a bad row."""
    # Allocated once: a list of arrays would take twice the memory when it is stacked.
    images = np.empty((count, shape.channels, shape.height, shape.width), dtype=np.uint8)
    labels = []
    for index, row in enumerate(rows):
        images[index] = pixels_of(
            row, shape, settings.size, advice="set data.image.size to resize all images"
        )
        labels.append(class_of(row, shape.class_names) if shape.class_names else 0)
    classes = torch.tensor(labels) if shape.class_names else None
    return ImageData(torch.from_numpy(images), classes, shape)


def pixels_of(
    row: Row, shape: ImageShape, size: int | None, *, advice: str, repair: str = ""
) -> NDArray[np.uint8]:
    """Return a row's pixels (C, H, W) of this shape, after a resize to a square of `size`.

    Raises DataError that names the row, with `repair` if it cannot be decoded, and with `advice`
    if it has another size.
    """
    try:
        if row.error is not None:
            raise DataError(row.error)
        pixels = fit(decode(row.content or b""), size, shape.channels)
    except DataError as error:
        raise DataError(f"{row.name}: {error}{repair}") from error
    if pixels.shape != (shape.channels, shape.height, shape.width):
        raise DataError(
            f"{row.name}: {pixels.shape[2]}x{pixels.shape[1]} pixels, expected "
            f"{shape.width}x{shape.height}; {advice}"
        )
    return pixels
