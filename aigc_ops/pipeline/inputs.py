"""The files, folders and models that a config names: locate them, and check that they exist."""

import difflib
import os
import warnings
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel

from aigc_ops.core.artifacts import dotted
from aigc_ops.core.errors import AigcOpsError, ConfigError, DataError
from aigc_ops.core.extras import require_extra
from aigc_ops.core.input_paths import collect_inputs
from aigc_ops.core.project import PROJECT_FILE
from aigc_ops.data.config import DataConfig
from aigc_ops.data.dvc import check_pin
from aigc_ops.formats.layout import find_layout
from aigc_ops.formats.stat_digest import absolute, covering_pin
from aigc_ops.interfaces.ingestion import Layout, all_data_hooks
from aigc_ops.models import modality_of, require_fit

ConfigT = TypeVar("ConfigT", bound=BaseModel)

PROJECT_MARKS = (PROJECT_FILE, "data.dvc", ".git", "pyproject.toml")
SCHEME = "models:/"
FEW = 1000
"""A folder with fewer names is listed in a few milliseconds."""
EXPECTED = {
    "model.pretrained": "a local Hugging Face folder, a GGUF file, or OWNER/NAME@COMMIT of the hub",
    "training.init_from": "a checkpoint folder, or models:/NAME@champion",
}


def input_settings(config: Any) -> dict[str, str]:
    """Return the value of each field that names an input, by its dotted name."""
    return {"data.path": config.data.path, **collect_inputs(config)}


def find_project(file: Path) -> Path:
    """Return the nearest folder above a file that contains a project mark, else its own folder."""
    folder = absolute(file).parent
    above = (folder, *folder.parents)
    return next((p for p in above if any((p / mark).exists() for mark in PROJECT_MARKS)), folder)


def locate(name: str, value: str, file: Path) -> str:
    """Return the path of an input of a YAML file, relative to the working folder or its project.

    A value that is absolute, or found in neither place, is returned unchanged. Warns if both
    places contain different files of this name.
    """
    # The working folder first: the data of a quick trial there must not be hidden by the project's.
    if not _is_relative(value):
        return value
    local, of_project = absolute(value), absolute(find_project(file) / value)
    if not _is_available(local):
        return str(of_project) if _is_available(of_project) else value
    if _is_available(of_project) and of_project.resolve() != local.resolve():
        warnings.warn(
            f"{file}: {name}: {value} is in the working folder ({local}), which is read, and in "
            f"the file's project ({of_project}); give an absolute path to choose one",
            stacklevel=2,
        )
    return value


def locate_inputs(config: ConfigT, file: Path, given: Mapping[str, Any]) -> ConfigT:
    """Return the config of a YAML file with its relative inputs located.

    `given` (nested) holds the values of flags, whose paths are relative to the working folder.
    """
    named = input_settings(config).items()
    located = {n: locate(n, value, file) for n, value in named if n not in dotted(given)}
    for name, value in located.items():
        config = _replaced(config, name.split("."), value)
    return config


def absent_here(config: Any, values: Mapping[str, Any], given: Mapping[str, Any]) -> list[str]:
    """Return the paths in the working folder that did not exist, so that the project's were used.

    `values` are those of the file, `given` those of flags (both nested).
    """
    # A stored run is valid only while these paths are absent: if one is created later, it is read
    # instead of the project's file.
    written = {name: value for name, value in dotted(values).items() if name not in dotted(given)}
    named = input_settings(config).items()
    return [str(absolute(written[n])) for n, value in named if written.get(n, value) != value]


def require_inputs(
    config: Any, file: Path, given: Mapping[str, Any], *, sections: Sequence[str] | None = None
) -> None:
    """Raise an error for an input that does not exist, or for data that is not a dataset.

    Takes milliseconds: of large data only the existence is checked. `sections` are the sections
    of the config to check; None: all.
    """
    # Runs before any server starts, so that a mistyped path fails at once.
    modality = modality_of(config.model.family)
    if modality.extra and (sections is None or "evaluation" in sections):
        require_extra(modality.extra, f"evaluations of {modality.unit}")
    for name, value in input_settings(config).items():
        project = None if name in dotted(given) else find_project(file)
        if sections is not None and name.split(".")[0] not in sections:
            continue
        if name == "data.path":
            layout = _require_data(config.data, project)
            if layout and (sections is None or "model" in sections):
                require_fit(config.model.family, layout.modality, config.data.path)
        elif name == "training.init_from" and value.startswith(SCHEME):
            from aigc_ops.registry.resolution import resolve_version

            resolve_version(value)
        # OWNER/NAME@COMMIT is a model of the Hugging Face hub, not a path.
        elif not (name == "model.pretrained" and "@" in value):
            require(name, value, project)


def require(name: str, value: str, project: Path | None = None) -> None:
    """Raise an error for a path that does not exist, with the folders that were searched."""
    if absolute(value).exists():
        return
    # A dict as an ordered set: the working folder may itself be the project.
    folders = dict.fromkeys([Path.cwd(), *([project] if project else [])])
    looked = f"; looked in {' and in '.join(map(str, folders))}" if _is_relative(value) else ""
    expected = f"; give {EXPECTED[name]}" if name in EXPECTED else ""
    if value.startswith(SCHEME):
        expected += "; only training.init_from accepts a registered model"
    kind: type[AigcOpsError] = DataError if name == "data.path" else ConfigError
    near = _similar_name(absolute(value)) or (project and _similar_name(absolute(project / value)))
    hint = f"; did you mean {Path(value).with_name(near)}?" if near else ""
    raise kind(f"{name}: {value} does not exist{looked}{expected}{hint}")


def _similar_name(path: Path) -> str | None:
    """Return the most similar name in the folder of a path that does not exist."""
    if not path.parent.is_dir() or not path.name:
        return None
    with os.scandir(path.parent) as entries:
        names = [entry.name for entry in islice(entries, FEW)]
    return next(iter(difflib.get_close_matches(path.name, names, n=1)), None)


def _require_data(config: DataConfig, project: Path | None) -> Layout | None:
    """Return the layout of the data; None where listing it would take long."""
    root = absolute(config.path)
    if not root.exists():
        check_pin(root)  # for pinned data, raises an error with the command that fetches it
        require("data.path", config.path, project)
    return find_layout(root, config, all_data_hooks()) if _has_few_names(root) else None


def _has_few_names(root: Path) -> bool:
    """Return whether a path is a file, or a folder with fewer than `FEW` names below it."""
    # Stops at the limit: listing a folder of a million images takes longer than the checks may.
    folders, remaining = [root] if root.is_dir() else [], FEW
    while folders:
        try:
            with os.scandir(folders.pop()) as entries:
                listed = list(islice(entries, remaining))
        except OSError:  # `find_layout` reports the folder that cannot be read
            return True
        remaining -= len(listed)
        if not remaining:
            return False
        folders += [Path(entry.path) for entry in listed if entry.is_dir()]
    return True


def _is_relative(value: str) -> bool:
    return not (value.startswith(("~", SCHEME)) or Path(value).is_absolute())


def _is_available(path: Path) -> bool:
    """Return whether a path exists, or is pinned by DVC and not fetched yet."""
    pin = covering_pin(path)
    # What a pin covers exists where the pinned folder is here, unless it is not part of the data.
    return path.exists() or (pin is not None and not pin.with_suffix("").exists())


def _replaced(config: ConfigT, names: Sequence[str], value: str) -> ConfigT:
    # The configs are frozen, so each level on the way to the field is copied.
    first, *rest = names
    inner: Any = _replaced(getattr(config, first), rest, value) if rest else value
    return config if inner == getattr(config, first) else config.model_copy(update={first: inner})
