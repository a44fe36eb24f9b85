"""Write the pins of Bentos: run `python -m aigc_ops.serving.bento.requirements`.

`requirements-NAME.txt` pins the packages that a service of the modality NAME imports, and all
their dependencies; `requirements.txt` those of every modality.
"""

import importlib.metadata
from collections.abc import Iterable

from packaging.requirements import Requirement
from packaging.utils import NormalizedName, canonicalize_name

from aigc_ops.interfaces.discovery import find_modality, modality_names
from aigc_ops.provenance.environment import LOCK, pins
from aigc_ops.serving.bento.store import REQUIREMENTS, package_root

# Only these would not be enough: BentoML would install the newest releases of their dependencies,
# a combination that no test has seen.
DIRECT = (
    "anyio",
    "bentoml",
    "jinja2",
    "numpy",
    "packaging",
    "pydantic",
    "safetensors",
    "starlette",
    "torch",
    "tqdm",
)
HEADER = (
    "# What a Bento installs, at the versions of constraints.txt;\n"
    "# written by `python -m aigc_ops.serving.bento.requirements`.\n"
)


def requirement_files(lock: str) -> dict[str, str]:
    """Return the text of each file by its name, with pins at the lock's versions."""
    # Another package's modality takes requirements.txt, and its package's own requirements.
    modalities = map(find_modality, modality_names())
    own = {m.name: m.served_packages for m in modalities if m.__module__.startswith("aigc_ops.")}
    every = {package for packages in own.values() for package in packages}
    return {
        REQUIREMENTS.name: requirements(lock, every),
        **{f"requirements-{name}.txt": requirements(lock, own[name]) for name in own},
    }


def requirements(lock: str, added: Iterable[str]) -> str:
    """Return pins of the direct and the added packages and all their dependencies."""
    # Packages that are not in the lock are skipped: torch's CUDA packages, which torch pins.
    locked = pins(lock)
    selected: set[NormalizedName] = set()
    remaining = [*DIRECT, *added]
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
    for name, text in requirement_files((root / LOCK).read_text(encoding="utf-8")).items():
        (root / REQUIREMENTS).with_name(name).write_text(text, encoding="utf-8")
