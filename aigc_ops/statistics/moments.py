"""Mergeable moments of features, in the memory of one matrix for a set of any size."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, reduce
from typing import Self

import numpy as np
from numpy.typing import NDArray

from aigc_ops.statistics.frechet import Array, Gaussian, check_finite

NUM_BLOCKS = 10
"""Contiguous blocks of a set with moments of their own: the groups of the jackknife."""
MAX_KEPT = 10_000
"""Maximum number of feature rows kept per set, for metrics that need more than moments."""
ROWS_AT_ONCE = 1024  # one product of this many rows is faster than products of small batches


@dataclass(frozen=True)
class Moments:
    """Number, mean and scatter of features; moments of parts add up to those of the whole."""

    num: int
    mean: Array
    """(D,) float64."""
    scatter: Array
    """(D (D + 1) / 2,) float64: sum of the outer products of deviations from the mean. Only the
    upper triangle is stored, row by row, in half the memory."""

    @classmethod
    def empty(cls, width: int) -> Self:
        """Return the moments of an empty set."""
        return cls(0, np.zeros(width), np.zeros(width * (width + 1) // 2))

    @classmethod
    def of_features(cls, features: NDArray[np.floating]) -> Self:
        """Compute the moments of (N, D) finite features."""
        rows = features.astype(np.float64)
        if not len(rows):
            return cls.empty(rows.shape[1])
        mean = rows.mean(axis=0)
        rows -= mean
        return cls(len(rows), mean, (rows.T @ rows)[_upper(len(mean))])

    def __add__(self, other: "Moments") -> "Moments":
        # Pairwise update of Chan, Golub & LeVeque 1979, eq. 2.1: unlike sums of squares it loses
        # no digits where the mean is large beside the deviations.
        num = self.num + other.num
        if not num:
            return self
        gap = other.mean - self.mean
        scatter = self.scatter + other.scatter
        _add_outer(scatter, gap, self.num * other.num / num)
        return Moments(num, self.mean + gap * (other.num / num), scatter)

    def without(self, part: "Moments") -> "Moments":
        """Return the moments without the rows of a part; at least one row must remain."""
        # The pairwise update solved for one of its parts.
        num = self.num - part.num
        mean = self.mean + (self.mean - part.mean) * (part.num / num)
        gap = part.mean - mean
        scatter = self.scatter - part.scatter
        _add_outer(scatter, gap, -num * part.num / self.num)
        return Moments(num, mean, scatter)

    @property
    def covariance(self) -> Array:
        """Unbiased covariance (D, D); 0 for a single row."""
        upper = _upper(len(self.mean))
        matrix = np.empty(upper.shape)
        matrix[upper] = matrix.T[upper] = self.scatter / max(1, self.num - 1)
        return matrix

    def gaussian(self) -> Gaussian:
        """Return the Gaussian with this mean and covariance."""
        return Gaussian.of_moments(self.mean, self.covariance)


@lru_cache(maxsize=1)  # all blocks of a set have one width
def _upper(width: int) -> NDArray[np.bool_]:
    return np.triu(np.ones((width, width), bool))


def _add_outer(scatter: Array, gap: Array, times: float) -> None:
    """Add `times` the outer product of the gap with itself to an upper triangle, in place."""
    # Row by row: np.outer would allocate a second matrix of (D, D).
    end = 0
    for row, value in enumerate(times * gap):
        begin, end = end, end + len(gap) - row
        scatter[begin:end] += value * gap[row:]


def merged(parts: Sequence[Moments]) -> Moments:
    """Return the moments of all parts together; at least one is required."""
    return reduce(Moments.__add__, parts)


@dataclass(frozen=True)
class FeatureSet:
    """Features of a set: every row, or for a large set some rows and the moments of all."""

    rows: NDArray[np.float32]
    """(K, D) rows that are kept."""
    blocks: tuple[Moments, ...] = ()
    """Moments of the contiguous blocks that make up the set; empty when every row is kept."""

    @property
    def num(self) -> int:
        """Number of features, kept or not."""
        return sum(block.num for block in self.blocks) if self.blocks else len(self.rows)

    def gaussian(self) -> Gaussian:
        """Return mean and covariance of all rows; raise EvaluationError for fewer than two."""
        return merged(self.blocks).gaussian() if self.blocks else Gaussian.of_features(self.rows)

    def pooled(self) -> Self:
        """Return the set with its blocks merged into one, in a tenth of their memory."""
        return replace(self, blocks=(merged(self.blocks),)) if self.blocks else self

    @classmethod
    def of_parts(cls, parts: Sequence["FeatureSet"]) -> Self:
        """Concatenate parts in their order."""
        rows = np.concatenate([part.rows for part in parts])
        return cls(rows, tuple(block for part in parts for block in part.blocks))


class Accumulator:
    """Features of one block, added batch by batch."""

    def __init__(self, width: int, *, kept: NDArray[np.intp], with_moments: bool) -> None:
        """Begin empty; `kept` are the indices of the rows to keep, ascending."""
        self._kept, self._rows = kept, list[NDArray[np.float32]]()
        self._moments = Moments.empty(width) if with_moments else None
        self._waiting: list[NDArray[np.float32]] = []
        self._empty = np.empty((0, width), np.float32)
        self._num = 0

    def add(self, features: NDArray[np.float32]) -> None:
        """Add (B, D) features; raise EvaluationError when one is not finite."""
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
        # Concatenated with an empty array, because there may be no batches at all.
        self._moments += Moments.of_features(np.concatenate([self._empty, *self._waiting]))
        self._waiting.clear()

    def finish(self) -> FeatureSet:
        """Return the block's features."""
        rows = np.concatenate([self._empty, *self._rows])
        if self._moments is None:
            return FeatureSet(rows)
        self._merge()
        return FeatureSet(rows, (self._moments,))
