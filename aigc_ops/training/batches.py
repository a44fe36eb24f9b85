"""Each step's batch: which examples, with which noise."""

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from torch import Tensor

from aigc_ops.compute.devices import seed_torch
from aigc_ops.compute.random import Noise, mixed
from aigc_ops.core.errors import ConfigError
from aigc_ops.training.config import TrainingConfig
from aigc_ops.training.distributed import Processes
from aigc_ops.training.examples import Examples
from aigc_ops.training.order import DataOrder
from aigc_ops.training.state import Progress


@dataclass(frozen=True)
class Share:
    """What one pass through the networks computes: some rows of a step's batch."""

    batch: dict[str, Tensor]
    noise: Noise


class Batches:
    """This process's shares of any step's batch."""

    def __init__(
        self, examples: Examples, config: TrainingConfig, seed: int, team: Processes
    ) -> None:
        self._examples, self._config, self._seed = examples, config, seed
        self._team, self._size = team, config.batch_size // (config.micro_batches * team.size)
        if self._size * config.micro_batches * team.size != config.batch_size:
            raise ConfigError(
                f"a batch_size of {config.batch_size} cannot be shared out to {team.size} "
                f"processes of {config.micro_batches} micro_batches; make it a multiple"
            )
        self._order: DataOrder | None = None
        self._ahead: tuple[tuple[int, int], Future[list[Share]]] | None = None
        self._thread = None if examples.are_at_hand else ThreadPoolExecutor(1)

    def shares(self, progress: Progress) -> list[Share]:
        """The step's micro-batches; also seeds torch's own noise, which dropout draws from.

        Where examples are far from the device, the next step's are brought meanwhile.
        """
        key = mixed(self._seed, progress.attempt) if progress.attempt else self._seed
        seed_torch(mixed(key, progress.step, self._team.rank), self._team.device)
        if self._thread is None:
            return self._shares(key, progress.step)
        here, following = (key, progress.step), (key, progress.step + 1)
        if self._ahead is None or self._ahead[0] != here:
            self._ahead = here, self._thread.submit(self._shares, *here)
        shares = self._ahead[1].result()
        self._ahead = following, self._thread.submit(self._shares, *following)
        return shares

    def _shares(self, key: int, step: int) -> list[Share]:
        num = self._config.batch_size
        if self._order is None or self._order.seed != key:
            self._order = self._examples.order(batch_size=num, seed=key)
        indices = self._order.batch(step)
        shares = []
        for index in range(self._config.micro_batches):
            # Each micro-batch of the team holds the rows of one process's alone.
            first = (index * self._team.size + self._team.rank) * self._size
            rows = slice(first, first + self._size)
            noise = Noise(key, step, rows=rows, batch_size=num, device=self._team.device)
            shares.append(Share(self._examples.take(indices[rows]), noise))
        return shares
