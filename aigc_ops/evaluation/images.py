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
    INTERVAL,
    distance_contract,
    frechet_scores,
    score_of,
)
from aigc_ops.evaluation.extractors import Extractor
from aigc_ops.evaluation.gathering import gathered, runs
from aigc_ops.evaluation.inception_score import NUM_SPLITS, inception_scores
from aigc_ops.evaluation.kernels import kernel_scores
from aigc_ops.evaluation.memorisation import (
    MIN_HELDOUT,
    Memorisation,
    Nearest,
    Pictured,
    look_for_copies,
)
from aigc_ops.evaluation.moments import MAX_KEPT, FeatureSet
from aigc_ops.evaluation.neighbours import nearest_distances, neighbour_estimates
from aigc_ops.evaluation.reference import (
    Reference,
    reference_rows,
    reference_statistics,
    reference_terms,
)
from aigc_ops.evaluation.statistics import Estimate, frechet_estimate, frechet_value
from aigc_ops.generative import ImageData, ImageModel, Images
from aigc_ops.noise import sample_seeds
from aigc_ops.sample_request import SampleRequest

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
    contract = distance_contract(config.num_samples, extractor, terms, seed)
    samples, features = samples_of(model, extractor, asked)
    distance = frechet_estimate(features, reference.gaussian)
    values = frechet_scores(extractor, distance, contract)
    del contract["below_width"]
    others = [
        frechet_value(_drawn(model, extractor, config, other), reference.gaussian)
        for other in sample_seeds(seed, config.num_seeds)[1:]
    ]
    primary = values[extractor.metric].model_copy(update={"other_seeds": tuple(others)})
    values[extractor.metric] = primary

    near = reference_rows(len(reference.features), MAX_NEIGHBOURS)
    real, drawn = reference.features[near], features.rows[:MAX_NEIGHBOURS]
    among = {**contract, "n": len(drawn), "num_reference": len(real), "interval": INTERVAL}
    found = neighbour_estimates(real, drawn)
    if model.shape.num_classes:
        labels = splits.images(config.reference).labels
        assert labels is not None, ref.uri
        numbers = np.array([request.label for request in asked[: len(drawn)]])
        found |= class_estimates(
            real, labels.numpy()[near], drawn, numbers, model.shape.num_classes
        )
    values |= {name: score_of(estimate, among) for name, estimate in found.items()}
    if bound := found.get("real_label_agreement"):
        terms_of_real = {**among, "n": num_tested(len(real))}
        values["real_label_agreement"] = score_of(bound, terms_of_real)
    values |= kernel_scores(extractor, reference.features, features.rows, contract)
    if extractor.classifier is not None and len(features.rows) >= NUM_SPLITS:
        values |= inception_scores(extractor, features.rows, contract)

    memorisation = nearest = None
    if ref.num_heldout >= MIN_HELDOUT:
        looked = look_for_copies(
            samples, splits.pictured("train"), splits.pictured("heldout"), num_all=ref.num_train
        )
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

    def _rows(self, split: Split) -> Tensor:
        """Which rows of a split stand for it."""
        num, available = self.terms(split)["num_reference"], len(self._read(split))
        assert isinstance(num, int), num
        return torch.tensor(reference_rows(available, num))

    def images(self, split: Split) -> ImageData:
        """The images that stand for a split, as far as their features are kept."""
        if split not in self._images:
            rows = self._rows(split)
            kept = torch.tensor(reference_rows(len(rows), MAX_KEPT))
            self._images[split] = self._read(split).take(rows[kept])
        return self._images[split]

    def reference(self, split: Split) -> Reference:
        """Features and statistics of all that stand for a split."""

        def compute() -> FeatureSet:
            data, rows = self._read(split), self._rows(split)
            if len(rows) <= MAX_KEPT:
                features = self._extractor.features(self.images(split).images, what="the data")
                return FeatureSet(features)
            return gathered(
                runs(len(rows)),
                lambda places: data.take(rows[places]).images,
                data.shape,
                self._extractor,
                what="the data",
            )

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
    return {
        name: score_of(Estimate(copies.share, copies.low, copies.high), terms)
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


def samples_of(
    model: ImageModel, extractor: Extractor, asked: Sequence[SampleRequest]
) -> tuple[Pictured, FeatureSet]:
    """The first of the model's samples with their features, and features of all."""
    first: list[Tensor] = []

    def draw(places: NDArray[np.intp]) -> Tensor:
        images = sampling.draw(model, [asked[place] for place in places], progress=True)
        first[:] = first or [images]
        return images

    planned = runs(len(asked), scattered=False)
    features = gathered(planned, draw, model.shape, extractor, what="the samples")
    return Pictured(first[0][: len(features.rows)], features.rows), features


def _drawn(
    model: ImageModel, extractor: Extractor, config: EvaluationConfig, seed: int
) -> FeatureSet:
    """Features of samples from another seed."""
    asked = sampling.requests(model, config.num_samples, seed=seed)
    return samples_of(model, extractor, asked)[1]
