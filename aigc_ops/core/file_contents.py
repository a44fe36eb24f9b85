"""An in-memory cache of the content of small dataset files, read once per process.

A file is served from memory while its state (device, inode, size, times of change) is unchanged.
Larger files, and those that changed within the last seconds, are read from disk every time.
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
"""Limit of all files in memory together; the least recently used are removed first."""
# The coarsest time stamps of usual file systems (FAT). Two changes within one tick leave the
# same state, so a file that changed more recently than this is never served from memory.
SETTLED_SECONDS = 2.0

State = tuple[int, ...]

_kept: OrderedDict[str, tuple[State, bytes]] = OrderedDict()
"""State and content by path, the least recently used first."""
_lock = Lock()  # files are read by several threads


def file_state(path: Path) -> State:
    """Return device, inode, size, time of modification and time of change (ns, last)."""
    return _state(os.stat(path))  # noqa: PTH116 (of 100,000 files, Path takes twice as long)


def is_settled(state: State, now: float) -> bool:
    """Return whether a file had been unchanged for `SETTLED_SECONDS` at the time `now`."""
    return state[-1] / 1e9 + SETTLED_SECONDS < now


def keep_content(path: Path) -> bytes | None:
    """Return a small file's bytes and keep them in memory; return None for any other file.

    Raises nothing for an unreadable file: the caller opens it and receives the error.
    """
    # The time before the state is read: a file that changes in between is not settled then.
    now = time.time()
    with _lock, suppress(OSError):
        status = os.stat(path)  # noqa: PTH116
        state = _state(status)
        if (content := _kept_content(path, state)) is not None:
            return content
        # Reading a pipe would wait for a writer, and a device may have no end.
        is_small = stat.S_ISREG(status.st_mode) and status.st_size <= MOST_FILE_BYTES
        if is_small and is_settled(state, now):
            return _read(path, state)
    return None


def kept_content(path: Path) -> bytes | None:
    """Return a file's bytes if they are in memory and the file is unchanged, else None."""
    with _lock, suppress(OSError):
        return _kept_content(path, file_state(path))
    return None


def open_content(path: Path) -> BinaryIO:
    """Open a file for reading, in memory if it is small."""
    content = keep_content(path)
    return path.open("rb") if content is None else BytesIO(content)


def read_content(path: Path) -> bytes:
    """Return a file's bytes, from memory if they are cached."""
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
    # A program can set the time of modification back (`touch -d`), but not the time of change.
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
    """Read a file into memory; return None if it changes meanwhile."""
    with path.open("rb") as file:
        content = file.read()
        # `fstat` of the open file: the path may name a new file by now.
        if _state(os.fstat(file.fileno())) != state:
            return None
    _kept[os.fspath(path)] = (state, content)
    num_bytes = sum(len(content) for _, content in _kept.values())
    while num_bytes > MOST_BYTES:
        _, (_, oldest) = _kept.popitem(last=False)
        num_bytes -= len(oldest)
    return content
