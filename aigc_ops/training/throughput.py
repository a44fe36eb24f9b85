"""Throughput of training: images or tokens per second."""

import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor

SECONDS, NUM_MARKS = 10.0, 20
"""The period that a rate is the mean of, and the number of parts in which it moves on."""


class Rate:
    """Units per second over the last 10 s, without the warm-up and the pauses for checkpoints."""

    def __init__(self, *, warmup_steps: int) -> None:
        self._warmup_remaining = warmup_steps
        self._paused = 0.0
        self._units: int | Tensor = 0
        # Clock and units counted, from the start of the period on.
        self._last: tuple[float, int | Tensor] = self._clock(), 0
        self._marks: deque[tuple[float, int | Tensor]] = deque([self._last])

    @property
    def value(self) -> float | None:
        """Units per second; None during the warm-up."""
        (start, before), (end, units) = self._marks[0], self._last
        return float(units - before) / (end - start) if end > start else None

    def count(self, units: int | Tensor) -> None:
        """Count a step of `units` images or tokens, which may be a tensor on the GPU."""
        # A GPU's count stays a tensor until `value` is read, so that no step waits for it.
        now = self._clock()
        if self._warmup_remaining > 0:
            self._warmup_remaining -= 1
            self._marks[0] = self._last = now, self._units
            return
        self._units = self._units + units
        self._last = now, self._units
        if now - self._marks[-1][0] >= SECONDS / NUM_MARKS:
            self._marks.append(self._last)
        while len(self._marks) > 1 and now - self._marks[1][0] >= SECONDS:
            self._marks.popleft()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Stop the clock until the block ends."""
        begin = time.perf_counter()
        yield
        self._paused += time.perf_counter() - begin

    def _clock(self) -> float:
        """Return seconds without the pauses."""
        return time.perf_counter() - self._paused
