"""Kernel distance of features (Binkowski et al. 2018), computed as torch-fidelity does."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import JsonValue

from aigc_ops.core.artifacts import Score
from aigc_ops.statistics.comparability import INTERVAL, score_of
from aigc_ops.statistics.extractor import FeatureExtractor
from aigc_ops.statistics.frechet import Array
from aigc_ops.statistics.intervals import Estimate, delete_a_group
from aigc_ops.statistics.moments import NUM_BLOCKS

NUM_FIXED = 5000
"""Real samples against which the samples' spread is taken."""
SUBSETS, SUBSET_SIZE, SEED = 100, 1000, 2020
"""torch-fidelity's own; the seed chooses the subsets."""
SPREAD = f"none: standard deviation over {SUBSETS} subsets of {SUBSET_SIZE:,}"


def kid_name(extractor: FeatureExtractor) -> str:
    """Return `kid` for the features of `fid`, else a name after the extractor."""
    if extractor.metric.startswith("fid"):
        return extractor.metric.replace("fid", "kid", 1)
    return extractor.metric.replace("fd_", "kd_", 1)


def kernel_scores(
    extractor: FeatureExtractor,
    real: NDArray[np.float32],
    drawn: NDArray[np.float32],
    contract: Mapping[str, JsonValue],
    *,
    order: NDArray[np.intp] | None = None,
) -> dict[str, Score]:
    """Return the kernel distance of (M, D) and (N, D) features, and its spread over subsets.

    `order` is that in which the drawn are cut into the jackknife's groups. Of at most 1,000
    samples each subset holds all, and tells no spread.
    """
    estimate, spread = kernel_estimate(real, drawn, order=order)
    of_kept: dict[str, JsonValue] = {**contract, "n": len(drawn), "num_reference": len(real)}
    name = kid_name(extractor)
    values = {name: score_of(estimate, {**of_kept, "interval": INTERVAL})}
    if len(drawn) > SUBSET_SIZE:
        terms = {**of_kept, "interval": SPREAD}
        values[f"{name}_std"] = score_of(Estimate(spread, spread, spread), terms)
    return values


def kernel_estimate(
    real: NDArray[np.float32],
    drawn: NDArray[np.float32],
    *,
    order: NDArray[np.intp] | None = None,
) -> tuple[Estimate, float]:
    """Mean unbiased squared MMD over subsets with its 95 % interval, and their spread.

    A polynomial kernel of degree 3. Being unbiased it speaks of any number of samples, and
    may fall below 0. The interval is the delete-a-group jackknife's, the real samples held fixed.
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
    mean = found[KEY_METRIC_KID_MEAN]
    among = _jackknifed(real[:NUM_FIXED], drawn, np.arange(len(drawn)) if order is None else order)
    estimate = Estimate(mean, mean + among.low - among.value, mean + among.high - among.value)
    return estimate, found[KEY_METRIC_KID_STD]


def _jackknifed(
    real: NDArray[np.float32], drawn: NDArray[np.float32], order: NDArray[np.intp]
) -> Estimate:
    """What the squared MMD owes to the samples (Gretton et al. 2012, eq. 3), with its interval.

    Group by group of the samples in this order, so that no matrix of all is held.
    """
    groups = np.array_split(order, min(NUM_BLOCKS, len(order)))
    sizes = np.array([len(group) for group in groups])
    fixed = np.array_split(real, -(-len(real) // SUBSET_SIZE))
    between = np.array(
        [sum(_kernel(drawn[g], part).sum() for part in fixed) / len(real) for g in groups]
    )
    among = np.zeros((len(groups), len(groups)))
    for row, here in enumerate(groups):
        for column, there in enumerate(groups[: row + 1]):
            products = _kernel(drawn[here], drawn[there])
            own = float(np.trace(products)) if row == column else 0.0
            among[row, column] = among[column, row] = products.sum() - own

    def statistic(kept: Sequence[int]) -> float:
        num = int(sizes[kept].sum())
        pairs = max(1, num * (num - 1))
        return float(among[np.ix_(kept, kept)].sum() / pairs - 2 * between[kept].sum() / num)

    every = list(range(len(groups)))
    replicates = [statistic([g for g in every if g != left_out]) for left_out in every]
    return delete_a_group(statistic(every), replicates)


def _kernel(rows: NDArray[np.float32], others: NDArray[np.float32]) -> Array:
    products = rows.astype(np.float64) @ others.astype(np.float64).T
    products /= rows.shape[1]
    products += 1
    products **= 3
    return products
