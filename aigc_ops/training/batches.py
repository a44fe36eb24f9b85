"""Each step's batch: which examples, with which noise."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from aigc_ops.errors import ConfigError
from aigc_ops.noise import Noise, mixed
from aigc_ops.training.config import TrainingConfig
from aigc_ops.training.order import DataOrder
from aigc_ops.training.processes import Processes
from aigc_ops.training.state import Progress


@dataclass(frozen=True)
class Share:
    """What one pass through the networks computes: some rows of a step's batch."""

    batch: dict[str, Tensor]
    noise: Noise


class Batches:
    """This process's shares of any step's batch, from examples resident on the device."""

    def __init__(
        self, examples: Mapping[str, Tensor], config: TrainingConfig, seed: int, team: Processes
    ) -> None:
        self._examples, self._config, self._seed = examples, config, seed
        self._team, self._size = team, config.batch_size // (config.micro_batches * team.size)
        if self._size * config.micro_batches * team.size != config.batch_size:
            raise ConfigError(
                f"a batch_size of {config.batch_size} cannot be shared out to {team.size} "
                f"processes of {config.micro_batches} micro_batches; make it a multiple"
            )
        self._orders: dict[int, DataOrder] = {}

    def shares(self, progress: Progress) -> list[Share]:
        """The step's micro-batches; also seeds torch's own noise, which dropout draws from."""
        key = mixed(self._seed, progress.attempt) if progress.attempt else self._seed
        torch.manual_seed(mixed(key, progress.step, self._team.rank))
        num = self._config.batch_size
        indices = self._order(key).batch(progress.step)
        shares = []
        for index in range(self._config.micro_batches):
            first = (self._team.rank * self._config.micro_batches + index) * self._size
            rows = slice(first, first + self._size)
            noise = Noise(key, progress.step, rows=rows, batch_size=num, device=self._team.device)
            shares.append(Share(_take(self._examples, indices[rows]), noise))
        return shares

    def _order(self, key: int) -> DataOrder:
        if key not in self._orders:
            num = len(next(iter(self._examples.values())))
            order = DataOrder(num_examples=num, batch_size=self._config.batch_size, seed=key)
            self._orders = {key: order}
        return self._orders[key]


def _take(examples: Mapping[str, Tensor], indices: Tensor) -> dict[str, Tensor]:
    batch = {}
    for name, tensor in examples.items():
        rows = tensor[indices.to(tensor.device)]
        is_image = rows.ndim == 4
        batch[name] = rows.contiguous(memory_format=torch.channels_last) if is_image else rows
    return batch
