"""Find modalities and model families: in this package, in the project, then by entry points.

The project's are modules in its folders `modalities` and `families`. Another package adds one by
the entry point groups `aigc_ops.modalities` and `aigc_ops.families`. The name of the module, or
of the entry point, is the name that configs use; two sources of one name are an error.
"""

import difflib
import importlib
import pkgutil
from collections.abc import Callable
from functools import cache, partial
from typing import TYPE_CHECKING, Any, NamedTuple

from aigc_ops.core import project_modules
from aigc_ops.core.errors import AigcOpsError, ConfigError
from aigc_ops.core.extensions import FAMILIES, MODALITIES, external
from aigc_ops.core.extras import install_advice
from aigc_ops.core.project import FAMILIES_FOLDER, MODALITIES_FOLDER

if TYPE_CHECKING:
    from aigc_ops.interfaces.modality import Modality

PACKAGES = {MODALITIES: "aigc_ops.modalities", FAMILIES: "aigc_ops.models"}
FOLDERS = {MODALITIES: MODALITIES_FOLDER, FAMILIES: FAMILIES_FOLDER}


class Source(NamedTuple):
    """A module that gives a modality or a family."""

    place: str
    """Where it is, for messages."""
    load: Callable[[], Any]
    """Imports it."""


def modality_names() -> list[str]:
    """Return the names of all modalities, those of this package first, without importing them."""
    return list(_sources(MODALITIES))


def family_names() -> list[str]:
    """Return the names of all model families, without importing them."""
    return sorted(_sources(FAMILIES))


@cache
def find_modality(name: str) -> "Modality[Any]":
    """Return a modality by name; raises ConfigError that suggests the nearest name."""
    require_known("modality", name, modality_names(), ConfigError)
    loaded = _load(MODALITIES, name)
    # An entry point names the object, a folder contains it.
    modality = getattr(loaded, "MODALITY", loaded)
    if getattr(modality, "name", None) != name:
        raise ConfigError(
            f"the modality {name!r} is not an object MODALITY with the name {name!r} in its "
            "__init__.py; see docs/add-a-modality.md"
        )
    return modality  # type: ignore[no-any-return]


def family_module(name: str) -> Any:
    """Import and return the module of a family that `family_names` lists.

    Raises ConfigError if two sources give the name.
    """
    return _load(FAMILIES, name)


def require_known(what: str, name: str, known: list[str], error: type[AigcOpsError]) -> None:
    """Raise `error` unless the name is known; suggests the nearest name, or lists all."""
    if name not in known:
        near = difflib.get_close_matches(str(name), known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}"
        raise error(f"{name!r} is not a {what}; {hint}")


def _load(group: str, name: str) -> Any:
    """Import the module, or the entry point's object, of a known name."""
    first, *others = _sources(group)[name]
    # Taking either could run other code than the reader of a config expects.
    if others:
        raise ConfigError(
            f"two sources give {name!r}: {first.place} and {others[0].place}; rename one"
        )
    try:
        return first.load()
    except ModuleNotFoundError as error:
        if advice := install_advice(error):
            raise ConfigError(f"{name}: {advice}") from error
        raise


def _sources(group: str) -> dict[str, list[Source]]:
    """Return the sources of each name of a group, without importing them."""
    package, folder = PACKAGES[group], FOLDERS[group]
    # A modality is a folder, a family a module: the folders beside families hold shared networks.
    is_folder = group == MODALITIES
    sources: dict[str, list[Source]] = {}
    own = pkgutil.iter_modules(importlib.import_module(package).__path__)
    for name in sorted(module.name for module in own if module.ispkg == is_folder):
        source = Source(package, partial(importlib.import_module, f"{package}.{name}"))
        sources.setdefault(name, []).append(source)
    root = project_modules.code_root()
    for name in project_modules.module_names(folder, packages=is_folder):
        load = partial(project_modules.import_module, folder, name)
        sources.setdefault(name, []).append(Source(f"{root}/{folder}", load))
    for name, point in sorted(external(group).items()):
        place = f"the package {point.module.partition('.')[0]}"
        sources.setdefault(name, []).append(Source(place, point.load))
    return sources
