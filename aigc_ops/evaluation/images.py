"""Scores of an image model: its samples' distance from the data in a feature space."""

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from pydantic import JsonValue
from torch import Tensor

from aigc_ops import sampling
from aigc_ops.artifacts import DatasetRef, Score
from aigc_ops.data import DataConfig
from aigc_ops.errors import EvaluationError
from aigc_ops.evaluation.config import EvaluationConfig
from aigc_ops.evaluation.extractors import Extractor
from aigc_ops.evaluation.reference import reference_rows, reference_statistics, reference_terms
from aigc_ops.evaluation.statistics import frechet_estimate
from aigc_ops.generative import ImageModel, Images

INTERVAL = "95 %, delete-a-group jackknife: expected value at this n, reference fixed"
MAX_BYTES_AT_ONCE = 2**28
NUM_GRID_ROWS = 16
NUM_GRID_COLUMNS = 10


def score_images(
    model: ImageModel,
    ref: DatasetRef,
    read: Callable[[], Images],
    data_config: DataConfig,
    config: EvaluationConfig,
    *,
    extractor: Extractor,
    seed: int,
    cache: Path,
) -> tuple[str, dict[str, Score], Image.Image]:
    """The primary metric's name, the scores, and a grid of the first samples.

    `read` gives the reference split and is called only when its statistics are not cached.
    """
    _check_shape(model, ref)
    terms = reference_terms(ref, data_config, config)

    def read_reference() -> Tensor:
        data, num = read(), terms["num_reference"]
        assert isinstance(num, int), num
        return data.take(torch.tensor(reference_rows(len(data), num))).images

    reference = reference_statistics(read_reference, terms, extractor, cache)
    features, first = _sample_features(model, extractor, config.num_samples, seed)
    estimate = frechet_estimate(features, reference)
    score = Score(
        value=estimate.value,
        low=estimate.low,
        high=estimate.high,
        contract=_contract(config.num_samples, extractor, terms, seed),
    )
    return extractor.metric, {extractor.metric: score}, _class_grid(first, model.shape.num_classes)


def _check_shape(model: ImageModel, ref: DatasetRef) -> None:
    ours, theirs = model.shape, ref.image_shape
    if theirs is None or (ours.channels, ours.height, ours.width) != (
        theirs.channels,
        theirs.height,
        theirs.width,
    ):
        found = theirs and f"{theirs.width}x{theirs.height} with {theirs.channels} channels"
        raise EvaluationError(
            f"the model draws {ours.width}x{ours.height} images with {ours.channels} channels, "
            f"the data has {found}; give the data it was trained on, or set --data.image-size"
        )


def _sample_features(
    model: ImageModel, extractor: Extractor, num: int, seed: int
) -> tuple[NDArray[np.float32], Tensor]:
    """Features (N, D) of the model's samples, and the first of these samples."""
    asked = sampling.requests(model, num, seed=seed)
    shape = model.shape
    at_once = max(1, MAX_BYTES_AT_ONCE // (shape.channels * shape.height * shape.width))
    features: list[NDArray[np.float32]] = []
    first: Tensor | None = None
    for start in range(0, num, at_once):
        images = sampling.draw(model, asked[start : start + at_once], progress=True)
        first = images if first is None else first
        features.append(extractor.features(images, what="the samples"))
    assert first is not None, num
    return np.concatenate(features), first


def _contract(
    num: int, extractor: Extractor, terms: dict[str, JsonValue], seed: int
) -> dict[str, JsonValue]:
    """What a value depends on; warns when too few images fill the feature space."""
    identity = extractor.identity
    num_reference = terms["num_reference"]
    assert isinstance(num_reference, int), num_reference
    below_width = min(num, num_reference) < identity.width
    if below_width:
        warnings.warn(
            f"{extractor.metric} of {num} samples against {num_reference} images: fewer than the "
            f"extractor's {identity.width} features, so the value is far too high and compares "
            "with others of these numbers alone; raise --evaluation.num-samples",
            stacklevel=2,
        )
    return {
        "n": num,
        "extractor": identity.name,
        **identity.model_dump(mode="json", exclude={"name"}),
        **terms,
        "seed": seed,
        "interval": INTERVAL,
        "below_width": below_width,
    }


def _class_grid(images: Tensor, num_classes: int) -> Image.Image:
    """The first samples, a row per class when they go round the classes."""
    columns = min(NUM_GRID_COLUMNS, len(images) // max(num_classes, 1))
    if not num_classes or not columns:
        return sampling.grid(images[: NUM_GRID_COLUMNS**2], NUM_GRID_COLUMNS)
    rounds = images[: columns * num_classes].reshape(columns, num_classes, *images.shape[1:])
    return sampling.grid(rounds[:, :NUM_GRID_ROWS].transpose(0, 1).flatten(0, 1), columns)
