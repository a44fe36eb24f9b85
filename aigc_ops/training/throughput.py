"""Throughput of training: images or tokens per second."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor


class Rate:
    """Units per second since the warm-up, without the pauses for samples and checkpoints."""

    def __init__(self, *, warmup_steps: int) -> None:
        self._warmup_remaining = warmup_steps
        self._start = self._last = time.perf_counter()
        self._units: int | Tensor = 0

    @property
    def value(self) -> float | None:
        """Units per second; None during the warm-up."""
        seconds = self._last - self._start
        return float(self._units) / seconds if seconds > 0 else None

    def count(self, units: int | Tensor) -> None:
        """Count a step of `units` images or tokens, which may be a tensor on the GPU."""
        # A GPU's count stays a tensor until `value` is read, so that no step waits for it.
        self._last = time.perf_counter()
        if self._warmup_remaining > 0:
            self._warmup_remaining -= 1
            self._start = self._last
        else:
            self._units = self._units + units

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Stop the clock until the block ends."""
        begin = time.perf_counter()
        yield
        pause = time.perf_counter() - begin
        # Both ends move, so that the elapsed time is the same as before the pause.
        self._start, self._last = self._start + pause, self._last + pause
