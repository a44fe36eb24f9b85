"""Which model generated a sample, and of what request: carried by the sample itself.

A file holds it where its format has room (a PNG in a tEXt chunk), a folder of samples in the lines
of its record. It is not a proof: whoever edits a file can remove or change it. The proof is to
generate the sample again.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, JsonValue, ValidationError

from aigc_ops.core.artifacts import Noun
from aigc_ops.core.errors import ModelError
from aigc_ops.interfaces.discovery import find_modality, modality_names
from aigc_ops.interfaces.modality import Modality
from aigc_ops.interfaces.request import SampleRequest
from aigc_ops.interfaces.sampling import METADATA_KEY

RECORD = "samples.jsonl"
DIGEST = r"[0-9a-f]{64}"
MAX_RECORD_BYTES = 2**28
CONDITIONS = ("label", "prompt")
FIELDS = ("seed", *CONDITIONS, "controls", "conditions")


class Origin(Noun):
    """The model that draws."""

    model: str | None = Field(default=None, max_length=300, description="Its URI, when known.")
    manifest_digest: str = Field(pattern=f"^{DIGEST}$", description="Of its folder's manifest.")


class Note(Origin):
    """The origin and request of a sample."""

    seed: int
    label: int | None = None
    prompt: str | None = None
    controls: Mapping[str, float] = {}
    conditions: Mapping[str, JsonValue] = {}
    """What else a modality's requests hold, by name."""


def sample_metadata(
    modality: Modality[Any], origin: Origin, request: SampleRequest
) -> dict[str, Any]:
    """Return what the file of a sample of this request carries."""
    fields = modality.requests.record(request)
    note = {**origin.model_dump(), "seed": request.seed}
    note |= {name: value for name, value in fields.items() if name in CONDITIONS}
    if others := {name: value for name, value in fields.items() if name not in CONDITIONS}:
        note["conditions"] = others
    if request.controls:
        note["controls"] = dict(request.controls)
    return note


def read_note(path: Path) -> Note:
    """What a PNG, or the record beside a sample, tells of its origin; the first of many texts.

    Raises ModelError for a file that tells nothing, or nothing that can be understood.
    """
    text = _embedded(path)
    try:
        if text is not None:
            return Note.model_validate_json(text)
        line = _line(path)
        told = {name: line[name] for name in FIELDS if name in line}
        return Note.model_validate({**told, "manifest_digest": line["model"]})
    except (OSError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, ValidationError):
            reason = f"what it says is no origin ({error.error_count()} faults)"
        else:
            reason = (
                f"it carries no {METADATA_KEY!r} chunk, and no {RECORD} beside it names its model"
            )
        raise ModelError(
            f"{path}: it cannot be told which model drew this; {reason}. Images lose it when they "
            "are edited or sent through services that strip metadata; samples of before it was "
            "written never had it"
        ) from error


def _embedded(path: Path) -> str | None:
    """Return the JSON that the file itself carries, None where its format has no room for it."""
    for name in modality_names():
        codec = find_modality(name).samples
        if codec.is_numbered and codec.suffix == path.suffix.lower():
            return codec.read_metadata(path)
    return None


def _line(path: Path) -> dict[str, object]:
    """The line of a sample in the record beside it, or of the record's first sample."""
    record = path.parent / RECORD
    if record.stat().st_size > MAX_RECORD_BYTES:
        raise ValueError(f"{record} is larger than any that aigc-ops wrote")
    with record.open(encoding="utf-8") as lines:
        rows = (json.loads(line) for line in lines)
        row = next((row for row in rows if path == record or row["file"] == path.name), None)
    if row is None:
        raise KeyError(path.name)
    return dict(row)
