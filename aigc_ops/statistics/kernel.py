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
"""Maximum number of real samples that the jackknife holds fixed."""
SUBSETS, SUBSET_SIZE, SEED = 100, 1000, 2020
"""Defaults of torch-fidelity; the seed selects the subsets."""
# Part of the conditions of stored scores: don't reword.
SPREAD = f"none: standard deviation over {SUBSETS} subsets of {SUBSET_SIZE:,}"


def kid_name(extractor: FeatureExtractor) -> str:
    """Return the metric's name: `kid` for the features of `fid`, else `kd_` and the extractor."""
    if extractor.metric.startswith("fid"):
        return extractor.metric.replace("fid", "kid", 1)
    return extractor.metric.replace("fd_", "kd_", 1)


def kernel_scores(
    extractor: FeatureExtractor,
    real: NDArray[np.float32],
    generated: NDArray[np.float32],
    contract: Mapping[str, JsonValue],
    *,
    order: NDArray[np.intp] | None = None,
) -> dict[str, Score]:
    """Return the kernel distance of (M, D) and (N, D) features, and its spread over subsets.

    `order` is the order in which generated rows are split into the jackknife's groups. Up to
    1,000 samples every subset holds all of them, so there is no spread to report.
    """
    estimate, spread = kernel_estimate(real, generated, order=order)
    # A large set keeps 10,000 rows of features, so these counts differ from the distance's own.
    kept_terms: dict[str, JsonValue] = {**contract, "n": len(generated), "num_reference": len(real)}
    name = kid_name(extractor)
    values = {name: score_of(estimate, {**kept_terms, "interval": INTERVAL})}
    if len(generated) > SUBSET_SIZE:
        terms = {**kept_terms, "interval": SPREAD}
        values[f"{name}_std"] = score_of(Estimate(spread, spread, spread), terms)
    return values


def kernel_estimate(
    real: NDArray[np.float32],
    generated: NDArray[np.float32],
    *,
    order: NDArray[np.intp] | None = None,
) -> tuple[Estimate, float]:
    """Return the mean unbiased squared MMD over subsets with its 95 % interval, and their spread.

    The kernel is a polynomial of degree 3. The estimate is unbiased, so it is comparable across
    numbers of samples and may be below 0. The interval is that of the delete-a-group jackknife,
    with the real samples held fixed.
    """
    # The value is torch-fidelity's, so that it equals published ones. Its subsets share samples,
    # so their spread is no interval; the jackknife's width is moved to that value.
    from torch_fidelity.metric_kid import (
        KEY_METRIC_KID_MEAN,
        KEY_METRIC_KID_STD,
        kid_features_to_metric,
    )

    metrics = kid_features_to_metric(
        torch.from_numpy(np.asarray(generated)),
        torch.from_numpy(np.asarray(real)),
        kid_subsets=SUBSETS,
        kid_subset_size=min(SUBSET_SIZE, len(real), len(generated)),
        rng_seed=SEED,
        verbose=False,
    )
    mean = metrics[KEY_METRIC_KID_MEAN]
    order = np.arange(len(generated)) if order is None else order
    terms = _jackknifed(real[:NUM_FIXED], generated, order)
    estimate = Estimate(mean, mean + terms.low - terms.value, mean + terms.high - terms.value)
    return estimate, metrics[KEY_METRIC_KID_STD]


def _jackknifed(
    real: NDArray[np.float32], generated: NDArray[np.float32], order: NDArray[np.intp]
) -> Estimate:
    """Return the terms of the squared MMD that depend on the generated samples, with an interval.

    Gretton et al. 2012, eq. 3. The term of the real samples alone is constant and left out.
    """
    # 1. Sums of the kernel per pair of groups, so that no (N, N) matrix is held in memory.
    groups = np.array_split(order, min(NUM_BLOCKS, len(order)))
    sizes = np.array([len(group) for group in groups])
    fixed = np.array_split(real, -(-len(real) // SUBSET_SIZE))
    between = np.array(
        [sum(_kernel(generated[g], part).sum() for part in fixed) / len(real) for g in groups]
    )
    among = np.zeros((len(groups), len(groups)))
    for row, indices in enumerate(groups):
        for column, others in enumerate(groups[: row + 1]):
            products = _kernel(generated[indices], generated[others])
            # The unbiased estimate leaves out the products of a sample with itself.
            own = float(np.trace(products)) if row == column else 0.0
            among[row, column] = among[column, row] = products.sum() - own

    # 2. A replicate without a group sums fewer entries; no kernel is computed again.
    def statistic(members: Sequence[int]) -> float:
        num = int(sizes[members].sum())
        pairs = max(1, num * (num - 1))
        within = among[np.ix_(members, members)].sum() / pairs
        return float(within - 2 * between[members].sum() / num)

    all_groups = list(range(len(groups)))
    replicates = [statistic([g for g in all_groups if g != omitted]) for omitted in all_groups]
    return delete_a_group(statistic(all_groups), replicates)


def _kernel(rows: NDArray[np.float32], others: NDArray[np.float32]) -> Array:
    # (x y / D + 1)^3, in place: a block of products takes most of the memory here.
    products = rows.astype(np.float64) @ others.astype(np.float64).T
    products /= rows.shape[1]
    products += 1
    products **= 3
    return products
