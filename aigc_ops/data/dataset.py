"""Opening a dataset without decoding all of it, and reading its splits."""

import json
import os
import shlex
from collections import Counter
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from aigc_ops.core.artifacts import DatasetRef, Record
from aigc_ops.core.errors import DataError
from aigc_ops.core.kept_results import recall_or_compute
from aigc_ops.data.config import DataConfig
from aigc_ops.data.content_digest import content_digest, files_by_name, split_terms
from aigc_ops.data.dvc import check_pin
from aigc_ops.data.selection import Selection, select_rows
from aigc_ops.formats.layout import find_layout
from aigc_ops.formats.parquet import read_schema
from aigc_ops.formats.rows import left_out_of, positioned_rows, read_rows
from aigc_ops.formats.stat_digest import absolute
from aigc_ops.interfaces.ingestion import SPLITS, Layout, Split, SplitRows, all_data_hooks
from aigc_ops.interfaces.labels import class_names
from aigc_ops.interfaces.row import Group, Label, Row
from aigc_ops.provenance.code_version import code_digest

if TYPE_CHECKING:
    from aigc_ops.interfaces.data import TrainingData


class Dataset:
    """An opened dataset; a decoded split is kept for the lifetime of the object."""

    def __init__(self, ref: DatasetRef, config: DataConfig) -> None:
        """Wrap an opened dataset; its content is checked when a split is read."""
        self.ref, self.config = ref, config
        self._splits: dict[Split, TrainingData] = {}

    @cached_property
    def layout(self) -> Layout:
        """Files of the dataset, and the rows that are left out."""
        layout = find_layout(Path(self.ref.uri), self.config, all_data_hooks())
        is_selected = self.ref.dropped or self.ref.noted
        return _opened(layout, self.config).selection.of(layout) if is_selected else layout

    def rows(self, split: Split) -> Iterator[Row]:
        """Yield the undecoded rows of a split, in file order."""
        return read_rows(self.layout, self.config, split)

    def every_row(self, split: Split) -> Iterator[tuple[bool, Row]]:
        """Yield all rows of a split, each with whether it is left out."""
        for file in self.layout.files_of(split):
            left_out = set(left_out_of(self.layout, split, Group(file)))
            rows = positioned_rows(self.layout, self.config, split, Group(file))
            yield from ((position in left_out, row) for position, row in rows)

    def read(self, split: Split) -> "TrainingData":
        """Return a split as training data; raises DataError naming the first damaged row.

        The content must be unchanged since `open_dataset`. A modality that decodes rows on
        demand raises the error when the row is read.
        """
        if split not in self._splits:
            self._splits[split] = self._read(split)
        return self._splits[split]

    def _read(self, split: Split) -> "TrainingData":
        # A stage may run long after the dataset was opened, and on another machine. The digest is
        # cached by the files' sizes and times, so this check reads no unchanged file.
        expected = self.ref.content_digest
        if present_digest(Path(self.ref.uri), self.config, expected) != expected:
            raise DataError(f"{self.ref.uri}: changed since it was opened; run the stage again")
        hooks = self.layout.hooks
        if not self.ref.num_rows(split):
            raise DataError(
                f"{self.ref.uri}: the {split} split is empty; add rows to it{hooks.more_rows_hint}"
            )
        source = SplitRows(self.ref, self.layout, self.config, split, self.rows(split))
        return hooks.decode(source)


def open_dataset(config: DataConfig) -> DatasetRef:
    """Return the record of a config's dataset, checked against its DVC pin if there is one.

    Rows may be damaged: only the shape is decoded, so that validation can name every bad row.
    Unchanged data is not read again. Raises DataError when there is no dataset, when it differs
    from its DVC pin, or when a file or column cannot be read at all.
    """
    root = absolute(config.path)
    # 1. The pin first: for data that is not pulled yet, its error names the command to run.
    dvc_digest = check_pin(root)
    if not root.exists():
        where = "" if root == Path(config.path) else f"; looked in {Path.cwd()}"
        raise DataError(f"data.path: {config.path} does not exist{where}")
    # 2. One pass over the rows.
    opened = _opened(find_layout(root, config, all_data_hooks()), config)
    # 3. The pin is added last: `dvc add` changes it, but not the files in the cache key.
    return opened.ref.model_copy(update={"dvc_digest": dvc_digest})


class _Opened(Record):
    """What one pass over a dataset's rows finds."""

    ref: DatasetRef
    selection: Selection


def _opened(layout: Layout, config: DataConfig) -> _Opened:
    """Return the record of a dataset, without its pin, and its selection.

    They are cached by files, settings and code. The code counts because a decoder's change may
    find another shape in the same files.
    """
    files = files_by_name(layout)
    record = recall_or_compute(
        "dataset",
        {
            "root": str(layout.root),
            "modality": layout.modality,
            "files": split_terms(layout, config.heldout_fraction, {name: name for name in files}),
            "config": config.decisive_values(),
            "code": code_digest(),
        },
        files,
        lambda: _survey(layout, config).model_dump_json(),
    )
    return _Opened.model_validate_json(record)


def _survey(layout: Layout, config: DataConfig) -> _Opened:
    survey, counts = layout.hooks.survey(), _Counts()

    def see(row: Row, split: Split) -> None:
        counts.add(row, split)
        survey.add(row)

    selection = select_rows(layout, config, see)
    if selection.left_out or selection.piece_lengths:
        # Counted again, without the rows that are left out. `see` adds to the new counts.
        survey, counts = layout.hooks.survey(), _Counts()
        for split in SPLITS:
            for row in read_rows(selection.of(layout), config, split):
                see(row, split)
    content = content_digest(layout, config.heldout_fraction)
    ref = DatasetRef(
        uri=str(layout.root),
        modality=layout.modality,
        content_digest=selection.digest_of(content),
        num_train=counts.num_rows["train"],
        num_heldout=counts.num_rows["heldout"],
        **survey.shape_fields(config, _declared_classes(layout, config) or counts.class_names()),
        licences=tuple(sorted(counts.licences)),
        sources=tuple(sorted(counts.sources)),
        dropped=selection.dropped,
        noted=selection.noted,
    )
    return _Opened(ref=ref, selection=selection)


def read_split(ref: DatasetRef, config: DataConfig, split: Split) -> "TrainingData":
    """Return one split of an opened dataset, like `Dataset.read`."""
    return Dataset(ref, config).read(split)


def pin_hint(ref: DatasetRef) -> str | None:
    """Return a hint on how to pin a dataset by DVC; None if it is pinned."""
    if ref.dvc_digest is not None:
        return None
    path = os.path.relpath(ref.uri)
    if path.startswith(os.pardir):
        # DVC refuses to add files outside its repository.
        action, target = "copy it into this repository, then", Path(path).name
    else:
        action, target = "to pin it", path
    command = f"aigc-ops dvc add {shlex.quote(target)} && git add {shlex.quote(target + '.dvc')}"
    return f"{path} is not pinned by DVC; {action} run: {command}"


def present_digest(path: Path, config: DataConfig, recorded: str) -> str:
    """Return the current content digest of the dataset at a path, with a config's settings.

    `recorded` is the digest to compare with: if it is that of the files, no row is read.
    """
    layout = find_layout(path, config, all_data_hooks())
    content = content_digest(layout, config.heldout_fraction)
    return content if content == recorded else _opened(layout, config).ref.content_digest


def _declared_classes(layout: Layout, config: DataConfig) -> tuple[str, ...]:
    """Return the class names in Parquet's Hugging Face metadata, by label; may be empty."""
    if not layout.is_parquet or "label" not in layout.hooks.columns((), config):
        return ()
    # The `datasets` library writes ClassLabel names as JSON into the schema. A file from another
    # writer may have anything there, so a wrong type counts as "no names declared".
    metadata = read_schema(layout.root / layout.every_file()[0]).metadata or {}
    try:
        features = json.loads(metadata[b"huggingface"])["info"]["features"]
        return tuple(map(str, features[config.label_column]["names"]))
    except (KeyError, TypeError, ValueError):
        return ()


class _Counts:
    """Counts of undecoded rows, the same for every modality."""

    def __init__(self) -> None:
        self.num_rows: dict[Split, int] = dict.fromkeys(SPLITS, 0)
        self.licences: set[str] = set()
        self.sources: set[str] = set()
        self._labels: dict[Split, Counter[Label]] = {split: Counter() for split in SPLITS}

    def add(self, row: Row, split: Split) -> None:
        self.num_rows[split] += 1
        self._labels[split][row.label] += 1
        self.licences |= {row.licence} if row.licence else set()
        self.sources |= {row.source} if row.source else set()

    def class_names(self) -> tuple[str, ...]:
        return class_names(self._labels["train"], self._labels["heldout"])
