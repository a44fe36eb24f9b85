"""The bound of a privacy audit against its definition and against simulations."""

import math

import numpy as np
import pytest
from scipy.stats import binom

from aigc_ops.core.errors import EvaluationError
from aigc_ops.statistics.privacy import SHARES, audit, ceiling, epsilon_bound

ERROR = 0.05 / len(SHARES)


def brute_force(num_right: int, num_guesses: int) -> float:
    """The largest epsilon of a fine grid that the binomial test rejects."""
    grid = np.arange(0, 12, 0.001)
    tails = binom.sf(num_right - 1, num_guesses, 1 / (1 + np.exp(-grid)))
    return float(grid[tails <= 0.05].max(initial=0.0))


@pytest.mark.parametrize(
    ("num_right", "num_guesses"),
    [(5, 5), (4, 4), (40, 40), (38, 40), (20, 40), (0, 40), (612, 900)],
)
def test_the_bound_is_that_of_the_binomial_test(num_right: int, num_guesses: int) -> None:
    bound = epsilon_bound(num_right, num_guesses)
    assert bound == pytest.approx(brute_force(num_right, num_guesses), abs=0.002)


def test_a_perfect_attack_gives_the_known_value() -> None:
    included = np.arange(200) % 2 == 0
    found = audit(included * 1.0, included)
    chance = ERROR ** (1 / 200)  # at which 200 right guesses of 200 have this probability
    assert (found.num_guesses, found.num_right, found.num_included) == (200, 200, 100)
    assert found.epsilon == found.ceiling == pytest.approx(math.log(chance / (1 - chance)))
    assert (found.accuracy.value, found.accuracy.high) == (1, 1)


def test_scores_that_know_nothing_give_a_bound_above_0_in_at_most_5_percent() -> None:
    random = np.random.default_rng(0)
    for num in (20, 101, 400):
        trials = [audit(random.normal(size=num), random.random(num) < 0.5) for _ in range(1000)]
        assert np.mean([trial.epsilon > 0 for trial in trials]) <= 0.05


@pytest.mark.parametrize("epsilon", [0.5, 1.5])
def test_the_bound_exceeds_the_true_epsilon_in_at_most_5_percent(epsilon: float) -> None:
    # Randomised response: the most that a mechanism of this epsilon may tell about each coin.
    random = np.random.default_rng(1)
    bounds = []
    for _ in range(1000):
        coins = random.random(300) < 0.5
        is_true = random.random(300) < 1 / (1 + math.exp(-epsilon))
        answers = np.where(is_true, coins, ~coins)
        bounds.append(audit(answers + random.random(300) / 2, coins).epsilon)
    assert np.mean([bound > epsilon for bound in bounds]) <= 0.05
    assert np.median(bounds) > epsilon / 3  # and it is not empty


def test_fewer_guesses_find_a_leak_that_few_canaries_show() -> None:
    random = np.random.default_rng(2)
    included = random.random(1000) < 0.5
    scores = random.normal(size=1000)
    chosen = np.flatnonzero(included)[:50]
    scores[chosen] += 10
    found = audit(scores, included)
    assert found.epsilon > 0.5
    assert found.num_guesses == 100  # the surest tenth, of which a half is guessed as left out


def test_the_ceiling_is_0_for_too_few_canaries() -> None:
    assert ceiling([True, False] * 2 + [True]) == 0
    assert ceiling([True, False] * 3) > 0
    assert ceiling([True] * 6) == 0  # half of the guesses are wrong by necessity
    assert ceiling([]) == ceiling([True]) == 0


def test_scores_must_be_finite() -> None:
    with pytest.raises(EvaluationError, match="the weights are damaged or the training diverged"):
        audit(np.array([1.0, np.nan]), np.array([True, False]))
