"""The files, folders and models that a config names, checked before anything is started."""

import os
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from aigc_ops.data.config import DataConfig
from aigc_ops.data.fingerprint import absolute
from aigc_ops.data.layout import find_layout
from aigc_ops.data.versioning import check_pin
from aigc_ops.errors import AigcOpsError, ConfigError, DataError
from aigc_ops.references import references
from aigc_ops.registry.resolution import SCHEME, resolve_version

FEW = 1000
"""So many names are listed in a few milliseconds."""
EXPECTED = {
    "model.pretrained": "a local Hugging Face folder, a GGUF file, or OWNER/NAME@COMMIT of the hub",
    "training.init_from": "a checkpoint folder, or models:/NAME@champion",
}


def input_settings(config: Any, sections: Sequence[str] | None = None) -> dict[str, str]:
    """Return each setting that names an input by its dotted name; of some sections, or of all."""
    settings = {"data.path": config.data.path, **references(config)}
    if sections is None:
        return settings
    return {name: value for name, value in settings.items() if name.split(".")[0] in sections}


def require_inputs(config: Any, sections: Sequence[str] | None = None) -> None:
    """Raise an error for an input that is not there, or for data that is no dataset.

    Takes milliseconds: of large data only the existence is checked, not the content. A version
    is looked up in the registry.
    """
    for name, value in input_settings(config, sections).items():
        if name == "data.path":
            _require_data(config.data)
        elif name == "training.init_from" and value.startswith(SCHEME):
            resolve_version(value)
        elif not Path(value).expanduser().exists() and not _is_on_hub(name, value):
            raise missing(name, value)


def missing(name: str, value: str) -> AigcOpsError:
    """Return the error for a path that does not exist."""
    looked = "" if Path(value).expanduser().is_absolute() else f"; looked in {Path.cwd()}"
    expected = f"; give {EXPECTED[name]}" if name in EXPECTED else ""
    kind = DataError if name == "data.path" else ConfigError
    return kind(f"{name}: {value} does not exist{looked}{expected}")


def _require_data(config: DataConfig) -> None:
    root = absolute(config.path)
    if not root.exists():
        check_pin(root)  # raises where the data is pinned, with how to fetch it
        raise missing("data.path", config.path)
    if _has_few_names(root):
        find_layout(root, config)


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


def _is_on_hub(name: str, value: str) -> bool:
    return name == "model.pretrained" and "@" in value
