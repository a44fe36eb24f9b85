"""Moments of features, which merge: of a set of any size, kept in the memory of one matrix."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, reduce
from typing import Self

import numpy as np
from numpy.typing import NDArray

from aigc_ops.statistics.frechet import Array, Gaussian, check_finite

NUM_BLOCKS = 10
"""Runs of neighbours in which a set's moments are kept; a jackknife leaves out one at a time."""
MAX_KEPT = 10_000
"""Rows of features kept of a set, for what moments cannot tell."""
ROWS_AT_ONCE = 1024


@dataclass(frozen=True)
class Moments:
    """Number, mean and scatter of features.

    Parts merge into the whole in any order by the pairwise update of Chan, Golub & LeVeque
    1979 (eq. 2.1), which keeps the digits that sums of squares would lose.
    """

    num: int
    mean: Array
    """(D,) float64."""
    scatter: Array
    """(D (D + 1) / 2,) float64: sum of the outer products of deviations from the mean, as its
    upper triangle row by row."""

    @classmethod
    def none(cls, width: int) -> Self:
        """Of no rows."""
        return cls(0, np.zeros(width), np.zeros(width * (width + 1) // 2))

    @classmethod
    def of_features(cls, features: NDArray[np.floating]) -> Self:
        """Of (N, D) finite features."""
        rows = features.astype(np.float64)
        if not len(rows):
            return cls.none(rows.shape[1])
        mean = rows.mean(axis=0)
        rows -= mean
        return cls(len(rows), mean, (rows.T @ rows)[_upper(len(mean))])

    def __add__(self, other: "Moments") -> "Moments":
        num = self.num + other.num
        if not num:
            return self
        gap = other.mean - self.mean
        scatter = self.scatter + other.scatter
        _add_outer(scatter, gap, self.num * other.num / num)
        return Moments(num, self.mean + gap * (other.num / num), scatter)

    def without(self, part: "Moments") -> "Moments":
        """Of the rows that are not in the part; at least one must be left."""
        num = self.num - part.num
        mean = self.mean + (self.mean - part.mean) * (part.num / num)
        gap = part.mean - mean
        scatter = self.scatter - part.scatter
        _add_outer(scatter, gap, -num * part.num / self.num)
        return Moments(num, mean, scatter)

    @property
    def covariance(self) -> Array:
        """(D, D) unbiased; of a single row 0."""
        upper = _upper(len(self.mean))
        found = np.empty(upper.shape)
        found[upper] = found.T[upper] = self.scatter / max(1, self.num - 1)
        return found

    def gaussian(self) -> Gaussian:
        """The Gaussian of this mean and covariance."""
        return Gaussian.of_moments(self.mean, self.covariance)


@lru_cache(maxsize=1)
def _upper(width: int) -> NDArray[np.bool_]:
    return np.triu(np.ones((width, width), bool))


def _add_outer(scatter: Array, gap: Array, times: float) -> None:
    """Add so many times the outer product of the gap with itself, a row at a time."""
    end = 0
    for place, value in enumerate(times * gap):
        begin, end = end, end + len(gap) - place
        scatter[begin:end] += value * gap[place:]


def merged(parts: Sequence[Moments]) -> Moments:
    """Moments of all parts together; at least one part is given."""
    return reduce(Moments.__add__, parts)


@dataclass(frozen=True)
class FeatureSet:
    """Features of a set: every row, or of a large set some rows and the moments of all."""

    rows: NDArray[np.float32]
    """(K, D)."""
    blocks: tuple[Moments, ...] = ()
    """Moments of runs of neighbours that make up the whole; empty when every row is kept."""

    @property
    def num(self) -> int:
        """Number of features, kept or not."""
        return sum(block.num for block in self.blocks) if self.blocks else len(self.rows)

    def gaussian(self) -> Gaussian:
        """Mean and covariance of all rows; raises EvaluationError for fewer than two."""
        return merged(self.blocks).gaussian() if self.blocks else Gaussian.of_features(self.rows)

    def pooled(self) -> Self:
        """The same with all blocks merged into one, which takes a tenth of their memory."""
        return replace(self, blocks=(merged(self.blocks),)) if self.blocks else self

    @classmethod
    def of_parts(cls, parts: Sequence["FeatureSet"]) -> Self:
        """The parts together, in their order."""
        rows = np.concatenate([part.rows for part in parts])
        return cls(rows, tuple(block for part in parts for block in part.blocks))


class Accumulator:
    """Takes the features of one run of neighbours batch by batch, and keeps what is asked for."""

    def __init__(self, width: int, *, kept: NDArray[np.intp], with_moments: bool) -> None:
        """`kept` are the places of the rows to keep, ascending."""
        self._kept, self._rows = kept, list[NDArray[np.float32]]()
        self._moments = Moments.none(width) if with_moments else None
        self._waiting: list[NDArray[np.float32]] = []
        self._empty = np.empty((0, width), np.float32)
        self._num = 0

    def add(self, features: NDArray[np.float32]) -> None:
        """Take (B, D) features; raises EvaluationError when one is not finite."""
        check_finite(features, first=self._num)
        low, high = np.searchsorted(self._kept, (self._num, self._num + len(features)))
        self._rows.append(features[self._kept[low:high] - self._num])
        self._num += len(features)
        if self._moments is not None:
            self._waiting.append(features)
            if sum(map(len, self._waiting)) >= ROWS_AT_ONCE:
                self._merge()

    def _merge(self) -> None:
        assert self._moments is not None
        self._moments += Moments.of_features(np.concatenate([self._empty, *self._waiting]))
        self._waiting.clear()

    def finish(self) -> FeatureSet:
        """What was taken."""
        rows = np.concatenate([self._empty, *self._rows])
        if self._moments is None:
            return FeatureSet(rows)
        self._merge()
        return FeatureSet(rows, (self._moments,))
