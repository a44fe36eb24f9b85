import numpy as np
import pytest

from aigc_ops.core.errors import EvaluationError
from aigc_ops.statistics.frechet import Gaussian, frechet_distance
from aigc_ops.statistics.intervals import (
    FrechetEstimate,
    frechet_estimate,
    ratio_estimate,
    share_estimate,
)
from aigc_ops.statistics.moments import FeatureSet

WIDTH = 16
REFERENCE = Gaussian(np.zeros(WIDTH), np.diag(1 / np.sqrt(np.arange(1, WIDTH + 1))))


def draws(num: int, generator: np.random.Generator) -> np.ndarray:
    return 0.8 * generator.normal(size=(num, WIDTH)) @ REFERENCE.factor + 0.2


def estimated(rows: np.ndarray, reference: Gaussian) -> FrechetEstimate:
    return frechet_estimate(FeatureSet(rows), reference)


@pytest.mark.parametrize("num", [3, 10, 15, 16, 17, 100])
def test_the_value_is_the_frechet_distance(num: int) -> None:
    rows = draws(num, np.random.default_rng(0))
    estimate = estimated(rows, REFERENCE)
    expected = frechet_distance(Gaussian.of_features(rows), REFERENCE)
    assert estimate.value == pytest.approx(expected, rel=1e-6)
    assert 0 <= estimate.low < estimate.value < estimate.high


@pytest.mark.parametrize("num", [WIDTH // 2, 2 * WIDTH, 10 * WIDTH])
def test_the_interval_holds_the_expected_value_at_its_n(num: int) -> None:
    generator = np.random.default_rng(num)
    estimates = [estimated(draws(num, generator), REFERENCE) for _ in range(300)]
    expected = np.mean([estimate.value for estimate in estimates])
    held = np.mean([estimate.low <= expected <= estimate.high for estimate in estimates])
    assert 0.90 <= held <= 0.99


def test_the_interval_of_few_samples_does_not_hold_the_distance_of_many() -> None:
    generator = np.random.default_rng(0)
    few = estimated(draws(WIDTH, generator), REFERENCE)
    many = estimated(draws(2000 * WIDTH, generator), REFERENCE)
    assert few.low > many.high


@pytest.mark.parametrize("widths", [2, 4, 20])
def test_the_extrapolation_holds_the_distance_of_any_number(widths: int) -> None:
    generator = np.random.default_rng(widths)
    mean, factor = np.full(WIDTH, 0.2), 0.8 * REFERENCE.factor
    truth = frechet_distance(Gaussian(mean, factor), REFERENCE)
    found = [estimated(draws(widths * WIDTH, generator), REFERENCE) for _ in range(300)]
    limits = [estimate.limit for estimate in found]
    held = np.mean([limit.low <= truth <= limit.high for limit in limits])
    assert 0.90 <= held <= 0.99
    bias = np.mean([estimate.value for estimate in found]) - truth
    assert bias > 0.02 * truth
    assert abs(np.mean([limit.value for limit in limits]) - truth) < 0.3 * bias


def test_samples_that_go_round_their_classes_have_a_narrower_interval() -> None:
    generator = np.random.default_rng(0)
    centres = generator.normal(size=(10, WIDTH))
    widths = []
    for classes in (np.arange(500) % 10, generator.integers(10, size=500)):
        rows = 0.3 * draws(500, generator) + centres[classes]
        estimate = estimated(rows, REFERENCE)
        widths.append(estimate.high - estimate.low)
    assert widths[0] < widths[1] / 2


def test_two_samples_are_enough_for_a_finite_interval() -> None:
    estimate = estimated(draws(2, np.random.default_rng(0)), REFERENCE)
    assert 0 <= estimate.low < estimate.value < estimate.high < np.inf


def test_equal_samples_have_a_value_and_no_spread() -> None:
    estimate = estimated(np.ones((50, WIDTH)), REFERENCE)
    assert estimate.value == pytest.approx(WIDTH + REFERENCE.total_variance)
    assert estimate.high - estimate.low == pytest.approx(0, abs=1e-9)


def test_features_of_another_width_are_refused() -> None:
    with pytest.raises(EvaluationError, match="15 wide, the reference 16"):
        estimated(np.zeros((10, 15)), REFERENCE)


def test_a_ratio_weighs_documents_by_their_length() -> None:
    estimate = ratio_estimate(np.array([1.0, 30.0]), np.array([1.0, 10.0]), seed=0)
    assert estimate.value == pytest.approx(31 / 11)
    assert (estimate.low, estimate.high) == (1.0, 3.0)


def test_the_interval_of_a_ratio_holds_the_ratio_of_all_documents() -> None:
    generator = np.random.default_rng(1)
    held = []
    for _ in range(200):
        lengths = generator.integers(10, 200, size=60).astype(np.float64)
        bits = lengths * generator.gamma(20, 2.5 / 20, size=60)
        estimate = ratio_estimate(bits, lengths, seed=0)
        held.append(estimate.low <= 2.5 <= estimate.high)
    assert 0.90 <= np.mean(held) <= 0.99


def test_the_interval_of_a_share_is_clopper_and_pearsons() -> None:
    found = share_estimate(12, 200)
    assert (found.low, found.value, found.high) == pytest.approx((0.03137, 0.06, 0.10248), abs=1e-4)
    assert (share_estimate(0, 10).low, share_estimate(10, 10).high) == (0, 1)
