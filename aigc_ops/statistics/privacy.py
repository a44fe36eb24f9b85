"""Lower bound on privacy leakage from guesses about canaries in a single training run.

Steinke, Nasr & Jagielski 2023, "Privacy Auditing with One (1) Training Run".
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aigc_ops.core.errors import EvaluationError
from aigc_ops.statistics.frechet import Array
from aigc_ops.statistics.intervals import CONFIDENCE, Estimate, share_estimate

SHARES = (0.1, 0.3, 1.0)
"""Shares of the canaries that are guessed; all are tried, so each is tested at 5 % / 3."""

Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class PrivacyAudit:
    """Guesses of which canaries were trained on, and what they prove."""

    num: int
    """Number of canaries."""
    num_included: int
    """Number of canaries that were trained on."""
    num_guesses: int
    num_right: int
    epsilon: float
    """Lower bound of epsilon in pure differential privacy, with 95 % confidence; 0: none."""
    ceiling: float
    """The bound if the scores had separated the canaries perfectly."""

    @property
    def accuracy(self) -> Estimate:
        """Share of right guesses with its exact interval, at the corrected confidence."""
        confidence = 1 - (1 - CONFIDENCE) / len(SHARES)
        return share_estimate(self.num_right, self.num_guesses, confidence=confidence)


def epsilon_bound(num_right: int, num_guesses: int, *, error: float = 1 - CONFIDENCE) -> float:
    """Return the lower bound of epsilon, which is too high with a probability of at most `error`.

    With pure epsilon-DP and independent fair coins, the number of right guesses is stochastically
    at most binomial with probability e^epsilon / (e^epsilon + 1) (theorem 5.2 with delta = 0).
    """
    from scipy.special import betaincinv, logit

    if num_right == 0:
        return 0.0
    # The smallest probability that the binomial test does not reject (Clopper & Pearson 1934).
    lowest = float(betaincinv(num_right, num_guesses - num_right + 1, error))
    return max(0.0, float(logit(lowest)))


def audit(scores: Array, included: Flags) -> PrivacyAudit:
    """Return the audit of canaries by (N,) scores, which are higher for those trained on.

    The highest scores are guessed as included, equally many lowest ones as left out. Of each of
    `SHARES` the bound is computed at a third of the error (Bonferroni), and the best one counts.
    Raises EvaluationError for scores that are not finite.
    """
    if not np.isfinite(scores).all():
        raise EvaluationError(
            "the score of a canary is not finite; the weights are damaged or the training diverged"
        )
    # Stable: equal scores keep the order of the canaries, which says nothing about the coins.
    order = np.argsort(scores, kind="stable")
    tests = [_test(order, included, share) for share in SHARES]
    epsilon, num_guesses, num_right = max(tests)
    return PrivacyAudit(
        num=len(scores),
        num_included=int(included.sum()),
        num_guesses=num_guesses,
        num_right=num_right,
        epsilon=epsilon,
        ceiling=ceiling(included),
    )


def ceiling(included: Sequence[bool] | Flags) -> float:
    """Return the bound for scores that separate these canaries perfectly; 0 for too few."""
    flags = np.asarray(included, bool)
    order = np.argsort(flags, kind="stable")
    return max(_test(order, flags, share)[0] for share in SHARES) if len(flags) > 1 else 0.0


def _test(order: NDArray[np.intp], included: Flags, share: float) -> tuple[float, int, int]:
    """Return the bound, the number of guesses and that of right ones."""
    num = min(len(order) // 2, max(1, round(share * len(order) / 2)))
    right = int(included[order[-num:]].sum() + (~included[order[:num]]).sum())
    error = (1 - CONFIDENCE) / len(SHARES)
    return epsilon_bound(right, 2 * num, error=error), 2 * num, right
