"""Parquet in batches that memory holds, whatever the file makes of few bytes."""

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from aigc_ops.core.errors import DataError
from aigc_ops.core.file_contents import keep_content, kept_content
from aigc_ops.core.kept_results import recall_or_compute

MOST_ROWS = 1024
MOST_BYTES = 2**26


def read_schema(path: Path) -> pa.Schema:
    """Return the Arrow schema of a Parquet file; raises DataError when it is cut short."""
    try:
        return pq.read_schema(_source(path))
    except (pa.ArrowException, OSError) as error:
        raise _damaged(path, error) from error


def column_names(path: Path) -> list[str]:
    """Return the names of a Parquet file's columns; an unchanged file is not read for them."""

    def compute() -> str:
        keep_content(path)  # whoever asks for the columns of a file reads its rows next
        return json.dumps(read_schema(path).names)

    names: list[str] = json.loads(recall_or_compute("columns", None, {"file": path}, compute))
    return names


@contextmanager
def open_parquet(
    path: Path, *, buffer_size: int = 0, dictionaries: Iterable[str] = ()
) -> Iterator[pq.ParquetFile]:
    """The file, open; raises DataError when it is cut short, or a read of it fails.

    Columns of a row group are read whole, or `buffer_size` bytes at a time; of the columns
    named as `dictionaries` values that repeat are held once.
    """
    try:
        with pq.ParquetFile(
            _source(path), buffer_size=buffer_size, read_dictionary=list(dictionaries)
        ) as file:
            yield file
    except (pa.ArrowException, OSError) as error:
        raise _damaged(path, error) from error


def read_batches(
    path: Path, columns: list[str], groups: Iterable[int] | None = None
) -> Iterator[pa.RecordBatch]:
    """Batches of some columns, of all row groups or of some."""
    with open_parquet(path) as file:
        for group in range(file.num_row_groups) if groups is None else groups:
            strings, most_bytes = _unfolded(file, group, columns)
            fits = most_bytes <= MOST_BYTES
            num_rows = MOST_ROWS if fits else _num_rows(path, group, columns, strings)
            yield from file.iter_batches(num_rows, [group], columns)


def _unfolded(file: pq.ParquetFile, group: int, columns: list[str]) -> tuple[list[str], int]:
    """The string columns of a row group, and the most bytes that they can take in memory.

    A long value that all rows share takes a few hundred bytes on disk, and is unfolded for each.
    """
    about = file.metadata.row_group(group)
    strings = [
        column
        for column in map(about.column, range(about.num_columns))
        if column.physical_type == "BYTE_ARRAY" and column.path_in_schema.split(".")[0] in columns
    ]
    num_bytes = sum(column.total_uncompressed_size for column in strings)
    return [column.path_in_schema for column in strings], num_bytes * about.num_rows


def _num_rows(path: Path, group: int, columns: list[str], strings: list[str]) -> int:
    """Rows that fit into a batch when each is as large as the dictionary of a row group.

    A dictionary that is not cut short by its writer stands before all rows, so
    the first row shows it; pyarrow itself has no limit in bytes.
    """
    with open_parquet(path, buffer_size=2**16, dictionaries=strings) as folded:
        first = next(folded.iter_batches(1, [group], columns), None)
    num_bytes = 0 if first is None else first.nbytes
    return min(MOST_ROWS, max(1, MOST_BYTES // max(1, num_bytes)))


def _source(path: Path) -> Path | pa.BufferReader:
    """Return a Parquet file's bytes where they are in memory, else its path.

    Memory is not filled here: a stream of large files takes a row group at a time.
    """
    content = kept_content(path)
    return path if content is None else pa.BufferReader(content)


def _damaged(path: Path, error: Exception) -> DataError:
    """Return the error to raise for a Parquet file that pyarrow cannot read."""
    reason = str(error).splitlines()[0]
    return DataError(f"{path}: not a whole Parquet file ({reason}); copy or write it again")
