"""Digest of a dataset's content; unchanged files are read only once."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aigc_ops.core.artifacts import json_digest
from aigc_ops.core.errors import DataError
from aigc_ops.core.file_contents import digest_content
from aigc_ops.core.kept_results import recall_or_compute
from aigc_ops.interfaces.ingestion import Layout


def content_digest(layout: Layout, heldout_fraction: float) -> str:
    """Return the SHA-256 (hex) over all files of both splits and the held-out fraction."""

    # The digest is recorded in scores, versions and checkpoints: its terms may never change.
    def compute() -> str:
        digests = {name: _digest(path) for name, path in files_by_name(layout).items()}
        return json_digest(split_terms(layout, heldout_fraction, digests))

    # The cache key needs names only: file sizes and times are compared by `recall_or_compute`.
    names = {name: name for name in files_by_name(layout)}
    terms = split_terms(layout, heldout_fraction, names)
    return recall_or_compute("content", terms, files_by_name(layout), compute)


def files_by_name(layout: Layout) -> dict[str, Path]:
    """Return the path of each file by its POSIX path relative to the root."""
    names = (*layout.every_file(), *layout.label_files)
    return {name.as_posix(): layout.root / name for name in names}


def split_terms(
    layout: Layout, heldout_fraction: float, by_name: Mapping[str, Any]
) -> dict[str, Any]:
    """Return JSON of both splits' files, each with its value in `by_name`.

    The held-out fraction is included only for data without splits, which it divides.
    """
    files = layout.files if layout.files is not None else {"all": layout.unsplit}
    # Without label files the terms, and so the digest, are those of earlier versions.
    labels = [[name.as_posix(), by_name[name.as_posix()]] for name in layout.label_files]
    return {
        "splits": {
            split: [[name.as_posix(), by_name[name.as_posix()]] for name in names]
            for split, names in files.items()
        },
        "heldout_fraction": heldout_fraction if layout.files is None else None,
        **({"labels": labels} if labels else {}),
    }


def _digest(path: Path) -> str:
    try:
        return digest_content(path, "sha256")
    except OSError as error:
        raise DataError(f"{path}: unreadable ({error.strerror}); repair or remove it") from error
