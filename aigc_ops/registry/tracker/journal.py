"""Metrics on their way to the store, kept on the disk until it has taken them."""

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
    """A queue of metrics; with a path, its content lies there too and outlives kill -9.

    What an earlier process left waits until `go_on` tells which steps are taken again. The
    file is never synced: it is to outlive the process, not the machine.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._file: FileIO | None = None
        self._lock = threading.Lock()
        self._left = _read(path) if path else []
        self._waiting: deque[Metric] = deque()

    def __len__(self) -> int:
        """How many metrics the store has not taken yet."""
        return len(self._left) + len(self._waiting)

    def go_on(self, *, before: float) -> None:
        """Queue what an earlier process left of the steps before this one; drop the rest."""
        with self._lock:
            # The machine's load counts seconds, which no process takes again.
            self._waiting.extend(
                m for m in self._left if m.step < before or m.key.startswith("system/")
            )
            self._left = []

    def add(self, metrics: "Iterable[Metric]") -> None:
        """Queue metrics."""
        new = list(metrics)
        with self._lock:
            self._waiting.extend(new)
            if self._path:
                self._write([[m.key, m.value, m.timestamp, m.step] for m in new])

    def first(self, num: int) -> "list[Metric]":
        """The metrics that have waited longest, at most so many."""
        with self._lock:
            return list(islice(self._waiting, num))

    def remove(self, num: int) -> None:
        """Forget so many, which the store has taken."""
        with self._lock:
            for _ in range(num):
                self._waiting.popleft()
            if self._file and not len(self):
                self._file.truncate(0)

    def close(self) -> None:
        """Remove the file, unless an earlier process's metrics still wait in it."""
        with self._lock:
            if self._file:
                self._file.close()
            if self._path and not self._left:
                self._path.unlink(missing_ok=True)
            self._path = self._file = None

    def _write(self, record: object) -> None:
        assert self._path
        try:
            if self._file is None:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                self._file = self._path.open("ab", buffering=0)
            # The line end comes first, in case that a kill has cut the line before short.
            self._file.write(b"\n" + json.dumps(record).encode())
        except OSError as error:
            logger.warning("a kill would lose the metrics that are not sent yet: %s", error)
            self._path = None


def _read(path: Path) -> "list[Metric]":
    from mlflow.entities import Metric

    found: list[Metric] = []
    for line in path.read_bytes().splitlines() if path.exists() else ():
        with suppress(ValueError):  # of a line that was cut short
            found += [Metric(*fields) for fields in json.loads(line)]
    return found
