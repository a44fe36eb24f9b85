"""What is kept under the home to be quicker next time: reference features, examples, models.

Each entry is a folder named by a digest of all that it was made of, so none can be stale;
removing one costs only the time to make it again. What is kept stays within
`AIGC_OPS_CACHE_GB` (10), the longest unused going first.
"""

import math
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from aigc_ops.core.errors import ConfigError
from aigc_ops.core.state_dir import home

VARIABLE, DEFAULT_GB = "AIGC_OPS_CACHE_GB", 10.0
IN_USE_SECONDS = 600
"""What was used so lately may be in another process's hands."""


@dataclass(frozen=True)
class Entry:
    """One kept folder."""

    kind: str
    path: Path
    num_bytes: int
    used: float
    """When it was last written or read, in seconds since 1970."""

    def describe(self) -> dict[str, Any]:
        """The entry for programs."""
        return {
            "kind": self.kind,
            "path": str(self.path),
            "bytes": self.num_bytes,
            "used": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self.used)),
        }

    def line(self) -> str:
        """The entry for people."""
        days = max(0.0, time.time() - self.used) / 86400
        size = f"{self.num_bytes / 2**20:8.1f} MiB"
        return f"{size}  {days:6.1f} days ago  {self.kind}/{self.path.name[:16]}"


def entries() -> list[Entry]:
    """Everything kept, the longest unused first."""
    return sorted(_entries(), key=lambda entry: entry.used)


def prune(max_bytes: float, *, unused_seconds: float = 0.0) -> list[Entry]:
    """Remove the longest unused until what is kept fits; what was removed.

    Entries used in the last `unused_seconds`, and those that a process holds the lock of,
    stay.
    """
    kept = entries()
    total, removed = sum(entry.num_bytes for entry in kept), []
    for entry in kept:
        if total <= max_bytes:
            break
        if time.time() - entry.used >= unused_seconds and _remove(entry.path):
            total -= entry.num_bytes
            removed.append(entry)
    return removed


def trim() -> list[Entry]:
    """Keep within `AIGC_OPS_CACHE_GB`; what was removed. Raises ConfigError for no number."""
    told = os.environ.get(VARIABLE, str(DEFAULT_GB))
    try:
        gigabytes = float(told)
    except ValueError:
        gigabytes = math.nan
    if not gigabytes >= 0:
        raise ConfigError(f"{VARIABLE} is {told!r}; expected a number of gigabytes, such as 10")
    return prune(gigabytes * 2**30, unused_seconds=IN_USE_SECONDS)


def mark_used(entry: Path) -> None:
    """Let an entry's last use be now, whether or not the file system keeps times of reading."""
    for path in entry.iterdir():
        if path.is_file():
            os.utime(path)
            return


def _remove(entry: Path) -> bool:
    """Whether an entry could be removed: not while a process that makes or reads it holds it.

    Lock files stay: one that was removed could be held by one process and made anew by another.
    """
    locks = [entry.with_suffix(".lock"), entry.parent / ".lock"]
    away = entry.with_name(f".{entry.name}.{os.getpid()}.removed")
    try:
        with ExitStack() as held:
            for lock in locks:
                if lock.exists():
                    held.enter_context(FileLock(lock, timeout=0))
            entry.rename(away)  # so that none meets it half removed
    except (Timeout, OSError):
        return False
    shutil.rmtree(away, ignore_errors=True)
    return True


def _entries() -> Iterator[Entry]:
    for kind in sorted((home() / "cache").glob("*")):
        for path in kind.iterdir() if kind.is_dir() else ():
            if path.is_dir() and not path.name.startswith("."):
                files = list(_statuses(path))
                used = max((max(s.st_mtime, s.st_atime) for s in files), default=0.0)
                yield Entry(kind.name, path, sum(s.st_size for s in files), used)


def _statuses(folder: Path) -> Iterator[os.stat_result]:
    """Of all files below, as far as another process leaves them there."""
    for path in folder.rglob("*"):
        with suppress(OSError):
            if path.is_file():
                yield path.stat()
