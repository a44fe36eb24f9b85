"""Caches in the state directory: reference features, examples, downloaded models.

An entry is a folder named by a digest of its inputs, so it is never stale. Removing one costs
only the time to compute it again. The least recently used entries are removed above
`AIGC_OPS_CACHE_GB` (default: 10).
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
"""An entry that was used more recently than this may be in use by another process."""


@dataclass(frozen=True)
class Entry:
    """A cached folder."""

    kind: str
    path: Path
    num_bytes: int
    used: float
    """When it was last written or read, in seconds since 1970."""

    def describe(self) -> dict[str, Any]:
        """Return the entry as JSON for `--json`."""
        return {
            "kind": self.kind,
            "path": str(self.path),
            "bytes": self.num_bytes,
            "used": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self.used)),
        }

    def line(self) -> str:
        """Return the entry as a line of text."""
        # A clock that was set back, or a file system with another clock, gives times in the future.
        days = max(0.0, time.time() - self.used) / 86400
        size = f"{self.num_bytes / 2**20:8.1f} MiB"
        return f"{size}  {days:6.1f} days ago  {self.kind}/{self.path.name[:16]}"


def entries() -> list[Entry]:
    """Return all entries, the least recently used first."""
    return sorted(_entries(), key=lambda entry: entry.used)


def prune(max_bytes: float, *, unused_seconds: float = 0.0) -> list[Entry]:
    """Remove least recently used entries until the rest fits; return those that were removed.

    Entries that were used in the last `unused_seconds`, and locked ones, stay.
    """
    candidates = entries()
    total, removed = sum(entry.num_bytes for entry in candidates), []
    for entry in candidates:
        if total <= max_bytes:
            break
        # An entry that cannot be removed is skipped, so more than the oldest may have to go.
        if time.time() - entry.used >= unused_seconds and _remove(entry.path):
            total -= entry.num_bytes
            removed.append(entry)
    return removed


def trim() -> list[Entry]:
    """Remove entries until the cache is within `AIGC_OPS_CACHE_GB`; return the removed ones.

    Raises ConfigError if the variable is not a number of 0 or more.
    """
    value = os.environ.get(VARIABLE, str(DEFAULT_GB))
    try:
        gigabytes = float(value)
    except ValueError:
        gigabytes = math.nan
    # `not >=` instead of `<`, since every comparison with NaN is false.
    if not gigabytes >= 0:
        raise ConfigError(f"{VARIABLE} is {value!r}; expected a number of gigabytes, such as 10")
    return prune(gigabytes * 2**30, unused_seconds=IN_USE_SECONDS)


def mark_used(entry: Path) -> None:
    """Set an entry's time of last use to now."""
    # Written explicitly, since file systems mounted with noatime do not record reads. One file
    # is enough: an entry's last use is the latest time of any of its files.
    for path in entry.iterdir():
        if path.is_file():
            os.utime(path)
            return


def _remove(entry: Path) -> bool:
    """Remove an entry unless a process holds its lock; return whether it was removed."""
    # Lock files are not removed: a process could still hold the removed file while another
    # creates a new one and locks that, so that both would hold "the" lock.
    locks = [entry.with_suffix(".lock"), entry.parent / ".lock"]
    hidden = entry.with_name(f".{entry.name}.{os.getpid()}.removed")
    try:
        with ExitStack() as acquired:
            for lock in locks:
                if lock.exists():
                    acquired.enter_context(FileLock(lock, timeout=0))
            # Renamed first, so that no reader sees a half-removed entry. The slow removal
            # follows after the locks are released.
            entry.rename(hidden)
    except (Timeout, OSError):
        return False
    shutil.rmtree(hidden, ignore_errors=True)
    return True


def _entries() -> Iterator[Entry]:
    for kind in sorted((home() / "cache").glob("*")):
        for path in kind.iterdir() if kind.is_dir() else ():
            # Hidden folders are being written or removed by some process.
            if path.is_dir() and not path.name.startswith("."):
                files = list(_statuses(path))
                used = max((max(s.st_mtime, s.st_atime) for s in files), default=0.0)
                yield Entry(kind.name, path, sum(s.st_size for s in files), used)


def _statuses(folder: Path) -> Iterator[os.stat_result]:
    """Yield `stat()` of all files below a folder."""
    # `os.walk` skips a folder that another process has just removed, `rglob` raises.
    for parent, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):  # the file may be gone as well
                yield Path(parent, name).stat()
