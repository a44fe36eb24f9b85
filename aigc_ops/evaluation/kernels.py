"""Kernel distance of features (Binkowski et al. 2018), computed as torch-fidelity does."""

import numpy as np
import torch
from numpy.typing import NDArray

from aigc_ops.evaluation.embeddings import TextExtractor
from aigc_ops.evaluation.extractors import Extractor
from aigc_ops.evaluation.statistics import Estimate

SUBSETS, SUBSET_SIZE, SEED = 100, 1000, 2020
"""torch-fidelity's own; the seed chooses the subsets."""


def kid_name(extractor: Extractor | TextExtractor) -> str:
    """`kid` of the features of `fid`, else named after the extractor."""
    return "kid" if extractor.metric == "fid" else extractor.metric.replace("fd_", "kd_", 1)


def kernel_estimate(real: NDArray[np.float32], drawn: NDArray[np.float32]) -> Estimate:
    """Mean unbiased squared MMD over subsets, with the range that most subsets keep.

    A polynomial kernel of degree 3. Being unbiased it speaks of any number of samples, and
    may fall below 0. low and high are the mean less and plus 1.96 standard deviations over
    the subsets of 1,000 (or of all, where there are fewer): the spread of one subset, wider
    than that of the mean.
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
    return Estimate(mean, mean - 1.96 * spread, mean + 1.96 * spread)
