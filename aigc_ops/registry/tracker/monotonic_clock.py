"""A clock for the timestamps of a run's metrics."""

import time
from collections.abc import Callable


def steady_clock(since: int) -> Callable[[], int]:
    """Return a function that returns the time: milliseconds since 1970, never before `since`."""
    # The system's clock is read once: one that is set back during a run would make durations
    # negative. `since` covers a resumed run whose earlier process had a clock that was ahead.
    start = max(time.time_ns() // 1_000_000, since)
    origin = time.monotonic_ns()
    return lambda: start + (time.monotonic_ns() - origin) // 1_000_000
