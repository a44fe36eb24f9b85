"""Find modalities and model families: in this package's folders, then by entry points.

Another package adds a modality by the entry point group `aigc_ops.modalities` and a family by
`aigc_ops.families`. The entry point's name is the name that configs use.
"""

import difflib
import importlib
import pkgutil
from functools import cache
from typing import TYPE_CHECKING, Any

from aigc_ops.core.errors import AigcOpsError, ConfigError
from aigc_ops.core.extensions import FAMILIES, MODALITIES, external

if TYPE_CHECKING:
    from aigc_ops.interfaces.modality import Modality

PACKAGES = {MODALITIES: "aigc_ops.modalities", FAMILIES: "aigc_ops.models"}


def modality_names() -> list[str]:
    """Return the names of all modalities, those of this package first, without importing them."""
    # A folder is a modality. Listing names imports none of them: --help needs the names only.
    own = sorted(m.name for m in pkgutil.iter_modules(_path(MODALITIES)) if m.ispkg)
    return [*own, *sorted(external(MODALITIES).keys() - set(own))]


def family_names() -> list[str]:
    """Return the names of all model families, without importing them."""
    # A module is a family; the folders beside them (nn, language) hold shared networks.
    own = {m.name for m in pkgutil.iter_modules(_path(FAMILIES)) if not m.ispkg}
    return sorted(own | external(FAMILIES).keys())


@cache
def find_modality(name: str) -> "Modality[Any]":
    """Return a modality by name; raises ConfigError that suggests the nearest name."""
    require_known("modality", name, modality_names(), ConfigError)
    # This package's own modality wins over an entry point of the same name.
    if name in external(MODALITIES) and not _is_own(MODALITIES, name):
        modality = external(MODALITIES)[name].load()
    else:
        modality = importlib.import_module(f"{PACKAGES[MODALITIES]}.{name}").MODALITY
    assert modality.name == name, (modality.name, name)
    return modality  # type: ignore[no-any-return]


def family_module(name: str) -> Any:
    """Import and return the module of a family that `family_names` lists."""
    if name in external(FAMILIES) and not _is_own(FAMILIES, name):
        return external(FAMILIES)[name].load()
    return importlib.import_module(f"{PACKAGES[FAMILIES]}.{name}")


def require_known(what: str, name: str, known: list[str], error: type[AigcOpsError]) -> None:
    """Raise `error` unless the name is known; suggests the nearest name, or lists all."""
    if name not in known:
        near = difflib.get_close_matches(str(name), known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}"
        raise error(f"{name!r} is not a {what}; {hint}")


def _path(group: str) -> Any:
    return importlib.import_module(PACKAGES[group]).__path__


def _is_own(group: str, name: str) -> bool:
    return any(module.name == name for module in pkgutil.iter_modules(_path(group)))
