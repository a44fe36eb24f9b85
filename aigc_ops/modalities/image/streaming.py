"""A split of images too large for memory, read from its files as it is needed."""

from collections import OrderedDict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock

import numpy as np
import torch
from torch import Tensor

from aigc_ops.core import caches
from aigc_ops.core.artifacts import ImageShape
from aigc_ops.core.errors import DataError
from aigc_ops.formats.parquet import open_parquet
from aigc_ops.formats.rows import read_group
from aigc_ops.interfaces.data import Groups
from aigc_ops.interfaces.ingestion import DataSettings, Layout, Split
from aigc_ops.interfaces.row import Group, Row
from aigc_ops.modalities.image.decoding import image_data
from aigc_ops.modalities.image.ingestion import image_settings
from aigc_ops.modalities.image.model import ImageData, Images
from aigc_ops.modalities.image.regrouping import regrouped

ROW_BYTES = 400  # what Python adds to an encoded image
FEWEST_GROUPS = 4
GOOD_GROUPS = 32  # of a copy, which are strewn among one another
MOST_GROUPS = 256
LEAST_PIXELS = 2**15  # below which threads wait for one another longer than they decode


class ImageStream(Images):
    """Images decoded when they are taken, from encoded groups that are kept for a while.

    A group is a row group of Parquet, or an image file. Parquet of row groups too large for
    that is copied once into smaller ones. As many are kept as fit into half
    of `data.image.memory_gb`; taking images in an order that keeps to `groups` reads each group
    once or twice an epoch. Any order gives the same images, whatever `data.image.num_workers`.
    """

    def __init__(
        self, layout: Layout, config: DataSettings, split: Split, shape: ImageShape
    ) -> None:
        """Raises DataError when an image alone takes too much of the memory."""
        self.shape = shape
        self._layout, self._config, self._split = layout, config, split
        self._settings = image_settings(config)
        self._groups: list[Group] = []
        self._kept: OrderedDict[int, list[Row]] = OrderedDict()
        self._num_kept = MOST_GROUPS
        self._lock = Lock()
        self._pool = ThreadPoolExecutor(self._settings.num_workers, thread_name_prefix="decode")
        sizes = self._survey()
        self._ends = np.cumsum(sizes)
        if layout.is_parquet:
            # Some stand by for the last rows of groups that are nearly used up.
            at_once = self._num_kept - max(2, self._num_kept // 4)
            self.groups = Groups(tuple(sizes), at_once)

    def __len__(self) -> int:
        return int(self._ends[-1])

    def take(self, indices: Tensor) -> ImageData:
        rows = [self._row(index) for index in indices.tolist()]
        fewest = LEAST_PIXELS // (self.shape.height * self.shape.width)
        per_worker = max(1, fewest, -(-len(rows) // self._settings.num_workers))
        parts = [rows[first : first + per_worker] for first in range(0, len(rows), per_worker)]
        if len(parts) <= 1:
            return self._decode(rows)
        decoded = list(self._pool.map(self._decode, parts))
        labels = [part.labels for part in decoded if part.labels is not None]
        return ImageData(
            torch.cat([part.images for part in decoded]),
            torch.cat(labels) if labels else None,
            self.shape,
        )

    def _decode(self, rows: list[Row]) -> ImageData:
        return image_data(rows, len(rows), self._settings, self.shape)

    def _row(self, index: int) -> Row:
        group = int(np.searchsorted(self._ends, index, side="right"))
        first = int(self._ends[group - 1]) if group else 0
        return self._rows(group)[index - first]

    def _rows(self, group: int) -> list[Row]:
        with self._lock:
            if group not in self._kept:
                while len(self._kept) >= self._num_kept:
                    self._kept.popitem(last=False)
                self._kept[group] = list(self._read(self._groups[group]))
            self._kept.move_to_end(group)
            return self._kept[group]

    def _read(self, group: Group) -> Iterator[Row]:
        if group.file.is_absolute():
            caches.mark_used(group.file.parent)
        return read_group(self._layout, self._config, self._split, group)

    def _survey(self) -> list[int]:
        """Images of the split in each group that has any; unsplit data is read to tell them."""
        sizes = []
        for name in self._layout.files_of(self._split):
            is_parquet = self._layout.is_parquet
            for group in self._row_groups(name) if is_parquet else [Group(name)]:
                num = sum(1 for _ in self._read(group)) if self._layout.files is None else group.num
                if num:
                    self._groups.append(group)
                    sizes.append(num)
        return sizes

    def _row_groups(self, name: Path) -> Iterator[Group]:
        first, memory = 0, self._settings.memory_bytes // 2
        sizes = self._sizes(name)
        too_large = [(n, size) for n, size in sizes if size * FEWEST_GROUPS > memory]
        if too_large:
            fewer = min(n * memory // (size * GOOD_GROUPS) for n, size in too_large)
            path = self._layout.root / name
            name = regrouped(path, self._config, num_rows=max(1, fewer))
            sizes = self._sizes(name)
        for index, (num, num_bytes) in enumerate(sizes):
            if num_bytes * FEWEST_GROUPS > memory:
                raise DataError(
                    f"{name}: {num} of its images take {num_bytes / 2**20:.3g} MiB, too much to "
                    f"stream them in data.image.memory_gb {self._settings.memory_gb:g}; allow more "
                    "memory"
                )
            self._num_kept = min(self._num_kept, memory // max(1, num_bytes))
            yield Group(name, index, first, num)
            first += num

    def _sizes(self, name: Path) -> list[tuple[int, int]]:
        """Rows of each row group, and the bytes that they take in memory before decoding."""
        sizes = []
        with open_parquet(self._layout.root / name) as file:
            for index in range(file.metadata.num_row_groups):
                group = file.metadata.row_group(index)
                columns = (group.column(column) for column in range(group.num_columns))
                encoded = sum(
                    column.total_uncompressed_size
                    for column in columns
                    if column.path_in_schema.split(".")[0] == self._settings.column
                )
                sizes.append((group.num_rows, encoded + ROW_BYTES * group.num_rows))
        return sizes
