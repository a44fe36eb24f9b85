"""Confidence intervals of scores, from features and likelihoods that are computed already."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from aigc_ops.core.errors import EvaluationError
from aigc_ops.core.tracking import progress_bar
from aigc_ops.statistics.frechet import Array, Gaussian, check_features, frechet_terms, nuclear_norm
from aigc_ops.statistics.moments import NUM_BLOCKS, FeatureSet, Moments, merged

GroupT = TypeVar("GroupT")

NUM_PAIRED_GROUPS = 20
"""More groups than for reported intervals: the gate uses tail quantiles, so freedom matters."""
NUM_RESAMPLES = 1000
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """A value and its confidence interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class FrechetEstimate(Estimate):
    """A Fréchet distance at its number of samples, and its limit for infinitely many."""

    limit: Estimate
    """Extrapolated in 1/n; sound from four times as many samples as features."""


def frechet_estimate(generated: FeatureSet, reference: Gaussian) -> FrechetEstimate:
    """Return the Fréchet distance of features from the reference, with a 95 % interval.

    The interval covers the expected distance at this number of samples, with the reference held
    fixed; at other numbers the expectation differs (Chong & Forsyth 2020). It is that of the
    delete-a-group jackknife (Kott 2001). Groups are contiguous blocks of rows, so rows that are
    sorted by class must be shuffled first. The limit is Quenouille's (1956) extrapolation in 1/n.
    """
    # Not a bootstrap: repeated rows raise the distance's bias, so its intervals miss the value.
    # Jackknife replicates share the bias of the whole.
    if generated.rows.shape[1] != reference.width:
        raise EvaluationError(
            f"features are {generated.rows.shape[1]} wide, the reference {reference.width}; "
            "compare features of the same extractor"
        )
    if generated.blocks:
        return _by_moments(generated.blocks, reference)
    rows = check_features(generated.rows)
    # With more rows than features (D, D) moments are smaller than the rows, and merge quickly.
    # With fewer, the rows' products with the reference are computed once for all replicates.
    if len(rows) > reference.width:
        blocks = np.array_split(rows, NUM_BLOCKS)
        return _by_moments([Moments.of_features(block) for block in blocks], reference)
    projected = rows @ reference.factor.T

    def distance(mask: NDArray[np.bool_]) -> float:
        return _distance(rows[mask], projected[mask], reference)

    return _frechet(*jackknife_replicates(distance, len(rows)))


def frechet_value(generated: FeatureSet, reference: Gaussian) -> float:
    """Return the Fréchet distance of features from the reference, without its interval."""
    if generated.blocks:
        return _distance_of_moments(merged(generated.blocks), reference)
    rows = check_features(generated.rows)
    return _distance(rows, rows @ reference.factor.T, reference)


def _by_moments(blocks: Sequence[Moments], reference: Gaussian) -> FrechetEstimate:
    whole = merged(blocks)
    value = _distance_of_moments(whole, reference)
    without = (whole.without(block) for block in _shown(blocks))
    return _frechet(value, [_distance_of_moments(part, reference) for part in without])


def _frechet(value: float, replicates: Sequence[float]) -> FrechetEstimate:
    interval = delete_a_group(value, replicates)
    # Quenouille's estimate: the line in 1/n through all samples and through all but one group.
    groups = len(replicates)
    extrapolated = groups * value - (groups - 1) * float(np.mean(replicates))
    margin = interval.high - value
    # The line may fall below 0 by chance, where no distance can be.
    low, high = extrapolated - margin, extrapolated + margin
    limit = Estimate(max(0.0, extrapolated), max(0.0, low), max(0.0, high))
    return FrechetEstimate(value, max(0.0, interval.low), interval.high, limit)


def _distance_of_moments(moments: Moments, reference: Gaussian) -> float:
    # As in `nuclear_norm`: eigenvalues of F S F^T are those of the product of both covariances.
    covariance = moments.covariance
    gram = reference.factor @ covariance @ reference.factor.T
    cross = float(np.sqrt(np.linalg.eigvalsh(gram).clip(min=0)).sum())
    variance = float(np.trace(covariance))
    return frechet_terms(moments.mean - reference.mean, variance, reference.total_variance, cross)


def _distance(rows: Array, projected: Array, reference: Gaussian) -> float:
    """Return the distance of rows (M, D), given their products (M, R) with the factor."""
    mean = rows.mean(axis=0)
    # A jackknife replicate of two samples is one sample, which has no variance.
    freedom = max(1, len(rows) - 1)
    return frechet_terms(
        mean - reference.mean,
        float(np.square(rows - mean).sum()) / freedom,
        reference.total_variance,
        nuclear_norm(projected - projected.mean(axis=0)) / np.sqrt(freedom),
    )


def jackknife(
    statistic: Callable[[NDArray[np.bool_]], float],
    num: int,
    *,
    least: float = 0.0,
    most: float = np.inf,
) -> Estimate:
    """Return a statistic of `num` rows with its delete-a-group 95 % interval.

    `statistic` takes a mask (num,) of the rows to use. The interval is clipped to the range of
    the statistic, `least` to `most`: 0 to 1 for a proportion.
    """
    estimate = delete_a_group(*jackknife_replicates(statistic, num))
    return Estimate(estimate.value, max(least, estimate.low), min(most, estimate.high))


def jackknife_replicates(
    statistic: Callable[[NDArray[np.bool_]], float], num: int
) -> tuple[float, list[float]]:
    """Return a statistic of all `num` rows, and of all rows but each group."""
    value = statistic(np.ones(num, dtype=bool))
    replicates = []
    for block in _shown(np.array_split(np.arange(num), min(NUM_BLOCKS, num))):
        mask = np.ones(num, dtype=bool)
        mask[block] = False
        replicates.append(statistic(mask))
    return value, replicates


def _shown(groups: Sequence[GroupT]) -> Iterable[GroupT]:
    """Return the groups that the jackknife leaves out, with a bar if they take over a second."""
    bar: Iterable[GroupT] = progress_bar(
        groups, desc="confidence interval", unit="group", delay=1, leave=False
    )
    return bar


def delete_a_group(value: float, replicates: Sequence[float]) -> Estimate:
    """Return the value with the 95 % interval of the jackknife's replicates (Kott 2001)."""
    from scipy.special import stdtrit  # quicker to import than scipy.stats, and all that is needed

    # Student's t with G - 1 degrees of freedom: ten groups are too few for a normal quantile.
    margin = float(stdtrit(len(replicates) - 1, (1 + CONFIDENCE) / 2)) * _error(replicates)
    return Estimate(value, value - margin, value + margin)


def _error(replicates: Sequence[float]) -> float:
    # The variance is (G - 1) / G times the sum of squared deviations from the replicates' mean.
    return float(np.sqrt((len(replicates) - 1) * np.var(replicates)))


def ratio_of_means(numerators: Array, denominators: Array) -> Estimate:
    """Return mean(numerators) / mean(denominators) of independent samples, with a 95 % interval.

    Both means are uncertain: their jackknife errors are combined by the delta method (Cochran 1977,
    section 6.4, without the covariance). The mean of the denominators must not be 0.
    """
    from scipy.special import stdtrit

    top, tops = jackknife_replicates(lambda kept: float(numerators[kept].mean()), len(numerators))
    low, lows = jackknife_replicates(
        lambda kept: float(denominators[kept].mean()), len(denominators)
    )
    ratio = top / low
    error = math.hypot(_error(tops), ratio * _error(lows)) / low
    # The degrees of freedom of the smaller sample alone, which is never too few.
    freedom = min(len(tops), len(lows)) - 1
    margin = float(stdtrit(freedom, (1 + CONFIDENCE) / 2)) * error
    return Estimate(ratio, max(0.0, ratio - margin), ratio + margin)


def pairs_estimate(pairs: Array) -> Estimate:
    """Return the mean of (N, M) values of pairs of two independent samples, with a 95 % interval.

    Both samples are uncertain: the variance is the sum of their jackknife variances, as that of
    DeLong, DeLong & Clarke-Pearson 1988 for the area under the ROC curve.
    """
    from scipy.special import stdtrit

    def replicates_of(means: Array) -> list[float]:
        return jackknife_replicates(lambda kept: float(means[kept].mean()), len(means))[1]

    replicates = [replicates_of(pairs.mean(axis=axis)) for axis in (1, 0)]
    error = math.hypot(*map(_error, replicates))
    freedom = min(map(len, replicates)) - 1
    margin = float(stdtrit(freedom, (1 + CONFIDENCE) / 2)) * error
    value = float(pairs.mean())
    return Estimate(value, max(0.0, value - margin), min(1.0, value + margin))


def share_estimate(num: int, total: int, *, confidence: float = CONFIDENCE) -> Estimate:
    """Return num / total with its exact interval, of 95 % by default (Clopper & Pearson 1934)."""
    from scipy.stats import binomtest

    interval = binomtest(num, total).proportion_ci(confidence, method="exact")
    return Estimate(num / total, float(interval.low), float(interval.high))


def ratio_estimate(numerators: Array, denominators: Array, *, seed: int) -> Estimate:
    """Return sum(numerators) / sum(denominators) over (N,) documents, with a 95 % interval.

    The interval is that of the percentile bootstrap over documents (Efron & Tibshirani 1993,
    chapter 13). It covers the choice of the documents, not the randomness of training.
    """
    num = len(numerators)
    generator = np.random.default_rng(seed)
    ratios = np.empty(NUM_RESAMPLES)
    for index in range(NUM_RESAMPLES):
        resample = generator.integers(num, size=num)
        # A resample of empty documents only has no length to divide by.
        ratios[index] = numerators[resample].sum() / max(denominators[resample].sum(), 1)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(ratios, [tail, 1 - tail])
    value = float(numerators.sum() / denominators.sum())
    # With few documents the percentiles may exclude the value itself.
    return Estimate(value, min(value, float(low)), max(value, float(high)))


def prediction_interval(values: Sequence[float], level: float) -> tuple[float, float]:
    """Return the bounds of one further value of a normal distribution, each at `level`.

    Student's t with the standard deviation of at least two values (Hahn & Meeker 1991, chapter 4).
    """
    from scipy.special import stdtrit

    num = len(values)
    # The further value varies as well as the mean of the known ones.
    error = float(np.std(values, ddof=1)) * math.sqrt(1 + 1 / num)
    reach = float(stdtrit(num - 1, level)) * error
    mean = float(np.mean(values))
    return mean - reach, mean + reach


def paired_error(
    candidate: NDArray[np.floating], champion: NDArray[np.floating], reference: Gaussian
) -> tuple[float, float, float, int]:
    """Return the Fréchet distances of two (N, D) sets and the error of their difference.

    The third value is the standard error of the difference (delete-a-group jackknife, Kott 2001),
    the fourth its degrees of freedom.
    """
    # The same rows are left out of both sets at once, so noise that they share (seeds, labels)
    # cancels. Both have the same N, hence nearly the same bias, which cancels as well.
    if len(candidate) != len(champion):
        raise EvaluationError(
            f"{len(candidate)} features cannot be paired with {len(champion)}; generate as many"
        )
    sides = [check_features(features) for features in (candidate, champion)]
    projected = [rows @ reference.factor.T for rows in sides]

    def distances(mask: NDArray[np.bool_]) -> list[float]:
        return [
            _distance(rows[mask], products[mask], reference)
            for rows, products in zip(sides, projected, strict=True)
        ]

    candidate_distance, champion_distance = distances(np.ones(len(candidate), dtype=bool))
    replicates = []
    num_groups = min(NUM_PAIRED_GROUPS, len(candidate))
    for block in _shown(np.array_split(np.arange(len(candidate)), num_groups)):
        mask = np.ones(len(candidate), dtype=bool)
        mask[block] = False
        a, b = distances(mask)
        replicates.append(a - b)
    groups = len(replicates)
    error = float(np.sqrt((groups - 1) * np.var(replicates)))
    return candidate_distance, champion_distance, error, groups - 1


def paired_ratio_error(candidate: Array, champion: Array, denominators: Array) -> float:
    """Return the standard error of (sum(candidate) - sum(champion)) / sum(denominators).

    All are (N,) over documents, which are taken as the random sample: the error of a linearised
    ratio (Cochran 1977, section 6.4).
    """
    num, total = len(candidate), float(denominators.sum())
    gaps = candidate - champion
    residuals = gaps - gaps.sum() / total * denominators
    return float(np.sqrt(num / (num - 1) * np.square(residuals).sum())) / total
