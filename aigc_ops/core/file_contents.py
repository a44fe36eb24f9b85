"""The content of a dataset's files, of which a small one is read once per process.

A file whose state (device, inode, size, times of change) is what it was is served from memory.
Larger files, and those that changed within the last seconds, are opened whenever they are read.
"""

import hashlib
import os
import stat
import time
from collections import OrderedDict
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from threading import Lock
from typing import BinaryIO, Literal

MOST_FILE_BYTES = 2**26
MOST_BYTES = 2**27
"""Of all files in memory, of which those unused for longest go first."""
SETTLED_SECONDS = 2.0
"""The coarsest tick of a usual file system's clock.

A second change within one tick would leave no trace in the state of a file.
"""

State = tuple[int, ...]

_kept: OrderedDict[str, tuple[State, bytes]] = OrderedDict()
_lock = Lock()


def file_state(path: Path) -> State:
    """Return device, inode, size and times of change, the last of these at the end."""
    return _state(os.stat(path))  # noqa: PTH116 (of 100,000 files, Path takes twice as long)


def is_settled(state: State, now: float) -> bool:
    """Return whether a file's last change lay seconds before the time at which it was looked at."""
    return state[-1] / 1e9 + SETTLED_SECONDS < now


def keep_content(path: Path) -> bytes | None:
    """Return a small file's bytes, which are kept in memory; None for any other file.

    The caller opens such a file itself, and meets the errors of doing so.
    """
    now = time.time()
    with _lock, suppress(OSError):
        status = os.stat(path)  # noqa: PTH116
        state = _state(status)
        if (content := _kept_content(path, state)) is not None:
            return content
        is_small = stat.S_ISREG(status.st_mode) and status.st_size <= MOST_FILE_BYTES
        if is_small and is_settled(state, now):
            return _read(path, state)
    return None


def kept_content(path: Path) -> bytes | None:
    """Return a file's bytes if they are in memory and it has not changed since."""
    with _lock, suppress(OSError):
        return _kept_content(path, file_state(path))
    return None


def open_content(path: Path) -> BinaryIO:
    """Return a file opened for reading, which lies in memory when it is small."""
    content = keep_content(path)
    return path.open("rb") if content is None else BytesIO(content)


def read_content(path: Path) -> bytes:
    """Return a file's bytes, from memory where they are kept."""
    content = keep_content(path)
    return path.read_bytes() if content is None else content


def digest_content(path: Path, algorithm: Literal["sha256", "md5"]) -> str:
    """Return a digest (hex) of a file's bytes."""
    new = hashlib.sha256 if algorithm == "sha256" else hashlib.md5
    content = keep_content(path)
    if content is not None:
        return new(content, usedforsecurity=False).hexdigest()
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: new(usedforsecurity=False)).hexdigest()


def _state(status: os.stat_result) -> State:
    # The time of change, unlike that of modification, cannot be set to an earlier one.
    times = (status.st_mtime_ns, status.st_ctime_ns)
    return (status.st_dev, status.st_ino, status.st_size, *times)


def _kept_content(path: Path, state: State) -> bytes | None:
    name = os.fspath(path)
    if name not in _kept:
        return None
    if _kept[name][0] != state:
        del _kept[name]
        return None
    _kept.move_to_end(name)
    return _kept[name][1]


def _read(path: Path, state: State) -> bytes | None:
    """Read a file into memory; return None when it changes meanwhile."""
    with path.open("rb") as file:
        content = file.read()
        if _state(os.fstat(file.fileno())) != state:
            return None
    _kept[os.fspath(path)] = (state, content)
    num_bytes = sum(len(content) for _, content in _kept.values())
    while num_bytes > MOST_BYTES:
        _, (_, oldest) = _kept.popitem(last=False)
        num_bytes -= len(oldest)
    return content
