"""A cache of results computed from files, valid while the state of the files is unchanged.

A result is taken from memory or from disk if device, inode, size and times of change of each file
are those of the first computation. Files that changed within the last seconds are always read.
"""

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from filelock import FileLock

from aigc_ops.core import caches
from aigc_ops.core.artifacts import json_digest
from aigc_ops.core.atomic_dirs import verify_folder, write_folder
from aigc_ops.core.errors import CheckpointError
from aigc_ops.core.file_contents import State, file_state, is_settled
from aigc_ops.core.state_dir import home

FILE = "result"

_known: dict[Path, str] = {}
"""Results in memory, by their folder in the cache on disk."""


def recall_or_compute(
    kind: str, terms: Any, files: Mapping[str, Path], compute: Callable[[], str]
) -> str:
    """Return `compute()`, or its cached result while the files are unchanged.

    `terms` is the JSON of everything else that decides the result. An empty result is not cached.
    """
    # 1. The states before `compute` reads the files, and the time before the states.
    now = time.time()
    states = _states(files)
    if states is None:
        return compute()  # raises the error for the file that cannot be read
    folder = home() / "cache" / kind / json_digest([terms, states])
    if result := _known.get(folder) or _read(folder):
        _known[folder] = result
        return result
    # 2. Cached only if no file changed meanwhile, nor so recently that its time stamp could hide
    # a second change.
    result = compute()
    are_settled = all(is_settled(state, now) for state in states.values())
    if result and are_settled and _states(files) == states:
        _known[folder] = result
        _write(folder, result)
    return result


def _states(files: Mapping[str, Path]) -> dict[str, State] | None:
    """Return the state of each file by its name; None if one is not accessible."""
    try:
        return {name: file_state(path) for name, path in files.items()}
    except OSError:
        return None


def _read(folder: Path) -> str | None:
    """Return the result in a folder of the cache; None if it is absent or damaged."""
    with suppress(CheckpointError, OSError, ValueError):
        verify_folder(folder)
        result = (folder / FILE).read_text(encoding="utf-8")
        caches.mark_used(folder)
        return result
    return None


def _write(folder: Path, result: str) -> None:
    """Write a result to the cache."""
    # An unwritable cache is not an error: the files are read again next time.
    with suppress(CheckpointError, OSError):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_suffix(".lock")):
            write_folder(folder, lambda partial: _fill(partial, result))


def _fill(folder: Path, result: str) -> None:
    (folder / FILE).write_text(result, encoding="utf-8")
