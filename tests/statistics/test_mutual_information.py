import math

import numpy as np
import pytest

from aigc_ops.statistics.mutual_information import (
    STRENGTHS,
    _Ridge,
    mutual_information_categorical,
    mutual_information_continuous,
)


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


@pytest.mark.parametrize("deviation", [0.1, 0.5, 2.0])
def test_a_noisy_copy_of_a_normal_number_has_the_information_of_its_closed_form(
    deviation: float,
) -> None:
    values = noise(1000, seed=1)
    features = noise(1000, 8)
    features[:, 3] = values + deviation * features[:, 3]
    expected = 0.5 * math.log(1 + deviation**-2)
    assert mutual_information_continuous(features, values, seed=0).nats == pytest.approx(
        expected, abs=0.1
    )


def test_categories_that_features_tell_apart_have_their_whole_entropy() -> None:
    values = np.random.default_rng(0).integers(5, size=400)
    features = np.eye(5)[values] + 0.01 * noise(400, 5)
    assert mutual_information_categorical(features, values, 5, seed=0).nats == pytest.approx(
        math.log(5), abs=0.02
    )


def test_a_category_that_is_told_from_half_of_the_others_has_half_its_entropy() -> None:
    values = np.random.default_rng(0).integers(4, size=400)
    features = np.eye(2)[values // 2] + 0.01 * noise(400, 2)
    found = mutual_information_categorical(features, values, 4, seed=0)
    assert found.nats == pytest.approx(math.log(2), abs=0.08)


@pytest.mark.parametrize("seed", range(5))
def test_features_that_know_nothing_have_none_though_they_are_wider_than_samples_are_many(
    seed: int,
) -> None:
    features, generator = noise(256, 1280, seed=seed), np.random.default_rng(seed + 100)
    normal = mutual_information_continuous(features, generator.normal(size=256), seed=0)
    category = mutual_information_categorical(
        features, generator.integers(10, size=256), 10, seed=0
    )
    for found in (normal, category):
        assert found.nats < 0.04
        assert found.shuffled_nats < 0.06


def test_equal_features_have_no_information() -> None:
    values = noise(64)
    assert mutual_information_continuous(np.ones((64, 7)), values, seed=0).nats < 0.02


def test_more_than_chance_is_more_than_its_shuffled_values_show() -> None:
    values = noise(256, seed=1)
    features = noise(256, 20)
    features[:, 0] += values
    found = mutual_information_continuous(features, values, seed=0)
    assert found.nats > 3 * found.shuffled_nats


def test_leave_one_out_predictions_are_those_of_regressions_without_that_row() -> None:
    features, targets = noise(12, 30), noise(12, 2, seed=1)
    whole = _Ridge.between(features, features[:3])
    predictions, left_out = whole.predict(targets)
    for row in (0, 7):
        kept = np.delete(np.arange(12), row)
        for index, strength in enumerate(whole.strengths):
            rest = by_hand(features[kept], targets[kept], features[row], strength)
            assert left_out[index, row] == pytest.approx(rest, rel=1e-6, abs=1e-9)
            there = by_hand(features, targets, features[2], strength)
            assert predictions[index, 2] == pytest.approx(there, rel=1e-6, abs=1e-9)
    assert len(predictions) == len(STRENGTHS)


def by_hand(features: np.ndarray, targets: np.ndarray, at: np.ndarray, strength: float):
    """A ridge regression's prediction at one point, its intercept free, by the normal equations."""
    rows, centre = features - features.mean(axis=0), targets.mean(axis=0)
    gram = rows.T @ rows + strength * np.eye(rows.shape[1])
    return centre + (at - features.mean(axis=0)) @ np.linalg.solve(
        gram, rows.T @ (targets - centre)
    )
