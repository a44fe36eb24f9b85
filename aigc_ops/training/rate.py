"""Images or tokens per second, of the training alone."""

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Rate:
    """Units per second since the warm-up; pauses for samples and checkpoints left out."""

    def __init__(self, *, warmup_steps: int) -> None:
        self.value: float | None = None
        self._left_to_warm_up = warmup_steps
        self._start = time.perf_counter()
        self._units = 0

    def count(self, units: int) -> None:
        """One step over `units` images or tokens has ended."""
        if self._left_to_warm_up > 0:
            self._left_to_warm_up -= 1
            self._start = time.perf_counter()
            return
        self._units += units
        self.value = self._units / max(time.perf_counter() - self._start, 1e-9)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """The clock stands still."""
        begin = time.perf_counter()
        yield
        self._start += time.perf_counter() - begin
