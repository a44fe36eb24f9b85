"""Stream a split of images that is too large for memory from its files."""

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
from aigc_ops.formats.rows import left_out_of, read_group
from aigc_ops.interfaces.data import Groups
from aigc_ops.interfaces.ingestion import DataSettings, Layout, Split
from aigc_ops.interfaces.row import Group, Row
from aigc_ops.modalities.image.decoding import image_data
from aigc_ops.modalities.image.ingestion import image_settings
from aigc_ops.modalities.image.model import ImageData, Images
from aigc_ops.modalities.image.regrouping import regrouped

ROW_BYTES = 400  # overhead of the Python objects of one encoded image
FEWEST_GROUPS = 4  # that must fit in memory, else the file is copied into smaller groups
GOOD_GROUPS = 32  # that fit in memory after copying; the shuffle window spans them
MOST_GROUPS = 256
LEAST_PIXELS = 2**15  # per thread; below, threads wait for each other longer than they decode


class ImageStream(Images):
    """Images that are decoded when they are taken, from a cache of encoded groups.

    A group is a Parquet row group, or an image file. Parquet files with large row groups are
    copied once into smaller ones. The cache takes half of `data.image.memory_gb`. An order that
    follows `groups` reads each group once or twice per epoch. The images do not depend on the
    order or on `data.image.num_workers`.
    """

    def __init__(
        self, layout: Layout, config: DataSettings, split: Split, shape: ImageShape
    ) -> None:
        """Survey the groups; raise DataError if one image takes too much of the memory."""
        self.shape = shape
        self._layout, self._config, self._split = layout, config, split
        self._settings = image_settings(config)
        self._groups: list[Group] = []
        self._cached: OrderedDict[int, list[Row]] = OrderedDict()
        self._max_cached = MOST_GROUPS
        self._lock = Lock()
        self._pool = ThreadPoolExecutor(self._settings.num_workers, thread_name_prefix="decode")
        sizes = self._survey()
        self._ends = np.cumsum(sizes)
        if layout.is_parquet:
            # Spare slots: a shuffled order still takes the last rows of groups that are almost
            # exhausted while it begins new ones.
            at_once = self._max_cached - max(2, self._max_cached // 4)
            self.groups = Groups(tuple(sizes), at_once)

    def __len__(self) -> int:
        return int(self._ends[-1])

    def take(self, indices: Tensor) -> ImageData:
        rows = [self._row(index) for index in indices.tolist()]
        # Split the batch over the threads, but not into parts too small to gain from it. Parts are
        # joined in their order, so the result does not depend on the number of threads.
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
            # Least recently used first. The lock makes concurrent readers of a group read it once.
            if group not in self._cached:
                while len(self._cached) >= self._max_cached:
                    self._cached.popitem(last=False)
                self._cached[group] = list(self._read(self._groups[group]))
            self._cached.move_to_end(group)
            return self._cached[group]

    def _read(self, group: Group) -> Iterator[Row]:
        if group.file.is_absolute():
            caches.mark_used(group.file.parent)
        return read_group(self._layout, self._config, self._split, group)

    def _survey(self) -> list[int]:
        """Return the number of the split's images per group, without empty groups."""
        sizes = []
        is_unsplit = self._layout.files is None
        for name in self._layout.files_of(self._split):
            is_parquet = self._layout.is_parquet
            for group in self._row_groups(name) if is_parquet else [Group(name)]:
                # Unsplit data is divided row by row, so it must be read to count. Otherwise the
                # Parquet metadata has the number.
                num = (
                    sum(1 for _ in self._read(group))
                    if is_unsplit
                    else group.num - len(left_out_of(self._layout, self._split, group))
                )
                if num:
                    self._groups.append(group)
                    sizes.append(num)
        return sizes

    def _row_groups(self, name: Path) -> Iterator[Group]:
        # Half of the memory is for encoded groups; the rest is room for decoded batches.
        first, memory, origin = 0, self._settings.memory_bytes // 2, name
        sizes = self._sizes(name)
        too_large = [(n, size) for n, size in sizes if size * FEWEST_GROUPS > memory]
        if too_large:
            # So many rows that GOOD_GROUPS copied groups fit, judged by the largest group.
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
            self._max_cached = min(self._max_cached, memory // max(1, num_bytes))
            yield Group(name, index, first, num, copied_from=origin)
            first += num

    def _sizes(self, name: Path) -> list[tuple[int, int]]:
        """Return rows and bytes in memory, before decoding, of each row group."""
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
