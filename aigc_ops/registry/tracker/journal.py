"""A queue of unsent metrics that is also kept on disk."""

import json
import logging
import threading
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from io import FileIO
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow.entities import Metric

JOURNAL = "unsent.jsonl"

logger = logging.getLogger(__name__)


class Journal:
    """A queue of metrics; with a path it is also written to that file and survives kill -9.

    Metrics of an earlier process wait until `replay_before` is called with the first step of this
    one: later steps are repeated and logged again.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._file: FileIO | None = None
        self._lock = threading.Lock()
        # The file is flushed to the system, but never synced: it must survive the process, not the
        # machine, and a sync per step would slow training.
        self._recovered = _read(path) if path else []
        self._waiting: deque[Metric] = deque()

    def __len__(self) -> int:
        """Return the number of metrics that the store has not accepted yet."""
        return len(self._recovered) + len(self._waiting)

    def replay_before(self, step: float) -> None:
        """Queue an earlier process's metrics of steps before `step`; drop the others."""
        with self._lock:
            # Steps of system metrics are seconds, which are never repeated.
            self._waiting.extend(
                metric
                for metric in self._recovered
                if metric.step < step or metric.key.startswith("system/")
            )
            self._recovered = []

    def add(self, metrics: "Iterable[Metric]") -> None:
        """Queue metrics and append them to the file."""
        new = list(metrics)
        with self._lock:
            self._waiting.extend(new)
            if self._path:
                self._write([[m.key, m.value, m.timestamp, m.step] for m in new])

    def first(self, num: int) -> "list[Metric]":
        """Return the `num` oldest metrics, or fewer, without removing them."""
        with self._lock:
            return list(islice(self._waiting, num))

    def remove(self, num: int) -> None:
        """Remove the `num` oldest metrics, which the store has accepted."""
        with self._lock:
            for _ in range(num):
                self._waiting.popleft()
            # Only when all is sent: a metric that is sent twice is harmless, a lost one is not.
            if self._file and not len(self):
                self._file.truncate(0)

    def close(self) -> None:
        """Delete the file, unless an earlier process's metrics are still waiting in it."""
        with self._lock:
            if self._file:
                self._file.close()
            # A run that failed before its first step does not know which steps will be repeated.
            if self._path and not self._recovered:
                self._path.unlink(missing_ok=True)
            self._path = self._file = None

    def _write(self, record: object) -> None:
        assert self._path
        try:
            if self._file is None:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                self._file = self._path.open("ab", buffering=0)
            # The line break comes first, because a kill may have cut the line before.
            self._file.write(b"\n" + json.dumps(record).encode())
        # A full disk must not stop training; only the protection against a kill is lost.
        except OSError as error:
            logger.warning("a kill would lose the metrics that are not sent yet: %s", error)
            self._path = None


def _read(path: Path) -> "list[Metric]":
    from mlflow.entities import Metric

    metrics: list[Metric] = []
    for line in path.read_bytes().splitlines() if path.exists() else ():
        with suppress(ValueError):  # a line that a kill cut
            metrics += [Metric(*fields) for fields in json.loads(line)]
    return metrics
