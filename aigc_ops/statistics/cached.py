"""Arrays in cache folders, each named by a digest of everything that decides its content."""

import json
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue
from safetensors.numpy import load_file, save_file

from aigc_ops.core import caches
from aigc_ops.core.artifacts import json_digest
from aigc_ops.core.atomic_dirs import verify_folder, write_folder
from aigc_ops.core.errors import CheckpointError

Arrays = Mapping[str, NDArray[Any]]


def cached_arrays(
    compute: Callable[[], Arrays], description: Mapping[str, JsonValue], cache: Path, *, name: str
) -> Arrays:
    """Return the arrays that `compute` returns, computed once per description.

    They lie in `name`.safetensors, their description beside it. A damaged entry is computed again
    with a warning. A second process waits for the first.
    """

    def extend(cached: Arrays | None) -> Arrays | None:
        return compute() if cached is None else None

    return extended_arrays(extend, description, cache, name=name)


def extended_arrays(
    extend: Callable[[Arrays | None], Arrays | None],
    description: Mapping[str, JsonValue],
    cache: Path,
    *,
    name: str,
) -> Arrays:
    """Return the cached arrays of a description, replaced by what `extend` makes of them.

    `extend` gets None where nothing is cached, and returns None where the cached ones suffice.
    Otherwise like `cached_arrays`.
    """
    from filelock import FileLock

    folder = cache / json_digest(description)
    cache.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_suffix(".lock")):
        cached = _read(folder, name)
        arrays = extend(cached)
        if arrays is None:
            assert cached is not None, description
            return cached

        def fill(partial: Path) -> None:
            # safetensors writes raw memory, whatever the order of an array's axes.
            ordered = {key: np.asarray(array, order="C") for key, array in arrays.items()}
            save_file(ordered, partial / f"{name}.safetensors")
            (partial / f"{name}.json").write_text(
                json.dumps(description, indent=2) + "\n", encoding="utf-8"
            )

        write_folder(folder, fill)
        return arrays


def _read(folder: Path, name: str) -> Arrays | None:
    """Return a folder's arrays, or None if they are missing or (with a warning) damaged."""
    if not folder.exists():
        return None
    try:
        verify_folder(folder)
    except CheckpointError as error:
        warnings.warn(f"statistics are computed again: {error}", stacklevel=2)
        return None
    caches.mark_used(folder)
    arrays: Arrays = load_file(folder / f"{name}.safetensors")
    return arrays
