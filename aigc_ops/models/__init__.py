"""Model families, one file each; a family's name is its file's name.

Nothing lists the families: a new file in this folder is found by its name, and one of another
package by its entry point in the group `aigc_ops.families`.
"""

from typing import Any

from aigc_ops.core.errors import ModelError
from aigc_ops.interfaces.discovery import (
    family_module,
    family_names,
    find_modality,
    require_known,
)
from aigc_ops.interfaces.modality import Modality
from aigc_ops.interfaces.model import Generative

__all__ = ["family_names", "family_type", "modality_of", "require_fit"]


def family_type(name: str) -> type[Generative[Any]]:
    """Return the model class of a family; raises ModelError naming the nearest family."""
    require_known("family (model.family)", name, family_names(), ModelError)
    module = family_module(name)
    # Classes that the module imports, such as its base, are not its own.
    families = [
        value
        for value in vars(module).values()
        if isinstance(value, type)
        and issubclass(value, Generative)
        and value.__module__ == module.__name__
    ]
    if len(families) != 1:
        raise ModelError(f"{module.__name__}: expected one Generative class, found {len(families)}")
    return families[0]


def modality_of(family: str) -> Modality[Any]:
    """Return the modality of a family's samples."""
    return find_modality(family_type(family).modality)


def require_fit(family: str, modality: str, source: object) -> None:
    """Raise ModelError naming the families that fit, unless a family takes data of a modality."""
    expected = modality_of(family)
    if expected.name == modality:
        return
    fitting = [name for name in family_names() if family_type(name).modality == modality]
    advice = f"set model.family to {' or '.join(fitting)}" if fitting else "no family fits them"
    raise ModelError(
        f"a {family} learns {expected.unit}, but {source} holds {find_modality(modality).unit}; "
        f"{advice}, or give other data"
    )
