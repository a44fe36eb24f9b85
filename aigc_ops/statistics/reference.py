"""Statistics of the reference data, cached by everything that decides them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version as package_version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue

from aigc_ops.compute.random import sample_seeds
from aigc_ops.core.artifacts import DatasetRef, json_digest
from aigc_ops.core.errors import EvaluationError
from aigc_ops.statistics.cached import Arrays, cached_arrays
from aigc_ops.statistics.extractor import FeatureExtractor
from aigc_ops.statistics.frechet import Gaussian
from aigc_ops.statistics.moments import MAX_KEPT, FeatureSet

if TYPE_CHECKING:
    from aigc_ops.interfaces.ingestion import Split

MORE_ROWS = "hold more data out"


def reference_terms(
    ref: DatasetRef,
    split: "Split",
    num_reference: int,
    appearance: Mapping[str, JsonValue],
    *,
    advice: str = MORE_ROWS,
) -> dict[str, JsonValue]:
    """Return the evaluation conditions that name the reference rows and their data.

    `appearance` holds the settings that affect the samples read from the files. Raises
    EvaluationError with the advice when the split has fewer than two rows.
    """
    require_rows(ref, split, advice=advice)
    terms: dict[str, JsonValue] = {
        "dataset": ref.content_digest,
        "split": split,
        "num_reference": min(num_reference, ref.num_rows(split)),
    }
    return {**terms, "reference": json_digest({**terms, **appearance})}


def require_rows(ref: DatasetRef, split: "Split", *, advice: str = MORE_ROWS) -> None:
    """Raise EvaluationError with the advice when a split has fewer than two rows."""
    if (available := ref.num_rows(split)) < 2:
        raise EvaluationError(
            f"{ref.uri}: the {split} split has {available} rows and a score needs at least 2; "
            f"{advice}"
        )


def reference_rows(available: int, num: int) -> list[int]:
    """Return a fixed pseudo-random subset of `num` rows that represents a split."""
    if num >= available:
        return list(range(available))
    # Not every k-th row: of data in which classes alternate, that would skip some of them.
    # The keys depend on no library, so stored scores keep their subset in every release of NumPy.
    keys = sample_seeds(0, available)
    return sorted(sorted(range(available), key=keys.__getitem__)[:num])


@dataclass(frozen=True)
class Reference:
    """Reference that samples are compared with: its statistics and some features."""

    num: int
    gaussian: Gaussian
    features: NDArray[np.float32]
    """(M, D) features of every row in order, or of the kept rows of a large set."""


def computed_by(extractor: FeatureExtractor, version: int) -> dict[str, JsonValue]:
    """Return all that decides features besides the samples, to name cache entries by.

    `version` is that of the modality's evaluation, which is raised when its code changes values.
    """
    # The kind of device is part of it: a GPU's features differ from the CPU's in the last digits.
    return {
        "extractor": extractor.identity.model_dump(mode="json"),
        "device": extractor.device.type,
        "version": version,
        "packages": {name: package_version(name) for name in extractor.packages},
    }


def reference_statistics(
    compute: Callable[[], FeatureSet],
    terms: dict[str, JsonValue],
    extractor: FeatureExtractor,
    cache: Path,
    *,
    version: int,
) -> Reference:
    """Return features of the reference rows and their statistics, computed once per cache.

    `compute` extracts the features of the rows that `terms` name; it is not called on a cache hit.
    A damaged entry is computed again with a warning. A second process waits for the first.
    """

    def arrays() -> Arrays:
        features = compute().pooled()
        gaussian = features.gaussian()
        return {
            "num": np.array(features.num),
            "mean": gaussian.mean,
            "factor": gaussian.factor,
            "features": features.rows,
        }

    description = {"kept": MAX_KEPT, "terms": terms, **computed_by(extractor, version)}
    found = cached_arrays(arrays, description, cache, name="reference")
    gaussian = Gaussian(found["mean"], found["factor"])
    return Reference(int(found["num"]), gaussian, found["features"])
