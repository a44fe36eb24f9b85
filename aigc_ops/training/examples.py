"""A model's training examples: on the device where they fit, else brought there as needed."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor

from aigc_ops import caches
from aigc_ops.artifacts import json_digest
from aigc_ops.errors import CheckpointError
from aigc_ops.folders import verify_folder, write_folder
from aigc_ops.generative import Data, Generative, ImageData, ImageModel, Images, TextData, TextModel
from aigc_ops.training.order import DataOrder

FORMAT = "a NumPy file of each kind"
KEPT_FROM = 2**20  # characters: making them again takes as long as reading them below that
MOST_OF_FREE = 0.5  # of a GPU's free memory; the networks need the rest


class Examples:
    """All examples of a split, taken by index."""

    def __init__(
        self, model: Generative, data: Data, device: torch.device, cache: Path | None = None
    ) -> None:
        self._device, self._model, self._data = device, model, data
        self._resident: Mapping[str, Tensor] | None = None
        if not isinstance(data, Images) or isinstance(data, ImageData):
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
        groups = self._data.groups if isinstance(self._data, Images) else None
        return DataOrder(num_examples=self._num, batch_size=batch_size, seed=seed, groups=groups)

    def take(self, indices: Tensor) -> dict[str, Tensor]:
        """Those examples on the device, images in channels_last."""
        if self._resident is None:
            assert isinstance(self._model, ImageModel), type(self._model)
            assert isinstance(self._data, Images), type(self._data)
            batch = self._model.examples(self._data.take(indices))
        else:
            here = next(iter(self._resident.values())).device
            batch = {name: rows[indices.to(here)] for name, rows in self._resident.items()}
        return {name: _channels_last(rows) for name, rows in self._moved(batch).items()}

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


def _made(model: Generative, data: Data, cache: Path | None) -> Mapping[str, Tensor]:
    """The model's examples of the data; those of much text are made once and kept on disk.

    What is kept is written as it is made and mapped into memory, so it is read as it is
    needed. Its name is a digest of all that it is made of. Of several processes here, one
    makes it.
    """
    if cache is None or not isinstance(data, TextData) or data.num_characters < KEPT_FROM:
        return model.examples(data)
    digest = hashlib.sha256()
    assert isinstance(model, TextModel), type(model)
    terms = {"family": model.config.family, "format": FORMAT, **model.example_terms()}
    digest.update(json_digest(terms).encode())
    for part in data.parts():
        digest.update(part.encode())
        digest.update(b"\0")
    folder = cache / digest.hexdigest()
    cache.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_suffix(".lock")):
        try:
            verify_folder(folder)
        except CheckpointError:  # none yet, or a damaged one
            write_folder(folder, lambda partial: _write(model, data, partial))
        caches.mark_used(folder)
    # A map that is private may be written to, which torch asks of arrays.
    files = sorted(folder.glob("*.npy"))
    return {file.stem: torch.from_numpy(np.load(file, mmap_mode="c")) for file in files}


def _write(model: TextModel, data: TextData, folder: Path) -> None:
    model.examples(data, folder)


def _channels_last(rows: Tensor) -> Tensor:
    is_image = rows.ndim == 4
    return rows.contiguous(memory_format=torch.channels_last) if is_image else rows
