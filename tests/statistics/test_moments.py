"""Moments in parts are the moments of the whole."""

import itertools

import numpy as np
import pytest
from torch import Tensor

from aigc_ops.core.errors import EvaluationError
from aigc_ops.modalities.image.extractors.base import Extractor
from aigc_ops.statistics.extraction import gather_features, plan_blocks
from aigc_ops.statistics.frechet import Gaussian, frechet_distance
from aigc_ops.statistics.intervals import frechet_estimate
from aigc_ops.statistics.moments import MAX_KEPT, Accumulator, FeatureSet, Moments, merged

WIDTH = 12


def features(num: int, *, seed: int = 0, shift: float = 0.0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    mixing = generator.normal(size=(WIDTH, WIDTH))
    return (generator.normal(size=(num, WIDTH)) @ mixing + shift).astype(np.float32)


def close(a: Moments, b: Moments) -> bool:
    return (
        a.num == b.num
        and np.allclose(a.mean, b.mean, rtol=1e-9)
        and np.allclose(a.scatter, b.scatter, rtol=1e-9, atol=1e-9 * np.abs(b.scatter).max())
    )


def test_parts_merge_into_the_whole_in_any_order_and_bracketing() -> None:
    rows = features(1000, shift=1e3)  # a mean far from 0 is what naive sums of squares lose
    whole = Moments.of_features(rows)
    np.testing.assert_allclose(whole.covariance, np.cov(rows.astype(float), rowvar=False))
    parts = [Moments.of_features(each) for each in np.split(rows, [1, 1, 40, 700])]
    assert [part.num for part in parts] == [1, 0, 39, 660, 300]
    for order in itertools.permutations(parts):
        assert close(merged(order), whole)
    a, b, c, d, e = parts
    assert close((a + b) + ((c + d) + e), whole)


def test_a_part_is_taken_out_again() -> None:
    one, other = features(50), features(30, seed=1, shift=5)
    both = Moments.of_features(one) + Moments.of_features(other)
    assert close(both.without(Moments.of_features(other)), Moments.of_features(one))


@pytest.mark.parametrize("size", [1, 7, 640])
def test_batches_of_any_size_accumulate_to_the_same(size: int) -> None:
    rows = features(2500)
    kept = np.array([0, 6, 7, 1300, 2499])
    accumulator = Accumulator(WIDTH, kept=kept, with_moments=True)
    for start in range(0, len(rows), size):
        accumulator.add(rows[start : start + size])
    found = accumulator.finish()
    np.testing.assert_array_equal(found.rows, rows[kept])
    assert close(found.blocks[0], Moments.of_features(rows))


def test_a_set_in_blocks_has_the_distance_and_the_interval_of_its_rows() -> None:
    rows, reference = features(300, shift=0.3), Gaussian.of_features(features(400, seed=1))
    blocks = tuple(Moments.of_features(each) for each in np.array_split(rows, 10))
    by_blocks = frechet_estimate(FeatureSet(rows[:5], blocks), reference)
    by_rows = frechet_estimate(FeatureSet(rows), reference)
    assert by_blocks.value == pytest.approx(by_rows.value, rel=1e-9)
    assert by_blocks.high == pytest.approx(by_rows.high, rel=1e-9)
    expected = frechet_distance(Gaussian.of_features(rows), reference)
    assert by_blocks.value == pytest.approx(expected, rel=1e-6)
    for whole in (FeatureSet(rows[:5], blocks), FeatureSet(rows[:5], blocks).pooled()):
        assert whole.num == 300
        assert frechet_distance(whole.gaussian(), reference) == pytest.approx(expected, rel=1e-6)
    covariance = FeatureSet(rows[:5], blocks).pooled().blocks[0].covariance
    np.testing.assert_allclose(covariance, np.cov(rows, rowvar=False), rtol=1e-6, atol=1e-9)


def test_features_that_are_not_finite_are_named_by_their_place_in_the_run() -> None:
    accumulator = Accumulator(WIDTH, kept=np.arange(3), with_moments=False)
    accumulator.add(features(20))
    bad = features(20)
    bad[3, 2] = np.nan
    with pytest.raises(EvaluationError, match=r"1 of 20 samples.*row 23"):
        accumulator.add(bad)


@pytest.mark.parametrize("num", [0, 1, 7, MAX_KEPT, MAX_KEPT + 1, 100_003])
def test_blocks_make_up_the_whole_and_keep_a_bounded_number_scattered_over_it(num: int) -> None:
    planned = plan_blocks(num)
    together = np.concatenate([block.indices for block in planned])
    np.testing.assert_array_equal(together, np.arange(num))
    kept = np.concatenate([block.indices[block.kept] for block in planned])
    assert len(kept) == min(num, MAX_KEPT)
    assert len(set(kept.tolist())) == len(kept)
    if num > MAX_KEPT:
        assert len(planned) == 10
        counts = [len(block.kept) / len(block.indices) for block in planned]
        assert max(counts) < 1.2 * min(counts)


def test_a_large_set_is_dealt_out_so_that_its_order_tells_nothing() -> None:
    planned = plan_blocks(MAX_KEPT + 1, shuffle=True)
    together = np.concatenate([block.indices for block in planned])
    np.testing.assert_array_equal(np.sort(together), np.arange(MAX_KEPT + 1))
    for block in planned:
        assert (np.diff(block.indices) > 0).all()
        assert abs(block.indices.mean() / MAX_KEPT - 0.5) < 0.05
    assert sum(len(block.kept) for block in planned) == MAX_KEPT


def test_the_first_rows_are_kept_where_none_are_scattered() -> None:
    kept = [len(block.kept) for block in plan_blocks(100_000, scattered=False)]
    assert kept == [10_000, *[0] * 9]


def test_a_set_is_split_for_several_processes() -> None:
    found = [block.indices.tolist() for block in plan_blocks(7, at_least=3, shuffle=True)]
    assert found == [[0, 1, 2], [3, 4], [5, 6]]


def test_images_of_one_shape_are_asked_for_a_few_at_a_time(
    extractor: Extractor, digits: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aigc_ops.statistics.extraction.MAX_KEPT", 15)
    monkeypatch.setattr("aigc_ops.statistics.extraction.MAX_BYTES_AT_ONCE", 2 * 28 * 28)
    asked = []

    def images(places: np.ndarray) -> Tensor:
        asked.append(len(places))
        return digits[places]

    blocks = plan_blocks(30, scattered=False)
    found = gather_features(blocks, images, extractor, num_bytes=28 * 28, what="digits")
    every = extractor.features(digits[:30], what="digits")
    assert set(asked) == {2, 1}
    np.testing.assert_allclose(found.rows, every[:15], atol=1e-4)
    np.testing.assert_allclose(merged(found.blocks).mean, every.mean(axis=0), atol=1e-4)
