"""Random numbers that depend on seeds and positions, never on who draws them when."""

import torch
from torch import Tensor

MAX_SEED = 2**53 - 1  # every JSON reader keeps integers up to here exactly

_MASK = 2**64 - 1
_GOLDEN = 0x9E3779B97F4A7C15


def mixed(*numbers: int) -> int:
    """A number of 63 bits that differs for every sequence of integers, order included.

    SplitMix64's finaliser, chained (Steele, Lea & Flood 2014).
    """
    value = 0
    for number in numbers:
        value = split_mix((value + number + 1) * _GOLDEN & _MASK)
    return value >> 1


def split_mix(value: int) -> int:
    """SplitMix64's finaliser: 64 bits to 64 bits, one to one."""
    value &= _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)


def sample_seeds(seed: int, num: int) -> list[int]:
    """Seeds of `num` samples of one call: the first is `seed`, the others derive from it.

    Any of them, given alone as `seed`, draws that one sample again.
    """
    derived = (split_mix(seed + index * _GOLDEN) & MAX_SEED for index in range(1, num))
    return [seed, *derived][:num] if num else []


class Noise:
    """The random draws of one training step, for the rows of the batch at hand.

    Each draw is made for the step's whole batch and cut to `rows`: however a batch is
    split over micro-batches and processes, its rows meet the same noise. Draws are told
    apart by their order.
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
        self.step = step
        self._key, self._draws = (seed, step), 0
        self._rows, self._batch_size = rows, batch_size
        self._generator = torch.Generator(device)

    def normal(self, *shape: int) -> Tensor:
        """(rows, *shape) from N(0, 1)."""
        return self._empty(*shape).normal_(generator=self._next())[self._rows]

    def uniform(self, *shape: int) -> Tensor:
        """(rows, *shape) from U[0, 1)."""
        return self._empty(*shape).uniform_(generator=self._next())[self._rows]

    def integers(self, high: int, *shape: int) -> Tensor:
        """(rows, *shape) int64 from 0 to high - 1."""
        return self._empty(*shape).random_(high, generator=self._next())[self._rows].long()

    def _empty(self, *shape: int) -> Tensor:
        return torch.empty(self._batch_size, *shape, device=self._generator.device)

    def _next(self) -> torch.Generator:
        self._draws += 1
        return self._generator.manual_seed(mixed(*self._key, self._draws))
