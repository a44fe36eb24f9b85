"""The bentofile.yaml of a Bento: this package's, with the project's settings."""

from pathlib import Path
from typing import Any

import yaml

from aigc_ops.core.errors import PackagingError
from aigc_ops.core.project import project_root
from aigc_ops.provenance.added_code import BENTOFILE, copy_files
from aigc_ops.serving.bento.store import bentofile

REPLACED = ("description", "docker", "envs")
"""Keys of a project's bentofile.yaml that replace this package's."""
MERGED = ("labels", "python")
"""Keys whose entries are added to this package's."""
RESERVED = ("requirements_txt", "lock_packages", "packages")
"""Entries of `python` that a project cannot set: every package in a Bento is pinned."""


def merged_bentofile(root: Path, context: Path) -> dict[str, Any]:
    """Return the content of bentofile.yaml; copies what the project includes into the context.

    Raises PackagingError for a project's file with a key that has no effect.
    """
    content: dict[str, Any] = yaml.safe_load(bentofile(root).read_text("utf-8"))
    project = project_root()
    path = project / BENTOFILE if project else None
    # In a checkout that is itself a project, the file is this package's own.
    if project is None or path is None or not path.is_file() or path == bentofile(root):
        return content
    settings = _settings(path)
    for key in REPLACED:
        content[key] = settings.get(key, content[key])
    for key in MERGED:
        content[key] = {**content[key], **(settings.get(key) or {})}
    for pattern in settings.get("include") or ():
        matches = [file for file in sorted(project.glob(pattern)) if file.is_file()]
        if not matches:
            raise PackagingError(f"{path}: include: {pattern} names no file; correct it")
        files = {file.relative_to(project).as_posix(): file for file in matches}
        copy_files(files, context)
        content["include"] += files
    return content


def _settings(path: Path) -> dict[str, Any]:
    """Return the content of a project's file; raises PackagingError for an unknown key."""
    try:
        settings = yaml.safe_load(path.read_text("utf-8")) or {}
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise PackagingError(f"{path}: not readable YAML ({error})") from error
    known = (*REPLACED, *MERGED, "include")
    unknown = [name for name in settings if name not in known]
    unknown += [f"python.{name}" for name in RESERVED if name in (settings.get("python") or {})]
    if unknown:
        raise PackagingError(
            f"{path}: {unknown[0]} cannot be set here; known: {', '.join(known)}. Further packages "
            "belong into `requirements` of aigc-ops.toml"
        )
    return settings
