"""Two sets of images compared on their own, with no training in sight."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import JsonValue

from aigc_ops.artifacts import Score
from aigc_ops.data.collections import Collection
from aigc_ops.errors import EvaluationError
from aigc_ops.evaluation.config import EvaluationConfig
from aigc_ops.evaluation.contracts import INTERVAL, kernel_interval, score_of, warn_below_width
from aigc_ops.evaluation.extractors import Extractor, load_extractor
from aigc_ops.evaluation.gathering import collection_features
from aigc_ops.evaluation.images import MAX_NEIGHBOURS
from aigc_ops.evaluation.kernels import kernel_estimate, kid_name
from aigc_ops.evaluation.moments import FeatureSet
from aigc_ops.evaluation.neighbours import neighbour_estimates
from aigc_ops.evaluation.reference import reference_rows, reference_statistics
from aigc_ops.evaluation.statistics import Estimate, frechet_estimate

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
    num_processes: int = 1,
) -> dict[str, Score]:
    """Scores of fake images against real ones, by the names that their contracts allow.

    `fid` gives the Fréchet distance, of any number of images in the same memory; `kid` the
    kernel distance and `isc` the Inception Score (of inception-v3 alone), of at most 10,000
    images a side, scattered evenly; `prc` precision, recall, density and coverage among at
    most 5,000. Features of the real images are kept in `cache` by content. Raises
    EvaluationError when a set is too small for a metric.
    """
    extractor = load_extractor(config)
    if "isc" in metrics and extractor.classifier is None:
        raise EvaluationError(
            f"the Inception Score needs inception-v3's classes, which {config.extractor} lacks; "
            "leave isc out, or take --extractor inception-v3"
        )

    def features(collection: Collection) -> FeatureSet:
        return collection_features(collection, extractor, config, num_processes=num_processes)

    digest = real.digest()
    terms: dict[str, JsonValue] = {"collection": digest, "skipped": real.skip_damaged}
    reference = reference_statistics(lambda: features(real), terms, extractor, cache)
    drawn = features(fake)
    contract: dict[str, JsonValue] = {
        "n": drawn.num,
        "extractor": extractor.identity.name,
        **extractor.identity.model_dump(mode="json", exclude={"name"}),
        "num_reference": reference.num,
        "reference": digest,
        **_passed_over(num_damaged=len(fake) - drawn.num),
        **_passed_over(num_reference_damaged=len(real) - reference.num),
    }
    of_kept = {**contract, "n": len(drawn.rows), "num_reference": len(reference.features)}
    values: dict[str, Score] = {}
    if "fid" in metrics:
        warn_below_width(extractor, drawn.num, reference.num)
        estimate = frechet_estimate(drawn, reference.gaussian)
        values[extractor.metric] = score_of(estimate, {**contract, "interval": INTERVAL})
    if "kid" in metrics:
        estimate = kernel_estimate(reference.features, drawn.rows)
        terms = {**of_kept, "interval": kernel_interval(len(drawn.rows))}
        values[kid_name(extractor)] = score_of(estimate, terms)
    if "isc" in metrics:
        estimate = _inception_score(drawn.rows, extractor)
        values["inception_score"] = score_of(estimate, {**of_kept, "interval": PARTS_INTERVAL})
    if "prc" in metrics:
        near, far = (_scattered(rows) for rows in (reference.features, drawn.rows))
        among = {**contract, "n": len(far), "num_reference": len(near), "interval": INTERVAL}
        found = neighbour_estimates(near, far)
        values |= {name: score_of(estimate, among) for name, estimate in found.items()}
    return values


def _passed_over(**counts: int) -> dict[str, JsonValue]:
    """Images that were passed over, where there were any."""
    return {name: count for name, count in counts.items() if count}


def _scattered(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """As many rows as neighbours are looked for among; files lie by class as often as not."""
    return rows[reference_rows(len(rows), MAX_NEIGHBOURS)]


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
