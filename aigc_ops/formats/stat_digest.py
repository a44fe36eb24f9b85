"""A dataset's state at a glance: names, sizes and times, from the standard library alone.

The run record compares it before any heavy library is imported. It may differ for equal
content (a fresh clone), never the other way round but for a file rewritten within one
clock tick at its old size; the content digest of `DatasetRef` is what names the data.
"""

import hashlib
import os
import stat
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from aigc_ops.core.errors import DataError


def quick_digest(path: str | Path) -> str:
    """SHA-256 (hex) over name, size and time of every file, and the .dvc file that pins them.

    A path that does not exist has a digest too, different from that of any dataset.
    """
    root = absolute(path)
    digest = hashlib.sha256()
    for name in visible_files(root):
        path = root / name
        status = path.stat() if path.exists() else path.lstat()  # a link may lead nowhere
        digest.update(f"{name}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    pin = covering_pin(root)
    if pin is not None:
        digest.update(b"\0" + pin.read_bytes())
    return digest.hexdigest()


def absolute(path: str | Path) -> Path:
    """The path from the root, with links kept, so that a linked folder stays where it is named."""
    try:
        expanded = Path(path).expanduser()
    except RuntimeError as error:
        raise DataError(f"{path}: {error}") from error
    return Path(os.path.abspath(expanded))  # noqa: PTH100 (resolve follows links)


def visible_files(root: Path) -> Iterator[Path]:
    """Paths below `root` of files that are not hidden, in order; `.` when root is a file."""
    if root.is_file():
        yield Path()
    if not root.is_dir():
        return
    seen: set[str] = set()
    for folder, folders, files in os.walk(root, onerror=partial(_refuse, root), followlinks=True):
        if (real := os.path.realpath(folder)) in seen:
            raise DataError(
                f"{root} is not a dataset: {folder} leads back to a folder that is read already; "
                "give a folder without such links"
            )
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if not name.startswith("."):
                path = (Path(folder) / name).relative_to(root)
                if not os.fsencode(path).isascii():
                    _require_utf8(path)
                yield path


def require_regular(path: Path, most_bytes: int | None = None, what: str = "a file") -> None:
    """Raise DataError for a pipe, a device or a dead link, and for a file over `most_bytes`.

    Reading a pipe waits for ever, and a device may have no end. `what` names the content, with
    its article.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise DataError(
            f"{path}: unreadable ({error.strerror}); every file of a dataset must be readable"
        ) from error
    if not stat.S_ISREG(status.st_mode):
        raise DataError(
            f"{path}: not a regular file, but a pipe, a socket or a device, which no dataset holds"
        )
    if most_bytes is not None and status.st_size > most_bytes:
        raise DataError(
            f"{path}: {status.st_size:,} bytes, more than the {most_bytes:,} that {what} may "
            "have; shrink it, or leave it out of the dataset"
        )


def _refuse(root: Path, error: OSError) -> None:
    """Raise DataError for a folder that cannot be read: its class would be missing in silence."""
    raise DataError(
        f"{root} is not a dataset: {error.filename}: {error.strerror}; give a folder that you may "
        "read with all in it"
    ) from error


def _require_utf8(path: Path) -> None:
    try:
        os.fspath(path).encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"{os.fsencode(path)!r}: the name is not UTF-8, as names in a dataset must be"
        ) from error


def covering_pin(path: Path) -> Path | None:
    """The .dvc file that stands beside an absolute path or a folder above it, if any."""
    for candidate in (path, *path.parents):
        if (candidate / ".dvc").is_dir():
            return None  # the repository ends here
        pin = candidate.parent / f"{candidate.name}.dvc"
        if candidate.name and pin.is_file():
            return pin
    return None
