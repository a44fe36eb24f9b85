"""Inception Score (Salimans et al. 2016) of features, computed as torch-fidelity does."""

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import JsonValue

from aigc_ops.core.artifacts import Score
from aigc_ops.core.errors import EvaluationError
from aigc_ops.modalities.image.extractors.base import Extractor
from aigc_ops.statistics.comparability import INTERVAL, score_of
from aigc_ops.statistics.intervals import Estimate, jackknife

NUM_SPLITS, SEED = 10, 2020
"""torch-fidelity's own; the seed shuffles the samples before they are split."""


def inception_scores(
    extractor: Extractor,
    features: NDArray[np.float32],
    contract: Mapping[str, JsonValue],
    *,
    order: NDArray[np.intp] | None = None,
) -> dict[str, Score]:
    """Return the score of (N, D) features by the classes of their extractor, which has some.

    `inception_score` of the features of `fid`, else with what tells them from these. `order`
    is that in which the rows are cut into the jackknife's groups. Raises EvaluationError for
    fewer than ten.
    """
    assert extractor.classifier is not None, extractor.metric
    if len(features) < NUM_SPLITS:
        raise EvaluationError(
            f"the Inception Score is taken in {NUM_SPLITS} parts and there are {len(features)} "
            "images; give more, or leave isc out"
        )
    logits = torch.from_numpy(features) @ extractor.classifier.T
    estimate = _estimate(logits, np.arange(len(features)) if order is None else order)
    suffix = extractor.metric.removeprefix("fd_inception_v3").removeprefix("fid")
    terms = {**contract, "n": len(features), "interval": INTERVAL}
    return {f"inception_score{suffix}": score_of(estimate, terms)}


def _estimate(logits: torch.Tensor, order: NDArray[np.intp]) -> Estimate:
    """Return the mean over ten parts; its interval is as wide as that of all samples' score."""
    from torch_fidelity.metric_isc import KEY_METRIC_ISC_MEAN, isc_features_to_metric

    found = isc_features_to_metric(logits, splits=NUM_SPLITS, shuffle=True, rng_seed=SEED)
    mean = float(found[KEY_METRIC_ISC_MEAN])
    probabilities = logits[order].double().softmax(dim=1).numpy()
    certainty = np.sum(probabilities * np.log(probabilities.clip(min=1e-300)), axis=1)

    def statistic(kept: NDArray[np.bool_]) -> float:
        shared = probabilities[kept].mean(axis=0)
        entropy = -float(np.sum(shared * np.log(shared.clip(min=1e-300))))
        return float(np.exp(certainty[kept].mean() + entropy))

    whole = jackknife(statistic, len(order))
    return Estimate(mean, max(1.0, mean + whole.low - whole.value), mean + whole.high - whole.value)
