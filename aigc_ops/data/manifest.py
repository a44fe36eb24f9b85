"""The manifest of a dataset: one line of measurements a row, and no verdicts."""

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from aigc_ops.artifacts import DatasetRef, ImageShape
from aigc_ops.data.config import SPLITS, DataConfig
from aigc_ops.data.images import COLOUR_MODES, GREY_MODES, flatten, measure, strips
from aigc_ops.data.layout import find_layout
from aigc_ops.data.opening import label_index
from aigc_ops.data.rows import read_rows
from aigc_ops.data.rowtypes import Row
from aigc_ops.errors import DataError

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
IMAGE_COLUMNS = {
    "width": "Int64",
    "height": "Int64",
    "size": "object",
    "mode": "object",
    "format": "object",
    "num_frames": "Int64",
    "label": "Int64",
    "train_label": "Int64",
}
TEXT_COLUMNS = {"num_characters": "Int64", "num_prompt_characters": "Int64"}


def read_manifest(ref: DatasetRef, config: DataConfig) -> pd.DataFrame:
    """One line per row of both splits, readable or not.

    `error` is the decoder's message or null; `digest` is over decoded pixels or text;
    `duplicate_of` names the first row of the same split with that digest, and
    `also_trained_on` the training row that a held-out row equals.
    """
    layout = find_layout(Path(ref.uri), config)
    columns = COMMON_COLUMNS | (IMAGE_COLUMNS if ref.modality == "image" else TEXT_COLUMNS)
    rows = ((split, row) for split in SPLITS for row in read_rows(layout, config, split))
    lines = list(_with_repeats(_lines(rows, ref)))
    return pd.DataFrame(lines, columns=list(columns)).astype(columns)


def _lines(rows: Iterable[tuple[str, Row]], ref: DatasetRef) -> Iterator[dict[str, Any]]:
    for split, row in rows:
        line = {
            "row": row.name,
            "split": split,
            "num_bytes": len(row.content) if row.content is not None else None,
            "licence": row.licence or None,
        }
        if ref.modality == "text":
            yield line | _measure_text(row)
        else:
            yield line | _measure_label(row, split, ref.image_shape) | _measure_image(row)


def _measure_image(row: Row) -> dict[str, Any]:
    if row.content is None:
        return {"error": "null"}
    try:
        header, image = measure(row.content)
    except DataError as error:
        return {"error": str(error)}
    facts: dict[str, Any] = {
        "width": image.width,
        "height": image.height,
        "size": f"{image.width}x{image.height}",
        "mode": header.mode,
        "format": header.format,
        "num_frames": header.frames,
    }
    if header.mode in GREY_MODES + COLOUR_MODES:
        flat = flatten(image)
        digest = hashlib.sha256(f"{flat.mode} {facts['size']} ".encode())
        for _, strip in strips(flat):
            digest.update(strip.tobytes())
        facts["digest"] = digest.hexdigest()
    return facts


def _measure_label(row: Row, split: str, shape: ImageShape | None) -> dict[str, Any]:
    label = label_index(row.label, shape.class_names if shape else ())
    if label is not None:  # far out of range too, as a column with gaps can hold it
        label = min(max(label, -(2**53)), 2**53)
    return {"label": label, "train_label": label if split == "train" else None}


def _measure_text(row: Row) -> dict[str, Any]:
    facts: dict[str, Any] = {}
    errors = {}
    for part, content in {"text": row.content, "prompt": row.prompt}.items():
        column = "num_characters" if part == "text" else "num_prompt_characters"
        try:
            facts[column] = None if content is None else len(content.decode().strip())
            if content is not None and 0 in content:
                errors[part] = f"{part} holds a null character; UTF-16 is no UTF-8"
        except UnicodeDecodeError as error:
            errors[part] = f"{part} is not UTF-8 ({error.reason} at byte {error.start})"
    if row.content is None:
        errors["text"] = row.error or "text is null"
    if errors:
        return facts | {"error": "; ".join(errors.values())}
    before = b"".join(turn.text.encode(errors="replace") + b"\0" for turn in row.history)
    key = before + (row.prompt or b"") + b"\0" + (row.content or b"")
    return facts | {"digest": hashlib.sha256(key).hexdigest()}


def _with_repeats(lines: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Lines with the row that each repeats; training lines come first."""
    first: dict[tuple[str, str], str] = {}
    for line in lines:
        if digest := line.get("digest"):
            line["duplicate_of"] = first.get((line["split"], digest))
            if line["split"] == "heldout":
                line["also_trained_on"] = first.get(("train", digest))
            first.setdefault((line["split"], digest), line["row"])
        yield line
