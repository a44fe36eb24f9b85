"""Images for comparison, wherever they lie: a folder, an archive, Parquet, or an array."""

import hashlib
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from aigc_ops.data.config import DataConfig
from aigc_ops.data.fingerprint import visible_files
from aigc_ops.data.images import decode, fit
from aigc_ops.data.layout import IMAGE_SUFFIXES, unreadable_parquet
from aigc_ops.errors import DataError

MAX_ENTRY_BYTES = 256 * 2**20
"""Of one image in an archive, packed or not."""

Picture = NDArray[np.uint8]
"""(3, H, W) uint8; a grey image thrice."""


@dataclass
class Collection:
    """A set of images of any sizes."""

    path: Path
    skip_damaged: bool = False
    skipped: list[str] = field(default_factory=list)
    """Names of the images passed over in the last reading, with the reasons."""

    def __post_init__(self) -> None:
        if not self.path.exists():
            raise DataError(f"{self.path} does not exist; give a folder, zip, Parquet, npy or npz")

    def digest(self) -> str:
        """SHA-256 (hex) over the names and content of all files."""
        digest = hashlib.sha256()
        names = sorted(visible_files(self.path)) if self.path.is_dir() else [Path()]
        for name in names:
            digest.update(f"{name.as_posix()}\0".encode())
            with (self.path / name).open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        return digest.hexdigest()

    def images(self) -> Iterator[Picture]:
        """Every image in order of its name; raises DataError naming one that is damaged."""
        self.skipped = []
        suffix = self.path.suffix.lower()
        if self.path.is_dir():
            encoded = self._in_folder()
        elif suffix == ".zip":
            encoded = self._in_archive()
        elif suffix == ".parquet":
            encoded = self._in_table()
        elif suffix in (".npy", ".npz"):
            yield from _in_array(self.path)
            return
        else:
            raise DataError(f"{self.path}: expected a folder, zip, Parquet, npy or npz")
        for name, content in encoded:
            try:
                yield fit(decode(content), None, 3)
            except DataError as error:
                if not self.skip_damaged:
                    raise DataError(
                        f"{name}: {error}; mend it, or pass damaged images over with --skip-damaged"
                    ) from error
                self.skipped.append(f"{name}: {error}")

    def _in_folder(self) -> Iterator[tuple[str, bytes]]:
        for name in sorted(visible_files(self.path)):
            if name.suffix.lower() in IMAGE_SUFFIXES:
                yield str(self.path / name), (self.path / name).read_bytes()

    def _in_archive(self) -> Iterator[tuple[str, bytes]]:
        try:
            with zipfile.ZipFile(self.path) as archive:
                entries = [e for e in archive.infolist() if not e.is_dir()]
                for entry in sorted(entries, key=lambda e: e.filename):
                    if Path(entry.filename).suffix.lower() not in IMAGE_SUFFIXES:
                        continue
                    name = f"{self.path}: {entry.filename}"
                    if entry.file_size > MAX_ENTRY_BYTES:
                        raise DataError(f"{name} unpacks to {entry.file_size:,} bytes; too many")
                    yield name, archive.read(entry)
        except (zipfile.BadZipFile, NotImplementedError, RuntimeError, OSError) as error:
            raise DataError(f"{self.path}: not a whole zip ({error})") from error

    def _in_table(self) -> Iterator[tuple[str, bytes]]:
        column = DataConfig.model_fields["image_column"].default
        try:
            with pq.ParquetFile(self.path) as table:
                if column not in table.schema_arrow.names:
                    found = ", ".join(table.schema_arrow.names)
                    raise DataError(f"{self.path}: expected a column {column!r}; found {found}")
                index = 0
                for batch in table.iter_batches(256, columns=[column]):
                    for value in batch.column(0).to_pylist():
                        content = value.get("bytes") if isinstance(value, dict) else value
                        yield f"{self.path} row {index}", content or b""
                        index += 1
        except OSError as error:
            raise unreadable_parquet(self.path, error) from error


def _in_array(path: Path) -> Iterator[Picture]:
    """Images (N, H, W, C) or (N, H, W) uint8 of a NumPy file, whose pickles are refused."""
    try:
        loaded = np.load(path, mmap_mode="r" if path.suffix == ".npy" else None)
        if isinstance(loaded, np.ndarray):
            arrays = loaded
        else:
            name = next((n for n in ("arr_0", "images", "samples") if n in loaded), None)
            if name is None:
                found = ", ".join(loaded)
                raise DataError(
                    f"{path}: expected an array arr_0, images or samples; found {found}"
                )
            arrays = loaded[name]
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: not a NumPy file of plain numbers ({error})") from error
    if (
        arrays.dtype != np.uint8
        or arrays.ndim not in (3, 4)
        or (arrays.ndim == 4 and arrays.shape[-1] not in (1, 3))
    ):
        raise DataError(
            f"{path}: {arrays.dtype} of shape {arrays.shape}; expected uint8 (N, H, W, 3), "
            "(N, H, W, 1) or (N, H, W)"
        )
    for image in arrays:
        pixels = image[..., None] if image.ndim == 2 else image
        yield np.ascontiguousarray(
            np.broadcast_to(pixels, (*pixels.shape[:2], 3)).transpose(2, 0, 1)
        )
