"""Folders on disk that are written completely or not at all, and checked by digest when read.

Nothing here imports torch, so a model's record can be read without it.
"""

import glob
import json
import os
import shutil
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from aigc_ops.core.artifacts import file_digest
from aigc_ops.core.errors import CheckpointError

MANIFEST = "manifest.json"
MODEL_JSON = "model.json"
PROVENANCE = "provenance.json"


def write_folder(target: Path, fill: Callable[[Path], None]) -> str:
    """Write a folder atomically with a SHA-256 manifest; return the manifest's digest.

    `fill` writes the files into the hidden folder that it receives. Raises CheckpointError for a
    folder that cannot be written.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    recover(target)
    # A sibling, because a rename is atomic only within one file system. A unique name, so that
    # two processes that write the same target do not mix their files.
    partial = target.parent / f".{target.name}.{uuid.uuid4().hex}.partial"
    partial.mkdir()
    try:
        fill(partial)
        return _seal(partial, target)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{target}: cannot be written ({getattr(error, 'strerror', None) or error}); "
            "free space or choose another AIGC_OPS_HOME, then run again"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _seal(partial: Path, target: Path) -> str:
    """Write the manifest, sync the folder to disk and rename it to `target`."""
    # 1. The manifest lists every file that `fill` has written.
    files = sorted(path for path in partial.rglob("*") if path.is_file())
    entries = {
        path.relative_to(partial).as_posix(): {
            "sha256": file_digest(path),
            "bytes": path.stat().st_size,
        }
        for path in files
    }
    manifest = partial / MANIFEST
    manifest.write_text(
        json.dumps({"files": entries}, indent=2, sort_keys=True) + "\n", encoding="utf-8"
    )
    # 2. Sync before the rename: after a power loss, a renamed folder with empty files would look
    # complete.
    for path in [*files, manifest]:
        _sync(path)
    _sync(partial)
    digest = file_digest(manifest)
    # 3. A folder that is not empty cannot be replaced by one rename. A kill between the two
    # renames leaves the old folder under its hidden name, from which `recover` restores it.
    if target.exists():
        retired = partial.with_suffix(".retired")
        target.rename(retired)
        partial.rename(target)
        shutil.rmtree(retired)
    else:
        partial.rename(target)
    _sync(target.parent)  # the rename itself is on disk only after this
    return digest


def recover(target: Path) -> None:
    """Restore the old folder if a kill interrupted its replacement."""
    for retired in target.parent.glob(f".{glob.escape(target.name)}.*.retired"):
        # With the new folder in place only the removal of the old one was interrupted.
        if target.exists():
            shutil.rmtree(retired, ignore_errors=True)
        else:
            with suppress(FileNotFoundError):  # another process restored it first
                retired.rename(target)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def verify_folder(folder: Path, *, expected: str | None = None) -> str:
    """Check every file against the manifest; return the manifest's SHA-256.

    Raises CheckpointError naming the first file that is missing, extra or changed.
    """
    manifest = folder / MANIFEST
    if not folder.exists():
        recover(folder)
    if not manifest.is_file():
        raise CheckpointError(f"{folder}: no {MANIFEST}; this is not a model folder")
    # 1. The manifest is the expected one. Its digest stands for the whole folder.
    digest = file_digest(manifest)
    if expected is not None and digest != expected:
        raise CheckpointError(
            f"{folder}: manifest digest is {digest[:12]}, expected {expected[:12]}; "
            "the folder is not the one that was recorded"
        )
    # 2. No file is there that the manifest does not list: a library might load or execute it.
    entries = read_manifest(folder)
    present = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if not _is_folder(p)}
    if extra := sorted(present - entries.keys() - {MANIFEST}):
        raise CheckpointError(f"{folder}: {extra[0]} is not in its manifest; do not trust it")
    # 3. Every listed file is there with its content. A link counts as missing, since its target
    # may change after this check.
    for name, sha256 in entries.items():
        path = folder / name
        if name not in present or path.is_symlink():
            raise CheckpointError(f"{folder}: {name} is missing")
        if file_digest(path) != sha256:
            raise CheckpointError(f"{folder}: {name} is damaged (its SHA-256 differs)")
    return digest


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def read_manifest(folder: Path) -> dict[str, str]:
    """Return the SHA-256 (hex) of each file of a folder, as recorded in its manifest."""
    manifest = folder / MANIFEST
    try:
        files = json.loads(manifest.read_text(encoding="utf-8"))["files"]
        return {name: entry["sha256"] for name, entry in files.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{manifest}: not a manifest ({error})") from error


def read_model_json(folder: Path) -> dict[str, Any]:
    """Return `{"family", "config", "blueprint"}` of a model folder."""
    try:
        record: dict[str, Any] = json.loads((folder / MODEL_JSON).read_text(encoding="utf-8"))
        return {name: record[name] for name in ("family", "config", "blueprint")}
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{folder / MODEL_JSON}: unreadable ({error!r})") from error


def read_provenance(folder: Path) -> dict[str, Any]:
    """Return what training recorded about a model: step, data, seed, run, config, revision."""
    try:
        record: dict[str, Any] = dict(json.loads((folder / PROVENANCE).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{folder / PROVENANCE}: unreadable ({error!r})") from error
    return record
