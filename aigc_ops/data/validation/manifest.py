"""The manifest of a dataset: one line of measurements a row, and no verdicts."""

from collections.abc import Iterable, Iterator
from typing import Any

import pandas as pd

from aigc_ops.core.artifacts import DatasetRef
from aigc_ops.data.config import DataConfig
from aigc_ops.data.dataset import Dataset
from aigc_ops.interfaces.ingestion import SPLITS, DataHooks
from aigc_ops.interfaces.labels import label_index
from aigc_ops.interfaces.row import Row

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
LABEL_COLUMNS = {"label": "Int64", "train_label": "Int64"}


def read_manifest(ref: DatasetRef, config: DataConfig) -> pd.DataFrame:
    """Return one line per row of both splits, readable or not.

    `error` is the decoder's message or null; `digest` is over the decoded sample;
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
    if label is not None:  # far out of range too, as a column with gaps can hold it
        label = min(max(label, -(2**53)), 2**53)
    return {"label": label, "train_label": label if split == "train" else None}


def _with_repeats(lines: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield the lines with the row that each repeats; training lines come first."""
    first: dict[tuple[str, str], str] = {}
    for line in lines:
        if digest := line.get("digest"):
            line["duplicate_of"] = first.get((line["split"], digest))
            if line["split"] == "heldout":
                line["also_trained_on"] = first.get(("train", digest))
            first.setdefault((line["split"], digest), line["row"])
        yield line
