"""A dataset as a stream of undecoded rows, the same for every kind of file."""

import hashlib
import math
from collections.abc import Iterator
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
"""Fields of a row with a setting `data.FIELD_column`."""


def is_heldout(key: bytes, fraction: float) -> bool:
    """Return whether a row of unsplit data is held out: a matter of its content alone.

    Equal rows fall on the same side, adding rows moves no other, and a larger fraction
    only adds to what a smaller one held out.
    """
    return int.from_bytes(hashlib.sha256(key).digest()[:8]) < fraction * 2**64


def read_rows(layout: Layout, config: DataSettings, split: Split) -> Iterator[Row]:
    """Yield the rows of one split in file order."""
    for name in layout.files_of(split):
        yield from read_group(layout, config, split, Group(name))


def read_group(layout: Layout, config: DataSettings, split: Split, group: Group) -> Iterator[Row]:
    """Yield the rows of one split in one group; unsplit data is split by `is_heldout`.

    The key is the conversation's first prompt where there is one, so no prompt is both
    trained on and judged, and no conversation either.
    """
    hooks = layout.hooks
    rows = (
        _parquet_rows(layout.root / group.file, hooks, config, group)
        if layout.is_parquet
        else hooks.file_rows(layout, group.file, config)
    )
    for row in rows:
        key = row.conversation if row.prompt is not None else row.content or b""
        if layout.files is not None or (
            is_heldout(key, config.heldout_fraction) == (split == "heldout")
        ):
            yield row


def _parquet_rows(
    path: Path, hooks: DataHooks, config: DataSettings, group: Group
) -> Iterator[Row]:
    index = group.first
    chosen = None if group.index is None else [group.index]
    if chosen is None:
        keep_content(path)  # all of it is read, by more than one reader
    present = _present_columns(path, hooks, config)
    for batch in read_batches(path, sorted(set(present.values())), chosen):
        columns = {
            field: _values(field, batch.column(column), f"{path}: column {column!r}", hooks)
            for field, column in present.items()
        }
        for offset in range(batch.num_rows):
            values = {field: column[offset] for field, column in columns.items()}
            yield from hooks.column_rows(f"{path.name} row {index + offset}", values)
        index += batch.num_rows


def _present_columns(path: Path, hooks: DataHooks, config: DataSettings) -> dict[str, str]:
    """Return the columns to read; a missing one must be optional and have its default name."""
    names = read_schema(path).names
    present = {}
    for field, column in hooks.columns(names, config).items():
        if names.count(column) > 1:
            raise DataError(f"{path}: {names.count(column)} columns are called {column!r}")
        if column in names:
            present[field] = column
        elif field not in OPTIONAL_FIELDS or column != _default_column(field):
            expected = f"{column!r} (data.{field}_column)"
            if field not in OPTIONAL_FIELDS:
                expected = describe_content_column(hooks, config)
            raise DataError(f"{path}: expected a column {expected}; found {', '.join(names)}")
    return present


def _default_column(field: str) -> Any:
    return DataSettings.model_fields[f"{field}_column"].default


def _values(field: str, column: pa.Array, where: str, hooks: DataHooks) -> list[Any]:
    """Return the Python values of a column: bytes, labels, strings, or else as they are."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
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
    with suppress(pa.ArrowException):  # of strings, which may not be UTF-8
        column = column.cast(pa.large_binary())
    return [None if value is None else _readable(value) for value in column.to_pylist()]


def _readable(value: object) -> str:
    """Return a licence or source as people read it, with marks for undecodable bytes."""
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _cast(column: pa.Array, target: pa.DataType, where: str) -> pa.Array:
    try:
        return column.cast(target)
    except pa.ArrowException as error:
        raise DataError(f"{where}: expected strings or bytes, found {column.type}") from error


def _labels(column: pa.Array, where: str) -> list[Label]:
    kinds = pa.types
    if kinds.is_integer(column.type):
        return column.to_pylist()  # type: ignore[no-any-return]
    if kinds.is_boolean(column.type):
        return [None if value is None else int(value) for value in column.to_pylist()]
    of_text = (kinds.is_string, kinds.is_large_string, kinds.is_string_view, kinds.is_null)
    if any(is_kind(column.type) for is_kind in of_text):
        return column.to_pylist()  # type: ignore[no-any-return]
    if kinds.is_floating(column.type):  # what pandas makes of integers with gaps
        return [_whole(value, where) for value in column.to_pylist()]
    raise DataError(f"{where}: expected integers or names of classes, found {column.type}")


def _whole(value: float | None, where: str) -> int | None:
    if value is None or math.isnan(value):
        return None
    if not value.is_integer():
        raise DataError(f"{where}: expected whole numbers, found {value}")
    return int(value)
