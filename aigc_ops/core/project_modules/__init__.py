"""Modules of the project: `project_modules.families.NAME` is its file `families/NAME.py`.

In a Bento the folders `families` and `modalities` are in this package's own folder, and the
working folder is not searched.
"""

import importlib
import pkgutil
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any

from aigc_ops.core.errors import AigcOpsError, ConfigError
from aigc_ops.core.project import project_root

OWN_FOLDER = Path(__file__).parent
# A Bento contains no command line. Its service must run alike in any working folder.
IS_BENTO = not (OWN_FOLDER.parents[1] / "cli").is_dir()


def code_root() -> Path | None:
    """Return the folder that contains `families` and `modalities`; None outside a project."""
    return OWN_FOLDER if IS_BENTO else project_root()


def module_names(folder: str, *, packages: bool) -> list[str]:
    """Return the names of the modules, or of the packages, in one of the project's folders.

    Names that begin with `_` are left out. Nothing is imported.
    """
    root = code_root()
    found = pkgutil.iter_modules([str(root / folder)] if root else [])
    return sorted(m.name for m in found if m.ispkg == packages and not m.name.startswith("_"))


def import_module(folder: str, name: str) -> Any:
    """Import and return a module that `module_names` lists.

    Raises ConfigError that quotes the module's error if it cannot be imported.
    """
    root = code_root()
    __path__[:] = [str(root)] if root else []
    try:
        return importlib.import_module(f"{__name__}.{folder}.{name}")
    except AigcOpsError:
        raise
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{last.filename}, line {last.lineno}"
        if isinstance(error, SyntaxError):
            place = f"{error.filename}, line {error.lineno}"
        raise ConfigError(
            f"{root}/{folder}/{name} cannot be imported: {type(error).__name__}: {error} ({place})"
        ) from error


# The search path of submodules, also in a process that only unpickles a class of the project.
with suppress(ConfigError):  # raised again by `code_root`, where it reaches the user
    __path__[:] = [str(root)] if (root := code_root()) else []
