"""The time of a run's reports."""

import time
from collections.abc import Callable


def steady_clock(since: int) -> Callable[[], int]:
    """Milliseconds since 1970, at least `since`, whenever it is asked.

    It reads the system's clock once: one that is set back in mid-run leaves no duration negative.
    """
    began = max(time.time_ns() // 1_000_000, since)
    origin = time.monotonic_ns()
    return lambda: began + (time.monotonic_ns() - origin) // 1_000_000
