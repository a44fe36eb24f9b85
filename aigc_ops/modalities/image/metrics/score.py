"""Scores of an image model: its samples compared with the data in a feature space."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from pydantic import JsonValue
from torch import Tensor

from aigc_ops.compute.random import sample_seeds
from aigc_ops.core.artifacts import Score
from aigc_ops.interfaces.evaluation import (
    BASELINE,
    COPIES,
    COPY_POWER,
    EvaluationContext,
    LoadedModel,
)
from aigc_ops.interfaces.request import SampleRequest
from aigc_ops.modalities.image.config import ImageEvaluationConfig
from aigc_ops.modalities.image.extractors.base import Extractor
from aigc_ops.modalities.image.metrics.alterations import USUAL
from aigc_ops.modalities.image.metrics.classes import PROBE, class_estimates, num_tested
from aigc_ops.modalities.image.metrics.closeness import Nearest
from aigc_ops.modalities.image.metrics.inception_score import NUM_SPLITS, inception_scores
from aigc_ops.modalities.image.metrics.kept_samples import check_shape, kept_samples
from aigc_ops.modalities.image.metrics.memorisation import (
    ImageFeatures,
    Memorisation,
    detect_copies,
)
from aigc_ops.modalities.image.metrics.splits import Splits
from aigc_ops.modalities.image.model import ImageData, ImageModel
from aigc_ops.modalities.image.requests import LABEL
from aigc_ops.sampling import sampler
from aigc_ops.statistics.comparability import (
    EXACT_INTERVAL,
    INTERVAL,
    distance_contract,
    frechet_scores,
    score_of,
)
from aigc_ops.statistics.intervals import (
    Estimate,
    frechet_estimate,
    frechet_value,
    share_estimate,
)
from aigc_ops.statistics.kernel import kernel_scores
from aigc_ops.statistics.neighbours import nearest_distances, neighbour_estimates
from aigc_ops.statistics.reference import Reference, reference_rows

# Images on either side for nearest-neighbour metrics: their distance matrix is in memory.
MAX_NEIGHBOURS = 5000


@dataclass(frozen=True)
class ImageScores:
    """The scores of an image model, and the images they were computed from."""

    primary: str
    values: dict[str, Score]
    requests: Sequence[SampleRequest]
    samples: ImageFeatures
    """The first samples and their features."""
    real: ImageData
    """Images of the split that samples are compared with."""
    distances: Tensor
    """(N,) distance of each sample to the nearest of `real`, in features."""
    train: ImageData
    """The training images that were searched for copies."""
    memorisation: Memorisation | None
    nearest: Nearest | None
    """Each sample's nearest training image; None if copies were not measured."""


def score_images(
    loaded: LoadedModel, context: EvaluationContext, extractor: Extractor
) -> ImageScores:
    """Return every score of a model's samples against the data, with the images behind them."""
    ref, config, seed = context.ref, _section(context), context.seed
    model = loaded.model
    assert isinstance(model, ImageModel), type(model)
    # 1. Fréchet distance of all samples to the reference, for the first seed and others.
    check_shape(model, ref)
    splits = Splits(context, extractor)
    terms = splits.terms(config.reference)
    reference = splits.reference(config.reference)
    requests = sampler.requests(model, config.num_samples, seed=seed)
    contract = distance_contract(config.num_samples, extractor, terms, seed)
    samples, features = kept_samples(loaded, context, extractor, config.num_samples, seed=seed)
    distance = frechet_estimate(features, reference.gaussian)
    values = frechet_scores(extractor, distance, contract)
    del contract["below_width"]  # concerns only the Fréchet distance
    others = _other_seeds(loaded, context, extractor, reference)
    primary = values[extractor.metric].model_copy(update={"other_seeds": others})
    values[extractor.metric] = primary
    trivial = splits.baseline(config.num_samples, config.reference)
    terms_of_baseline = {**contract, "interval": INTERVAL, "baseline": "per-pixel Gaussian"}
    values[f"{BASELINE}{extractor.metric}"] = score_of(trivial, terms_of_baseline)

    # 2. Nearest-neighbour and class metrics, among at most MAX_NEIGHBOURS images on each side.
    near = reference_rows(len(reference.features), MAX_NEIGHBOURS)
    real, samples_near = reference.features[near], features.rows[:MAX_NEIGHBOURS]
    among = {**contract, "n": len(samples_near), "num_reference": len(real), "interval": INTERVAL}
    estimates = neighbour_estimates(real, samples_near)
    if model.shape.num_classes:
        labels = splits.images(config.reference).labels
        assert labels is not None, ref.uri
        numbers = np.array([LABEL.of(request) for request in requests[: len(samples_near)]])
        estimates |= class_estimates(
            real, labels.numpy()[near], samples_near, numbers, model.shape.num_classes
        )
    values |= {name: score_of(estimate, among) for name, estimate in estimates.items()}
    # Scores of another probe are not comparable. The interval of `real_label_agreement` is that of
    # the probe's test split.
    num_real = num_tested(len(real))
    terms_by_name: dict[str, dict[str, JsonValue]] = {
        "label_agreement": {"probe": PROBE},
        "real_label_agreement": {"probe": PROBE, "n": num_real},
        "label_agreement_ratio": {"probe": PROBE, "n_real": num_real},
    }
    for name in terms_by_name.keys() & estimates.keys():
        values[name] = score_of(estimates[name], {**among, **terms_by_name[name]})
    # 3. Kernel distance, and the Inception Score for extractors with a classifier.
    values |= kernel_scores(extractor, reference.features, features.rows, contract)
    if extractor.classifier is not None and len(features.rows) >= NUM_SPLITS:
        values |= inception_scores(extractor, features.rows, contract)

    # 4. Exact copies of training images, which are counted in any data.
    values |= exact_copy_scores(samples.images, splits, contract)
    # 5. Altered copies, if there are enough held-out images as a control.
    memorisation = nearest = None
    if controls := splits.copy_controls():
        train = splits.pictured("train")
        memorisation, nearest = detect_copies(samples, train, controls, num_all=ref.num_train)
        heldout = None if controls.is_cross_fitted else splits.terms("heldout")["reference"]
        values |= _copy_scores(memorisation, {**contract, "heldout": heldout})
    return ImageScores(
        primary=extractor.metric,
        values=values,
        requests=requests,
        samples=samples,
        real=splits.images(config.reference),
        distances=nearest_distances(samples_near, real),
        train=splits.images("train"),
        memorisation=memorisation,
        nearest=nearest,
    )


def _section(context: EvaluationContext) -> ImageEvaluationConfig:
    assert isinstance(context.section, ImageEvaluationConfig), type(context.section)
    return context.section


def _other_seeds(
    loaded: LoadedModel, context: EvaluationContext, extractor: Extractor, reference: Reference
) -> tuple[float, ...]:
    """Return the distances of equally many samples for each further seed."""
    config = _section(context)
    # The first seed of `sample_seeds` is the seed itself, which gave the score.
    distances = []
    for other in sample_seeds(context.seed, config.num_seeds)[1:]:
        _, features = kept_samples(loaded, context, extractor, config.num_samples, seed=other)
        distances.append(frechet_value(features, reference.gaussian))
    return tuple(distances)


def _copy_scores(result: Memorisation, contract: Mapping[str, JsonValue]) -> dict[str, Score]:
    """Return the shares of near copies, and the power of the check, as scores."""
    terms: dict[str, JsonValue] = {
        **contract,
        "num_train": result.num_train,
        "interval": EXACT_INTERVAL,
    }
    values = {
        f"{COPIES}{space}": score_of(
            Estimate(copies.share, copies.low, copies.high),
            {**terms, "expected": round(copies.expected, 4)},
        )
        for space, copies in result.copies.items()
    }
    power_terms: dict[str, JsonValue] = {
        **terms,
        "n": result.num_planted,
        "alterations": list(USUAL),
    }
    return {**values, COPY_POWER: score_of(result.power, power_terms)}


def exact_copy_scores(
    samples: Tensor, splits: Splits, contract: Mapping[str, JsonValue]
) -> dict[str, Score]:
    """Return the share of samples, and of held-out images, that equal a training image."""
    train = splits.images("train").images
    known = set(map(_digest, train))
    shares = {"exact_copies": samples}
    if splits.num_rows("heldout") >= 2:
        shares["real_exact_copies"] = splits.images("heldout").images
    values = {}
    for name, images in shares.items():
        estimate = share_estimate(sum(_digest(image) in known for image in images), len(images))
        terms: dict[str, JsonValue] = {"n": len(images), "num_train": len(train)}
        values[name] = score_of(estimate, {**contract, **terms, "interval": EXACT_INTERVAL})
    return values


def _digest(image: Tensor) -> bytes:
    return hashlib.sha256(image.numpy().tobytes()).digest()
