"""The order in which a run meets its examples, known at any step without a history."""

import numpy as np
import torch
from torch import Tensor

from aigc_ops.interfaces.data import Groups


class DataOrder:
    """Indices of each step's batch: one shuffle per (seed, epoch), epochs end to end.

    A batch may span two epochs, so every example is met once per epoch whatever the batch
    size, and any step is reached in O(1) epochs. With `groups`, the groups are shuffled
    and each one's examples are strewn over as many groups' time as memory holds at once.
    """

    def __init__(
        self, *, num_examples: int, batch_size: int, seed: int, groups: Groups | None = None
    ) -> None:
        self.num_examples, self.batch_size, self.seed = num_examples, batch_size, seed
        self._groups = groups
        self._epoch, self._shuffle = -1, np.empty(0, np.int64)

    def batch(self, step: int) -> Tensor:
        """(batch_size,) int64 indices of the batch at `step`, counted from 0."""
        first = step * self.batch_size
        positions = np.arange(first, first + self.batch_size)
        epochs, offsets = np.divmod(positions, self.num_examples)
        indices = np.empty_like(positions)
        for epoch in range(int(epochs[0]), int(epochs[-1]) + 1):
            here = epochs == epoch
            indices[here] = self._epoch_order(epoch)[offsets[here]]
        return torch.from_numpy(indices)

    def _epoch_order(self, epoch: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        if epoch != self._epoch:
            rng = np.random.default_rng([self.seed, epoch])
            self._epoch, self._shuffle = epoch, self._shuffled(rng)
        return self._shuffle

    def _shuffled(self, rng: np.random.Generator) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        groups = self._groups
        if groups is None or groups.at_once >= len(groups.sizes):
            return rng.permutation(self.num_examples)
        turns = np.repeat(rng.permutation(len(groups.sizes)), groups.sizes)
        # Those strewn beyond the end begin the epoch, which is as well mixed as its middle.
        times = (turns + rng.uniform(0, groups.at_once, self.num_examples)) % len(groups.sizes)
        return np.argsort(times, kind="stable")
