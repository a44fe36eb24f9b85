"""Kernel distance of features (Binkowski et al. 2018), computed as torch-fidelity does."""

import numpy as np
import torch
from numpy.typing import NDArray

from aigc_ops.evaluation.embeddings import TextExtractor
from aigc_ops.evaluation.extractors import Extractor
from aigc_ops.evaluation.statistics import Estimate, jackknife

NUM_FIXED = 5000
"""Real images against which few samples' spread is taken."""
SUBSETS, SUBSET_SIZE, SEED = 100, 1000, 2020
"""torch-fidelity's own; the seed chooses the subsets."""


def kid_name(extractor: Extractor | TextExtractor) -> str:
    """`kid` of the features of `fid`, else named after the extractor."""
    return "kid" if extractor.metric == "fid" else extractor.metric.replace("fd_", "kd_", 1)


def kernel_estimate(real: NDArray[np.float32], drawn: NDArray[np.float32]) -> Estimate:
    """Mean unbiased squared MMD over subsets, with the range that most subsets keep.

    A polynomial kernel of degree 3. Being unbiased it speaks of any number of samples, and
    may fall below 0. low and high are the mean less and plus 1.96 standard deviations over
    the subsets of 1,000: the spread of one subset, wider than that of the mean. Of at most
    1,000 samples each subset holds all, which would show no spread: their interval is the
    jackknife's, the real images held fixed.
    """
    from torch_fidelity.metric_kid import (
        KEY_METRIC_KID_MEAN,
        KEY_METRIC_KID_STD,
        kid_features_to_metric,
    )

    found = kid_features_to_metric(
        torch.from_numpy(np.asarray(drawn)),
        torch.from_numpy(np.asarray(real)),
        kid_subsets=SUBSETS,
        kid_subset_size=min(SUBSET_SIZE, len(real), len(drawn)),
        rng_seed=SEED,
        verbose=False,
    )
    mean, spread = found[KEY_METRIC_KID_MEAN], found[KEY_METRIC_KID_STD]
    if len(drawn) <= SUBSET_SIZE:
        among = _jackknifed(real[:NUM_FIXED], drawn)
        return Estimate(mean, mean + among.low - among.value, mean + among.high - among.value)
    return Estimate(mean, mean - 1.96 * spread, mean + 1.96 * spread)


def _jackknifed(real: NDArray[np.float32], drawn: NDArray[np.float32]) -> Estimate:
    """What the squared MMD owes to the samples (Gretton et al. 2012, eq. 3), with its interval."""
    among, between = _kernel(drawn, drawn), _kernel(drawn, real).mean(axis=1)
    np.fill_diagonal(among, 0)

    def statistic(kept: NDArray[np.bool_]) -> float:
        num = int(kept.sum())
        pairs = max(1, num * (num - 1))
        return float(among[np.ix_(kept, kept)].sum() / pairs - 2 * between[kept].mean())

    return jackknife(statistic, len(drawn), least=-np.inf)


def _kernel(rows: NDArray[np.float32], others: NDArray[np.float32]) -> NDArray[np.float64]:
    products = rows.astype(np.float64) @ others.astype(np.float64).T
    return np.asarray((products / rows.shape[1] + 1) ** 3)
