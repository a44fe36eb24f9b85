"""Intervals of scores, from features and likelihoods already at hand."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aigc_ops.core.errors import EvaluationError
from aigc_ops.statistics.frechet import Array, Gaussian, check_features, frechet_terms, nuclear_norm
from aigc_ops.statistics.moments import NUM_BLOCKS, FeatureSet, Moments, merged

NUM_PAIRED_GROUPS = 20
"""More than for an interval that is only shown: a gate looks far into the tail."""
NUM_RESAMPLES = 1000
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """A value and its interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class FrechetEstimate(Estimate):
    """A Fréchet distance at its number of samples, and what it tells of any number."""

    limit: Estimate
    """Extrapolated in 1/n to any number; sound from four times as many samples as features on."""


def frechet_estimate(drawn: FeatureSet, reference: Gaussian) -> FrechetEstimate:
    """Fréchet distance of features from the reference, with a 95 % interval.

    The interval is of the distance's expected value over draws of as many samples, with the
    reference held fixed: it speaks of this number alone, for the distance falls as it grows
    (Chong & Forsyth 2020). Its width is the delete-a-group jackknife's (Kott 2001), whose
    replicates share the bias that makes bootstrap intervals miss. Groups are blocks of
    neighbours, so samples that go round the classes keep their balance in each; rows that lie
    by class must be shuffled first. The limit is the jackknife's own (Quenouille 1956): the
    line in 1/n through all samples and through all but a group.
    """
    if drawn.rows.shape[1] != reference.width:
        raise EvaluationError(
            f"features are {drawn.rows.shape[1]} wide, the reference {reference.width}; "
            "compare those of one extractor"
        )
    if drawn.blocks:
        return _by_moments(drawn.blocks, reference)
    rows = check_features(drawn.rows)
    if len(rows) > reference.width:
        blocks = np.array_split(rows, NUM_BLOCKS)
        return _by_moments([Moments.of_features(block) for block in blocks], reference)
    projected = rows @ reference.factor.T

    def distance(kept: NDArray[np.bool_]) -> float:
        return _distance(rows[kept], projected[kept], reference)

    return _frechet(*replicated(distance, len(rows)))


def frechet_value(drawn: FeatureSet, reference: Gaussian) -> float:
    """Fréchet distance of features from the reference, without its interval."""
    if drawn.blocks:
        return _distance_of_moments(merged(drawn.blocks), reference)
    rows = check_features(drawn.rows)
    return _distance(rows, rows @ reference.factor.T, reference)


def _by_moments(blocks: Sequence[Moments], reference: Gaussian) -> FrechetEstimate:
    whole = merged(blocks)
    return _frechet(
        _distance_of_moments(whole, reference),
        [_distance_of_moments(whole.without(block), reference) for block in blocks],
    )


def _frechet(value: float, replicates: Sequence[float]) -> FrechetEstimate:
    found = delete_a_group(value, replicates)
    groups = len(replicates)
    limit = groups * value - (groups - 1) * float(np.mean(replicates))
    reach = found.high - value
    # Chance may lead the line below 0, where no distance lies.
    beyond = Estimate(max(0.0, limit), max(0.0, limit - reach), max(0.0, limit + reach))
    return FrechetEstimate(value, max(0.0, found.low), found.high, beyond)


def _distance_of_moments(moments: Moments, reference: Gaussian) -> float:
    covariance = moments.covariance
    gram = reference.factor @ covariance @ reference.factor.T
    cross = float(np.sqrt(np.linalg.eigvalsh(gram).clip(min=0)).sum())
    variance = float(np.trace(covariance))
    return frechet_terms(moments.mean - reference.mean, variance, reference.total_variance, cross)


def _distance(rows: Array, projected: Array, reference: Gaussian) -> float:
    """Fréchet distance of rows (M, D) whose products with the factor are given, (M, R)."""
    mean = rows.mean(axis=0)
    # A jackknife replicate of two samples is one sample: a point, of no variance.
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
    """A statistic of `num` rows, told which to keep, with a delete-a-group 95 % interval.

    The interval is cut to `least` and `most`, between which the statistic lies: most of a share
    is 1.
    """
    found = delete_a_group(*replicated(statistic, num))
    return Estimate(found.value, max(least, found.low), min(most, found.high))


def replicated(
    statistic: Callable[[NDArray[np.bool_]], float], num: int
) -> tuple[float, list[float]]:
    """A statistic of `num` rows, told which to keep: of all, and of all but each group."""
    value = statistic(np.ones(num, dtype=bool))
    replicates = []
    for block in np.array_split(np.arange(num), min(NUM_BLOCKS, num)):
        kept = np.ones(num, dtype=bool)
        kept[block] = False
        replicates.append(statistic(kept))
    return value, replicates


def delete_a_group(value: float, replicates: Sequence[float]) -> Estimate:
    """The 95 % interval that the values without each group give (Kott 2001)."""
    from scipy.special import stdtrit

    groups = len(replicates)
    error = float(np.sqrt((groups - 1) * np.var(replicates)))
    reach = float(stdtrit(groups - 1, (1 + CONFIDENCE) / 2)) * error
    return Estimate(value, value - reach, value + reach)


def share_estimate(num: int, total: int) -> Estimate:
    """Num / total with its exact 95 % interval (Clopper & Pearson 1934)."""
    from scipy.stats import binomtest

    interval = binomtest(num, total).proportion_ci(CONFIDENCE, method="exact")
    return Estimate(num / total, float(interval.low), float(interval.high))


def ratio_estimate(numerators: Array, denominators: Array, *, seed: int) -> Estimate:
    """sum(numerators) / sum(denominators) over (N,) documents, with a 95 % interval.

    The interval is the percentile bootstrap's over documents (Efron & Tibshirani 1993,
    chapter 13): of other documents like these, not of other trainings.
    """
    num = len(numerators)
    generator = np.random.default_rng(seed)
    ratios = np.empty(NUM_RESAMPLES)
    for index in range(NUM_RESAMPLES):
        drawn = generator.integers(num, size=num)
        # Empty documents alone have no length to divide by.
        ratios[index] = numerators[drawn].sum() / max(denominators[drawn].sum(), 1)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(ratios, [tail, 1 - tail])
    value = float(numerators.sum() / denominators.sum())
    return Estimate(value, min(value, float(low)), max(value, float(high)))


def paired_error(
    candidate: NDArray[np.floating], champion: NDArray[np.floating], reference: Gaussian
) -> tuple[float, float, float, int]:
    """Fréchet distances of two (N, D) sets, the standard error of their difference, its freedom.

    The same rows are left out of both at once (delete-a-group jackknife, Kott 2001), so what
    the two share, their labels among it, does not count as noise. Both have the same N, hence
    nearly the same bias, which the difference loses.
    """
    if len(candidate) != len(champion):
        raise EvaluationError(
            f"{len(candidate)} features cannot be paired with {len(champion)}; draw as many of each"
        )
    sides = [check_features(features) for features in (candidate, champion)]
    projected = [rows @ reference.factor.T for rows in sides]

    def distances(kept: NDArray[np.bool_]) -> list[float]:
        return [
            _distance(rows[kept], seen[kept], reference)
            for rows, seen in zip(sides, projected, strict=True)
        ]

    mine, theirs = distances(np.ones(len(candidate), dtype=bool))
    replicates = []
    for block in np.array_split(np.arange(len(candidate)), min(NUM_PAIRED_GROUPS, len(candidate))):
        kept = np.ones(len(candidate), dtype=bool)
        kept[block] = False
        a, b = distances(kept)
        replicates.append(a - b)
    groups = len(replicates)
    error = float(np.sqrt((groups - 1) * np.var(replicates)))
    return mine, theirs, error, groups - 1


def paired_ratio_error(candidate: Array, champion: Array, denominators: Array) -> float:
    """Standard error of sum(candidate) / sum(d) - sum(champion) / sum(d) over (N,) documents.

    The linearised ratio's (Cochran 1977, section 6.4), with the documents as what was drawn.
    """
    num, total = len(candidate), float(denominators.sum())
    gaps = candidate - champion
    residuals = gaps - gaps.sum() / total * denominators
    return float(np.sqrt(num / (num - 1) * np.square(residuals).sum())) / total
