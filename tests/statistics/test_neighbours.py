"""Who lies near whom: against torch-fidelity, closed cases, and planted faults."""

import numpy as np
import pytest
import torch

from aigc_ops.modalities.image.metrics.classes import Probe, class_estimates
from aigc_ops.statistics.intervals import jackknife, ratio_of_means
from aigc_ops.statistics.kernel import kernel_estimate
from aigc_ops.statistics.neighbours import neighbour_estimates

RNG = np.random.default_rng(0)
REAL = RNG.normal(size=(400, 16)).astype(np.float32)
ALIKE = RNG.normal(size=(300, 16)).astype(np.float32)
NARROW = (0.3 * RNG.normal(size=(300, 16))).astype(np.float32)
FAR = (20 + RNG.normal(size=(300, 16))).astype(np.float32)


@pytest.mark.parametrize("drawn", [ALIKE, NARROW, FAR])
def test_precision_and_recall_are_torch_fidelitys(drawn: np.ndarray) -> None:
    from torch_fidelity.metric_prc import prc_features_to_metric

    theirs = prc_features_to_metric(
        torch.from_numpy(drawn), torch.from_numpy(REAL), verbose=False, save_cpu_ram=False
    )
    ours = neighbour_estimates(REAL, drawn)
    assert ours["precision"].value == pytest.approx(theirs["precision"], abs=1e-6)
    assert ours["recall"].value == pytest.approx(theirs["recall"], abs=1e-6)


def test_the_kernel_distance_is_torch_fidelitys_and_near_nothing_for_alike_sets() -> None:
    from torch_fidelity.metric_kid import kid_features_to_metric

    theirs = kid_features_to_metric(
        torch.from_numpy(FAR), torch.from_numpy(REAL), kid_subset_size=300, verbose=False
    )
    ours, _ = kernel_estimate(REAL, FAR)
    assert ours.value == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-6)
    assert ours.low < ours.value < ours.high
    alike, _ = kernel_estimate(REAL, ALIKE)
    assert alike.low < 0 < alike.high


def test_sets_that_are_alike_far_or_narrow_are_told_apart() -> None:
    alike, far, narrow = (neighbour_estimates(REAL, each) for each in (ALIKE, FAR, NARROW))
    assert alike["density"].value == pytest.approx(1, abs=0.15)
    assert alike["coverage"].value > 0.9
    assert {far[name].value for name in ("precision", "recall", "density", "coverage")} == {0}
    assert narrow["precision"].value > 0.95
    assert narrow["recall"].value < 0.3 * alike["recall"].value
    for found in (alike, narrow):
        for name, estimate in found.items():
            assert estimate.low <= estimate.value <= estimate.high, name


def test_the_order_of_the_rows_does_not_matter() -> None:
    shuffled = ALIKE[np.random.default_rng(1).permutation(len(ALIKE))]
    one, other = neighbour_estimates(REAL, ALIKE), neighbour_estimates(REAL, shuffled)
    assert {n: e.value for n, e in one.items()} == {n: e.value for n, e in other.items()}


def test_one_sample_drawn_over_and_over_is_a_near_duplicate() -> None:
    repeated = np.repeat(ALIKE[:3], 100, axis=0) + 1e-4 * ALIKE
    assert neighbour_estimates(REAL, repeated)["near_duplicates"].value == 1
    assert neighbour_estimates(REAL, ALIKE)["near_duplicates"].value < 0.05


def classes(*, num: int, seed: int, spread: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Three classes in 16 dimensions, their centres 6 apart."""
    rng = np.random.default_rng(seed)
    labels = np.arange(num) % 3
    centres = 6 * np.eye(3, 16)
    return centres[labels] + spread * rng.normal(size=(num, 16)), labels


def test_agreement_and_spread_see_wrong_and_collapsed_classes() -> None:
    real, labels = classes(num=600, seed=0)
    drawn, asked = classes(num=300, seed=1)
    healthy = class_estimates(real, labels, drawn, asked, 3)
    assert healthy["label_agreement"].value > 0.97
    assert healthy["real_label_agreement"].value > 0.97
    assert healthy["class_spread"].value == pytest.approx(1, abs=0.15)
    assert healthy["label_agreement_ratio"].value == pytest.approx(1, abs=0.03)
    swapped = class_estimates(real, labels, drawn, (asked + 1) % 3, 3)
    assert swapped["label_agreement"].value < 0.03
    one_image = drawn.copy()
    one_image[asked == 1] = one_image[1]
    collapsed = class_estimates(real, labels, one_image, asked, 3)
    assert collapsed["label_agreement"].value > 0.97  # agreement alone does not see it
    assert collapsed["class_spread"].value == pytest.approx(0, abs=1e-9)
    assert collapsed["class_spread"].high < 0.2


def test_perfect_samples_reach_what_a_weak_probe_says_of_real_images() -> None:
    real, labels = classes(num=1500, seed=0, spread=4.0)
    perfect, asked = classes(num=900, seed=1, spread=4.0)
    found = class_estimates(real, labels, perfect, asked, 3)
    assert found["label_agreement"].value < 0.85  # though every sample is right
    ratio = found["label_agreement_ratio"]
    shares = found["label_agreement"].value / found["real_label_agreement"].value
    assert ratio.value == pytest.approx(shares)
    assert ratio.low < 1 < ratio.high
    wrong = asked.copy()
    wrong[::5] = (wrong[::5] + 1) % 3  # a fifth shows another class
    assert class_estimates(real, labels, perfect, wrong, 3)["label_agreement_ratio"].high < 1


def test_the_probe_chooses_its_penalty_by_what_it_was_not_fitted_to() -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(300) % 3
    rows = np.eye(3, 200)[labels] + 0.5 * rng.normal(size=(300, 200))  # many features of few rows
    others = np.eye(3, 200)[labels] + 0.5 * rng.normal(size=(300, 200))
    probe = Probe(rows, labels, 3)
    assert probe.penalty > 1
    scaled, scaled_others = (
        np.c_[(each - rows.mean(axis=0)) / rows.std(), np.ones(300)] for each in (rows, others)
    )
    plain = np.linalg.solve(scaled.T @ scaled + np.eye(201), scaled.T @ (np.eye(3)[labels] - 1 / 3))
    before = ((scaled_others @ plain).argmax(axis=1) == labels).mean()
    assert (probe.classes(others) == labels).mean() > before


def test_the_interval_of_a_ratio_covers_both_means() -> None:
    rng = np.random.default_rng(0)
    ratios, covered = [], 0
    for _ in range(300):
        top, bottom = rng.random(400) < 0.8, rng.random(200) < 0.9
        found = ratio_of_means(top, bottom)
        ratios.append(found.value)
        covered += found.low <= 0.8 / 0.9 <= found.high
    assert 0.91 <= covered / 300 <= 0.99
    assert np.mean(ratios) == pytest.approx(0.8 / 0.9, abs=0.005)
    certain = ratio_of_means(np.array([0.0, 1.0] * 100), np.ones(200))
    alone = jackknife(lambda kept: float(np.array([0.0, 1.0] * 100)[kept].mean()), 200)
    assert (certain.low, certain.high) == pytest.approx((alone.low, alone.high))


def test_too_few_images_of_a_class_have_no_spread() -> None:
    real, labels = classes(num=24, seed=0)
    found = class_estimates(real, labels, real, labels, 3)
    assert "class_spread" not in found
    assert "label_agreement" in found
    assert class_estimates(real[:4], labels[:4], real, labels, 3) == {}


def test_intervals_of_shares_end_at_one() -> None:
    generator = np.random.default_rng(0)
    real = generator.normal(size=(60, 2)).astype(np.float32)
    found = neighbour_estimates(real, real[:30] * 0.6)  # amid the real ones
    assert all(0 <= found[n].low <= found[n].high <= 1 for n in ("precision", "recall", "coverage"))
    assert found["precision"].value > 0.9
    assert found["density"].high > 1
