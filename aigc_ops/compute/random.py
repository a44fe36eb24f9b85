"""Random numbers that depend on seeds and positions, never on who draws them when."""

from collections.abc import Callable

import torch
from torch import Tensor

from aigc_ops.core.errors import ModelError

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

    Any of them, given alone as `seed`, draws that one sample again. Torch's generator on the
    CPU reads their lower 32 bits, so of a million samples some hundred meet another's noise.
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
        self._seed, self._step, self._num_seeded = seed, step, 0
        self._rows, self._batch_size = rows, batch_size
        self._generator = torch.Generator(device)
        self._drawn: list[tuple[tuple[int, ...], _Fill]] = []

    @property
    def step(self) -> int:
        """The training step, counted from 0; `ramp` tells it to the device."""
        return self._step

    def normal(self, *shape: int) -> Tensor:
        """(rows, *shape) from N(0, 1)."""
        return self._rows_of(shape, lambda all_, its: all_.normal_(generator=its._next()))

    def uniform(self, *shape: int) -> Tensor:
        """(rows, *shape) from U[0, 1)."""
        return self._rows_of(shape, lambda all_, its: all_.uniform_(generator=its._next()))

    def integers(self, high: int, *shape: int) -> Tensor:
        """(rows, *shape) int64 from 0 to high - 1."""
        return self._rows_of(
            shape, lambda all_, its: all_.random_(high, generator=its._next())
        ).long()

    def ramp(self, num_steps: int) -> Tensor:
        """() from 1 / num_steps at the first step to 1 at the last of so many, then 1."""
        return self._draw((), lambda all_, its: all_.fill_(min(1, (its.step + 1) / num_steps)))

    def _rows_of(self, shape: tuple[int, ...], fill: "_Fill") -> Tensor:
        return self._draw((self._batch_size, *shape), fill)[self._rows]

    def _draw(self, shape: tuple[int, ...], fill: "_Fill") -> Tensor:
        tensor = torch.empty(shape, device=self._generator.device)
        fill(tensor, self)
        self._drawn.append((shape, fill))
        return tensor

    def _next(self) -> torch.Generator:
        self._num_seeded += 1
        return self._generator.manual_seed(mixed(self._seed, self._step, self._num_seeded))


_Fill = Callable[[Tensor, Noise], object]


class ReplayedNoise(Noise):
    """The same draws as another step's, in memory that stays: what a CUDA graph reads."""

    def __init__(self, like: Noise) -> None:
        super().__init__(
            like._seed, rows=like._rows, batch_size=like._batch_size, device=like._generator.device
        )
        self._fixed = [
            (torch.empty(shape, device=self._generator.device), fill) for shape, fill in like._drawn
        ]

    @property
    def step(self) -> int:
        """None that stays: raises ModelError."""
        raise ModelError("noise.step is read, which differs at each step; use noise.ramp")

    def draw_as(self, noise: Noise) -> None:
        """Fill the memory with what this other, new noise would draw."""
        for tensor, fill in self._fixed:
            fill(tensor, noise)

    def _draw(self, shape: tuple[int, ...], fill: "_Fill") -> Tensor:
        place = len(self._drawn)
        if place == len(self._fixed) or self._fixed[place][0].shape != shape:
            raise ModelError("noise is drawn in other shapes or more often than the step before")
        self._drawn.append((shape, fill))
        return self._fixed[place][0]
