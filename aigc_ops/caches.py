"""What is kept under the home to be quicker next time: reference features, examples, models.

Each entry is a folder named by a digest of all that it was made of, so none can be stale;
removing one costs only the time to make it again.
"""

import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aigc_ops.home import home


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


def prune(max_bytes: int) -> list[Entry]:
    """Remove the longest unused until what is kept fits; what was removed."""
    kept = entries()
    total, removed = sum(entry.num_bytes for entry in kept), []
    for entry in kept:
        if total <= max_bytes:
            break
        shutil.rmtree(entry.path, ignore_errors=True)
        entry.path.with_suffix(".lock").unlink(missing_ok=True)
        total -= entry.num_bytes
        removed.append(entry)
    return removed


def _entries() -> Iterator[Entry]:
    for kind in sorted((home() / "cache").glob("*")):
        for path in kind.iterdir() if kind.is_dir() else ():
            if path.is_dir() and not path.name.startswith("."):
                files = [each.stat() for each in path.rglob("*") if each.is_file()]
                used = max((max(s.st_mtime, s.st_atime) for s in files), default=0.0)
                yield Entry(kind.name, path, sum(s.st_size for s in files), used)
