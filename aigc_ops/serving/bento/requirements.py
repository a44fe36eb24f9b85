"""Write requirements.txt of a Bento: run `python -m aigc_ops.serving.bento.requirements`.

It pins the packages that the service imports and all their dependencies.
"""

import importlib.metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import NormalizedName, canonicalize_name

from aigc_ops.provenance.environment import LOCK, pins
from aigc_ops.serving.bento.store import package_root

REQUIREMENTS = Path("aigc_ops/serving/bento/requirements.txt")
# Only these would not be enough: BentoML would install the newest releases of their dependencies,
# a combination that no test has seen.
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
    """Return pins of the direct packages and all their dependencies, at the lock's versions."""
    # Packages that are not in the lock are skipped: torch's CUDA packages, which torch pins.
    locked = pins(lock)
    selected: set[NormalizedName] = set()
    remaining = list(DIRECT)
    while remaining:
        name = canonicalize_name(remaining.pop())
        if name in locked and name not in selected:
            selected.add(name)
            remaining += _dependencies(name)
    return HEADER + "".join(f"{name}=={locked[name]}\n" for name in sorted(selected))


def _dependencies(name: str) -> list[str]:
    """Return the packages that an installed package requires here, without its extras."""
    # A marker such as `extra == "grpc"` evaluates to false without an extra.
    parsed = map(Requirement, importlib.metadata.requires(name) or [])
    return [item.name for item in parsed if item.marker is None or item.marker.evaluate()]


if __name__ == "__main__":
    root = package_root()
    (root / REQUIREMENTS).write_text(requirements((root / LOCK).read_text()))
