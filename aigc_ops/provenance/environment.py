"""Comparison of the installed packages with the project's lock file."""

import re
from importlib.metadata import PackageNotFoundError, distributions, requires

from packaging.requirements import Requirement
from packaging.utils import NormalizedName, canonicalize_name

from aigc_ops.core.artifacts import Record

LOCK = "constraints.txt"
OWN = "aigc-ops"
LOCKED_EXTRAS = ("image", "text", "dev")
LEFT_TO_TORCH = re.compile(r"nvidia-|cuda-|triton$")
"""CUDA packages: they differ by machine, and torch itself pins their versions."""


class Comparison(Record):
    """Differences of an environment from a lock file."""

    other: dict[str, tuple[str, str]]
    """Installed and locked version of each package where they differ."""
    unlocked: tuple[str, ...]
    """Installed packages that neither the lock nor an extra such as `aigc-ops[s3]` explains."""
    absent: tuple[str, ...]
    """Locked packages that are not installed."""


def pins(lock: str) -> dict[NormalizedName, str]:
    """Return the version of each package from a lock file's text."""
    # pip names packages in the spelling of their authors; canonical names compare.
    lines = [line for line in lock.splitlines() if "==" in line and not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in (x.split("==") for x in lines)}


def compare(lock: str) -> Comparison:
    """Compare the running environment with a lock file's text.

    Local versions such as `+cu129` are ignored.
    """
    locked = pins(lock)
    installed = {canonicalize_name(d.metadata["Name"]): d.version for d in distributions()}
    compared = {n: v for n, v in installed.items() if n != OWN and not LEFT_TO_TORCH.match(n)}
    extras = _required_by_extras()
    return Comparison(
        # The suffix names the build of torch (CPU, CUDA), which machines choose for themselves.
        other={
            name: (version, locked[name])
            for name, version in sorted(compared.items())
            if name in locked and locked[name] != version.split("+")[0]
        },
        unlocked=tuple(sorted(compared.keys() - locked.keys() - extras)),
        absent=tuple(sorted(locked.keys() - installed.keys())),
    )


def _required_by_extras() -> set[NormalizedName]:
    """Return all direct and indirect requirements of extras that the lock leaves out."""
    pending = [r for r in map(Requirement, _requires(OWN)) if _is_of_other_extra(r)]
    required: set[NormalizedName] = set()
    while pending:
        name = canonicalize_name(pending.pop().name)
        if name not in required:
            required.add(name)
            pending += map(Requirement, _requires(name))
    return required


def _is_of_other_extra(requirement: Requirement) -> bool:
    """Return True for a requirement of an extra that the lock leaves out."""
    marker = requirement.marker
    return marker is not None and not any(
        marker.evaluate({"extra": extra}) for extra in ("", *LOCKED_EXTRAS)
    )


def _requires(name: str) -> list[str]:
    try:
        return requires(name) or []
    except PackageNotFoundError:  # an extra that is not installed requires nothing here
        return []
