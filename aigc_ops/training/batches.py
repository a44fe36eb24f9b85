"""Micro-batches of each step: its examples and its noise."""

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from torch import Tensor

from aigc_ops.compute.devices import seed_torch
from aigc_ops.compute.random import Noise, derive_seed
from aigc_ops.core.errors import ConfigError
from aigc_ops.training.config import TrainingConfig
from aigc_ops.training.distributed import ProcessGroup
from aigc_ops.training.examples import Examples
from aigc_ops.training.order import DataOrder
from aigc_ops.training.state import Progress


@dataclass(frozen=True)
class MicroBatch:
    """Rows of a step's batch that pass through the networks together."""

    batch: dict[str, Tensor]
    """Tensors by name, on the device; rows first."""
    noise: Noise


class Batches:
    """Micro-batches of this process, for any step."""

    def __init__(
        self, examples: Examples, config: TrainingConfig, seed: int, processes: ProcessGroup
    ) -> None:
        self._examples, self._config, self._seed = examples, config, seed
        self._processes = processes
        # Micro-batches are of equal size, because `take_step` divides the sum of their losses by
        # their number and processes average their gradients with equal weight.
        num_parts = config.micro_batches * processes.size
        self._size = config.batch_size // num_parts
        if self._size * num_parts != config.batch_size:
            raise ConfigError(
                f"batch_size {config.batch_size} cannot be split over {processes.size} processes "
                f"with micro_batches {config.micro_batches}; make it a multiple of {num_parts}"
            )
        self._order: DataOrder | None = None
        self._prefetched: tuple[tuple[int, int], Future[list[MicroBatch]]] | None = None
        # One thread only: `_build` caches the epoch's order, which a second would overwrite.
        self._thread = ThreadPoolExecutor(1) if examples.needs_prefetch else None

    def micro_batches(self, progress: Progress) -> list[MicroBatch]:
        """Return the step's micro-batches; also seed torch, whose generator dropout uses.

        Examples that are not on the device are prefetched for the next step.
        """
        # Attempt 0 uses the seed itself; each rollback derives another order and other noise.
        key = derive_seed(self._seed, progress.attempt) if progress.attempt else self._seed
        seed_torch(derive_seed(key, progress.step, self._processes.rank), self._processes.device)
        if self._thread is None:
            return self._build(key, progress.step)
        current, following = (key, progress.step), (key, progress.step + 1)
        # A rollback changes the key and the step, which makes the prefetched batch useless.
        if self._prefetched is None or self._prefetched[0] != current:
            self._prefetched = current, self._thread.submit(self._build, *current)
        micro_batches = self._prefetched[1].result()
        self._prefetched = following, self._thread.submit(self._build, *following)
        return micro_batches

    def _build(self, key: int, step: int) -> list[MicroBatch]:
        num = self._config.batch_size
        if self._order is None or self._order.seed != key:
            self._order = self._examples.order(batch_size=num, seed=key)
        indices = self._order.batch(step)
        micro_batches = []
        for index in range(self._config.micro_batches):
            # Rows are dealt by micro-batch, then by process. Noise is a function of the row's
            # index in the whole batch, so it does not depend on how the batch is split.
            first = (index * self._processes.size + self._processes.rank) * self._size
            rows = slice(first, first + self._size)
            noise = Noise(key, step, rows=rows, batch_size=num, device=self._processes.device)
            micro_batches.append(MicroBatch(self._examples.take(indices[rows]), noise))
        return micro_batches
