"""The project: the nearest folder, from the working folder upwards, with an `aigc-ops.toml`.

Its folders `families` and `modalities` add model families and modalities, its `configs` hold the
configs of the Prefect forms, and it contains the default state directory.
"""

import os
import stat
import tomllib
from collections.abc import Iterator
from pathlib import Path

from aigc_ops.core.errors import ConfigError

PROJECT_FILE = "aigc-ops.toml"
VARIABLE = "AIGC_OPS_PROJECT"
FAMILIES_FOLDER, MODALITIES_FOLDER = "families", "modalities"
CODE_FOLDERS = (FAMILIES_FOLDER, MODALITIES_FOLDER)
SETTINGS = {"requirements"}


def project_root() -> Path | None:
    """Return the project's folder, or None outside a project.

    `AIGC_OPS_PROJECT` names it for child processes, and for a folder that would be rejected.
    Raises ConfigError for a project that another user may have written: its code is imported.
    """
    if named := os.environ.get(VARIABLE):
        root = Path(named).expanduser().absolute()
        if not (root / PROJECT_FILE).is_file():
            raise ConfigError(f"{VARIABLE}={named}: this folder has no {PROJECT_FILE}")
        return root
    try:
        working = Path.cwd()
    except FileNotFoundError:  # the working folder was removed
        return None
    found = next((p for p in (working, *working.parents) if (p / PROJECT_FILE).is_file()), None)
    if found is not None:
        _require_trusted(found, is_working_folder=found == working)
    return found


def _require_trusted(root: Path, *, is_working_folder: bool) -> None:
    """Raise ConfigError if another user owns the project or its code, or may change them."""
    if os.name != "posix":
        return
    code = [path for name in CODE_FOLDERS for path in (root / name, *(root / name).rglob("*.py"))]
    for path in (root, root / PROJECT_FILE, *code):
        if not path.exists():
            continue
        status = path.stat()
        # Root in a container works in a mounted folder, whose owner is the user outside.
        is_mounted = is_working_folder and os.geteuid() == 0
        is_foreign = status.st_uid not in (0, os.geteuid()) and not is_mounted
        # Someone who works in a folder that all may write to has chosen it, unless it is /tmp.
        is_open = bool(status.st_mode & 0o002)
        is_chosen = is_working_folder and not status.st_mode & stat.S_ISVTX
        if is_foreign or (is_open and not is_chosen):
            reason = "belongs to another user" if is_foreign else "may be changed by every user"
            raise ConfigError(
                f"{path}: {reason}, and the code of the project {root} is imported; correct owner "
                f"and mode, or set {VARIABLE}={root} if you trust it"
            )


def project_code(root: Path) -> list[Path]:
    """Return the files of the project's families and modalities, sorted, without compiled ones."""
    folders = (root / name for name in CODE_FOLDERS)
    files = sorted(path for folder in folders for path in folder.rglob("*") if path.is_file())
    return [path for path in files if "__pycache__" not in path.parts]


def project_requirements(root: Path) -> Iterator[str]:
    """Yield the packages that the project's code needs in a Bento, as in `requirements`.

    Raises ConfigError for an invalid `aigc-ops.toml`.
    """
    path = root / PROJECT_FILE
    try:
        settings = tomllib.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: not a readable TOML file ({error})") from error
    if unknown := sorted(settings.keys() - SETTINGS):
        raise ConfigError(f"{path}: {unknown[0]} is not a setting; known: {', '.join(SETTINGS)}")
    requirements = settings.get("requirements", [])
    if not isinstance(requirements, list) or any(not isinstance(r, str) for r in requirements):
        raise ConfigError(f'{path}: requirements is not a list such as ["einops"]')
    yield from requirements
