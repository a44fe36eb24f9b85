"""Order of a run's examples: a function of seed and step, so resuming needs no history."""

import numpy as np
import torch
from torch import Tensor

from aigc_ops.interfaces.data import Groups


class DataOrder:
    """Indices of each step's batch: one shuffle per (seed, epoch), epochs end to end.

    A batch may span two epochs, so every example is used once per epoch for any batch size, and
    any step is reached in O(1) epochs. With `groups` (row groups of streamed data), the groups
    are shuffled and their examples interleaved within a buffer of as many groups as memory holds.
    """

    def __init__(
        self, *, num_examples: int, batch_size: int, seed: int, groups: Groups | None = None
    ) -> None:
        self.num_examples, self.batch_size, self.seed = num_examples, batch_size, seed
        self._groups = groups
        self._epoch, self._shuffle = -1, np.empty(0, np.int64)

    def batch(self, step: int) -> Tensor:
        """Return the (batch_size,) int64 indices of the batch at `step`, counted from 0."""
        first = step * self.batch_size
        positions = np.arange(first, first + self.batch_size)
        epochs, offsets = np.divmod(positions, self.num_examples)
        indices = np.empty_like(positions)
        for epoch in range(int(epochs[0]), int(epochs[-1]) + 1):
            in_epoch = epochs == epoch
            indices[in_epoch] = self._epoch_order(epoch)[offsets[in_epoch]]
        return torch.from_numpy(indices)

    def _epoch_order(self, epoch: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        # Only the current shuffle is kept: consecutive steps ask for the same epoch.
        if epoch != self._epoch:
            rng = np.random.default_rng([self.seed, epoch])
            self._epoch, self._shuffle = epoch, self._shuffled(rng)
        return self._shuffle

    def _shuffled(self, rng: np.random.Generator) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        groups = self._groups
        if groups is None or groups.at_once >= len(groups.sizes):
            return rng.permutation(self.num_examples)
        # Each group gets a turn, and each example a time within `at_once` turns from it: so only
        # that many groups are in use at any time.
        turns = np.repeat(rng.permutation(len(groups.sizes)), groups.sizes)
        # Times past the end wrap around, so the start of an epoch is mixed as well as its middle.
        times = (turns + rng.uniform(0, groups.at_once, self.num_examples)) % len(groups.sizes)
        return np.argsort(times, kind="stable")
