"""Sets of images for comparison, from a folder, an archive, Parquet, or a NumPy array."""

import hashlib
import math
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path, PurePath
from typing import IO

import numpy as np
from numpy.typing import NDArray

from aigc_ops.core.errors import DataError
from aigc_ops.formats.parquet import open_parquet, read_batches
from aigc_ops.formats.stat_digest import all_files, require_regular, visible_files
from aigc_ops.interfaces.reading import (
    ARCHIVES,
    Reading,
    Unread,
    grouped,
    is_companion,
    require_read,
    unread_columns,
)
from aigc_ops.modalities.image.config import ImageDataConfig
from aigc_ops.modalities.image.files import (
    MAX_BYTES,
    OTHER_SUFFIXES,
    SUFFIXES,
    decode_as_stored,
    fit,
)

# np.savez's default name, and names that are common for saved samples.
ARRAYS = ("arr_0", "images", "samples")
COLUMN = ImageDataConfig.model_fields["column"].default
KINDS = {".zip": "archive", ".parquet": "table", ".npy": "array", ".npz": "array"}

Picture = NDArray[np.uint8]
"""(3, H, W) uint8; a grey image has three equal channels."""


@dataclass
class ImageSet:
    """A set of images of any sizes; one image at a time is in memory."""

    path: Path
    skip_damaged: bool = False
    skipped: list[str] = field(default_factory=list)
    """Names of the images skipped in the last reading, with the reasons."""

    def __post_init__(self) -> None:
        if not self.path.exists():
            raise DataError(f"{self.path} does not exist; give a folder, zip, Parquet, npy or npz")
        self._kind = "folder" if self.path.is_dir() else KINDS.get(self.path.suffix.lower())
        if self._kind is None:
            raise DataError(f"{self.path}: expected a folder, zip, Parquet, npy or npz")
        if self._kind != "folder":
            require_regular(self.path)

    def digest(self) -> str:
        """Return the SHA-256 (hex) over names and content of all readable files."""
        digest = hashlib.sha256()
        names = sorted(visible_files(self.path)) if self.path.is_dir() else [Path()]
        for name in names:
            digest.update(f"{name.as_posix()}\0".encode())
            # An unreadable file counts by its name alone: whether it is an error is decided when
            # images are read, with `skip_damaged`.
            with suppress(OSError, DataError):
                require_regular(self.path / name)
                with (self.path / name).open("rb") as file:
                    digest.update(hashlib.file_digest(file, "sha256").digest())
        return digest.hexdigest()

    def __len__(self) -> int:
        """Return the number of images, damaged ones included."""
        if self._kind == "array":
            with _array(self.path) as (_, shape):
                return shape[0]
        if self._kind == "table":
            with open_parquet(self.path) as table:
                return int(table.metadata.num_rows)
        return len(self._names)

    def images(self, indices: Sequence[int] | NDArray[np.intp] | None = None) -> Iterator[Picture]:
        """Yield the images at ascending indices in the order of their names; default: all.

        Raises DataError naming a damaged image, unless `skip_damaged` is set.
        """
        # Images are converted to RGB by Pillow alone, as in the tools whose distances are
        # published: transparency is dropped, and the EXIF orientation is ignored.
        self.skipped = []
        indices = range(len(self)) if indices is None else [int(index) for index in indices]
        if self._kind == "array":
            yield from _in_array(self.path, indices)
            return
        for name, content in self._encoded(indices):
            try:
                if isinstance(content, Exception):
                    reason = getattr(content, "strerror", None) or content
                    raise DataError(f"cannot be read ({reason})")
                yield fit(decode_as_stored(content), None, 3)
            except DataError as error:
                if not self.skip_damaged:
                    raise DataError(
                        f"{name}: {error}; repair or remove it, or use --skip-damaged"
                    ) from error
                self.skipped.append(f"{name}: {error}")

    def reading(self) -> Reading:
        """Return what is read of the set, and what is not."""
        columns, unread = dict[str, str](), tuple[Unread, ...]()
        if self._kind == "table":
            with open_parquet(self.path) as table:
                names = table.schema_arrow.names
            columns = {COLUMN: COLUMN}
            unread = unread_columns([name for name in names if name != COLUMN])
        elif self._kind != "array":
            read = {*self._names}
            unread = grouped((PurePath(n), *_why_unread(n)) for n in self._entries if n not in read)
        return Reading(num_rows=len(self), columns=columns, labels_from=None, unread=unread)

    def require_read(self) -> None:
        """Raise DataError if too many files that could be images are not read."""
        require_read(self.path, len(self), self.reading().unread, "--allow-unread")

    @cached_property
    def _names(self) -> list[str]:
        """Names of the images in a folder or an archive, sorted."""
        return sorted(
            name
            for name in self._entries
            if PurePath(name).suffix.lower() in SUFFIXES and not is_companion(PurePath(name))
        )

    @cached_property
    def _entries(self) -> list[str]:
        """Names of all files in a folder or an archive."""
        if self._kind == "archive":
            with _archive(self.path) as archive:
                return [entry.filename for entry in archive.infolist() if not entry.is_dir()]
        return [str(name) for name in all_files(self.path)]

    def _encoded(self, indices: Sequence[int]) -> Iterator[tuple[str, bytes | Exception]]:
        """Yield names and bytes of image files, or the error that prevented reading."""
        if self._kind == "table":
            yield from self._in_table(indices)
        elif self._kind == "archive":
            with _archive(self.path) as archive:
                for entry in (archive.getinfo(self._names[index]) for index in indices):
                    name = f"{self.path}: {entry.filename}"
                    # Checked before unpacking, against archives made to exhaust memory.
                    if entry.file_size > MAX_BYTES:
                        raise DataError(
                            f"{name} unpacks to {entry.file_size:,} bytes; at most {MAX_BYTES:,}"
                        )
                    yield name, _bytes_of(partial(archive.read, entry))
        else:
            for file in (self.path / self._names[index] for index in indices):
                yield str(file), _bytes_of(partial(_file_bytes, file))

    def _in_table(self, indices: Sequence[int]) -> Iterator[tuple[str, bytes]]:
        first, wanted = 0, set(indices)
        with open_parquet(self.path) as table:
            if COLUMN not in table.schema_arrow.names:
                found = ", ".join(table.schema_arrow.names)
                raise DataError(f"{self.path}: expected a column {COLUMN!r}; found {found}")
            for group in range(table.num_row_groups):
                index, first = first, first + table.metadata.row_group(group).num_rows
                # Skip row groups without a wanted row; a process reads only its block of the file.
                if wanted.isdisjoint(range(index, first)):
                    continue
                for batch in read_batches(self.path, [COLUMN], [group]):
                    for value in batch.column(0).to_pylist():
                        content = value.get("bytes") if isinstance(value, dict) else value
                        if index in wanted:
                            yield f"{self.path} row {index}", content or b""
                        index += 1


def _why_unread(name: str) -> tuple[str, bool]:
    """Return why a file is not read, and whether it could be an image."""
    path = PurePath(name)
    if is_companion(path):
        return "companion file", False
    if path.suffix.lower() in OTHER_SUFFIXES:
        return "a format that is not accepted", True
    if path.suffix.lower() in ARCHIVES:
        return "an archive, which is not unpacked", True
    return "not an image", False


def _bytes_of(read: Callable[[], bytes]) -> bytes | Exception:
    try:
        return read()
    except (OSError, zipfile.BadZipFile, zlib.error, EOFError, DataError) as error:
        return error


def _file_bytes(file: Path) -> bytes:
    require_regular(file, MAX_BYTES, "an image")
    return file.read_bytes()


@contextmanager
def _archive(path: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, OSError) as error:
        raise DataError(f"{path}: not a whole zip ({error})") from error


@contextmanager
def _array(path: Path) -> Iterator[tuple[IO[bytes], tuple[int, ...]]]:
    """Open a NumPy file at its data; yield it and the shape (N, H, W, C)."""
    try:
        with ExitStack() as stack:
            # Read as a file rather than by np.load: images are then read one by one, also from
            # an archive, and pickled objects are never loaded.
            if path.suffix.lower() == ".npz":
                archive = stack.enter_context(zipfile.ZipFile(path))
                file = stack.enter_context(archive.open(_member(path, archive.namelist())))
            else:
                file = stack.enter_context(path.open("rb"))
            yield file, _shape(path, file)
    except (OSError, ValueError, EOFError, NotImplementedError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: not a NumPy file of plain numbers ({error})") from error


def _member(path: Path, names: list[str]) -> str:
    for name in ARRAYS:
        if f"{name}.npy" in names:
            return f"{name}.npy"
    found = ", ".join(name.removesuffix(".npy") for name in names)
    raise DataError(f"{path}: expected an array {', '.join(ARRAYS)}; found {found}")


def _shape(path: Path, file: IO[bytes]) -> tuple[int, ...]:
    """Read the header and return (N, H, W, C), C being 1 or 3; raise for other arrays."""
    # NumPy's public header readers return shape and dtype without reading any data.
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"format {version[0]}.{version[1]}")
    read = np.lib.format.read_array_header_1_0
    if version == (2, 0):
        read = np.lib.format.read_array_header_2_0
    shape, is_fortran, dtype = read(file)
    if dtype.hasobject:
        raise ValueError("Python objects")
    if is_fortran and 0 not in shape:
        raise DataError(f"{path}: stored in Fortran order; save np.ascontiguousarray(images)")
    if (
        dtype != np.uint8
        or len(shape) not in (3, 4)
        or (len(shape) == 4 and shape[-1] not in (1, 3))
    ):
        raise DataError(
            f"{path}: {dtype} of shape {shape}; expected uint8 (N, H, W, 3), (N, H, W, 1) or "
            "(N, H, W)"
        )
    if 0 in shape[1:]:
        raise DataError(f"{path}: images of shape {shape[1:]} have no pixels")
    return shape if len(shape) == 4 else (*shape, 1)


def _in_array(path: Path, indices: Sequence[int]) -> Iterator[Picture]:
    with _array(path) as (file, shape):
        first, num_bytes = file.tell(), math.prod(shape[1:])
        for index in indices:
            file.seek(first + index * num_bytes)
            content = file.read(num_bytes)
            if len(content) < num_bytes:
                raise ValueError("cut short")
            image = np.frombuffer(content, np.uint8).reshape(shape[1:])
            # (H, W, 1) broadcasts to three equal channels; then channels first.
            yield np.ascontiguousarray(
                np.broadcast_to(image, (*image.shape[:2], 3)).transpose(2, 0, 1)
            )
