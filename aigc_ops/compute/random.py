"""Stateless random numbers: functions of (seed, step, draw, row).

They do not depend on how a batch is split or on what was generated before, so a resumed run
meets the same numbers as an uninterrupted one.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from aigc_ops.core.errors import ModelError

MAX_SEED = 2**53 - 1  # JSON readers that parse numbers as float64 are exact up to here

_MASK = 2**64 - 1
_GOLDEN = 0x9E3779B97F4A7C15  # 2**64 / golden ratio, an odd integer: SplitMix64's increment


def derive_seed(*numbers: int) -> int:
    """Derive a seed of 63 bits from a sequence of integers; their order matters.

    SplitMix64's finaliser, chained (Steele, Lea & Flood 2014).
    """
    value = 0
    for number in numbers:
        # + 1, since the finaliser maps 0 to 0: leading zeros would otherwise not count.
        value = splitmix64((value + number + 1) * _GOLDEN & _MASK)
    return value >> 1


def splitmix64(value: int) -> int:
    """Compute SplitMix64's finaliser, a bijection of 64-bit integers."""
    value &= _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)


def sample_seeds(seed: int, num: int) -> list[int]:
    """Return the seeds of `num` samples: the first is `seed`, the others derive from it.

    Each of them, given as `seed`, generates its sample again. Torch's CPU generator uses only
    their lower 32 bits: about 100 of a million samples share their noise with another.
    """
    derived = (splitmix64(seed + index * _GOLDEN) & MAX_SEED for index in range(1, num))
    return [seed, *derived][:num] if num else []


class Noise:
    """Random numbers of one training step, for some rows of its batch.

    Each draw is made for the step's whole batch and then cut to `rows`. So rows have the same noise
    however the batch is split over micro-batches and processes. Draws are distinguished by their
    order.
    """

    def __init__(
        self,
        seed: int,
        step: int = 0,
        *,
        rows: slice = slice(None),
        batch_size: int,
        device: torch.device | str = "cpu",
    ) -> None:
        self._seed, self._step, self._num_seeded = seed, step, 0
        self._rows, self._batch_size = rows, batch_size
        self._generator = torch.Generator(device)
        # Shape and function of each draw, from which ReplayedNoise repeats them.
        self._draws: list[tuple[tuple[int, ...], _Fill]] = []

    @property
    def step(self) -> int:
        """The training step, counted from 0; in a CUDA graph use `ramp` instead."""
        return self._step

    def normal(self, *shape: int) -> Tensor:
        """Return (rows, *shape) from N(0, 1)."""
        return self._rows_of(shape, lambda all_, its: all_.normal_(generator=its._next()))

    def uniform(self, *shape: int) -> Tensor:
        """Return (rows, *shape) from U[0, 1)."""
        return self._rows_of(shape, lambda all_, its: all_.uniform_(generator=its._next()))

    def integers(self, high: int, *shape: int) -> Tensor:
        """Return (rows, *shape) int64 from 0 to high - 1."""
        return self._rows_of(
            shape, lambda all_, its: all_.random_(high, generator=its._next())
        ).long()

    def ramp(self, num_steps: int) -> Tensor:
        """Return a scalar that rises from 1 / num_steps to 1 over num_steps, then stays 1."""
        return self._draw((), lambda all_, its: all_.fill_(min(1, (its.step + 1) / num_steps)))

    def _rows_of(self, shape: tuple[int, ...], fill: "_Fill") -> Tensor:
        return self._draw((self._batch_size, *shape), fill)[self._rows]

    def _draw(self, shape: tuple[int, ...], fill: "_Fill") -> Tensor:
        tensor = torch.empty(shape, device=self._generator.device)
        fill(tensor, self)
        self._draws.append((shape, fill))
        return tensor

    def _next(self) -> torch.Generator:
        # Seeded anew for each draw, so that no draw depends on the size of those before it.
        self._num_seeded += 1
        return self._generator.manual_seed(derive_seed(self._seed, self._step, self._num_seeded))


_Fill = Callable[[Tensor, Noise], object]


class ReplayedNoise(Noise):
    """The draws of another step in fixed buffers, which a captured CUDA graph reads."""

    def __init__(self, like: Noise) -> None:
        super().__init__(
            like._seed, rows=like._rows, batch_size=like._batch_size, device=like._generator.device
        )
        self._fixed = [
            (torch.empty(shape, device=self._generator.device), fill) for shape, fill in like._draws
        ]

    @property
    def step(self) -> int:
        """Not available in a captured CUDA graph: raises ModelError."""
        # Python code is not run again when the graph is replayed: the step would stay the same.
        raise ModelError("noise.step is fixed within a CUDA graph; use noise.ramp")

    def refill(self, noise: Noise) -> None:
        """Fill the buffers with the draws of another, new step."""
        for tensor, fill in self._fixed:
            fill(tensor, noise)

    def _draw(self, shape: tuple[int, ...], fill: "_Fill") -> Tensor:
        # While a graph is captured: the buffer with the same number takes the place of a draw.
        index = len(self._draws)
        if index == len(self._fixed) or self._fixed[index][0].shape != shape:
            raise ModelError(
                "random numbers differ in shape or number from the step before; a CUDA graph needs "
                "the same draws in each step"
            )
        self._draws.append((shape, fill))
        return self._fixed[index][0]
