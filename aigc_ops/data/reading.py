"""Description of what is read of an opened dataset, and of what is not."""

import re
from collections.abc import Mapping

from aigc_ops.core.artifacts import DatasetRef
from aigc_ops.data.config import DataConfig
from aigc_ops.data.dataset import Dataset
from aigc_ops.formats.parquet import read_schema
from aigc_ops.interfaces.ingestion import Layout
from aigc_ops.interfaces.reading import Reading, unread_columns

_SHARD = re.compile(r"0\d{3,}")


def describe(ref: DatasetRef, config: DataConfig) -> Reading:
    """Return what is read of a dataset; reads names and columns, but no samples."""
    num_rows = ref.num_train + ref.num_heldout
    reading = reading_of(Dataset(ref, config).layout, config, num_rows, ref.class_names)
    return reading.model_copy(update={"dropped": ref.dropped, "noted": ref.noted})


def reading_of(
    layout: Layout, config: DataConfig, num_rows: int, class_names: tuple[str, ...]
) -> Reading:
    """Return what is read of a layout with `num_rows` rows, and what is not."""
    found = _columns(layout)
    roles = {
        layout.hooks.name if role == "content" else role: column
        for role, column in layout.hooks.columns(found, config).items()
        if column in found
    }
    others = [column for column in found if column not in roles.values()]
    return Reading(
        num_rows=num_rows,
        columns=roles,
        labels_from=_labels_from(layout, roles, class_names),
        unread=(*layout.unread, *unread_columns(others)),
    )


def _columns(layout: Layout) -> tuple[str, ...]:
    """Return the columns of the dataset's files; empty for files of one sample each."""
    if layout.is_parquet:
        return tuple(read_schema(layout.root / layout.every_file()[0]).names)
    found: dict[str, None] = {}
    for name in layout.every_file() if layout.hooks.has_many_rows_a_file else ():
        found |= dict.fromkeys(layout.hooks.file_columns(layout.root / name))
    return tuple(found)


def _labels_from(
    layout: Layout, roles: Mapping[str, str], class_names: tuple[str, ...]
) -> str | None:
    if not class_names:
        return None
    if layout.label_files:
        return ", ".join(name.as_posix() for name in layout.label_files)
    if "label" in roles:
        return f"column {roles['label']}"
    # StyleGAN and FFHQ distribute pictures over numbered folders, which are no classes.
    shards = all(_SHARD.fullmatch(name) for name in class_names)
    return "sub-folders" + " (if they only divide the files: --data.label-column '')" * shards
