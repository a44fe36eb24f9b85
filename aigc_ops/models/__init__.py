"""Model families, one file each; a family's name is its file's name.

Nothing lists the families: a new file in this folder is found by its name.
"""

import difflib
import importlib
import pkgutil

from aigc_ops.errors import ModelError
from aigc_ops.generative import Generative


def family_names() -> list[str]:
    """Names of the families in this folder, without importing them."""
    return sorted(m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_"))


def family_type(name: str) -> type[Generative]:
    """The model class of a family; raises ModelError naming the nearest family."""
    if name not in family_names():
        near = difflib.get_close_matches(str(name), family_names(), n=1)
        hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(family_names())}"
        raise ModelError(f"model.family: {name!r} is not a family; {hint}")
    module = importlib.import_module(f"{__name__}.{name}")
    found = [
        value
        for value in vars(module).values()
        if isinstance(value, type)
        and issubclass(value, Generative)
        and value.__module__ == module.__name__
    ]
    if len(found) != 1:
        raise ModelError(f"{module.__name__}: expected one Generative class, found {len(found)}")
    return found[0]
