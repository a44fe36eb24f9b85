"""Scores of an image model: how its samples lie to the data in a feature space."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import JsonValue
from torch import Tensor

from aigc_ops import sampling
from aigc_ops.artifacts import DatasetRef, Score
from aigc_ops.data import DataConfig
from aigc_ops.data.config import Split
from aigc_ops.errors import EvaluationError
from aigc_ops.evaluation.classes import class_estimates, num_tested
from aigc_ops.evaluation.config import EvaluationConfig
from aigc_ops.evaluation.contracts import (
    EXACT_INTERVAL,
    SUBSETS_INTERVAL,
    distance_contract,
    score_of,
)
from aigc_ops.evaluation.extractors import Extractor
from aigc_ops.evaluation.kernels import kernel_estimate, kid_name
from aigc_ops.evaluation.memorisation import (
    MIN_HELDOUT,
    Memorisation,
    Nearest,
    Pictured,
    look_for_copies,
)
from aigc_ops.evaluation.neighbours import nearest_distances, neighbour_estimates
from aigc_ops.evaluation.reference import (
    Reference,
    reference_rows,
    reference_statistics,
    reference_terms,
)
from aigc_ops.evaluation.statistics import frechet_estimate
from aigc_ops.generative import ImageData, ImageModel, Images
from aigc_ops.sample_request import SampleRequest

MAX_BYTES_AT_ONCE = 2**28
MAX_NEIGHBOURS = 5000
"""Images on either side among which neighbours are looked for: all distances are kept."""


@dataclass(frozen=True)
class Judged:
    """The scores of an image model, and the images that they were made of."""

    primary: str
    values: dict[str, Score]
    asked: Sequence[SampleRequest]
    samples: Pictured
    """The first of the samples."""
    real: ImageData
    """Images of the split that they are compared with."""
    distances: Tensor
    """(N,) of each sample from the nearest of these, in features."""
    train: ImageData
    """The training images that were searched for copies."""
    memorisation: Memorisation | None
    nearest: Nearest | None
    """Each sample's nearest training image; None when none was looked for."""


def score_images(
    model: ImageModel,
    ref: DatasetRef,
    read: Callable[[Split], Images],
    data_config: DataConfig,
    config: EvaluationConfig,
    *,
    extractor: Extractor,
    seed: int,
    cache: Path,
) -> Judged:
    """Every score of a model's samples against the data, and what it was made of.

    `read` gives a split.
    """
    check_shape(model, ref)
    splits = Splits(ref, read, data_config, config, extractor, cache)
    terms = splits.terms(config.reference)
    reference = splits.reference(config.reference)
    asked = sampling.requests(model, config.num_samples, seed=seed)
    samples = samples_of(model, extractor, asked)
    contract = distance_contract(config.num_samples, extractor, terms, seed)
    distance = frechet_estimate(samples.features, reference.gaussian)
    values = {extractor.metric: score_of(distance, contract)}

    real = reference.features[:MAX_NEIGHBOURS]
    drawn = samples.features[:MAX_NEIGHBOURS]
    among = {**contract, "n": len(drawn), "num_reference": len(real)}
    del among["below_width"]
    found = neighbour_estimates(real, drawn)
    if model.shape.num_classes:
        labels = splits.images(config.reference).labels
        assert labels is not None, ref.uri
        numbers = np.array([request.label for request in asked[: len(drawn)]])
        found |= class_estimates(
            real, labels.numpy()[: len(real)], drawn, numbers, model.shape.num_classes
        )
    values |= {name: score_of(estimate, among) for name, estimate in found.items()}
    if bound := found.get("real_label_agreement"):
        terms_of_real = {**among, "n": num_tested(len(real))}
        values["real_label_agreement"] = score_of(bound, terms_of_real)
    kernel = kernel_estimate(reference.features, samples.features)
    values[kid_name(extractor)] = score_of(kernel, {**contract, "interval": SUBSETS_INTERVAL})

    memorisation = nearest = None
    if ref.num_heldout >= MIN_HELDOUT:
        looked = look_for_copies(samples, splits.pictured("train"), splits.pictured("heldout"))
        if looked:
            memorisation, nearest = looked
            values |= _copy_scores(memorisation, contract, splits.terms("heldout"))
    return Judged(
        primary=extractor.metric,
        values=values,
        asked=asked,
        samples=samples,
        real=splits.images(config.reference),
        distances=nearest_distances(drawn, real),
        train=splits.images("train"),
        memorisation=memorisation,
        nearest=nearest,
    )


class Splits:
    """The data's images and their features, each read and computed once."""

    def __init__(
        self,
        ref: DatasetRef,
        read: Callable[[Split], Images],
        data_config: DataConfig,
        config: EvaluationConfig,
        extractor: Extractor,
        cache: Path,
    ) -> None:
        self._ref, self._read, self._data_config, self._config = ref, read, data_config, config
        self._extractor, self._cache = extractor, cache
        self._images: dict[Split, ImageData] = {}

    def terms(self, split: Split) -> dict[str, JsonValue]:
        """What names this split in contracts."""
        config = self._config.model_copy(update={"reference": split})
        return reference_terms(self._ref, self._data_config, config)

    def images(self, split: Split) -> ImageData:
        """The images that stand for a split."""
        if split not in self._images:
            data, num = self._read(split), self.terms(split)["num_reference"]
            assert isinstance(num, int), num
            self._images[split] = data.take(torch.tensor(reference_rows(len(data), num)))
        return self._images[split]

    def reference(self, split: Split) -> Reference:
        """Their features and statistics."""

        def compute() -> NDArray[np.float32]:
            return self._extractor.features(self.images(split).images, what="the data")

        return reference_statistics(compute, self.terms(split), self._extractor, self._cache)

    def pictured(self, split: Split) -> Pictured:
        """Images and features together."""
        return Pictured(self.images(split).images, self.reference(split).features)


def _copy_scores(
    found: Memorisation, contract: Mapping[str, JsonValue], unseen: Mapping[str, JsonValue]
) -> dict[str, Score]:
    """Shares of near copies as scores."""
    terms: dict[str, JsonValue] = {
        **contract,
        "num_train": found.num_train,
        "heldout": unseen["reference"],
        "interval": EXACT_INTERVAL,
    }
    del terms["below_width"]
    return {
        name: Score(value=copies.share, low=copies.low, high=copies.high, contract=terms)
        for name, copies in {
            "copies_in_pixels": found.in_pixels,
            "copies_in_features": found.in_features,
        }.items()
    }


def check_shape(model: ImageModel, ref: DatasetRef) -> None:
    """Raise EvaluationError unless the model draws images of the data's own shape."""
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


def samples_of(model: ImageModel, extractor: Extractor, asked: Sequence[SampleRequest]) -> Pictured:
    """The model's samples, and features of each; of many, images of the first alone."""
    shape = model.shape
    at_once = max(1, MAX_BYTES_AT_ONCE // (shape.channels * shape.height * shape.width))
    features: list[NDArray[np.float32]] = []
    first: Tensor | None = None
    for start in range(0, len(asked), at_once):
        images = sampling.draw(model, asked[start : start + at_once], progress=True)
        first = images if first is None else first
        features.append(extractor.features(images, what="the samples"))
    assert first is not None, asked
    return Pictured(first, np.concatenate(features))
