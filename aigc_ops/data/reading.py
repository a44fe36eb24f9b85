"""A split as models train on it: resident in memory or, when too large, streamed."""

from pathlib import Path

from aigc_ops.artifacts import DatasetRef
from aigc_ops.data.config import DataConfig, Split
from aigc_ops.data.decoding import image_data, text_data
from aigc_ops.data.layout import find_layout
from aigc_ops.data.opening import content_digest
from aigc_ops.data.rows import read_rows
from aigc_ops.data.streaming import ImageStream
from aigc_ops.errors import DataError
from aigc_ops.generative import Data


def read_split(ref: DatasetRef, config: DataConfig, split: Split) -> Data:
    """One split; raises DataError naming the first unsound row.

    Images that would take more than `data.memory_gb` are decoded as they are needed, and
    an unsound one is found then. The content must still be what `open_dataset` found.
    """
    layout = find_layout(Path(ref.uri), config)
    if content_digest(layout, config) != ref.content_digest:
        raise DataError(f"{ref.uri}: changed since it was opened; run the stage again")
    count = ref.num_train if split == "train" else ref.num_heldout
    if not count:
        more = " (data.documents paragraph or line makes more of a text file)"
        raise DataError(
            f"{ref.uri}: the {split} split is empty; add rows to it"
            + more * (ref.modality == "text")
        )
    if ref.modality == "text":
        return text_data(read_rows(layout, config, split))
    if ref.image_shape is None:
        raise DataError(f"{ref.uri}: no image of it can be read; validate it to see why")
    shape = ref.image_shape
    if count * shape.channels * shape.height * shape.width > config.memory_bytes:
        return ImageStream(layout, config, split, shape)
    return image_data(read_rows(layout, config, split), count, config, shape)
