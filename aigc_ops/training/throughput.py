"""Images or tokens per second, of the training alone."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor


class Rate:
    """Units per second since the warm-up; pauses for samples and checkpoints left out."""

    def __init__(self, *, warmup_steps: int) -> None:
        self._left_to_warm_up = warmup_steps
        self._start = self._last = time.perf_counter()
        self._units: int | Tensor = 0

    @property
    def value(self) -> float | None:
        """None during the warm-up."""
        seconds = self._last - self._start
        return float(self._units) / seconds if seconds > 0 else None

    def count(self, units: int | Tensor) -> None:
        """One step over `units` images or tokens has ended; a GPU's tensor is not waited for."""
        self._last = time.perf_counter()
        if self._left_to_warm_up > 0:
            self._left_to_warm_up -= 1
            self._start = self._last
        else:
            self._units = self._units + units

    @contextmanager
    def paused(self) -> Iterator[None]:
        """The clock stands still."""
        begin = time.perf_counter()
        yield
        pause = time.perf_counter() - begin
        self._start, self._last = self._start + pause, self._last + pause
