"""Manifest of a dataset: measurements of each row, which the validation suite checks."""

from collections.abc import Iterable, Iterator
from typing import Any

import pandas as pd

from aigc_ops.core.artifacts import DatasetRef
from aigc_ops.data.config import DataConfig
from aigc_ops.data.dataset import Dataset
from aigc_ops.interfaces.ingestion import SPLITS, DataHooks
from aigc_ops.interfaces.labels import label_index
from aigc_ops.interfaces.row import Row

# pandas types. Columns of text are `object`, which holds None for a missing value; `Int64` is
# pandas' nullable integer, since plain int64 has no missing value.
COMMON_COLUMNS = {
    "row": "str",
    "split": "str",
    "error": "object",
    "num_bytes": "Int64",
    "digest": "object",
    "duplicate_of": "object",
    "also_trained_on": "object",
    "licence": "object",
}
# `train_label` is null for held-out rows: it serves the check that every class has training rows.
LABEL_COLUMNS = {"label": "Int64", "train_label": "Int64"}


def read_manifest(ref: DatasetRef, config: DataConfig) -> pd.DataFrame:
    """Return a table with one line per row of both splits, including damaged rows.

    `error` is the decoder's message or null. `digest` identifies the decoded sample.
    `duplicate_of` names the first row of the same split with that digest, and
    `also_trained_on` the training row that a held-out row equals.
    """
    dataset = Dataset(ref, config)
    hooks = dataset.layout.hooks
    columns = COMMON_COLUMNS | dict(hooks.manifest_columns)
    if "label" in hooks.optional_fields:
        columns |= LABEL_COLUMNS
    rows = ((split, row) for split in SPLITS for row in dataset.rows(split))
    lines = list(_with_repeats(_lines(rows, ref, hooks)))
    return pd.DataFrame(lines, columns=list(columns)).astype(columns)


def _lines(
    rows: Iterable[tuple[str, Row]], ref: DatasetRef, hooks: DataHooks
) -> Iterator[dict[str, Any]]:
    names = ref.class_names
    for split, row in rows:
        line = {
            "row": row.name,
            "split": split,
            "num_bytes": len(row.content) if row.content is not None else None,
            "licence": row.licence or None,
        }
        if "label" in hooks.optional_fields:
            line |= _measure_label(row, split, names)
        yield line | hooks.measure(row)


def _measure_label(row: Row, split: str, names: tuple[str, ...]) -> dict[str, Any]:
    label = label_index(row.label, names)
    # With missing labels pandas builds the column as float64, exact up to 2**53 only. A larger
    # label would make the conversion to Int64 fail; clamped, it fails the check of its range.
    if label is not None:
        label = min(max(label, -(2**53)), 2**53)
    return {"label": label, "train_label": label if split == "train" else None}


def _with_repeats(lines: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield the lines with `duplicate_of` and `also_trained_on` set."""
    # The caller passes the training lines first, so a held-out line finds all of them here.
    first: dict[tuple[str, str], str] = {}
    for line in lines:
        if digest := line.get("digest"):
            line["duplicate_of"] = first.get((line["split"], digest))
            if line["split"] == "heldout":
                line["also_trained_on"] = first.get(("train", digest))
            first.setdefault((line["split"], digest), line["row"])
        yield line
