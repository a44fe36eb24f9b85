"""Writing and reading folders of samples with their requests."""

import json
import re
import shutil
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import JsonValue

from aigc_ops.core.errors import CheckpointError, ModelError
from aigc_ops.interfaces.modality import Modality
from aigc_ops.interfaces.request import SampleRequest
from aigc_ops.sampling.metadata import RECORD, ModelRef, sample_metadata

GOLDEN = "golden"
STAGING = ".samples.partial"  # hidden, and in the same folder: a rename is then atomic
INTERPOLATION = "interpolation"
WRITTEN = re.compile(rf"\d{{5,7}}\.\w+|(samples|{INTERPOLATION})\.\w+")
"""File names that `write_samples` uses, for any modality and for the record."""


def write_samples(
    modality: Modality[Any],
    samples: Any,
    requests: Sequence[SampleRequest],
    folder: Path,
    *,
    origin: ModelRef | None = None,
    frames: Sequence[Mapping[str, JsonValue]] = (),
) -> list[str]:
    """Write samples, and their requests in order as `samples.jsonl`; return the other files' names.

    For an interpolation, `frames` describes each sample's place in it. All samples are then shown
    in one more file, such as `interpolation.png`.

    Images are `00000.png`, `00001.png` and so on. Texts are one `samples.txt` with one text per
    line and control characters escaped; `samples.jsonl` has them unescaped. Samples carry their
    `origin` if given. Files of an earlier call are replaced. Raises ModelError if the folder has
    other files of this kind, or cannot be written.
    """
    assert len(samples) == len(requests), (len(samples), len(requests))
    try:
        previous = _previous_files(modality, folder)
        # 1. Write everything to the staging folder. A full disk leaves the old samples in place.
        try:
            names = _stage(modality, samples, requests, folder / STAGING, origin, frames)
        except OSError:
            shutil.rmtree(folder / STAGING, ignore_errors=True)
            raise
        # 2. Replace the old samples. After a crash here the staging folder is still present, by
        # which the next call knows that these files are its own. So the record is moved last, and
        # then the folder removed.
        for path in previous:
            path.unlink(missing_ok=True)
        for name in [*names, RECORD]:
            (folder / STAGING / name).replace(folder / name)
        (folder / STAGING).rmdir()
        return names
    except OSError as error:
        raise ModelError(
            f"{folder}: the samples cannot be written ({error.strerror or error}); "
            "free space or give another folder"
        ) from error


def _stage(
    modality: Modality[Any],
    samples: Any,
    requests: Sequence[SampleRequest],
    staging: Path,
    origin: ModelRef | None,
    frames: Sequence[Mapping[str, JsonValue]],
) -> list[str]:
    """Write all files into a hidden folder; return the names of all but the record."""
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    places = frames or [{}] * len(requests)
    metadata = partial(_metadata, modality, requests, origin, places)
    names = modality.samples.write(samples, staging, metadata)
    rows = (
        _row(modality, sample, name, request, origin) | _as_condition(place)
        for sample, name, request, place in zip(samples, names, requests, places, strict=True)
    )
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    # newline="" keeps "\n" on Windows, too: the file's bytes are the same everywhere.
    (staging / RECORD).write_text(text, encoding="utf-8", newline="")
    if frames:
        medium = modality.samples.sequence(samples, requests)
        (staging / f"{INTERPOLATION}{medium.suffix}").write_bytes(medium.encoded())
    return sorted(path.name for path in staging.iterdir() if path.name != RECORD)


def _metadata(
    modality: Modality[Any],
    requests: Sequence[SampleRequest],
    origin: ModelRef | None,
    places: Sequence[Mapping[str, JsonValue]],
    index: int,
) -> dict[str, Any] | None:
    if origin is None:
        return None
    return sample_metadata(modality, origin, requests[index]) | _as_condition(places[index])


def _as_condition(place: Mapping[str, JsonValue]) -> dict[str, Any]:
    """Return the place of a sample in an interpolation as a condition of its metadata."""
    return {"conditions": {INTERPOLATION: dict(place)}} if place else {}


def _row(
    modality: Modality[Any],
    sample: Any,
    name: str,
    request: SampleRequest,
    origin: ModelRef | None,
) -> dict[str, Any]:
    """Return the line of one sample in the record."""
    # Empty optional fields are omitted; `read_samples` has their defaults.
    row = {
        "file": name,
        **modality.requests.to_record(request),
        **modality.samples.record(sample),
        "seed": request.seed,
    }
    if origin:
        row["model"] = origin.manifest_digest
    if request.controls:
        row["controls"] = dict(request.controls)
    return row


def _previous_files(modality: Modality[Any], folder: Path) -> list[Path]:
    """Return an earlier call's files; raises ModelError if there are other samples."""
    if not folder.exists():
        return []
    if not folder.is_dir():
        raise ModelError(f"{folder}: not a folder; give another one for the samples")
    # Only names of ours are ever deleted, and only in a folder that holds a record of ours.
    is_ours = (folder / RECORD).is_file() or (folder / STAGING).is_dir()
    suffix, numbered = modality.samples.suffix, modality.samples.is_numbered
    files = sorted(path for path in folder.iterdir() if path.is_file())
    foreign = [
        path
        for path in files
        if numbered
        and path.suffix.lower() == suffix
        and not (is_ours and WRITTEN.fullmatch(path.name))
    ]
    if foreign:
        raise ModelError(
            f"{folder}: holds {foreign[0].name}, which was not written by aigc-ops; "
            f"samples need a folder without other {suffix[1:].upper()} files, so give a new one"
        )
    return [path for path in files if is_ours and WRITTEN.fullmatch(path.name)]


def read_samples(modality: Modality[Any], folder: Path) -> tuple[list[SampleRequest], Any]:
    """Return the requests and the batch of samples that `write_samples` wrote, in order."""
    try:
        # Not `splitlines`, which would also split within texts, at characters such as U+2028.
        lines = (folder / RECORD).read_text("utf-8").split("\n")[:-1]
        rows = [json.loads(line) for line in lines]
        requests = [
            SampleRequest(row["seed"], modality.requests.from_record(row), row.get("controls", {}))
            for row in rows
        ]
        return requests, modality.samples.read(folder, rows)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{folder / RECORD}: not readable samples ({error})") from error


def read_golden(modality: Modality[Any], folder: Path) -> tuple[list[SampleRequest], Any]:
    """Return the golden requests and samples that registration added to a model folder."""
    if not (folder / GOLDEN / RECORD).is_file():
        raise CheckpointError(
            f"{folder}: has no golden samples; register the checkpoint and use the version"
        )
    return read_samples(modality, folder / GOLDEN)
