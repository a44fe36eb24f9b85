"""Labels of sample files from a file beside them: StyleGAN's dataset.json, metadata.csv or .jsonl.

The metadata files are those of the `datasets` library: a column `file_name`, and a column of
labels. Names in all three are relative to the folder of the file.
"""

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from aigc_ops.core.errors import DataError
from aigc_ops.core.file_contents import read_content
from aigc_ops.interfaces.row import Label

STYLEGAN = "dataset.json"
METADATA = ("metadata.csv", "metadata.jsonl")
FILE_NAME = "file_name"


def read_labels(
    root: Path, names: list[Path], column: str | None
) -> tuple[tuple[Path, ...], dict[str, Label]]:
    """Return the files among `names` that hold labels, and the label of each sample by its name.

    A file without labels is not among them, so that it is reported as unread. StyleGAN's "labels"
    may be null: the samples then have no labels. Raises DataError for a file that cannot be read.
    """
    files, labels = [], dict[str, Label]()
    for name in names if column else ():
        if name.name in (STYLEGAN, *METADATA):
            found = _labels(root / name, str(column))
            if found is not None:
                files.append(name)
                labels |= {(name.parent / key).as_posix(): label for key, label in found.items()}
    return tuple(files), labels


def _labels(path: Path, column: str) -> dict[str, Label] | None:
    """Return the labels by file name; None if the file has none."""
    try:
        content = read_content(path).decode("utf-8-sig")
        if path.name == STYLEGAN:
            return _stylegan_labels(json.loads(content))
        rows = csv.DictReader(io.StringIO(content)) if path.suffix == ".csv" else _lines(content)
        return _metadata_labels(rows, column)
    except (OSError, ValueError, RecursionError, csv.Error) as error:
        raise DataError(f"{path}: labels cannot be read ({error}); repair or remove it") from error


def _stylegan_labels(values: Any) -> dict[str, Label] | None:
    if not isinstance(values, dict) or "labels" not in values:
        return None  # a file of another tool
    pairs = values["labels"] or []
    for pair in pairs:
        match pair:
            case [str(), int()]:
                continue
        raise ValueError(f"expected pairs of a name and a whole number, found {pair!r}")
    return dict(pairs)


def _lines(content: str) -> Iterator[Mapping[str, Any]]:
    for line in filter(str.strip, content.splitlines()):
        record = json.loads(line)
        if not isinstance(record, dict):
            raise ValueError("not one JSON object a line")
        yield record


def _metadata_labels(rows: Iterable[Mapping[str, Any]], column: str) -> dict[str, Label] | None:
    labels = {}
    for row in rows:
        if FILE_NAME not in row or column not in row:
            return None
        label = row[column]
        if not isinstance(label, str | int | None):
            raise ValueError(f"expected a class's name or number, found {label!r}")
        labels[str(row[FILE_NAME])] = label or None if isinstance(label, str) else label
    return labels or None
