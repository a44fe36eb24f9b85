"""The kernel distance's interval, of many samples and of few."""

import numpy as np
import pytest
import torch
from torch_fidelity.metric_kid import kid_features_to_metric

from aigc_ops.evaluation import kernels
from aigc_ops.evaluation.kernels import kernel_estimate

WIDTH = 8


def features(num: int, generator: np.random.Generator, *, shift: float = 0.0) -> np.ndarray:
    return (generator.normal(size=(num, WIDTH)) + shift).astype(np.float32)


@pytest.mark.parametrize("num", [20, 60])
def test_the_value_is_torch_fidelitys(num: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "SUBSET_SIZE", 40)
    generator = np.random.default_rng(0)
    real, drawn = features(70, generator), features(num, generator, shift=0.2)
    theirs = kid_features_to_metric(
        torch.from_numpy(drawn),
        torch.from_numpy(real),
        kid_subset_size=min(num, 40),
        verbose=False,
    )
    found = kernel_estimate(real, drawn)
    assert found.value == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-9)
    assert found.low < found.value < found.high


def test_the_interval_of_few_samples_holds_what_many_show() -> None:
    generator = np.random.default_rng(1)
    real = features(400, generator)
    estimates = [kernel_estimate(real, features(100, generator, shift=0.3)) for _ in range(25)]
    expected = np.mean([each.value for each in estimates])
    held = np.mean([each.low <= expected <= each.high for each in estimates])
    assert 0.85 <= held <= 1


def test_two_samples_have_a_finite_interval() -> None:
    generator = np.random.default_rng(2)
    found = kernel_estimate(features(30, generator), features(2, generator))
    assert np.isfinite([found.low, found.value, found.high]).all()
