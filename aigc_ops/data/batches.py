"""Parquet in batches that memory holds, whatever the file makes of few bytes."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from aigc_ops.data.layout import unreadable_parquet

MOST_ROWS = 1024
MOST_BYTES = 2**26


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
            path, buffer_size=buffer_size, read_dictionary=list(dictionaries)
        ) as file:
            yield file
    except (pa.ArrowException, OSError) as error:
        raise unreadable_parquet(path, error) from error


def read_batches(
    path: Path, columns: list[str], groups: Iterable[int] | None = None
) -> Iterator[pa.RecordBatch]:
    """Batches of some columns, of all row groups or of some."""
    with open_parquet(path) as file:
        strings = [
            column.path
            for column in map(file.schema.column, range(len(file.schema.names)))
            if column.physical_type == "BYTE_ARRAY" and column.path.split(".")[0] in columns
        ]
        chosen = range(file.num_row_groups) if groups is None else groups
        with open_parquet(path, buffer_size=2**16, dictionaries=strings) as folded:
            for group in chosen:
                num_rows = _num_rows(folded, group, columns)
                yield from file.iter_batches(num_rows, [group], columns)


def _num_rows(folded: pq.ParquetFile, group: int, columns: list[str]) -> int:
    """Rows that fit into a batch when each is as large as the dictionary of a row group.

    A long value that all rows share takes a few hundred bytes on disk and is unfolded for
    each. A dictionary that is not cut short by its writer stands before all rows, so
    the first row shows it; pyarrow itself has no limit in bytes.
    """
    first = next(folded.iter_batches(1, [group], columns), None)
    num_bytes = 0 if first is None else first.nbytes
    return min(MOST_ROWS, max(1, MOST_BYTES // max(1, num_bytes)))
