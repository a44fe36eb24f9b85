"""A split decoded and resident in memory."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from aigc_ops.artifacts import DatasetRef, ImageShape
from aigc_ops.data.config import DataConfig, Split
from aigc_ops.data.images import decode, fit
from aigc_ops.data.layout import find_layout
from aigc_ops.data.opening import content_digest, label_index
from aigc_ops.data.rows import Row, read_rows
from aigc_ops.errors import DataError
from aigc_ops.generative import ImageData, TextData


def read_split(ref: DatasetRef, config: DataConfig, split: Split) -> ImageData | TextData:
    """The rows of one split, decoded; raises DataError naming the first unsound row.

    The content must still be what `open_dataset` found.
    """
    layout = find_layout(Path(ref.uri), config)
    if content_digest(layout, config) != ref.content_digest:
        raise DataError(f"{ref.uri}: changed since it was opened; run the stage again")
    count = ref.num_train if split == "train" else ref.num_heldout
    if not count:
        raise DataError(f"{ref.uri}: the {split} split is empty; add rows to it")
    rows = read_rows(layout, config, split)
    if ref.modality == "text":
        return _text_data(list(rows))
    if ref.image_shape is None:
        raise DataError(f"{ref.uri}: no image of it can be read; validate it to see why")
    return _image_data(rows, count, config, ref.image_shape)


def _image_data(
    rows: Iterator[Row], count: int, config: DataConfig, shape: ImageShape
) -> ImageData:
    images = np.empty((count, shape.channels, shape.height, shape.width), dtype=np.uint8)
    labels = []
    for index, row in enumerate(rows):
        try:
            pixels = fit(decode(row.content or b""), config.image_size, shape.channels)
        except DataError as error:
            raise DataError(f"{row.name}: {error}") from error
        if pixels.shape != images.shape[1:]:
            raise DataError(
                f"{row.name}: {pixels.shape[2]}x{pixels.shape[1]} pixels, expected "
                f"{shape.width}x{shape.height}; set data.image_size to resize all images"
            )
        images[index] = pixels
        labels.append(_class_of(row, shape.class_names) if shape.class_names else 0)
    classes = torch.tensor(labels) if shape.class_names else None
    return ImageData(torch.from_numpy(images), classes, shape)


def _class_of(row: Row, names: tuple[str, ...]) -> int:
    label = label_index(row.label, names)
    if label is None or not 0 <= label < len(names):
        raise DataError(f"{row.name}: label {label} is outside 0..{len(names) - 1}")
    return label


def _text_data(rows: list[Row]) -> TextData:
    texts = [_decoded(row, row.content) for row in rows]
    if all(row.prompt is None for row in rows):
        return TextData(texts)
    return TextData(texts, [_decoded(row, row.prompt) for row in rows])


def _decoded(row: Row, content: bytes | None) -> str:
    if content is None:
        raise DataError(f"{row.name}: text is null; fill it in or leave the row out")
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise DataError(f"{row.name}: not UTF-8 ({error})") from error
