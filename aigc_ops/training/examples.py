"""A model's training examples: on the device where they fit, else brought there as needed."""

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

FORMAT = "a NumPy file of each kind"
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
        if data.is_resident:
            self._resident = _made(model, data, cache)
            self._num = len(next(iter(self._resident.values())))
            if self._fit():
                self._resident = {name: rows.to(device) for name, rows in self._resident.items()}
        else:
            self._num = len(data)

    @property
    def are_at_hand(self) -> bool:
        """Whether taking some is no work worth doing ahead of time."""
        if self._device.type == "cpu" or self._resident is None:
            return self._device.type == "cpu"
        return next(iter(self._resident.values())).device.type == self._device.type

    def order(self, *, batch_size: int, seed: int) -> DataOrder:
        """The order in which to take them."""
        return DataOrder(
            num_examples=self._num, batch_size=batch_size, seed=seed, groups=self._data.groups
        )

    def take(self, indices: Tensor) -> dict[str, Tensor]:
        """Return those examples on the device, in the model's memory format."""
        if self._resident is None:
            batch = self._model.examples(self._data.take(indices))
        else:
            here = next(iter(self._resident.values())).device
            batch = {name: rows[indices.to(here)] for name, rows in self._resident.items()}
        memory_format = self._model.memory_format
        return {
            name: rows.contiguous(memory_format=memory_format) if rows.ndim == 4 else rows
            for name, rows in self._moved(batch).items()
        }

    def _moved(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """The batch on the device; to CUDA from pinned memory, beside what computes there."""
        if self._device.type != "cuda" or all(rows.is_cuda for rows in batch.values()):
            return {name: rows.to(self._device) for name, rows in batch.items()}
        copies = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        with torch.cuda.stream(copies):
            moved = {
                name: rows.pin_memory().to(self._device, non_blocking=True)
                for name, rows in batch.items()
            }
        copies.synchronize()
        for rows in moved.values():  # its memory is not given out again before it was used
            rows.record_stream(torch.cuda.default_stream(self._device))
        return moved

    def _fit(self) -> bool:
        assert self._resident is not None
        if self._device.type != "cuda":
            return True
        free, _ = torch.cuda.mem_get_info(self._device)
        return sum(rows.nbytes for rows in self._resident.values()) < MOST_OF_FREE * free


def _made(model: Generative[Any], data: TrainingData, cache: Path | None) -> Mapping[str, Tensor]:
    """Return the model's examples of the data; those of much text are kept on disk.

    What is kept is written as it is made and mapped into memory, so it is read as it is
    needed. Its name is a digest of all that it is made of. Of several processes here, one
    makes it.
    """
    terms, parts = model.example_terms(), data.digest_parts()
    if cache is None or terms is None or parts is None:
        return model.examples(data)
    digest = hashlib.sha256()
    named = {"family": model.config.family, "format": FORMAT, **terms}
    digest.update(json_digest(named).encode())
    for part in parts:
        digest.update(part.encode())
        digest.update(b"\0")
    folder = cache / digest.hexdigest()
    cache.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_suffix(".lock")):
        try:
            verify_folder(folder)
        except CheckpointError:  # none yet, or a damaged one
            write_folder(folder, partial(model.write_examples, data))
        caches.mark_used(folder)
    # A map that is private may be written to, which torch asks of arrays.
    files = sorted(folder.glob("*.npy"))
    return {file.stem: torch.from_numpy(np.load(file, mmap_mode="c")) for file in files}
