"""Features of a set of any size, extracted in blocks of bounded memory."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aigc_ops.statistics.extractor import FeatureExtractor
from aigc_ops.statistics.moments import MAX_KEPT, NUM_BLOCKS, Accumulator, FeatureSet
from aigc_ops.statistics.reference import reference_rows

MAX_BYTES_AT_ONCE = 2**28


@dataclass(frozen=True)
class Block:
    """Part of a set whose features are accumulated separately."""

    indices: NDArray[np.intp]
    """Rows of the set, ascending."""
    kept: NDArray[np.intp]
    """Positions in `indices` of the rows whose features are kept."""
    with_moments: bool

    def accumulator(self, width: int) -> Accumulator:
        """Return an empty accumulator for the block's features."""
        return Accumulator(width, kept=self.kept, with_moments=self.with_moments)


def plan_blocks(
    num: int, *, at_least: int = 1, scattered: bool = True, shuffle: bool = False
) -> list[Block]:
    """Return the blocks of a set of `num` rows; a large set has ten.

    Up to 10,000 rows every feature is kept and no moments. In a large set the kept rows are
    scattered evenly, or with `scattered=False` the first ones. Blocks are contiguous; with
    `shuffle` the rows of a large set are shuffled first, with a fixed seed.
    """
    # The blocks are the jackknife's groups. Files are often sorted by class, and a group of one
    # class would make the interval far too wide; hence `shuffle`.
    kept = np.array(reference_rows(num, MAX_KEPT) if scattered else range(min(num, MAX_KEPT)), int)
    is_large = num > MAX_KEPT
    order = shuffled(num) if shuffle and is_large else np.arange(num)
    parts = np.array_split(order, NUM_BLOCKS if is_large else min(at_least, max(1, num)))
    # Ascending within a block, because neighbours are cheap to read one after another.
    return [
        Block(part, np.flatnonzero(np.isin(part, kept)), is_large) for part in map(np.sort, parts)
    ]


def shuffled(num: int) -> NDArray[np.intp]:
    """Return a fixed pseudo-random permutation of `num` rows."""
    return np.random.default_rng(0).permutation(num)


def rows_at_once(num_bytes: int) -> int:
    """Return how many samples of `num_bytes` each are read or generated at once."""
    return max(1, MAX_BYTES_AT_ONCE // num_bytes)


def gather_features(
    blocks: Sequence[Block],
    read: Callable[[NDArray[np.intp]], Any],
    extractor: FeatureExtractor,
    *,
    num_bytes: int,
    what: str,
) -> FeatureSet:
    """Return the features of samples, read or generated block by block.

    `read` returns the samples at given indices, for at most 256 MiB of samples of `num_bytes`
    each. `what` names them in the progress bar.
    """
    at_once = rows_at_once(num_bytes)
    parts = []
    for block in blocks:
        accumulator = block.accumulator(extractor.identity.width)
        for start in range(0, len(block.indices), at_once):
            samples = read(block.indices[start : start + at_once])
            accumulator.add(extractor.features(samples, what=what))
        parts.append(accumulator.finish())
    return FeatureSet.of_parts(parts)
