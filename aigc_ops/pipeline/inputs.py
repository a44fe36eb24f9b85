"""The files, folders and models that a config names: where they are, and whether they are there."""

import os
import warnings
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel

from aigc_ops.core.artifacts import dotted
from aigc_ops.core.errors import AigcOpsError, ConfigError, DataError
from aigc_ops.core.input_paths import references
from aigc_ops.data.config import DataConfig
from aigc_ops.data.dvc import check_pin
from aigc_ops.formats.layout import find_layout
from aigc_ops.formats.stat_digest import absolute, covering_pin
from aigc_ops.interfaces.ingestion import all_data_hooks

ConfigT = TypeVar("ConfigT", bound=BaseModel)

PROJECT_MARKS = ("data.dvc", ".git", "pyproject.toml")
SCHEME = "models:/"
FEW = 1000
"""So many names are listed in a few milliseconds."""
EXPECTED = {
    "model.pretrained": "a local Hugging Face folder, a GGUF file, or OWNER/NAME@COMMIT of the hub",
    "training.init_from": "a checkpoint folder, or models:/NAME@champion",
}


def input_settings(config: Any) -> dict[str, str]:
    """Return each setting that names an input, by its dotted name."""
    return {"data.path": config.data.path, **references(config)}


def find_project(file: Path) -> Path:
    """Return the nearest folder above a file with a mark of a project, else the file's folder."""
    folder = absolute(file).parent
    above = (folder, *folder.parents)
    return next((p for p in above if any((p / mark).exists() for mark in PROJECT_MARKS)), folder)


def locate(name: str, value: str, file: Path) -> str:
    """Return where an input of a YAML file is: from the working folder, else from its project.

    A value that needs no looking up, or that is in neither, is returned as it is. Warns when both
    hold it.
    """
    if not _is_relative(value):
        return value
    here, there = absolute(value), absolute(find_project(file) / value)
    if not _is_there(here):
        return str(there) if _is_there(there) else value
    if _is_there(there) and there.resolve() != here.resolve():
        warnings.warn(
            f"{file}: {name}: {value} is in the working folder ({here}), which is read, and in the "
            f"file's project ({there}); give a full path to say which is meant",
            stacklevel=2,
        )
    return value


def locate_inputs(config: ConfigT, file: Path, given: Mapping[str, Any]) -> ConfigT:
    """Return the config of a YAML file with each input where it is.

    What `given` (nested) holds was not in the file: its paths are those of the working folder.
    """
    named = input_settings(config).items()
    found = {n: locate(n, value, file) for n, value in named if n not in dotted(given)}
    for name, value in found.items():
        config = _replaced(config, name.split("."), value)
    return config


def absent_here(config: Any, values: Mapping[str, Any], given: Mapping[str, Any]) -> list[str]:
    """Return the paths that were looked up in vain, before the file's project was.

    `values` are those of the file. Were one of these paths made later, it would be read.
    """
    written = {name: value for name, value in dotted(values).items() if name not in dotted(given)}
    named = input_settings(config).items()
    return [str(absolute(written[n])) for n, value in named if written.get(n, value) != value]


def require_inputs(
    config: Any, file: Path, given: Mapping[str, Any], *, sections: Sequence[str] | None = None
) -> None:
    """Raise an error for an input that is not there, or for data that is no dataset.

    Takes milliseconds: of large data only the existence is checked, not the content. A version
    is looked up in the registry. `sections` are those of the config that count; None: all.
    """
    for name, value in input_settings(config).items():
        project = None if name in dotted(given) else find_project(file)
        if sections is not None and name.split(".")[0] not in sections:
            continue
        if name == "data.path":
            _require_data(config.data, project)
        elif name == "training.init_from" and value.startswith(SCHEME):
            from aigc_ops.registry.resolution import resolve_version

            resolve_version(value)
        elif not (name == "model.pretrained" and "@" in value):  # perhaps one of the hub
            require(name, value, project)


def require(name: str, value: str, project: Path | None = None) -> None:
    """Raise an error, which names the places, for a path that is not there."""
    if absolute(value).exists():
        return
    places = dict.fromkeys([Path.cwd(), *([project] if project else [])])
    looked = f"; looked in {' and in '.join(map(str, places))}" if _is_relative(value) else ""
    expected = f"; give {EXPECTED[name]}" if name in EXPECTED else ""
    if value.startswith(SCHEME):
        expected += "; a registered model is what training.init_from names"
    kind: type[AigcOpsError] = DataError if name == "data.path" else ConfigError
    raise kind(f"{name}: {value} does not exist{looked}{expected}")


def _require_data(config: DataConfig, project: Path | None) -> None:
    root = absolute(config.path)
    if not root.exists():
        check_pin(root)  # raises where the data is pinned, with how to fetch it
        require("data.path", config.path, project)
    if _has_few_names(root):
        find_layout(root, config, all_data_hooks())


def _has_few_names(root: Path) -> bool:
    """Return whether a file, or a folder with those in it, is listed at once."""
    folders, left = [root] if root.is_dir() else [], FEW
    while folders:
        try:
            with os.scandir(folders.pop()) as entries:
                listed = list(islice(entries, left))
        except OSError:  # for `find_layout` to say
            return True
        left -= len(listed)
        if not left:
            return False
        folders += [Path(entry.path) for entry in listed if entry.is_dir()]
    return True


def _is_relative(value: str) -> bool:
    return not (value.startswith(("~", SCHEME)) or Path(value).is_absolute())


def _is_there(path: Path) -> bool:
    """Return whether a path exists, or is pinned by DVC and yet to be fetched."""
    return path.exists() or covering_pin(path) is not None


def _replaced(config: ConfigT, names: Sequence[str], value: str) -> ConfigT:
    first, *rest = names
    inner: Any = _replaced(getattr(config, first), rest, value) if rest else value
    return config if inner == getattr(config, first) else config.model_copy(update={first: inner})
