import numpy as np
import pytest
import scipy.linalg
import torch

from aigc_ops.core.errors import EvaluationError
from aigc_ops.statistics.frechet import Gaussian, frechet_distance, nuclear_norm


def features(num: int, width: int, *, seed: int) -> np.ndarray:
    generator = np.random.default_rng(seed)
    mixing = generator.normal(size=(width, width)) / np.sqrt(width)
    return generator.normal(size=(num, width)) @ mixing + generator.normal(size=width)


def gaussian(num: int, width: int, *, seed: int) -> Gaussian:
    return Gaussian.of_features(features(num, width, seed=seed))


def distance_by_matrix_root(a: np.ndarray, b: np.ndarray) -> float:
    """The formula of Heusel et al. 2017 as pytorch-fid computes it."""
    covariance_a, covariance_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = scipy.linalg.sqrtm(covariance_a @ covariance_b).real
    gap = a.mean(axis=0) - b.mean(axis=0)
    return float(gap @ gap + np.trace(covariance_a + covariance_b - 2 * root))


@pytest.mark.parametrize("num", [5, 40, 300])
def test_features_are_at_no_distance_from_themselves(num: int) -> None:
    a = gaussian(num, 40, seed=0)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize(("num_a", "num_b"), [(5, 300), (40, 41), (200, 300)])
def test_distance_is_the_same_both_ways(num_a: int, num_b: int) -> None:
    a, b = gaussian(num_a, 40, seed=1), gaussian(num_b, 40, seed=2)
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=1e-6)


def test_distance_of_diagonal_gaussians_is_the_closed_form() -> None:
    generator = np.random.default_rng(3)
    means = generator.normal(size=(2, 30))
    deviations = generator.uniform(0, 2, size=(2, 30))
    a, b = (Gaussian.of_moments(m, np.diag(s**2)) for m, s in zip(means, deviations, strict=True))
    expected = np.square(means[0] - means[1]).sum() + np.square(deviations[0] - deviations[1]).sum()
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-9)


def test_a_rotation_of_both_gaussians_changes_nothing() -> None:
    a, b = features(100, 20, seed=4), features(100, 20, seed=5)
    turn = np.linalg.qr(np.random.default_rng(6).normal(size=(20, 20)))[0]
    before = frechet_distance(Gaussian.of_features(a), Gaussian.of_features(b))
    after = frechet_distance(Gaussian.of_features(a @ turn), Gaussian.of_features(b @ turn))
    assert after == pytest.approx(before, rel=1e-9)


@pytest.mark.parametrize(("num_a", "num_b"), [(200, 300), (65, 500)])
def test_distance_agrees_with_the_matrix_root(num_a: int, num_b: int) -> None:
    a, b = features(num_a, 64, seed=7), features(num_b, 64, seed=8)
    found = frechet_distance(Gaussian.of_features(a), Gaussian.of_features(b))
    assert found == pytest.approx(distance_by_matrix_root(a, b), rel=1e-7)


@pytest.mark.parametrize(("num_a", "num_b"), [(200, 300), (20, 300), (20, 30)])
def test_distance_agrees_with_torch_fidelity(num_a: int, num_b: int) -> None:
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

    a, b = features(num_a, 64, seed=9), features(num_b, 64, seed=10)
    statistics = [fid_features_to_statistics(torch.from_numpy(each)) for each in (a, b)]
    theirs = fid_statistics_to_metric(*statistics, verbose=False)["frechet_inception_distance"]
    ours = frechet_distance(Gaussian.of_features(a), Gaussian.of_features(b))
    # Their roots of the zero eigenvalues of singular covariances are rounding, about 1e-8 each.
    assert ours == pytest.approx(theirs, rel=1e-5)


def test_moments_and_features_give_one_gaussian() -> None:
    a, b = features(100, 30, seed=11), gaussian(100, 30, seed=12)
    by_moments = Gaussian.of_moments(a.mean(axis=0), np.cov(a, rowvar=False))
    by_features = Gaussian.of_features(a)
    np.testing.assert_allclose(by_features.factor.T @ by_features.factor, np.cov(a, rowvar=False))
    assert frechet_distance(by_moments, b) == pytest.approx(frechet_distance(by_features, b))


def test_constant_features_are_a_point() -> None:
    b = gaussian(100, 10, seed=13)
    point = Gaussian.of_features(np.ones((5, 10)))
    expected = np.square(1 - b.mean).sum() + b.total_variance
    assert frechet_distance(point, b) == pytest.approx(expected)


def test_nuclear_norm_is_the_sum_of_the_singular_values() -> None:
    for shape in [(5, 40), (40, 5), (30, 30)]:
        matrix = np.random.default_rng(14).normal(size=shape)
        expected = np.linalg.svd(matrix, compute_uv=False).sum()
        assert nuclear_norm(matrix) == pytest.approx(expected, rel=1e-9)


def test_features_of_two_extractors_are_refused() -> None:
    with pytest.raises(EvaluationError, match="10 and 11 wide"):
        frechet_distance(gaussian(20, 10, seed=0), gaussian(20, 11, seed=0))


def test_fewer_than_two_features_are_refused() -> None:
    with pytest.raises(EvaluationError, match="at least 2"):
        Gaussian.of_features(np.zeros((1, 10)))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_features_that_are_not_finite_are_refused_by_row(bad: float) -> None:
    rows = features(20, 10, seed=0)
    rows[7, 3] = bad
    with pytest.raises(EvaluationError, match=r"1 of 20 samples.*row 7"):
        Gaussian.of_features(rows)
