"""How much features tell of a number that was drawn before them, in nats.

The bound of Barber & Agakov 2003, eq. 3: I(c; x) is at least the mean of
log q(c|x) - log p(c) for any q, here one that was fitted to other samples. It is what a
linear look at these features finds. It cannot show that nothing is there, and a good value
says nothing of whether a person sees it.

q is a ridge regression whose strength and spread come from its leave-one-out residuals, in
closed form (Hastie, Tibshirani & Friedman 2009, eq. 7.64): a q that finds nothing shrinks
to p, so nothing gives about 0.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from aigc_ops.statistics.frechet import Array

STRENGTHS = np.logspace(-3, 4, 15)  # of the mean eigenvalue
SHARPNESSES = np.array([0.0, *np.logspace(-1, 2, 13)])
NUM_SHUFFLES = 19  # the greatest of so many is passed by chance once in 20

Bound = Callable[[NDArray[np.intp]], float]


@dataclass(frozen=True)
class Information:
    """A lower bound on the mutual information, and what chance would show."""

    nats: float
    """At least 0, as the information itself."""
    shuffled_nats: float
    """The most that shuffled values gave; by chance `nats` passes it once in 20."""


def of_normal(features: NDArray[np.floating], values: Array, *, seed: int) -> Information:
    """Of (N,) values from N(0, 1) in (N, D) features; the second half is held out."""
    fit, heldout, ridge = _halves(features)

    def bound(order: NDArray[np.intp]) -> float:
        drawn = values[order]
        guesses, left_out = ridge.predict(drawn[fit][:, None])
        errors = np.square(left_out - drawn[fit][None, :, None]).mean(axis=(1, 2))
        best = int(errors.argmin())
        surprise = np.square(guesses[best, :, 0] - drawn[heldout]) / errors[best]
        gains = np.square(drawn[heldout]) - surprise - np.log(errors[best])
        return 0.5 * float(gains.mean())

    return _against_chance(bound, len(values), seed)


def of_category(
    features: NDArray[np.floating], values: NDArray[np.intp], num: int, *, seed: int
) -> Information:
    """Of (N,) uniform values from 0 to num - 1 in (N, D) features; the second half is held out."""
    fit, heldout, ridge = _halves(features)

    def bound(order: NDArray[np.intp]) -> float:
        drawn = values[order]
        guesses, left_out = ridge.predict(np.eye(num)[drawn[fit]])
        best, sharpness = max(
            ((row, each) for row in range(len(STRENGTHS)) for each in SHARPNESSES),
            key=lambda pair: _log_likelihood(pair[1] * left_out[pair[0]], drawn[fit]),
        )
        return _log_likelihood(sharpness * guesses[best], drawn[heldout]) + float(np.log(num))

    return _against_chance(bound, len(values), seed)


def _halves(features: NDArray[np.floating]) -> tuple[slice, slice, "_Ridge"]:
    middle = len(features) // 2
    ridge = _Ridge.between(features[:middle], features[middle:])
    return slice(0, middle), slice(middle, None), ridge


def _against_chance(bound: Bound, num: int, seed: int) -> Information:
    generator = np.random.default_rng(seed)
    shuffled = [bound(generator.permutation(num)) for _ in range(NUM_SHUFFLES)]
    return Information(max(0.0, bound(np.arange(num))), max(0.0, *shuffled))


def _log_likelihood(logits: Array, values: NDArray[np.intp]) -> float:
    """Mean log likelihood of (N,) values under (N, K) logits."""
    logits = logits - logits.max(axis=1, keepdims=True)
    normaliser = np.log(np.exp(logits).sum(axis=1))
    return float((logits[np.arange(len(values)), values] - normaliser).mean())


@dataclass(frozen=True)
class _Ridge:
    """Ridge regressions of every strength between two sets of features, for any targets.

    In the dual form, since features are wider than samples are many.
    """

    strengths: Array
    values: Array
    """(N,) eigenvalues of the fitted set's centred Gram matrix."""
    vectors: Array
    cross: Array
    """(M, N): the other set's products with the eigenvectors."""

    @classmethod
    def between(cls, fitted: NDArray[np.floating], others: NDArray[np.floating]) -> Self:
        """From (N, D) to (M, D) features."""
        rows = fitted.astype(np.float64)
        centre = rows.mean(axis=0)
        rows = rows - centre
        values, vectors = np.linalg.eigh(rows @ rows.T)
        values = values.clip(min=0)
        cross = (others - centre) @ rows.T @ vectors
        # Equal images have no variance at all, and nothing to divide by.
        scale = float(values.mean()) or 1.0
        return cls(STRENGTHS * scale, values, vectors, cross)

    def predict(self, targets: Array) -> tuple[Array, Array]:
        """(S, M, K) predictions for the others, (S, N, K) leave-one-out ones, of (N, K) targets."""
        centre = targets.mean(axis=0)
        rotated = self.vectors.T @ (targets - centre)
        shrunk = self.values / (self.values + self.strengths[:, None])
        fitted = self.vectors @ (shrunk[:, :, None] * rotated)
        leverage = 1 / len(targets) + shrunk @ np.square(self.vectors).T
        left_out = targets - (targets - centre - fitted) / (1 - leverage)[:, :, None]
        weights = 1 / (self.values + self.strengths[:, None])
        return centre + self.cross @ (weights[:, :, None] * rotated), left_out
