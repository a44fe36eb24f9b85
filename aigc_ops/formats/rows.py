"""Rows of a dataset, not yet decoded, in one form for every kind of file."""

import hashlib
import math
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from aigc_ops.core.errors import DataError
from aigc_ops.core.file_contents import keep_content
from aigc_ops.formats.layout import describe_content_column
from aigc_ops.formats.parquet import read_batches, read_schema
from aigc_ops.interfaces.ingestion import DataHooks, DataSettings, Layout, Split
from aigc_ops.interfaces.row import Group, Label, Row

OPTIONAL_FIELDS = ("label", "prompt", "source", "licence")
"""Row fields whose column is set by `data.FIELD_column`."""
MOST_PIECES = 2**24
"""Positions that each row of a file has for its pieces."""


def is_heldout(key: bytes, fraction: float) -> bool:
    """Return whether a row of unsplit data is held out, which depends only on its content.

    Equal rows are on the same side, added rows move no others, and a larger fraction holds out
    all that a smaller one did.
    """
    # 64 bits of the hash as a number in 0..1. Changing this would move rows between the splits of
    # every unsplit dataset, and held-out data would have been trained on.
    return int.from_bytes(hashlib.sha256(key).digest()[:8]) < fraction * 2**64


def read_rows(layout: Layout, config: DataSettings, split: Split) -> Iterator[Row]:
    """Yield the rows of one split in file order, without those that the layout leaves out."""
    for name in layout.files_of(split):
        yield from read_group(layout, config, split, Group(name))


def read_group(layout: Layout, config: DataSettings, split: Split, group: Group) -> Iterator[Row]:
    """Yield the rows of one split in one group, without those that the layout leaves out."""
    left_out = set(left_out_of(layout, split, group))
    for position, row in positioned_rows(layout, config, split, group):
        if position not in left_out:
            yield row


def positioned_rows(
    layout: Layout, config: DataSettings, split: Split, group: Group
) -> Iterator[tuple[int, Row]]:
    """Yield position and row of all rows of one split in one group.

    Unsplit data is split by `is_heldout`. A row of a conversation is split by the conversation's
    first prompt, so that neither a prompt nor a conversation is in both splits. Pieces of a
    document are in its split, unless the layout cuts it because a split would have too few rows.
    """
    hooks, length = layout.hooks, layout.piece_lengths.get(split)
    rows = _group_rows(layout, config, group)

    def is_in_split(row: Row) -> bool:
        # Data with splits of its own is read as it is.
        if layout.files is not None:
            return True
        key = row.conversation if row.prompt is not None else row.content or b""
        return is_heldout(key, config.heldout_fraction) == (split == "heldout")

    for index, stored in enumerate(rows, group.first):
        if length is None and not is_in_split(stored):
            continue
        for piece, row in enumerate(hooks.prepared(stored, config, length)):
            if length is None or is_in_split(row):
                yield index * MOST_PIECES + piece, row


def left_out_of(layout: Layout, split: Split, group: Group) -> Sequence[int]:
    """Return the ascending positions of a group's rows that a split leaves out."""
    positions = layout.left_out.get(split, {}).get(group.origin.as_posix(), ())
    if group.index is None:
        return positions
    first, end = (index * MOST_PIECES for index in (group.first, group.first + group.num))
    return positions[bisect_left(positions, first) : bisect_left(positions, end)]


def read_all_rows(layout: Layout, config: DataSettings) -> Iterator[Row]:
    """Yield the rows of both splits in file order, each file read once."""
    for name in layout.every_file():
        for stored in _group_rows(layout, config, Group(name)):
            yield from layout.hooks.prepared(stored, config, None)


def _group_rows(layout: Layout, config: DataSettings, group: Group) -> Iterator[Row]:
    hooks = layout.hooks
    if layout.is_parquet:
        return _parquet_rows(layout.root / group.file, hooks, config, group)
    return hooks.file_rows(layout, group.file, config)


def _parquet_rows(
    path: Path, hooks: DataHooks, config: DataSettings, group: Group
) -> Iterator[Row]:
    index = group.first
    row_groups = None if group.index is None else [group.index]
    if row_groups is None:
        keep_content(path)  # the whole file is read, for its schema and again for its rows
    present = _present_columns(path, hooks, config)
    for batch in read_batches(path, sorted(set(present.values())), row_groups):
        columns = {
            field: _values(field, batch.column(column), f"{path}: column {column!r}", hooks)
            for field, column in present.items()
        }
        for offset in range(batch.num_rows):
            values = {field: column[offset] for field, column in columns.items()}
            yield from hooks.column_rows(f"{path.name} row {index + offset}", values)
        index += batch.num_rows


def _present_columns(path: Path, hooks: DataHooks, config: DataSettings) -> dict[str, str]:
    """Return the columns to read by field; raise DataError for a required one that is missing."""
    names = read_schema(path).names
    present = {}
    for field, column in hooks.columns(names, config).items():
        # pyarrow reads both of two equal names, and `batch.column` then raises a bare KeyError.
        if names.count(column) > 1:
            raise DataError(f"{path}: {names.count(column)} columns are called {column!r}")
        if column in names:
            present[field] = column
        # A name that somebody has set is meant, so its absence is an error for optional fields too.
        elif field not in OPTIONAL_FIELDS or column != _default_column(field):
            expected = f"{column!r} (data.{field}_column)"
            if field not in OPTIONAL_FIELDS:
                expected = describe_content_column(hooks, config)
            raise DataError(f"{path}: expected a column {expected}; found {', '.join(names)}")
    return present


def _default_column(field: str) -> Any:
    return DataSettings.model_fields[f"{field}_column"].default


def _values(field: str, column: pa.Array, where: str, hooks: DataHooks) -> list[Any]:
    """Return the Python values of a column: bytes, labels or strings, else unconverted."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    # Datasets of Hugging Face store an image as a struct of its bytes and its former path.
    if field == "content" and pa.types.is_struct(column.type):
        if column.type.get_field_index("bytes") < 0:
            raise DataError(
                f"{where}: a struct without a bytes field; embed the encoded {hooks.files_noun}"
            )
        column = pc.struct_field(column, "bytes")
    if field == "label":
        return _labels(column, where)
    if field in ("content", "prompt"):
        return _cast(column, pa.large_binary(), where).to_pylist()  # type: ignore[no-any-return]
    if field not in ("source", "licence"):
        return column.to_pylist()  # type: ignore[no-any-return]
    # As bytes first: to_pylist raises where a string of the file is not UTF-8.
    with suppress(pa.ArrowException):
        column = column.cast(pa.large_binary())
    return [None if value is None else _display_text(value) for value in column.to_pylist()]


def _display_text(value: object) -> str:
    """Return a licence or source as text; undecodable bytes become replacement characters."""
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _cast(column: pa.Array, target: pa.DataType, where: str) -> pa.Array:
    try:
        return column.cast(target)
    except pa.ArrowException as error:
        raise DataError(f"{where}: expected strings or bytes, found {column.type}") from error


def _labels(column: pa.Array, where: str) -> list[Label]:
    types = pa.types
    if types.is_integer(column.type):
        return column.to_pylist()  # type: ignore[no-any-return]
    if types.is_boolean(column.type):
        return [None if value is None else int(value) for value in column.to_pylist()]
    text_types = (types.is_string, types.is_large_string, types.is_string_view, types.is_null)
    if any(is_type(column.type) for is_type in text_types):
        return column.to_pylist()  # type: ignore[no-any-return]
    # pandas writes a column of integers with missing values as floats.
    if types.is_floating(column.type):
        return [_to_integer(value, where) for value in column.to_pylist()]
    raise DataError(f"{where}: expected integers or class names, found {column.type}")


def _to_integer(value: float | None, where: str) -> int | None:
    if value is None or math.isnan(value):
        return None
    if not value.is_integer():
        raise DataError(f"{where}: expected whole numbers, found {value}")
    return int(value)
