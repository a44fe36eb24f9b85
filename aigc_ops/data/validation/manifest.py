"""Manifest of a dataset: measurements of each row, which the validation suite checks."""

from collections.abc import Iterator
from typing import Any

import pandas as pd

from aigc_ops.core.artifacts import DatasetRef
from aigc_ops.data.config import DataConfig
from aigc_ops.data.dataset import Dataset
from aigc_ops.data.selection import condition_key
from aigc_ops.interfaces.ingestion import SPLITS, Split
from aigc_ops.interfaces.labels import label_index
from aigc_ops.interfaces.row import Row

# pandas types. Columns of text are `object`, which holds None for a missing value; `Int64` is
# pandas' nullable integer, since plain int64 has no missing value.
COMMON_COLUMNS = {
    "row": "str",
    "split": "object",
    "error": "object",
    "num_bytes": "Int64",
    "digest": "object",
    "duplicate_of": "object",
    "licence": "object",
}
# `train_label` is null for held-out rows: it serves the check that every class has training rows.
LABEL_COLUMNS = {"label": "Int64", "train_label": "Int64"}


def read_manifest(ref: DatasetRef, config: DataConfig) -> pd.DataFrame:
    """Return a table with one line per row, including damaged rows and those that are left out.

    `error` is the decoder's message or null. `digest` identifies the decoded sample. `split` is
    null for a row that is left out; `duplicate_of` then names the row that it repeats.
    """
    dataset = Dataset(ref, config)
    hooks = dataset.layout.hooks
    columns = COMMON_COLUMNS | dict(hooks.manifest_columns)
    if "label" in hooks.optional_fields:
        columns |= LABEL_COLUMNS
    first = _FirstRows()
    # The held-out rows first, because the training rows that repeat one of them are left out.
    heldout, train = (list(_lines(dataset, split, ref, first)) for split in reversed(SPLITS))
    lines = train + heldout
    return pd.DataFrame(lines, columns=list(columns)).astype(columns)


def _lines(
    dataset: Dataset, split: Split, ref: DatasetRef, first: "_FirstRows"
) -> Iterator[dict[str, Any]]:
    hooks, names = dataset.layout.hooks, ref.class_names
    for is_left_out, row in dataset.every_row(split):
        read_in = None if is_left_out else split
        line: dict[str, Any] = {
            "row": row.name,
            "split": read_in,
            "num_bytes": len(row.content) if row.content is not None else None,
            "licence": row.licence or None,
        }
        if "label" in hooks.optional_fields:
            line |= _measure_label(row, read_in, names)
        line |= hooks.measure(row)
        if digest := line.get("digest"):
            original = first.find(split, digest, row)
            line["duplicate_of"] = original if is_left_out else None
        yield line


def _measure_label(row: Row, split: str | None, names: tuple[str, ...]) -> dict[str, Any]:
    label = label_index(row.label, names)
    # With missing labels pandas builds the column as float64, exact up to 2**53 only. A larger
    # label would make the conversion to Int64 fail; clamped, it fails the check of its range.
    if label is not None:
        label = min(max(label, -(2**53)), 2**53)
    return {"label": label, "train_label": label if split == "train" else None}


class _FirstRows:
    """Names of the first row of each sample, and of each sample with its conditions."""

    def __init__(self) -> None:
        self._heldout: dict[str, str] = {}
        self._rows: dict[tuple[str, str, str], str] = {}

    def find(self, split: str, digest: str, row: Row) -> str:
        """Return the name of the row that a row repeats, its own if it is the first."""
        earlier = self._rows.setdefault((split, digest, condition_key(row)), row.name)
        if split == "heldout":
            self._heldout.setdefault(digest, row.name)
            return earlier
        return self._heldout.get(digest, earlier)
