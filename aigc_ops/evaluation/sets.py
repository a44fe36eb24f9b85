"""Two sets of images compared on their own, with no training in sight."""

import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import JsonValue

from aigc_ops.artifacts import Score
from aigc_ops.data.collections import Collection, Picture
from aigc_ops.errors import EvaluationError
from aigc_ops.evaluation.config import EvaluationConfig
from aigc_ops.evaluation.contracts import INTERVAL, SUBSETS_INTERVAL, score_of, warn_below_width
from aigc_ops.evaluation.extractors import Extractor, load_extractor
from aigc_ops.evaluation.images import MAX_NEIGHBOURS
from aigc_ops.evaluation.kernels import kernel_estimate, kid_name
from aigc_ops.evaluation.neighbours import neighbour_estimates
from aigc_ops.evaluation.reference import Reference, reference_statistics
from aigc_ops.evaluation.statistics import Estimate, frechet_estimate
from aigc_ops.tracking import progress_bar

Metric = Literal["fid", "kid", "isc", "prc"]
METRICS: tuple[Metric, ...] = ("fid", "kid", "isc", "prc")
NUM_SPLITS, SEED = 10, 2020
"""torch-fidelity's own for the Inception Score."""
PARTS_INTERVAL = f"mean +- 1.96 standard deviations over {NUM_SPLITS} parts"


def score_sets(
    real: Collection,
    fake: Collection,
    metrics: Sequence[Metric],
    config: EvaluationConfig,
    *,
    cache: Path,
) -> dict[str, Score]:
    """Scores of fake images against real ones, by the names that their contracts allow.

    `fid` gives the Fréchet distance, `kid` the kernel distance, `isc` the Inception Score
    (of inception-v3 alone), `prc` precision, recall, density and coverage among at most
    5,000 images a side. Features of the real images are kept in `cache` by content. Raises
    EvaluationError when a set is too small for a metric.
    """
    extractor = load_extractor(config)
    if "isc" in metrics and extractor.classifier is None:
        raise EvaluationError(
            f"the Inception Score needs inception-v3's classes, which {config.extractor} lacks; "
            "leave isc out, or take --extractor inception-v3"
        )
    reference = _reference(real, extractor, cache)
    drawn = _features(fake, extractor)
    contract: dict[str, JsonValue] = {
        "n": len(drawn),
        "extractor": extractor.identity.name,
        **extractor.identity.model_dump(mode="json", exclude={"name"}),
        "num_reference": len(reference.features),
        "reference": real.digest(),
    }
    values: dict[str, Score] = {}
    if "fid" in metrics:
        warn_below_width(extractor, len(drawn), len(reference.features))
        estimate = frechet_estimate(drawn, reference.gaussian)
        values[extractor.metric] = score_of(estimate, {**contract, "interval": INTERVAL})
    if "kid" in metrics:
        estimate = kernel_estimate(reference.features, drawn)
        terms = {**contract, "interval": SUBSETS_INTERVAL}
        values[kid_name(extractor)] = score_of(estimate, terms)
    if "isc" in metrics:
        estimate = _inception_score(drawn, extractor)
        terms = {
            **contract,
            "interval": f"mean +- 1.96 standard deviations over {NUM_SPLITS} parts",
        }
        values["inception_score"] = score_of(estimate, terms)
    if "prc" in metrics:
        near, far = reference.features[:MAX_NEIGHBOURS], drawn[:MAX_NEIGHBOURS]
        terms = {**contract, "n": len(far), "num_reference": len(near), "interval": INTERVAL}
        found = neighbour_estimates(near, far)
        values |= {name: score_of(estimate, terms) for name, estimate in found.items()}
    return values


def _reference(real: Collection, extractor: Extractor, cache: Path) -> Reference:
    terms: dict[str, JsonValue] = {"collection": real.digest(), "skipped": real.skip_damaged}
    return reference_statistics(lambda: _features(real, extractor), terms, extractor, cache)


def _features(collection: Collection, extractor: Extractor) -> NDArray[np.float32]:
    """Features (N, D) of all images, in their order; says what was passed over."""
    rows = []
    with progress_bar(desc=f"features of {collection.path.name}", unit="images") as bar:
        for batch in _batches(collection.images(), extractor.batch_size):
            rows.append(extractor.features_of(torch.from_numpy(np.stack(batch))))
            bar.update(len(batch))
    if collection.skipped:
        num, shown = len(collection.skipped), "; ".join(collection.skipped[:5])
        what = f"{collection.path}: {num} damaged images were passed over: {shown}"
        warnings.warn(what, stacklevel=2)
    num = sum(map(len, rows))
    if num < 2:
        raise EvaluationError(
            f"{collection.path}: holds {num} images; at least 2 are needed, and for a distance "
            f"that means something more than {extractor.identity.width}"
        )
    return np.concatenate(rows)


def _batches(images: Iterator[Picture], size: int) -> Iterator[list[Picture]]:
    """Neighbours of one size together, at most so many."""
    batch: list[Picture] = []
    for image in images:
        if batch and (len(batch) == size or image.shape != batch[0].shape):
            yield batch
            batch = []
        batch.append(image)
    if batch:
        yield batch


def _inception_score(features: NDArray[np.float32], extractor: Extractor) -> Estimate:
    """Salimans et al. 2016, in ten parts as torch-fidelity takes them."""
    from torch_fidelity.metric_isc import (
        KEY_METRIC_ISC_MEAN,
        KEY_METRIC_ISC_STD,
        isc_features_to_metric,
    )

    if len(features) < NUM_SPLITS:
        raise EvaluationError(
            f"the Inception Score is taken in {NUM_SPLITS} parts and there are {len(features)} "
            "images; give more, or leave isc out"
        )
    assert extractor.classifier is not None
    logits = torch.from_numpy(features) @ extractor.classifier.T
    found = isc_features_to_metric(logits, splits=NUM_SPLITS, shuffle=True, rng_seed=SEED)
    mean, spread = found[KEY_METRIC_ISC_MEAN], found[KEY_METRIC_ISC_STD]
    return Estimate(mean, mean - 1.96 * spread, mean + 1.96 * spread)
