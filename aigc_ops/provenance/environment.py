"""What is installed, against what the project's lock pins."""

import re
from importlib.metadata import PackageNotFoundError, distributions, requires

from packaging.requirements import Requirement
from packaging.utils import NormalizedName, canonicalize_name

from aigc_ops.core.artifacts import Noun

LOCK = "constraints.txt"
OWN = "aigc-ops"
LEFT_TO_TORCH = re.compile(r"nvidia-|cuda-|triton$")
"""Packages that differ by machine, each pinned by the torch that needs it."""


class Comparison(Noun):
    """How an environment differs from a lock."""

    other: dict[str, tuple[str, str]]
    """Version that is installed and version that is locked, by package."""
    unlocked: tuple[str, ...]
    """Installed, not in the lock, and not there for an extra such as `aigc-ops[s3]`."""
    absent: tuple[str, ...]
    """In the lock, and not installed."""


def pins(lock: str) -> dict[NormalizedName, str]:
    """Version by package of a lock's text."""
    lines = [line for line in lock.splitlines() if "==" in line and not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in (x.split("==") for x in lines)}


def compare(lock: str) -> Comparison:
    """The running environment against a lock's text; a local version such as +cu129 is none."""
    locked = pins(lock)
    installed = {canonicalize_name(d.metadata["Name"]): d.version for d in distributions()}
    mine = {n: v for n, v in installed.items() if n != OWN and not LEFT_TO_TORCH.match(n)}
    extra = _brought_by_extras()
    return Comparison(
        other={
            name: (version, locked[name])
            for name, version in sorted(mine.items())
            if name in locked and locked[name] != version.split("+")[0]
        },
        unlocked=tuple(sorted(mine.keys() - locked.keys() - extra)),
        absent=tuple(sorted(locked.keys() - installed.keys())),
    )


def _brought_by_extras() -> set[NormalizedName]:
    """What this project's extras ask for, and what that asks for in turn, where it is installed."""
    asked = [r for r in map(Requirement, _requires(OWN)) if "extra" in str(r.marker)]
    found: set[NormalizedName] = set()
    while asked:
        name = canonicalize_name(asked.pop().name)
        if name not in found:
            found.add(name)
            asked += map(Requirement, _requires(name))
    return found


def _requires(name: str) -> list[str]:
    try:
        return requires(name) or []
    except PackageNotFoundError:
        return []
