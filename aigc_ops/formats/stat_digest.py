"""Quick digest of a dataset, from the names, sizes and times of its files.

Run records compare it before any heavy library is imported, so this module imports only the
standard library. Equal content may have different digests (a fresh clone). Different content has
the same digest only if a file is rewritten within one clock tick at its old size. Data is
identified by the content digest of `DatasetRef` instead.
"""

import hashlib
import os
import stat
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from aigc_ops.core.errors import DataError


def quick_digest(path: str | Path) -> str:
    """Return the SHA-256 over name, size and time of all files, and the .dvc file that pins them.

    A path that does not exist has a digest too, which no dataset has.
    """
    root = absolute(path)
    digest = hashlib.sha256()
    for name in visible_files(root):
        path = root / name
        status = path.stat() if path.exists() else path.lstat()  # lstat: a dangling link
        digest.update(f"{name}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    pin = covering_pin(root)
    if pin is not None:
        digest.update(b"\0" + pin.read_bytes())
    return digest.hexdigest()


def absolute(path: str | Path) -> Path:
    """Return the absolute path without resolving links."""
    # The .dvc file of a linked folder is beside the link, not beside its target.
    try:
        expanded = Path(path).expanduser()
    except RuntimeError as error:
        raise DataError(f"{path}: {error}") from error
    return Path(os.path.abspath(expanded))  # noqa: PTH100 (resolve follows links)


def visible_files(root: Path) -> Iterator[Path]:
    """Yield the paths below `root` of files that are not hidden, in order; `.` for a file."""
    return filter(is_visible, all_files(root))


def is_visible(name: Path) -> bool:
    """Return whether no part of a relative path begins with a dot."""
    return not any(part.startswith(".") for part in name.parts)


def all_files(root: Path) -> Iterator[Path]:
    """Yield the paths below `root` of all files, in order; a hidden folder is one path."""
    if root.is_file():
        yield Path()
    if not root.is_dir():
        return
    # A link to a parent would never end, and two links to one folder would count its files twice.
    visited: set[str] = set()
    for folder, folders, files in os.walk(root, onerror=partial(_refuse, root), followlinks=True):
        if (real := os.path.realpath(folder)) in visited:
            raise DataError(
                f"{root} is not a dataset: {folder} leads back to a folder that is read already; "
                "give a folder without such links"
            )
        visited.add(real)
        hidden = {name for name in folders if name.startswith(".")}
        # In place, because os.walk reads this list: hidden folders are skipped, the order is fixed.
        folders[:] = sorted({*folders} - hidden)
        for name in sorted({*files, *hidden}):
            path = (Path(folder) / name).relative_to(root)
            if not os.fsencode(path).isascii():  # spares most names the check
                _require_utf8(path)
            yield path


def require_regular(path: Path, most_bytes: int | None = None, what: str = "a file") -> None:
    """Raise DataError for a pipe, a device or a dangling link, and for a file over `most_bytes`.

    `what` names the content in messages, with its article.
    """
    # Reading a pipe would block forever, and a device may be endless.
    try:
        status = path.stat()
    except OSError as error:
        raise DataError(
            f"{path}: unreadable ({error.strerror}); every file of a dataset must be readable"
        ) from error
    if not stat.S_ISREG(status.st_mode):
        raise DataError(
            f"{path}: not a regular file but a pipe, a socket or a device; remove it from the "
            "dataset"
        )
    if most_bytes is not None and status.st_size > most_bytes:
        raise DataError(
            f"{path}: {status.st_size:,} bytes, more than the {most_bytes:,} that {what} may "
            "have; make it smaller, or remove it from the dataset"
        )


def _refuse(root: Path, error: OSError) -> None:
    """Raise DataError for an unreadable folder, whose class would otherwise be missing silently."""
    raise DataError(
        f"{root} is not a dataset: {error.filename}: {error.strerror}; make all of its folders "
        "readable, or give another folder"
    ) from error


def _require_utf8(path: Path) -> None:
    try:
        os.fspath(path).encode()
    except UnicodeEncodeError as error:
        # The surrogates of such a name cannot be printed, logged or hashed as text.
        raise DataError(f"{os.fsencode(path)!r}: the name is not UTF-8; rename the file") from error


def covering_pin(path: Path) -> Path | None:
    """Return the .dvc file beside an absolute path or beside a folder above it, else None."""
    for candidate in (path, *path.parents):
        if (candidate / ".dvc").is_dir():
            return None  # the root of the DVC repository: files above it pin nothing here
        pin = candidate.parent / f"{candidate.name}.dvc"
        if candidate.name and pin.is_file():
            return pin
    return None
