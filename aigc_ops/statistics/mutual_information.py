"""Lower bound on the mutual information of a control's value and a sample's features, in nats.

The bound is that of Barber & Agakov 2003, eq. 3: I(c; x) is at least the mean of
log q(c|x) - log p(c) for any q. Here q is linear in the features and fitted to other samples, so
a low value does not show that there is no effect, nor a high one that people can see it.

q is a ridge regression. Its strength and spread come from leave-one-out residuals in closed form
(Hastie, Tibshirani & Friedman 2009, eq. 7.64). Without an effect it shrinks to p, which gives
about 0.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from aigc_ops.statistics.frechet import Array

STRENGTHS = np.logspace(-3, 4, 15)  # of the mean eigenvalue
SHARPNESSES = np.array([0.0, *np.logspace(-1, 2, 13)])
NUM_SHUFFLES = 19  # by chance a value exceeds all of 19 shuffled ones once in 20: a test at 5 %

Bound = Callable[[NDArray[np.intp]], float]


@dataclass(frozen=True)
class Information:
    """Lower bound on the mutual information, with its value under shuffling."""

    nats: float
    """Clipped at 0, since mutual information is not negative."""
    shuffled_nats: float
    """Maximum over shuffled values; `nats` exceeds it by chance once in 20."""


def mutual_information_continuous(
    features: NDArray[np.floating], values: Array, *, seed: int
) -> Information:
    """Bound the information of (N,) values from N(0, 1) in (N, D) features.

    The first half of the rows is fitted, the second held out.
    """
    fit, heldout, ridge = _halves(features)

    def bound(order: NDArray[np.intp]) -> float:
        targets = values[order]
        # 1. Choose the strength by leave-one-out error on the fitted half.
        predictions, left_out = ridge.predict(targets[fit][:, None])
        errors = np.square(left_out - targets[fit][None, :, None]).mean(axis=(1, 2))
        best = int(errors.argmin())
        # 2. log q - log p of the held-out half: q = N(prediction, error), p = N(0, 1). The
        # constants of both normal densities cancel.
        residual = np.square(predictions[best, :, 0] - targets[heldout]) / errors[best]
        gains = np.square(targets[heldout]) - residual - np.log(errors[best])
        return 0.5 * float(gains.mean())

    return _against_chance(bound, len(values), seed)


def mutual_information_categorical(
    features: NDArray[np.floating], values: NDArray[np.intp], num: int, *, seed: int
) -> Information:
    """Bound the information of (N,) uniform values from 0 to num - 1 in (N, D) features.

    The first half of the rows is fitted, the second held out.
    """
    fit, heldout, ridge = _halves(features)

    def bound(order: NDArray[np.intp]) -> float:
        targets = values[order]
        # q is the softmax of one-hot regressions times a sharpness; sharpness 0 is p itself.
        predictions, left_out = ridge.predict(np.eye(num)[targets[fit]])
        best, sharpness = max(
            ((row, sharpness) for row in range(len(STRENGTHS)) for sharpness in SHARPNESSES),
            key=lambda pair: _log_likelihood(pair[1] * left_out[pair[0]], targets[fit]),
        )
        likelihood = _log_likelihood(sharpness * predictions[best], targets[heldout])
        return likelihood + float(np.log(num))

    return _against_chance(bound, len(values), seed)


def _halves(features: NDArray[np.floating]) -> tuple[slice, slice, "_Ridge"]:
    middle = len(features) // 2
    ridge = _Ridge.between(features[:middle], features[middle:])
    return slice(0, middle), slice(middle, None), ridge


def _against_chance(bound: Bound, num: int, seed: int) -> Information:
    # Shuffled values have the same distribution but no relation to the features.
    generator = np.random.default_rng(seed)
    shuffled = [bound(generator.permutation(num)) for _ in range(NUM_SHUFFLES)]
    return Information(max(0.0, bound(np.arange(num))), max(0.0, *shuffled))


def _log_likelihood(logits: Array, values: NDArray[np.intp]) -> float:
    """Return the mean log likelihood of (N,) values under (N, K) logits."""
    # The maximum is subtracted, so that exp does not overflow at high sharpness.
    logits = logits - logits.max(axis=1, keepdims=True)
    normaliser = np.log(np.exp(logits).sum(axis=1))
    return float((logits[np.arange(len(values)), values] - normaliser).mean())


@dataclass(frozen=True)
class _Ridge:
    """Ridge regressions of every strength, fitted to one set of features for another.

    In the dual form, because there are more features than samples.
    """

    strengths: Array
    values: Array
    """(N,) eigenvalues of the fitted set's centred Gram matrix."""
    vectors: Array
    cross_gram: Array
    """(M, N): Gram matrix between the other set and the fitted one, times the eigenvectors."""

    @classmethod
    def between(cls, fitted: NDArray[np.floating], others: NDArray[np.floating]) -> Self:
        """Prepare regressions from (N, D) fitted to (M, D) other features."""
        rows = fitted.astype(np.float64)
        centre = rows.mean(axis=0)
        rows = rows - centre
        # One decomposition serves every strength and all shuffles of the targets.
        values, vectors = np.linalg.eigh(rows @ rows.T)
        values = values.clip(min=0)
        cross_gram = (others - centre) @ rows.T @ vectors
        # Identical images have no variance, so the mean eigenvalue to divide by is 0.
        scale = float(values.mean()) or 1.0
        return cls(STRENGTHS * scale, values, vectors, cross_gram)

    def predict(self, targets: Array) -> tuple[Array, Array]:
        """Return predictions (S, M, K) and leave-one-out ones (S, N, K) for (N, K) targets."""
        centre = targets.mean(axis=0)
        rotated = self.vectors.T @ (targets - centre)
        shrunk = self.values / (self.values + self.strengths[:, None])
        fitted = self.vectors @ (shrunk[:, :, None] * rotated)
        # Eq. 7.64: the leave-one-out residual is the residual over 1 - leverage. The centre, which
        # is fitted as well, adds 1 / N to the leverage.
        leverage = 1 / len(targets) + shrunk @ np.square(self.vectors).T
        left_out = targets - (targets - centre - fitted) / (1 - leverage)[:, :, None]
        weights = 1 / (self.values + self.strengths[:, None])
        return centre + self.cross_gram @ (weights[:, :, None] * rotated), left_out
