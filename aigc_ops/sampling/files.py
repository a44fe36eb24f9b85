"""Folders of samples: written with their requests, and read back."""

import json
import re
import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from aigc_ops.core.errors import CheckpointError, ModelError
from aigc_ops.interfaces.modality import Modality
from aigc_ops.interfaces.request import Message, SampleRequest
from aigc_ops.sampling.metadata import RECORD, Origin, sample_metadata

GOLDEN = "golden"
STAGING = ".samples.partial"
WRITTEN = re.compile(r"\d{5,7}\.\w+|samples\.\w+")
"""Names that `write_samples` gives to files of any modality, the record included."""


def write_samples(
    modality: Modality[Any],
    samples: Any,
    asked: Sequence[SampleRequest],
    folder: Path,
    *,
    origin: Origin | None = None,
) -> None:
    """Write a batch of samples and `samples.jsonl`, which holds their requests, in order.

    Images are `00000.png`, `00001.png` ... of their own size, one channel as greyscale; texts one
    `samples.txt` with a text a line, its backslashes and control characters escaped, which
    `samples.jsonl` holds exactly. Each carries its origin when one is given. What a former call
    wrote is replaced; any other file of this kind in the folder is refused.
    """
    assert len(samples) == len(asked), (len(samples), len(asked))
    try:
        former = _former_files(modality, folder)
        try:
            names = _stage(modality, samples, asked, folder / STAGING, origin)
        except OSError:
            shutil.rmtree(folder / STAGING, ignore_errors=True)
            raise
        for path in former:
            path.unlink(missing_ok=True)
        # The record goes last: until then the staging folder tells the next call whose
        # files these are.
        for name in [*names, RECORD]:
            (folder / STAGING / name).replace(folder / name)
        (folder / STAGING).rmdir()
    except OSError as error:
        raise ModelError(
            f"{folder}: the samples cannot be written ({error.strerror or error}); "
            "free space or give another folder"
        ) from error


def _stage(
    modality: Modality[Any],
    samples: Any,
    asked: Sequence[SampleRequest],
    staging: Path,
    origin: Origin | None,
) -> list[str]:
    """Write all files into a hidden folder; return the names of all but the record."""
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    metadata = partial(_metadata, modality, asked, origin)
    names = modality.samples.write(samples, staging, metadata)
    rows = (
        _row(modality, sample, name, request, origin)
        for sample, name, request in zip(samples, names, asked, strict=True)
    )
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (staging / RECORD).write_text(text, encoding="utf-8", newline="")
    return sorted(path.name for path in staging.iterdir() if path.name != RECORD)


def _metadata(
    modality: Modality[Any], asked: Sequence[SampleRequest], origin: Origin | None, index: int
) -> dict[str, Any] | None:
    return sample_metadata(modality, origin, asked[index]) if origin else None


def _row(
    modality: Modality[Any],
    sample: Any,
    name: str,
    request: SampleRequest,
    origin: Origin | None,
) -> dict[str, Any]:
    """Return the line of one sample in the record."""
    row = {
        "file": name,
        **modality.requests.record(request),
        **modality.samples.record(sample),
        "seed": request.seed,
    }
    if origin:
        row["model"] = origin.manifest_digest
    if request.controls:
        row["controls"] = dict(request.controls)
    if request.history:
        row["history"] = request.history
    if request.stop:
        row["stop"] = request.stop
    return row


def _former_files(modality: Modality[Any], folder: Path) -> list[Path]:
    """Return what a former call wrote into the folder; raises ModelError for others' files."""
    if not folder.exists():
        return []
    if not folder.is_dir():
        raise ModelError(f"{folder}: not a folder; give another one for the samples")
    ours = (folder / RECORD).is_file() or (folder / STAGING).is_dir()
    suffix, numbered = modality.samples.suffix, modality.samples.is_numbered
    files = sorted(path for path in folder.iterdir() if path.is_file())
    foreign = [
        path
        for path in files
        if numbered
        and path.suffix.lower() == suffix
        and not (ours and WRITTEN.fullmatch(path.name))
    ]
    if foreign:
        raise ModelError(
            f"{folder}: holds {foreign[0].name}, which is no sample of a former call; "
            f"samples go into a folder without other {suffix[1:].upper()}s, so give a new one"
        )
    return [path for path in files if ours and WRITTEN.fullmatch(path.name)]


def read_samples(modality: Modality[Any], folder: Path) -> tuple[list[SampleRequest], Any]:
    """Return the requests and the batch of samples that `write_samples` wrote, in order."""
    try:
        rows = [json.loads(line) for line in (folder / RECORD).read_text("utf-8").split("\n")[:-1]]
        asked = [
            SampleRequest(
                row["seed"],
                row.get("label"),
                row.get("prompt"),
                row.get("controls", {}),
                tuple(Message(*turn) for turn in row.get("history", ())),
                tuple(row.get("stop", ())),
            )
            for row in rows
        ]
        return asked, modality.samples.read(folder, rows)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{folder / RECORD}: not readable samples ({error})") from error


def read_golden(modality: Modality[Any], folder: Path) -> tuple[list[SampleRequest], Any]:
    """Return the requests and samples kept with a model folder when it was registered."""
    if not (folder / GOLDEN / RECORD).is_file():
        raise CheckpointError(
            f"{folder}: keeps no golden samples; register the checkpoint and use the version"
        )
    return read_samples(modality, folder / GOLDEN)
