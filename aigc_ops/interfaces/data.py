"""Training data: the part of its interface that the training loop uses."""

import abc
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Groups:
    """Images stored together, such as a Parquet row group; reading one reads the whole group."""

    sizes: Sequence[int]
    """Number of images in each group, in storage order."""
    at_once: int
    """Maximum number of groups held in memory at the same time."""


class TrainingData(abc.ABC):
    """A split of a dataset; a modality's subclass adds the samples themselves."""

    groups: Groups | None = None
    """Row groups for streamed data; None: rows are read in any order at equal cost."""
    is_resident: bool = True
    """True when the whole split is in memory, False when rows are read on demand."""

    @abc.abstractmethod
    def __len__(self) -> int: ...

    @abc.abstractmethod
    # `indices` is typed Any, so that this module does not import torch.
    def take(self, indices: Any) -> "TrainingData":
        """Return the rows at these indices ((N,) int64 tensor), in the given order."""

    def digest_parts(self) -> Iterator[str] | None:
        """Return strings that identify the whole content, the key of cached examples.

        None when computing examples is as quick as reading them from the cache.
        """
        # Strings are yielded one by one, so that a large split is hashed without a copy.
        return None
