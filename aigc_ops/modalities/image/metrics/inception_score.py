"""Inception Score (Salimans et al. 2016) of features, computed as in torch-fidelity."""

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

# torch-fidelity's defaults; the seed shuffles the samples before they are split.
NUM_SPLITS, SEED = 10, 2020


def inception_scores(
    extractor: Extractor,
    features: NDArray[np.float32],
    contract: Mapping[str, JsonValue],
    *,
    order: NDArray[np.intp] | None = None,
) -> dict[str, Score]:
    """Return the score of (N, D) features, from the class logits of their extractor.

    The name is `inception_score`, with a suffix if the features are not those of `fid`. `order`
    is the order in which rows are divided into the jackknife's groups. Raises EvaluationError
    for fewer than ten rows.
    """
    assert extractor.classifier is not None, extractor.metric
    if len(features) < NUM_SPLITS:
        raise EvaluationError(
            f"the Inception Score needs at least {NUM_SPLITS} images, one per split; there are "
            f"{len(features)}; use more images, or omit isc"
        )
    logits = torch.from_numpy(features) @ extractor.classifier.T
    estimate = _estimate(logits, np.arange(len(features)) if order is None else order)
    suffix = extractor.metric.removeprefix("fd_inception_v3").removeprefix("fid")
    terms = {**contract, "n": len(features), "interval": INTERVAL}
    return {f"inception_score{suffix}": score_of(estimate, terms)}


def _estimate(logits: torch.Tensor, order: NDArray[np.intp]) -> Estimate:
    """Return the mean over ten splits, with the interval of the score of all samples."""
    from torch_fidelity.metric_isc import KEY_METRIC_ISC_MEAN, isc_features_to_metric

    scores = isc_features_to_metric(logits, splits=NUM_SPLITS, shuffle=True, rng_seed=SEED)
    mean = float(scores[KEY_METRIC_ISC_MEAN])
    # exp(E KL(p(y|x) || p(y))) = exp(-H(y|x) + H(y)), Salimans et al. 2016, section 4. The clip
    # keeps 0 log 0 at 0.
    probabilities = logits[order].double().softmax(dim=1).numpy()
    certainty = np.sum(probabilities * np.log(probabilities.clip(min=1e-300)), axis=1)

    def statistic(kept: NDArray[np.bool_]) -> float:
        shared = probabilities[kept].mean(axis=0)
        entropy = -float(np.sum(shared * np.log(shared.clip(min=1e-300))))
        return float(np.exp(certainty[kept].mean() + entropy))

    # The published value is a mean over ten small splits, which is biased. The jackknife of the
    # score of all samples gives the width, and the interval is moved to the published value.
    whole = jackknife(statistic, len(order))
    return Estimate(mean, max(1.0, mean + whole.low - whole.value), mean + whole.high - whole.value)
