"""The data that a model trains on, as the training loop sees it."""

import abc
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Groups:
    """Neighbouring images that are read at once, since reading one alone costs as much."""

    sizes: Sequence[int]
    """Images in each group, in their order."""
    at_once: int
    """Groups that memory holds."""


class TrainingData(abc.ABC):
    """One split of a dataset; a modality adds the samples themselves."""

    groups: Groups | None = None
    """Which rows are read together, where that matters."""
    is_resident: bool = True
    """Whether all of it is in memory; else rows are read as they are needed."""

    @abc.abstractmethod
    def __len__(self) -> int: ...

    @abc.abstractmethod
    def take(self, indices: Any) -> "TrainingData":
        """Return the rows at these indices ((N,) int64), in their order."""

    def digest_parts(self) -> Iterator[str] | None:
        """Return strings that name the whole content, for examples worth keeping on disk.

        None where making examples is as quick as reading them.
        """
        return None
