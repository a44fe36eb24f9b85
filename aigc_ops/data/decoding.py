"""Rows decoded into what models train on; the first unsound row is named."""

import json
from collections.abc import Iterable

import numpy as np
import torch

from aigc_ops.artifacts import ImageShape
from aigc_ops.data.config import DataConfig
from aigc_ops.data.images import decode, fit
from aigc_ops.data.opening import label_index
from aigc_ops.data.rowtypes import Row
from aigc_ops.data.store import Column
from aigc_ops.errors import DataError
from aigc_ops.generative import ImageData, TextData
from aigc_ops.sample_request import Message


def image_data(rows: Iterable[Row], count: int, config: DataConfig, shape: ImageShape) -> ImageData:
    """`count` rows as images of that shape; raises DataError naming an unsound one."""
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


def text_data(rows: Iterable[Row]) -> TextData:
    """Rows as texts, with prompts and earlier turns; raises DataError naming an unsound one.

    Many texts are kept on disk.
    """
    texts, prompts = Column(str.encode, bytes.decode), Column(str.encode, bytes.decode)
    histories = Column(_history_bytes, _history)
    first_with: Row | None = None
    first_without: Row | None = None
    has_histories = False
    for row in rows:
        texts.append(_decoded(row, row.content))
        histories.append(row.history)
        has_histories |= bool(row.history)
        if row.prompt is not None:
            prompts.append(_decoded(row, row.prompt))
            first_with = first_with or row
        else:
            first_without = first_without or row
    if first_with is None:
        return TextData(texts.finish())
    if first_without is not None:
        _decoded(first_without, None)
    told = histories.finish() if has_histories else None
    return TextData(texts.finish(), prompts.finish(), told)


def _history_bytes(history: tuple[Message, ...]) -> bytes:
    return json.dumps(history).encode() if history else b""


def _history(content: bytes) -> tuple[Message, ...]:
    return tuple(Message(*turn) for turn in json.loads(content)) if content else ()


def _class_of(row: Row, names: tuple[str, ...]) -> int:
    label = label_index(row.label, names)
    if label is None or not 0 <= label < len(names):
        raise DataError(f"{row.name}: label {label} is outside 0..{len(names) - 1}")
    return label


def _decoded(row: Row, content: bytes | None) -> str:
    if content is None:
        what = row.error or "text is null"
        raise DataError(f"{row.name}: {what}; mend it or leave the row out")
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise DataError(
            f"{row.name}: not UTF-8 ({error.reason} at byte {error.start}); save it as UTF-8, or "
            "leave the row out"
        ) from error
