"""Interpolations between two samples, and reconstructions of given ones, with their files."""

import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path, PurePath
from typing import Any, TextIO

from pydantic import JsonValue

from aigc_ops.core.errors import DataError, ModelError
from aigc_ops.interfaces.discovery import find_modality
from aigc_ops.interfaces.latents import ReconstructionHooks
from aigc_ops.interfaces.media import Media
from aigc_ops.interfaces.request import SampleRequest
from aigc_ops.interfaces.row import Row
from aigc_ops.sampling.metadata import ModelRef
from aigc_ops.sampling.sampler import BATCH_SIZE, check_requests, inference

MAX_FRAMES = 256
NUM_PAIRS = 50  # samples that are shown beside their reconstructions
RECONSTRUCTIONS = "reconstructions"
"""Name of the folder of reconstructions, and of the files beside it."""


def interpolate(model: Any, start: SampleRequest, end: SampleRequest, num: int) -> Any:
    """Return `num` samples from the first request's to the second's, both included.

    The model implements `Interpolates`. Raises ModelError for a request that it cannot serve.
    """
    if not 2 <= num <= MAX_FRAMES:
        raise ModelError(f"num is {num}; an interpolation has from 2 to {MAX_FRAMES} samples")
    check_requests(model, [start, end])
    with inference(model):
        return model.interpolate(start, end, num)


def frames(
    start: SampleRequest, end: SampleRequest, num: int
) -> tuple[list[SampleRequest], list[Mapping[str, JsonValue]]]:
    """Return the request of each sample of an interpolation, and its place in it."""
    requests = [start] * (num - 1) + [end]
    # The ends are samples of their own seeds, with no more to say.
    between: list[Mapping[str, JsonValue]] = [
        {"to_seed": end.seed, "share": round(index / (num - 1), 6)} for index in range(1, num - 1)
    ]
    return requests, [{}, *between, {}]


class Reconstruction:
    """Reconstructions of rows by a model that implements `Reconstructs`, written as they come."""

    def __init__(self, model: Any, hooks: ReconstructionHooks[Any], origin: ModelRef) -> None:
        self._model, self._hooks, self._origin = model, hooks, origin
        modality = find_modality(model.modality)
        self._codec, self._data = modality.samples, modality.data
        self._errors: list[float] = []
        self._shown: list[tuple[Any, Any]] = []
        self._names: set[str] = set()

    def write(self, rows: Iterable[tuple[Row, int | None]], out: Path) -> Path:
        """Write the reconstructions of rows with their labels into a new or empty folder.

        `reconstructions/` holds them by the names of their sources, `reconstructions.jsonl` a line
        for each. The returned file shows the first ones beside their sources. Raises ModelError
        for a folder that cannot be used, and DataError for a row that cannot be read.
        """
        if out.exists() and not (out.is_dir() and not any(out.iterdir())):
            raise ModelError(f"{out} is not an empty folder; give a new one for reconstructions")
        try:
            (out / RECONSTRUCTIONS).mkdir(parents=True)
            with (out / f"{RECONSTRUCTIONS}.jsonl").open("w", encoding="utf-8") as lines:
                remaining = iter(rows)
                while batch := list(islice(remaining, BATCH_SIZE)):
                    self._write_batch(batch, out, lines)
            if not self._errors:
                raise DataError("no samples to reconstruct: the files have no rows")
            medium = self._pairs()
            path = out / f"{RECONSTRUCTIONS}{medium.suffix}"
            path.write_bytes(medium.encoded())
            return path
        except OSError as error:
            raise ModelError(
                f"{out}: the reconstructions cannot be written ({error.strerror or error}); free "
                "space or give another folder"
            ) from error

    def _write_batch(
        self, batch: Sequence[tuple[Row, int | None]], out: Path, lines: TextIO
    ) -> None:
        requests = [SampleRequest(0, {"label": label}) for _, label in batch]
        check_requests(self._model, requests)
        samples = self._hooks.read(self._model, [row for row, _ in batch])
        with inference(self._model):
            made = self._model.reconstruct(samples, requests)
        errors = self._hooks.errors(samples, made)
        self._errors += errors
        room = NUM_PAIRS - len(self._shown)
        self._shown += list(zip(samples, made, strict=True))[:room]
        for (row, label), sample, error in zip(batch, made, errors, strict=True):
            name = self._name(row)
            path = out / RECONSTRUCTIONS / name
            path.parent.mkdir(parents=True, exist_ok=True)
            given = {"label": label} if label is not None else {}
            metadata = {
                **self._origin.model_dump(),
                **given,
                "conditions": {"reconstruction_of": row.name},
            }
            path.write_bytes(self._codec.encode(sample, metadata))
            record = {
                "file": f"{RECONSTRUCTIONS}/{name}",
                "source": row.name,
                **given,
                self._hooks.metric: self._hooks.score([error]),
                "model": self._origin.manifest_digest,
            }
            lines.write(json.dumps(record, ensure_ascii=False) + "\n")

    def _name(self, row: Row) -> str:
        """Return the file name of a row's reconstruction; two sources never share one."""
        source, suffix = PurePath(row.name), self._codec.suffix
        if source.is_absolute() or ".." in source.parts:
            raise DataError(f"{row.name}: not a name below the folder of samples")
        is_file = source.suffix.lower() in self._data.suffixes  # else the row of a larger file
        name = source.with_suffix(suffix).as_posix() if is_file else f"{row.name}{suffix}"
        if name in self._names:  # a.png and a.jpg differ only in their suffix
            name = row.name
        while name in self._names or not name.endswith(suffix):
            name += suffix
        self._names.add(name)
        return name

    def _pairs(self) -> Media:
        samples, made = (self._codec.stack(side) for side in zip(*self._shown, strict=True))
        return self._hooks.pairs(samples, made)

    @property
    def num(self) -> int:
        """Number of reconstructions."""
        return len(self._errors)

    @property
    def score(self) -> float | None:
        """The metric over all reconstructions; None if they equal their sources."""
        return self._hooks.score(self._errors)
