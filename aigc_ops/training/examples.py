"""Training examples of a model: on the device if they fit, else copied batch by batch."""

import hashlib
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor

from aigc_ops.core import caches
from aigc_ops.core.artifacts import json_digest
from aigc_ops.core.atomic_dirs import verify_folder, write_folder
from aigc_ops.core.errors import CheckpointError
from aigc_ops.interfaces.data import TrainingData
from aigc_ops.interfaces.model import Generative
from aigc_ops.training.order import DataOrder

FORMAT = "a NumPy file of each kind"  # part of the digest that names a cache entry: don't reword
MOST_OF_FREE = 0.5  # of a GPU's free memory; the networks need the rest


class Examples:
    """All examples of a split, taken by index."""

    def __init__(
        self,
        model: Generative[Any],
        data: TrainingData,
        device: torch.device,
        cache: Path | None = None,
    ) -> None:
        self._device, self._model, self._data = device, model, data
        self._resident: Mapping[str, Tensor] | None = None
        # Three cases: all on the device; all in host memory, when a GPU lacks room; or read from
        # disk when taken, for data larger than memory.
        if data.is_resident:
            self._resident = _model_examples(model, data, cache)
            self._num = len(next(iter(self._resident.values())))
            if self._fits_device():
                self._resident = {name: rows.to(device) for name, rows in self._resident.items()}
        else:
            self._num = len(data)

    @property
    def needs_prefetch(self) -> bool:
        """True if a batch must be copied to the device, which a thread can do in advance."""
        # On the CPU a prefetching thread would compete for the cores that train.
        if self._device.type == "cpu" or self._resident is None:
            return self._device.type != "cpu"
        return next(iter(self._resident.values())).device.type != self._device.type

    def order(self, *, batch_size: int, seed: int) -> DataOrder:
        """Return the order in which a run takes the examples."""
        return DataOrder(
            num_examples=self._num, batch_size=batch_size, seed=seed, groups=self._data.groups
        )

    def take(self, indices: Tensor) -> dict[str, Tensor]:
        """Return the examples at (N,) int64 indices, on the device in the model's memory format."""
        if self._resident is None:
            batch = self._model.examples(self._data.take(indices))
        else:
            device = next(iter(self._resident.values())).device
            batch = {name: rows[indices.to(device)] for name, rows in self._resident.items()}
        memory_format = self._model.memory_format
        return {
            name: rows.contiguous(memory_format=memory_format) if rows.ndim == 4 else rows
            for name, rows in self._on_device(batch).items()
        }

    def _on_device(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the batch on the device; copies to CUDA overlap with computation there."""
        if self._device.type != "cuda" or all(rows.is_cuda for rows in batch.values()):
            return {name: rows.to(self._device) for name, rows in batch.items()}
        # Only pinned memory is copied asynchronously, and only a stream of its own lets the copy
        # overlap with the step that the default stream computes.
        copy_stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        with torch.cuda.stream(copy_stream):
            moved = {
                name: rows.pin_memory().to(self._device, non_blocking=True)
                for name, rows in batch.items()
            }
        copy_stream.synchronize()
        # The allocator knows only the copy stream. Without this it would reuse the memory as soon
        # as the tensor is freed, while the default stream may still read it.
        for rows in moved.values():
            rows.record_stream(torch.cuda.default_stream(self._device))
        return moved

    def _fits_device(self) -> bool:
        assert self._resident is not None
        if self._device.type != "cuda":
            return True
        free, _ = torch.cuda.mem_get_info(self._device)
        return sum(rows.nbytes for rows in self._resident.values()) < MOST_OF_FREE * free


def _model_examples(
    model: Generative[Any], data: TrainingData, cache: Path | None
) -> Mapping[str, Tensor]:
    """Return the model's examples of the data; large texts are cached on disk.

    A cache entry is memory-mapped, so pages are read when they are used. Its name is a digest of
    everything that decides its content.
    """
    # 1. Leave the cache out when making examples is as quick as reading them.
    terms, parts = model.example_terms(), data.digest_parts()
    if cache is None or terms is None or parts is None:
        return model.examples(data)
    # 2. Name the entry by family, format, tokeniser terms and content of the data.
    digest = hashlib.sha256()
    identity = {"family": model.config.family, "format": FORMAT, **terms}
    digest.update(json_digest(identity).encode())
    for part in parts:
        digest.update(part.encode())
        digest.update(b"\0")  # parts "ab", "c" must differ from "a", "bc"
    folder = cache / digest.hexdigest()
    cache.mkdir(parents=True, exist_ok=True)
    # 3. Write it once: of several processes the first holds the lock, the others then read.
    with FileLock(folder.with_suffix(".lock")):
        try:
            verify_folder(folder)
        except CheckpointError:  # missing or damaged
            write_folder(folder, partial(model.write_examples, data))
        caches.mark_used(folder)
    # Mode "c" (copy on write): torch warns about read-only arrays, and the file stays as it is.
    files = sorted(folder.glob("*.npy"))
    return {file.stem: torch.from_numpy(np.load(file, mmap_mode="c")) for file in files}
