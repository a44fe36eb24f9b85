"""Which model drew a sample, and of what request: carried by the sample itself.

A PNG holds it as a tEXt chunk, a folder of samples in the lines of its record. It is a note, not
a proof: whoever edits a file can take it out or change it. The proof is to draw the sample again.
"""

import json
from collections.abc import Mapping
from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo
from pydantic import Field, ValidationError

from aigc_ops.artifacts import Noun
from aigc_ops.errors import ModelError
from aigc_ops.sample_request import SampleRequest

KEY = "aigc_ops"
"""Keyword of the tEXt chunk."""
RECORD = "samples.jsonl"
DIGEST = r"[0-9a-f]{64}"
MAX_RECORD_BYTES = 2**28
TOLD = ("seed", "label", "prompt", "controls")

_FAULTS = (
    OSError,
    SyntaxError,
    ValueError,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)


class Origin(Noun):
    """The model that draws."""

    model: str | None = Field(default=None, max_length=300, description="Its URI, when known.")
    manifest_digest: str = Field(pattern=f"^{DIGEST}$", description="Of its folder's manifest.")


class Note(Origin):
    """What a sample tells of itself."""

    seed: int
    label: int | None = None
    prompt: str | None = None
    controls: Mapping[str, float] = {}


def png_info(origin: Origin, request: SampleRequest) -> PngInfo:
    """The chunk that an image of this request carries; ASCII, so that every tool shows it."""
    note = {**origin.model_dump(), "seed": request.seed, "label": request.label}
    if request.controls:
        note["controls"] = dict(request.controls)
    info = PngInfo()
    info.add_text(KEY, json.dumps(note))
    return info


def read_note(path: Path) -> Note:
    """What a PNG, or the record beside a sample, tells of its origin; the first of many texts.

    Raises ModelError for a file that tells nothing, or nothing that can be understood.
    """
    text = _chunk(path) if path.suffix.lower() == ".png" else None
    try:
        if text is not None:
            return Note.model_validate_json(text)
        line = _line(path)
        told = {name: line[name] for name in TOLD if name in line}
        return Note.model_validate({**told, "manifest_digest": line["model"]})
    except (OSError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, ValidationError):
            reason = f"what it says is no origin ({error.error_count()} faults)"
        else:
            reason = f"it carries no {KEY!r} chunk, and no {RECORD} beside it names its model"
        raise ModelError(
            f"{path}: it cannot be told which model drew this; {reason}. Images lose it when they "
            "are edited or sent through services that strip metadata; samples of before it was "
            "written never had it"
        ) from error


def _chunk(path: Path) -> str | None:
    """The text of a PNG's chunk, None without one; pixels are not decoded."""
    try:
        with Image.open(path, formats=["PNG"]) as picture:
            text = picture.info.get(KEY)
    except _FAULTS as error:
        raise ModelError(f"{path}: not a readable PNG ({error})") from error
    return text if isinstance(text, str) else None


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
