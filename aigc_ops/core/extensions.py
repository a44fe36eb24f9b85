"""Other packages that add modalities or model families by entry points."""

from functools import cache
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path

MODALITIES, FAMILIES = "aigc_ops.modalities", "aigc_ops.families"


@cache
def external(group: str) -> dict[str, EntryPoint]:
    """Return the entry points of one group by name."""
    return {point.name: point for point in entry_points(group=group)}


@cache
def external_sources() -> dict[str, Path]:
    """Return the folder, or the single file, of each such package by its module's name."""
    points = [*external(MODALITIES).values(), *external(FAMILIES).values()]
    sources = {}
    for module in sorted({point.module.partition(".")[0] for point in points}):
        # Found without an import: a package may need torch, and this runs before that is loaded.
        spec = find_spec(module)
        if spec is not None and spec.origin is not None:
            origin = Path(spec.origin)
            sources[module] = origin.parent if spec.submodule_search_locations else origin
    return sources
