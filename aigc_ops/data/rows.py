"""A dataset as a stream of undecoded rows, the same for every kind of file."""

import hashlib
import math
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc

from aigc_ops.data.batches import read_batches
from aigc_ops.data.config import DataConfig, Split
from aigc_ops.data.conversations import answers, json_rows, text_column
from aigc_ops.data.layout import Layout, read_schema
from aigc_ops.data.rowtypes import Group, Label, Row
from aigc_ops.errors import DataError


def is_heldout(key: bytes, fraction: float) -> bool:
    """Whether a row of unsplit data is held out: a matter of its content alone.

    Equal rows fall on the same side, adding rows moves no other, and a larger fraction
    only adds to what a smaller one held out.
    """
    return int.from_bytes(hashlib.sha256(key).digest()[:8]) < fraction * 2**64


def read_rows(layout: Layout, config: DataConfig, split: Split) -> Iterator[Row]:
    """Rows of one split in file order."""
    for name in layout.files_of(split):
        yield from read_group(layout, config, split, Group(name))


def read_group(layout: Layout, config: DataConfig, split: Split, group: Group) -> Iterator[Row]:
    """Rows of one split in one group; unsplit data is split by `is_heldout`.

    The key is the conversation's first prompt where there is one, so no prompt is both
    trained on and judged, and no conversation either.
    """
    for row in _group_rows(layout, group, config):
        key = row.conversation if row.prompt is not None else row.content or b""
        if layout.files is not None or (
            is_heldout(key, config.heldout_fraction) == (split == "heldout")
        ):
            yield row


def _group_rows(layout: Layout, group: Group, config: DataConfig) -> Iterator[Row]:
    name = group.file
    path = layout.root / name
    if layout.kind == "parquet":
        yield from _parquet_rows(path, layout, config, group)
    elif layout.kind == "images":
        below = name.parts[1:] if layout.files is not None else name.parts
        label = below[0] if len(below) > 1 and config.label_column is not None else None
        yield Row(name.as_posix(), _read(path), label=label)
    else:
        shown = path.name if name == Path() else name.as_posix()
        if path.suffix.lower() == ".jsonl":
            yield from json_rows(path, shown, config)
            return
        yield from _text_rows(path, shown, _unit(layout, config))


def _unit(layout: Layout, config: DataConfig) -> str:
    """What one document is; a folder of unsplit text files holds one a file."""
    if config.documents == "auto" and layout.files is None and layout.root.is_dir():
        return "file"
    return config.documents


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: unreadable ({error.strerror}); check its permissions") from error


# Text files


def _text_rows(path: Path, shown: str, unit: str) -> Iterator[Row]:
    try:
        with path.open("rb") as lines:
            for line, document in split_documents(lines, unit):
                yield Row(shown if unit == "file" else f"{shown} line {line}", document)
    except OSError as error:
        raise DataError(f"{path}: unreadable ({error.strerror}); check its permissions") from error


def split_documents(lines: BinaryIO, unit: str) -> Iterator[tuple[int, bytes]]:
    """(line number from 1, document) of a text file, stripped and never empty.

    `unit` is line, paragraph, file, or auto: paragraphs where blank lines stand between
    lines, else lines. Bytes stay undecoded, so that bad UTF-8 can be told by its row. No more
    than a document is held.
    """
    if unit == "auto":
        unit = "paragraph" if _has_paragraphs(lines) else "line"
        lines.seek(0)
    first, document = 0, list[bytes]()
    for number, line in enumerate(_plain(lines), start=1):
        is_blank = not line.strip()
        if document and (unit == "line" or (unit == "paragraph" and is_blank)):
            yield first, b"".join(document).strip()
            document = []
        if document or not is_blank:
            first = first if document else number
            document.append(line)
    if document:
        yield first, b"".join(document).strip()


def _has_paragraphs(lines: Iterable[bytes]) -> bool:
    """Whether blank lines stand between lines."""
    has_text, has_blank = False, False
    for line in _plain(lines):
        if not line.strip():
            has_blank = has_text
        elif has_blank:
            return True
        else:
            has_text = True
    return False


def _plain(lines: Iterable[bytes]) -> Iterator[bytes]:
    """The lines with their ends as on Unix and without a byte order mark."""
    for number, line in enumerate(lines):
        shown = line if number else line.removeprefix(b"\xef\xbb\xbf")
        yield shown[:-2] + b"\n" if shown.endswith(b"\r\n") else shown


# Parquet


def _parquet_rows(path: Path, layout: Layout, config: DataConfig, group: Group) -> Iterator[Row]:
    names = read_schema(path).names
    if layout.modality == "text" and config.messages_column in names:
        yield from _conversations(path, names, config, group)
        return
    main = config.image_column
    if layout.modality == "text":
        main = text_column(names, config) or config.text_column
    wanted = {"content": main, "source": config.source_column, "licence": config.licence_column}
    if layout.modality == "image":
        wanted |= {"label": config.label_column} if config.label_column else {}
    else:
        wanted |= {"prompt": config.prompt_column} if config.prompt_column else {}
    index = group.first
    chosen = None if group.index is None else [group.index]
    present = _present_columns(path, names, wanted)
    for batch in read_batches(path, sorted(set(present.values())), chosen):
        columns = {
            key: _values(key, batch.column(column), f"{path}: column {column!r}")
            for key, column in present.items()
        }
        for offset in range(batch.num_rows):
            values = {key: column[offset] for key, column in columns.items()}
            yield Row(f"{path.name} row {index + offset}", **values)
        index += batch.num_rows


def _conversations(path: Path, names: list[str], config: DataConfig, group: Group) -> Iterator[Row]:
    """An answer a row, of Parquet with a list of role and content in each row."""
    kept = {"source": config.source_column, "licence": config.licence_column}
    kept = {key: column for key, column in kept.items() if column in names}
    chosen = None if group.index is None else [group.index]
    index = group.first
    for batch in read_batches(path, [config.messages_column, *kept.values()], chosen):
        columns = {
            key: _values(key, batch.column(column), f"{path}: column {column!r}")
            for key, column in kept.items()
        }
        for offset, messages in enumerate(batch.column(config.messages_column).to_pylist()):
            facts = {key: column[offset] for key, column in columns.items()}
            yield from answers(f"{path.name} row {index + offset}", messages, **facts)
        index += batch.num_rows


def _present_columns(path: Path, found: list[str], wanted: dict[str, str]) -> dict[str, str]:
    """Columns to read; one that is missing must be optional and stand at its default name."""
    present = {}
    for key, column in wanted.items():
        if found.count(column) > 1:
            raise DataError(f"{path}: {found.count(column)} columns are called {column!r}")
        if column in found:
            present[key] = column
        elif key == "content" or column != DataConfig.model_fields[f"{key}_column"].default:
            field = f"{key}_column" if key != "content" else "image_column or data.text_column"
            raise DataError(
                f"{path}: expected a column {column!r} (data.{field}); found {', '.join(found)}"
            )
    return present


def _values(key: str, column: pa.Array, where: str) -> list[Any]:
    """Python values of a column: bytes, labels, or strings."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if key == "content" and pa.types.is_struct(column.type):
        if column.type.get_field_index("bytes") < 0:
            raise DataError(f"{where}: a struct without a bytes field; embed the encoded images")
        column = pc.struct_field(column, "bytes")
    if key == "label":
        return _labels(column, where)
    if key in ("content", "prompt"):
        return _cast(column, pa.large_binary(), where).to_pylist()  # type: ignore[no-any-return]
    with suppress(pa.ArrowException):  # of strings, which may hold what is no UTF-8
        column = column.cast(pa.large_binary())
    return [None if value is None else _shown(value) for value in column.to_pylist()]


def _shown(value: object) -> str:
    """A licence or source as people read it; undecodable bytes become marks."""
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
