"""Resolves `models:/NAME@champion`, `models:/NAME/3` or a checkpoint folder to a model."""

import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from aigc_ops.core import caches
from aigc_ops.core.artifacts import Checkpoint, ModelVersion
from aigc_ops.core.atomic_dirs import MANIFEST, read_provenance, verify_folder
from aigc_ops.core.errors import CheckpointError, RegistryError
from aigc_ops.core.state_dir import home
from aigc_ops.registry.client import connect, faults
from aigc_ops.registry.versions import check_name, find, to_noun, unknown

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion as Entity
    from mlflow.tracking import MlflowClient

SCHEME = "models:/"
STORED_FOLDER = "checkpoint"
"""Folder of the model within a registered model, beside the files that MLflow reads."""

MODEL_URI = re.compile(r"models:/(?P<name>[^/@]+)(?:@(?P<alias>[^/@]+)|/(?P<version>[^/@]+))")
ALIAS = re.compile(r"\w[\w.-]{0,99}")


def resolve(model: str) -> Checkpoint:
    """Return a verified local checkpoint of a registered version or of a folder.

    A version is downloaded once, into the cache. The folder of a training run resolves to its
    newest checkpoint. Raises RegistryError for a model that is not registered and CheckpointError
    for a folder that is damaged or not a model.
    """
    return fetch(resolve_version(model)) if model.startswith(SCHEME) else _open_folder(model)


def resolve_version(model: str) -> ModelVersion:
    """Return the version of a URI `models:/NAME@ALIAS` or `models:/NAME/VERSION`."""
    match = MODEL_URI.fullmatch(model)
    if match is None:
        raise RegistryError(
            f"{model!r} is not a model URI; write models:/NAME@champion or models:/NAME/3"
        )
    name, alias, version = check_name(match["name"]), match["alias"], match["version"]
    # An invalid alias or number is refused before MLflow sees it, so that the error gives examples.
    client = connect()
    if alias is not None and ALIAS.fullmatch(alias):
        entity = find(client, name, alias=alias)
    elif version is not None and re.fullmatch(r"[1-9][0-9]{0,8}", version):
        entity = find(client, name, version=int(version))
    else:
        raise RegistryError(
            f"{model!r}: {alias or version!r} is not a version or alias; give a number, as in "
            f"models:/{name}/3, or an alias, as in models:/{name}@champion"
        )
    if entity is None:
        raise _absent(client, name, model)
    return to_noun(entity)


def fetch(version: ModelVersion) -> Checkpoint:
    """Return the version's verified checkpoint in the cache, downloaded if it is not there."""
    target = cached(version.manifest_digest)
    target.parent.mkdir(parents=True, exist_ok=True)
    # Servers and stages share the cache: without the lock one process could delete the folder that
    # another one has just downloaded.
    with FileLock(target.parent / ".lock"):
        try:
            verify_folder(target, expected=version.manifest_digest)
        except CheckpointError:
            with _downloaded(version) as folder:
                shutil.rmtree(target, ignore_errors=True)
                folder.rename(target)
        caches.mark_used(target)
    return _read(target)


def verify_stored(version: ModelVersion) -> None:
    """Raise CheckpointError unless MLflow's store still holds the version undamaged."""
    with _downloaded(version):
        pass


def stored_provenance(version: ModelVersion) -> dict[str, Any]:
    """Return training's record of the version, from the store's own verified files."""
    with _downloaded(version) as folder:
        return read_provenance(folder)


@contextmanager
def _downloaded(version: ModelVersion) -> Iterator[Path]:
    """Yield a temporary download of the version's folder, verified by its digest."""
    from mlflow.artifacts import download_artifacts

    client = connect()
    # Beside the cached folders: `fetch` renames it into place, which needs the same file system.
    cache = cached(version.manifest_digest).parent
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".download-", dir=cache) as folder:
        with faults(f"downloading {version.uri}"):
            source = client.get_model_version_download_uri(version.name, str(version.version))
            downloaded = Path(download_artifacts(f"{source}/{STORED_FOLDER}", dst_path=folder))
        try:
            verify_folder(downloaded, expected=version.manifest_digest)
        except CheckpointError as error:
            raise CheckpointError(
                f"{version.uri} is damaged in MLflow's store: {error}; delete that version and "
                "register its checkpoint again"
            ) from error
        yield downloaded


def cached(digest: str) -> Path:
    """Return the path in the cache of the model folder with this manifest digest."""
    return home() / "cache" / "models" / digest


def _read(folder: Path) -> Checkpoint:
    from aigc_ops.storage.checkpoints import read_checkpoint  # imports torch

    return read_checkpoint(folder)


def _open_folder(model: str) -> Checkpoint:
    folder = Path(model)
    if not model or "\0" in model or not folder.is_dir():
        raise RegistryError(
            f"{model!r} is neither a checkpoint folder nor a registered model; a registered one "
            "is written models:/NAME@champion or models:/NAME/3 (`aigc-ops models` lists them)"
        )
    if (folder / MANIFEST).is_file():
        return _read(folder)
    # A run that was killed may have a damaged newest checkpoint; an older one still serves.
    steps = sorted(folder.glob("step-*"), reverse=True)
    for step in steps:
        try:
            return _read(step)
        except CheckpointError:
            if step is steps[-1]:
                raise
    raise RegistryError(
        f"{folder}: holds no {MANIFEST} and no step-* checkpoints; it is not a model"
    )


def _absent(client: "MlflowClient", name: str, model: str) -> RegistryError:
    """Return the error for a missing version or alias, with the existing ones."""
    with faults(f"reading {name!r}"):
        entities: list[Entity] = client.search_model_versions(f"name = '{name}'", max_results=1000)
        known = client.search_registered_models(f"name = '{name}'")
    if not known:
        return unknown(client, name)
    numbers = sorted(int(entity.version) for entity in entities)
    aliases = sorted(known[0].aliases)
    return RegistryError(
        f"{model} does not exist; {name} has versions {_listed(numbers)} and aliases "
        f"{_listed(aliases)}; `aigc-ops promote models:/{name}/N` makes a champion"
    )


def _listed(values: list[int] | list[str]) -> str:
    shown = [str(value) for value in values[-10:]]
    return ("…, " if len(values) > len(shown) else "") + ", ".join(shown) if shown else "none"
