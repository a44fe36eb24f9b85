"""Metadata of a sample: the model that generated it, and the request.

It is embedded where the file format allows it (a tEXt chunk of a PNG), and else in the lines of
`samples.jsonl`. It proves nothing, because anyone can edit it. Generating the sample again does.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, JsonValue, ValidationError

from aigc_ops.core.artifacts import Record
from aigc_ops.core.errors import ModelError
from aigc_ops.interfaces.discovery import find_modality, modality_names
from aigc_ops.interfaces.modality import Modality
from aigc_ops.interfaces.request import SampleRequest
from aigc_ops.interfaces.sampling import METADATA_KEY

RECORD = "samples.jsonl"
DIGEST = r"[0-9a-f]{64}"
MAX_RECORD_BYTES = 2**28  # 256 MiB; larger files are not read, since anyone can offer one
# Conditions that have their own key; others go into `conditions`.
CONDITIONS = ("label", "prompt")
FIELDS = ("seed", *CONDITIONS, "controls", "conditions")


class ModelRef(Record):
    """The model that generated a sample."""

    model: str | None = Field(default=None, max_length=300, description="URI, if known.")
    manifest_digest: str = Field(pattern=f"^{DIGEST}$", description="SHA-256 of the manifest.")


class SampleMetadata(ModelRef):
    """Model and request of a sample."""

    seed: int | None = None
    """Seed of the sample; None for a reconstruction, which has none."""
    label: int | None = None
    prompt: str | None = None
    controls: Mapping[str, float] = {}
    conditions: Mapping[str, JsonValue] = {}
    """Further conditions of the request, by name."""

    def given(self) -> dict[str, JsonValue]:
        """Return all conditions of the request, by name."""
        given = {"label": self.label, "prompt": self.prompt, **self.conditions}
        return {name: value for name, value in given.items() if value is not None}


def sample_metadata(
    modality: Modality[Any], origin: ModelRef, request: SampleRequest
) -> dict[str, Any]:
    """Return the metadata to embed in the file of a sample."""
    # Empty fields are omitted: each file carries this text.
    fields = modality.requests.to_record(request)
    metadata = {**origin.model_dump(), "seed": request.seed}
    metadata |= {name: value for name, value in fields.items() if name in CONDITIONS}
    if others := {name: value for name, value in fields.items() if name not in CONDITIONS}:
        metadata["conditions"] = others
    if request.controls:
        metadata["controls"] = dict(request.controls)
    return metadata


def read_sample_metadata(path: Path) -> SampleMetadata:
    """Read the metadata from a sample's file, or from the `samples.jsonl` beside it.

    For a file of several texts it is that of the first. Raises ModelError if there is none, or
    if it is invalid.
    """
    # The file's own metadata goes first: it stays with an image that is moved to another folder.
    text = _embedded(path)
    try:
        if text is not None:
            return SampleMetadata.model_validate_json(text)
        line = _line(path)
        fields = {name: line[name] for name in FIELDS if name in line}
        return SampleMetadata.model_validate({**fields, "manifest_digest": line["model"]})
    except (OSError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, ValidationError):
            reason = f"its metadata is invalid ({error.error_count()} fields)"
        else:
            reason = f"it has no {METADATA_KEY!r} chunk, and no {RECORD} beside it names its model"
        raise ModelError(
            f"{path}: cannot determine which model generated this; {reason}. Editors and services "
            "may strip metadata from images, and samples of early releases have no metadata"
        ) from error


def _embedded(path: Path) -> str | None:
    """Return the JSON embedded in the file, or None if the file's format embeds none."""
    for name in modality_names():
        codec = find_modality(name).samples
        if codec.is_numbered and codec.suffix == path.suffix.lower():
            return codec.read_metadata(path)
    return None


def _line(path: Path) -> dict[str, object]:
    """Return the sample's line in the record, or the first line if `path` is the record."""
    record = path.parent / RECORD
    if record.stat().st_size > MAX_RECORD_BYTES:
        raise ValueError(f"{record} is larger than any that aigc-ops wrote")
    # Lazily, line by line: the record of a million samples need not be parsed for one of them.
    with record.open(encoding="utf-8") as lines:
        rows = (json.loads(line) for line in lines)
        row = next((row for row in rows if path == record or row["file"] == path.name), None)
    if row is None:
        raise KeyError(path.name)
    return dict(row)
