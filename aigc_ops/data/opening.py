"""A dataset opened: what it holds, told without decoding all of it."""

import json
import os
import shlex
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from aigc_ops.artifacts import DatasetRef, ImageShape, file_digest, json_digest
from aigc_ops.data.config import SPLITS, DataConfig, Split
from aigc_ops.data.fingerprint import absolute
from aigc_ops.data.images import GREY_MODES, decode, read_header
from aigc_ops.data.layout import Layout, find_layout, read_schema
from aigc_ops.data.rows import read_rows
from aigc_ops.data.rowtypes import Label, Row
from aigc_ops.data.versioning import check_pin
from aigc_ops.errors import DataError


def open_dataset(config: DataConfig) -> DatasetRef:
    """The dataset that a config names, checked against its DVC pin when it has one.

    Rows need not be sound: images are opened up to their headers and texts are not
    decoded, so that validation can name every bad row. Raises DataError when there is no
    dataset, when it is not what DVC pins, or when a file or column cannot be read at all.
    """
    root = absolute(config.path)
    dvc_digest = check_pin(root)
    if not root.exists():
        looked = "" if root == Path(config.path) else f"; looked in {Path.cwd()}"
        raise DataError(f"data.path: {config.path} does not exist{looked}")
    layout = find_layout(root, config)
    survey = _survey(layout, config)
    return DatasetRef(
        uri=str(root),
        modality=layout.modality,
        content_digest=content_digest(layout, config),
        num_train=survey.num_rows["train"],
        num_heldout=survey.num_rows["heldout"],
        image_shape=survey.image_shape(config, declared_classes(layout, config)),
        dvc_digest=dvc_digest,
        licences=tuple(sorted(survey.licences)),
        sources=tuple(sorted(survey.sources)),
    )


def pin_hint(ref: DatasetRef) -> str | None:
    """How to pin a dataset by DVC, None when it is pinned."""
    if ref.dvc_digest is not None:
        return None
    path = os.path.relpath(ref.uri)
    if path.startswith(os.pardir):
        do, place = "copy it into this repository, then", Path(path).name
    else:
        do, place = "to pin it", path
    command = f"aigc-ops dvc add {shlex.quote(place)} && git add {shlex.quote(place + '.dvc')}"
    return f"{path} is not pinned by DVC; {do} run: {command}"


def content_digest(layout: Layout, config: DataConfig) -> str:
    """SHA-256 (hex) over every file of both splits, with the fraction that split them."""
    digests = {name.as_posix(): file_digest(layout.root / name) for name in layout.every_file()}
    files = layout.files if layout.files is not None else {"all": layout.unsplit}
    return json_digest(
        {
            "splits": {
                split: [[name.as_posix(), digests[name.as_posix()]] for name in names]
                for split, names in files.items()
            },
            "heldout_fraction": config.heldout_fraction if layout.files is None else None,
        }
    )


def declared_classes(layout: Layout, config: DataConfig) -> tuple[str, ...]:
    """Class names that a Parquet file's `datasets` metadata declares, in order of label."""
    if layout.kind != "parquet" or layout.modality != "image" or config.label_column is None:
        return ()
    metadata = read_schema(layout.root / layout.every_file()[0]).metadata or {}
    try:
        features = json.loads(metadata[b"huggingface"])["info"]["features"]
        return tuple(map(str, features[config.label_column]["names"]))
    except (KeyError, TypeError, ValueError):
        return ()


@dataclass
class _Survey:
    """What one pass over the undecoded rows finds."""

    num_rows: dict[Split, int] = field(default_factory=lambda: dict.fromkeys(SPLITS, 0))
    labels: dict[Split, Counter[Label]] = field(
        default_factory=lambda: {split: Counter() for split in SPLITS}
    )
    licences: set[str] = field(default_factory=set)
    sources: set[str] = field(default_factory=set)
    size: tuple[int, int] | None = None
    grey: bool = True

    def image_shape(self, config: DataConfig, declared: tuple[str, ...]) -> ImageShape | None:
        """The shape of the first sound image; None for texts, or when no image is sound."""
        if self.size is None:
            return None
        width, height = self.size
        if config.image_size is not None:
            width = height = config.image_size
        return ImageShape(
            channels=1 if self.grey else 3,
            height=height,
            width=width,
            class_names=declared or class_names(self.labels["train"], self.labels["heldout"]),
        )

    def look_at(self, row: Row) -> None:
        try:
            header = read_header(row.content or b"")
            self.grey &= header.mode in GREY_MODES
            self.size = self.size or decode(row.content or b"").size
        except DataError:
            pass  # validation names it


def class_names(train: Mapping[Label, int], heldout: Mapping[Label, int]) -> tuple[str, ...]:
    """Names of the labels 0..K-1 that the rows of both splits show; given how many show each.

    Named classes are put in order (by number when all are numbers). For plain integers K
    is the number of distinct labels in the training split, without those on fewer rows than
    a hundredth of the average class: so a few stray labels are out of range instead of
    stretching it.
    """
    shown = {label for label in {*train, *heldout} if label is not None}
    names = {label for label in shown if isinstance(label, str)}
    if names:
        numbered = all(name.isdecimal() for name in names)
        return tuple(sorted(names, key=lambda name: (int(name) if numbered else 0, name)))
    seen = [num for label, num in train.items() if isinstance(label, int) and label >= 0]
    num_classes = sum(num * 100 * len(seen) >= sum(seen) for num in seen)
    return tuple(str(label) for label in range(num_classes))


def label_index(label: Label, names: tuple[str, ...]) -> int | None:
    """The label as an integer: itself, or the place of its name (-1: it has none)."""
    if isinstance(label, str):
        return names.index(label) if label in names else -1
    return label


def _survey(layout: Layout, config: DataConfig) -> _Survey:
    survey = _Survey()
    for split in SPLITS:
        for row in read_rows(layout, config, split):
            survey.num_rows[split] += 1
            survey.labels[split][row.label] += 1
            survey.licences |= {row.licence} if row.licence else set()
            survey.sources |= {row.source} if row.source else set()
            if layout.modality == "image":
                survey.look_at(row)
    return survey
