"""Parquet files in batches of bounded memory, also when values compress very well."""

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
    """Return the Arrow schema of a Parquet file; raise DataError when it is truncated."""
    try:
        return pq.read_schema(_source(path))
    except (pa.ArrowException, OSError) as error:
        raise _damaged(path, error) from error


def column_names(path: Path) -> list[str]:
    """Return the column names of a Parquet file, cached while the file is unchanged."""

    def compute() -> str:
        keep_content(path)  # the rows of a file are read right after its columns
        return json.dumps(read_schema(path).names)

    names: list[str] = json.loads(recall_or_compute("columns", None, {"file": path}, compute))
    return names


@contextmanager
def open_parquet(
    path: Path, *, buffer_size: int = 0, dictionaries: Iterable[str] = ()
) -> Iterator[pq.ParquetFile]:
    """Open a Parquet file; raise DataError when it is truncated or reading fails.

    Columns of a row group are read whole, or `buffer_size` bytes at a time. Columns named in
    `dictionaries` stay dictionary-encoded, so repeated values are in memory once.
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
    """Yield batches of some columns, of all row groups or the given ones."""
    with open_parquet(path) as file:
        for group in range(file.num_row_groups) if groups is None else groups:
            # The bound from the metadata is free but coarse. Only where it is exceeded is the
            # dictionary read, which gives the size of the values.
            strings, max_bytes = _max_decoded_bytes(file, group, columns)
            fits = max_bytes <= MOST_BYTES
            num_rows = MOST_ROWS if fits else _num_rows(path, group, columns, strings)
            yield from file.iter_batches(num_rows, [group], columns)


def _max_decoded_bytes(
    file: pq.ParquetFile, group: int, columns: list[str]
) -> tuple[list[str], int]:
    """Return the string columns of a row group, and an upper bound of their bytes in memory."""
    # A dictionary-encoded value is stored once and decoded for every row: a long text that all
    # rows share takes little on disk and gigabytes in memory.
    metadata = file.metadata.row_group(group)
    strings = [
        column
        for column in map(metadata.column, range(metadata.num_columns))
        if column.physical_type == "BYTE_ARRAY" and column.path_in_schema.split(".")[0] in columns
    ]
    num_bytes = sum(column.total_uncompressed_size for column in strings)
    return [column.path_in_schema for column in strings], num_bytes * metadata.num_rows


def _num_rows(path: Path, group: int, columns: list[str], strings: list[str]) -> int:
    """Return the rows per batch if each row is as large as the row group's dictionary."""
    # pyarrow limits batches by rows, not by bytes. The first row, read as a dictionary, comes
    # with all of the dictionary, whose size bounds that of any value in it.
    with open_parquet(path, buffer_size=2**16, dictionaries=strings) as folded:
        first = next(folded.iter_batches(1, [group], columns), None)
    num_bytes = 0 if first is None else first.nbytes
    return min(MOST_ROWS, max(1, MOST_BYTES // max(1, num_bytes)))


def _source(path: Path) -> Path | pa.BufferReader:
    """Return a Parquet file's bytes if they are cached in memory, else its path."""
    # The cache is not filled here, because streams of large files read a row group at a time.
    content = kept_content(path)
    return path if content is None else pa.BufferReader(content)


def _damaged(path: Path, error: Exception) -> DataError:
    """Return the error to raise for a Parquet file that pyarrow cannot read."""
    reason = str(error).splitlines()[0]
    return DataError(f"{path}: not a whole Parquet file ({reason}); copy it or write it again")
