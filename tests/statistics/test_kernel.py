"""The kernel distance's interval, of many samples and of few."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch_fidelity.metric_kid import kid_features_to_metric

from aigc_ops.modalities.image.extractors.base import Extractor
from aigc_ops.statistics import kernel
from aigc_ops.statistics.kernel import kernel_estimate, kernel_scores, kid_name

WIDTH = 8


def features(num: int, generator: np.random.Generator, *, shift: float = 0.0) -> np.ndarray:
    return (generator.normal(size=(num, WIDTH)) + shift).astype(np.float32)


@pytest.mark.parametrize("num", [20, 60])
def test_the_value_is_torch_fidelitys(num: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "SUBSET_SIZE", 40)
    generator = np.random.default_rng(0)
    real, drawn = features(70, generator), features(num, generator, shift=0.2)
    theirs = kid_features_to_metric(
        torch.from_numpy(drawn),
        torch.from_numpy(real),
        kid_subset_size=min(num, 40),
        verbose=False,
    )
    found, _ = kernel_estimate(real, drawn)
    assert found.value == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-9)
    assert found.low < found.value < found.high


@pytest.mark.parametrize("subset", [1000, 50])
def test_the_interval_holds_what_many_draws_show(
    subset: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernel, "SUBSET_SIZE", subset)
    generator = np.random.default_rng(1)
    real = features(400, generator)
    estimates = [kernel_estimate(real, features(100, generator, shift=0.3))[0] for _ in range(40)]
    expected = np.mean([each.value for each in estimates])
    held = np.mean([each.low <= expected <= each.high for each in estimates])
    assert 0.85 <= held <= 1


def test_two_samples_have_a_finite_interval() -> None:
    generator = np.random.default_rng(2)
    found, _ = kernel_estimate(features(30, generator), features(2, generator))
    assert np.isfinite([found.low, found.value, found.high]).all()


def test_the_spread_over_subsets_is_told_where_there_is_one(
    monkeypatch: pytest.MonkeyPatch, extractor: Extractor
) -> None:
    monkeypatch.setattr(kernel, "SUBSET_SIZE", 40)
    generator = np.random.default_rng(0)
    real = features(70, generator)
    few = kernel_scores(extractor, real, features(40, generator), {})
    many = kernel_scores(extractor, real, features(41, generator), {"seed": 1})
    name = "kd_efficientnet_lite0"
    assert (few.keys(), many.keys()) == ({name}, {name, f"{name}_std"})
    assert many[f"{name}_std"].value > 0
    assert {**many[name].contract, "interval": 0} == {
        "n": 41, "num_reference": 70, "seed": 1, "interval": 0,
    }  # fmt: skip


def test_each_way_to_resize_has_a_name_of_its_own(extractor: Extractor) -> None:
    metrics = ("fid", "fid_clean", "fid_legacy", "fd_inception_v3_0123abcd")
    names = [kid_name(replace(extractor, metric=each)) for each in metrics]
    assert names == ["kid", "kid_clean", "kid_legacy", "kd_inception_v3_0123abcd"]
