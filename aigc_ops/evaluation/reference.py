"""Statistics of the data that samples are compared with, kept by what they were made of."""

import json
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue
from safetensors.numpy import load_file, save_file

from aigc_ops import caches
from aigc_ops.artifacts import DatasetRef, json_digest
from aigc_ops.data import DataConfig
from aigc_ops.errors import CheckpointError, EvaluationError
from aigc_ops.evaluation.config import EvaluationConfig
from aigc_ops.evaluation.distances import Gaussian
from aigc_ops.evaluation.embeddings import TextExtractor
from aigc_ops.evaluation.extractors import Extractor
from aigc_ops.evaluation.moments import MAX_KEPT, FeatureSet
from aigc_ops.folders import verify_folder, write_folder
from aigc_ops.noise import sample_seeds
from aigc_ops.revision import code_digest

FACTOR = "reference.safetensors"
DESCRIPTION = "reference.json"
READ_AS = {
    "image": {"image_column", "image_size"},
    "text": {"text_column", "prompt_column", "documents"},
}
"""Settings of the data that decide what its rows look like, beside the files themselves."""


def reference_terms(
    ref: DatasetRef, data_config: DataConfig, config: EvaluationConfig
) -> dict[str, JsonValue]:
    """The part of a contract that says which rows of which data stand for it.

    Raises EvaluationError when the split has fewer than two rows.
    """
    split = config.reference if ref.modality == "image" else "heldout"
    available = ref.num_train if split == "train" else ref.num_heldout
    if available < 2:
        raise EvaluationError(
            f"{ref.uri}: the {split} split has {available} rows and a score needs at least 2; "
            "hold more data out, or compare with another split (--evaluation.reference)"
        )
    terms: dict[str, JsonValue] = {
        "dataset": ref.content_digest,
        "split": split,
        "num_reference": min(config.num_reference, available),
    }
    shape = ref.image_shape and ref.image_shape.model_dump(mode="json", exclude={"class_names"})
    read_as = data_config.model_dump(mode="json", include=READ_AS[ref.modality])
    return {**terms, "reference": json_digest({**terms, **read_as, "image_shape": shape})}


def reference_rows(available: int, num: int) -> list[int]:
    """Which `num` rows of a split stand for it: the same at every call, scattered evenly."""
    if num >= available:
        return list(range(available))
    # Not every k-th row: data that goes round its classes would lose some of them.
    keys = sample_seeds(0, available)
    return sorted(sorted(range(available), key=keys.__getitem__)[:num])


@dataclass(frozen=True)
class Reference:
    """What samples are compared with."""

    num: int
    gaussian: Gaussian
    features: NDArray[np.float32]
    """(M, D), of every image or text in order, or of those of a large set that are kept."""


def reference_statistics(
    compute: Callable[[], FeatureSet],
    terms: dict[str, JsonValue],
    extractor: Extractor | TextExtractor,
    cache: Path,
) -> Reference:
    """Features of the reference rows and their statistics, computed once per cache.

    `compute` gives the features of what `terms` name, by this extractor, and is not called
    when the cache holds them. Damaged ones are computed again with a warning; a
    second process waits for the first.
    """
    from filelock import FileLock

    identity = extractor.identity.model_dump(mode="json")
    made_by = {"code": code_digest(), "device": extractor.device.type}
    description = {"kept": MAX_KEPT, "terms": terms, "extractor": identity, **made_by}
    folder = cache / json_digest(description)
    cache.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_suffix(".lock")):
        if kept := _read(folder):
            return kept
        found = compute().pooled()
        reference = Reference(found.num, found.gaussian(), found.rows)

        def fill(partial: Path) -> None:
            arrays: dict[str, NDArray[Any]] = {
                "num": np.array(reference.num),
                "mean": reference.gaussian.mean,
                "factor": np.ascontiguousarray(reference.gaussian.factor),
                "features": reference.features,
            }
            save_file(arrays, partial / FACTOR)
            (partial / DESCRIPTION).write_text(json.dumps(description, indent=2) + "\n")

        write_folder(folder, fill)
        return reference


def _read(folder: Path) -> Reference | None:
    """Statistics kept earlier; None when there are none, or (with a warning) damaged ones."""
    if not folder.exists():
        return None
    try:
        verify_folder(folder)
    except CheckpointError as error:
        warnings.warn(f"reference statistics are computed again: {error}", stacklevel=2)
        return None
    caches.mark_used(folder)
    kept = load_file(folder / FACTOR)
    gaussian = Gaussian(kept["mean"], kept["factor"])
    return Reference(int(kept["num"]), gaussian, kept["features"])
