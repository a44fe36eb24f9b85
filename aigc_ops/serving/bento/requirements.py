"""Writes the packages that a Bento installs: what the service imports, and what that needs.

BentoML would let the newest releases in behind the few that are named, and those were
never tried together. `python -m aigc_ops.serving.bento.requirements` writes the file anew.
"""

import importlib.metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import NormalizedName, canonicalize_name

from aigc_ops.core.errors import PackagingError
from aigc_ops.provenance.environment import LOCK, pins
from aigc_ops.serving.bento.store import BENTOFILE, find_project

REQUIREMENTS = Path("aigc_ops/serving/bento/requirements.txt")
DIRECT = (
    "anyio",
    "bentoml",
    "huggingface-hub",
    "jinja2",
    "numpy",
    "peft",
    "pillow",
    "pydantic",
    "safetensors",
    "starlette",
    "tokenizers",
    "torch",
    "tqdm",
    "transformers",
)
HEADER = (
    "# What a Bento installs, at the versions of constraints.txt;\n"
    "# written by `python -m aigc_ops.serving.bento.requirements`.\n"
)


def requirements(lock: str) -> str:
    """Pins of the direct packages and of all below them, at the versions of the lock.

    What the lock leaves out (torch's CUDA packages) is pinned by the package that needs it.
    """
    locked = pins(lock)
    found: set[NormalizedName] = set()
    waiting = list(DIRECT)
    while waiting:
        name = canonicalize_name(waiting.pop())
        if name in locked and name not in found:
            found.add(name)
            waiting += _needed_by(name)
    return HEADER + "".join(f"{name}=={locked[name]}\n" for name in sorted(found))


def _needed_by(name: str) -> list[str]:
    """Packages that an installed one requires here, without its extras."""
    parsed = map(Requirement, importlib.metadata.requires(name) or [])
    return [need.name for need in parsed if need.marker is None or need.marker.evaluate()]


if __name__ == "__main__":
    root = find_project()
    if root is None:
        raise PackagingError(f"no {BENTOFILE} here; run this in a checkout of aigc-ops")
    (root / REQUIREMENTS).write_text(requirements((root / LOCK).read_text()))
