"""Scores of an image model: how its samples lie to the data in a feature space."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue
from torch import Tensor

from aigc_ops.compute.random import sample_seeds
from aigc_ops.core.artifacts import DatasetRef, Score
from aigc_ops.core.errors import EvaluationError
from aigc_ops.interfaces.evaluation import EvaluationContext
from aigc_ops.interfaces.request import SampleRequest
from aigc_ops.modalities.image.config import ImageEvaluationConfig
from aigc_ops.modalities.image.extractors.base import Extractor
from aigc_ops.modalities.image.metrics.classes import class_estimates, num_tested
from aigc_ops.modalities.image.metrics.inception_score import NUM_SPLITS, inception_scores
from aigc_ops.modalities.image.metrics.memorisation import (
    MIN_HELDOUT,
    Memorisation,
    Nearest,
    Pictured,
    look_for_copies,
)
from aigc_ops.modalities.image.metrics.splits import Splits
from aigc_ops.modalities.image.model import ImageData, ImageModel
from aigc_ops.sampling import sampler
from aigc_ops.statistics.comparability import (
    EXACT_INTERVAL,
    INTERVAL,
    distance_contract,
    frechet_scores,
    score_of,
)
from aigc_ops.statistics.extraction import gather_features, plan_blocks
from aigc_ops.statistics.intervals import Estimate, frechet_estimate, frechet_value
from aigc_ops.statistics.kernel import kernel_scores
from aigc_ops.statistics.moments import FeatureSet
from aigc_ops.statistics.neighbours import nearest_distances, neighbour_estimates
from aigc_ops.statistics.reference import Reference, reference_rows

MAX_NEIGHBOURS = 5000
"""Images on either side among which neighbours are looked for: all distances are kept."""


@dataclass(frozen=True)
class ImageScores:
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
    model: ImageModel, context: EvaluationContext, extractor: Extractor
) -> ImageScores:
    """Return every score of a model's samples against the data, and what it was made of."""
    ref, config, seed = context.ref, _section(context), context.seed
    check_shape(model, ref)
    splits = Splits(context, extractor)
    terms = splits.terms(config.reference)
    reference = splits.reference(config.reference)
    asked = sampler.requests(model, config.num_samples, seed=seed)
    contract = distance_contract(config.num_samples, extractor, terms, seed)
    samples, features = generate(model, extractor, asked)
    distance = frechet_estimate(features, reference.gaussian)
    values = frechet_scores(extractor, distance, contract)
    del contract["below_width"]
    others = _other_seeds(model, extractor, config, seed, reference)
    primary = values[extractor.metric].model_copy(update={"other_seeds": others})
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
    return ImageScores(
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


def _section(context: EvaluationContext) -> ImageEvaluationConfig:
    assert isinstance(context.section, ImageEvaluationConfig), type(context.section)
    return context.section


def _other_seeds(
    model: ImageModel,
    extractor: Extractor,
    config: ImageEvaluationConfig,
    seed: int,
    reference: Reference,
) -> tuple[float, ...]:
    """Return the distances of as many samples from the seeds that follow."""
    distances = []
    for other in sample_seeds(seed, config.num_seeds)[1:]:
        asked = sampler.requests(model, config.num_samples, seed=other)
        _, features = generate(model, extractor, asked)
        distances.append(frechet_value(features, reference.gaussian))
    return tuple(distances)


def _copy_scores(
    found: Memorisation, contract: Mapping[str, JsonValue], unseen: Mapping[str, JsonValue]
) -> dict[str, Score]:
    """Return the shares of near copies as scores."""
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
            f"the data has {found}; give the data it was trained on, or set --data.image.size"
        )


def generate(
    model: ImageModel, extractor: Extractor, asked: Sequence[SampleRequest]
) -> tuple[Pictured, FeatureSet]:
    """Return the first of the model's samples with their features, and features of all."""
    first: list[Tensor] = []

    def draw(indices: NDArray[np.intp]) -> Tensor:
        images = sampler.draw(model, [asked[index] for index in indices], progress=True)
        first[:] = first or [images]
        return images

    shape = model.shape
    features = gather_features(
        plan_blocks(len(asked), scattered=False),
        draw,
        extractor,
        num_bytes=shape.channels * shape.height * shape.width,
        what="the samples",
    )
    return Pictured(first[0][: len(features.rows)], features.rows), features
