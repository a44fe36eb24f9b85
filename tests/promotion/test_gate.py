"""What the gate says of real features, and how its bounds and guards decide."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from aigc_ops.core.artifacts import Score, Scores
from aigc_ops.evaluation.paired import SamplingCosts
from aigc_ops.interfaces.evaluation import Paired
from aigc_ops.promotion.config import PromotionConfig
from aigc_ops.promotion.gate import Costs, Ruling, guards_of, judge, num_looks
from aigc_ops.statistics.frechet import Gaussian
from aigc_ops.statistics.intervals import paired_error, paired_ratio_error

CONFIG = PromotionConfig(min_improvement=0.1, false_promotion_rate=0.02)
SAME = SamplingCosts(slowdown=1.0, low=0.9, high=1.1, operations=1.0)
FREE = Costs(sampling=SAME, growth=1.0)


def paired(difference: float, error: float) -> Paired:
    return Paired("fd", 10 + difference, 10.0, error, 10_000, 100)


@pytest.mark.parametrize(
    ("difference", "error", "outcome"),
    [
        (-2.0, 0.1, "promote"),
        (-1.0, 0.3, "promote"),  # better for sure, by how much is open
        (-0.5, 0.1, "keep"),  # better for sure, but by less than is worth a change
        (0.0, 0.1, "keep"),
        (3.0, 1.0, "keep"),
        (0.0, 1.0, "undecided"),
        (-2.0, 2.0, "undecided"),
    ],
)
def test_what_is_sure_is_done_and_the_rest_is_undecided(
    difference: float, error: float, outcome: str
) -> None:
    ruling = judge(paired(difference, error), [], CONFIG)
    assert ruling.outcome == outcome
    assert "10" in ruling.reasons[0]


@pytest.mark.parametrize(
    ("difference", "error", "not_worse"),
    [(-0.5, 0.1, True), (0.0, 0.1, True), (0.9, 0.3, False), (3.0, 0.1, False)],
)
def test_a_version_that_is_kept_back_is_not_worse_only_within_the_margin(
    difference: float, error: float, not_worse: bool
) -> None:
    ruling = judge(paired(difference, error), [], CONFIG)
    assert (ruling.outcome, ruling.not_worse) == ("keep", not_worse)


def test_more_looks_ask_for_more_certainty_each() -> None:
    once = judge(paired(-1.05, 0.5), [], CONFIG, looks=1)
    thrice = judge(paired(-1.05, 0.5), [], CONFIG, looks=3)
    assert (once.outcome, thrice.outcome) == ("promote", "undecided")
    assert num_looks(2000, PromotionConfig(max_samples=8000)) == 3
    assert num_looks(2000, PromotionConfig(max_samples=7999)) == 2
    assert num_looks(9000, PromotionConfig(max_samples=8000)) == 1


def scores(modality: str = "image", **values: tuple[float, float, float]) -> Scores:
    kept = {
        name: Score(value=value, low=low, high=high, contract={"n": 100})
        for name, (value, low, high) in values.items()
    }
    return Scores(checkpoint_digest="c", modality=modality, primary="fd", values=kept)


@pytest.mark.parametrize(
    ("mine", "state", "outcome"),
    [
        ((0.80, 0.79, 0.81), "holds", "promote"),
        ((0.60, 0.59, 0.61), "fails", "keep"),
        ((0.76, 0.70, 0.82), "unsure", "undecided"),
    ],
)
def test_a_guard_keeps_a_better_distance_back(
    mine: tuple[float, float, float], state: str, outcome: str
) -> None:
    theirs = scores(coverage=(0.81, 0.80, 0.82))
    guards = guards_of(scores(coverage=mine), theirs, FREE, CONFIG)
    assert guards[0].state == state
    ruling = judge(paired(-2, 0.1), guards, CONFIG)
    assert ruling.outcome == outcome
    assert ("coverage" in " ".join(ruling.reasons)) == (state != "holds")


@pytest.mark.parametrize(
    ("mine", "theirs", "why"),
    [
        ({}, {"coverage": (0.8, 0.79, 0.81)}, "the version has no such score"),
        ({"coverage": (0.8, 0.79, 0.81)}, {}, "the champion has no such score"),
    ],
)
def test_a_score_that_one_of_them_lacks_leaves_its_guard_unsure(
    mine: dict[str, Any], theirs: dict[str, Any], why: str
) -> None:
    guards = guards_of(scores(**mine), scores(**theirs), FREE, CONFIG)
    ruling = judge(paired(-2, 0.1), guards, CONFIG)
    assert (guards[0].state, ruling.outcome) == ("unsure", "undecided")
    assert f"coverage cannot be compared ({why})" in ruling.reasons[1]
    assert Ruling.model_validate_json(ruling.model_dump_json()) == ruling


def test_scores_under_unequal_contracts_leave_their_guard_unsure() -> None:
    mine = scores("text", repetition_4=(0.1, 0.09, 0.11))
    other = mine.values["repetition_4"].model_copy(update={"contract": {"n": 50}})
    theirs = mine.model_copy(update={"values": {"repetition_4": other}})
    guard = guards_of(mine, theirs, FREE, CONFIG)[0]
    assert (guard.state, guard.unequal) == ("unsure", "the evaluation conditions differ in n")


def test_where_lower_is_better_more_is_worse() -> None:
    mine, theirs = scores(near_duplicates=(0.3, 0.29, 0.31)), scores(near_duplicates=(0, 0, 0.01))
    assert guards_of(mine, theirs, FREE, CONFIG)[0].state == "fails"
    assert guards_of(theirs, mine, FREE, CONFIG)[0].state == "holds"


SLOW = SamplingCosts(slowdown=9, low=8, high=10, operations=9.0)


@pytest.mark.parametrize("costs", [Costs(sampling=SLOW, growth=1), Costs(sampling=SAME, growth=9)])
def test_a_slower_or_larger_model_is_kept_back(costs: Costs) -> None:
    guards = guards_of(scores(), scores(), costs, CONFIG)
    assert judge(paired(-2, 0.1), guards, CONFIG).outcome == "keep"


def test_a_time_that_a_busy_machine_blurs_is_a_persons_to_judge() -> None:
    blurred = SamplingCosts(slowdown=2.5, low=0.8, high=4, operations=1.0)
    guards = guards_of(scores(), scores(), Costs(sampling=blurred, growth=1), CONFIG)
    ruling = judge(paired(-2, 0.1), guards, CONFIG)
    assert ruling.outcome == "undecided"
    assert "sampling time (1 times the operations)" in ruling.reasons[1]
    assert "2.5 against 1: worse by 2.5 (0.8 to 4)" in ruling.reasons[1]


def draws(generator: np.random.Generator, num: int, shift: float) -> NDArray[np.float64]:
    return generator.standard_normal((num, 8)) + shift


def test_the_paired_error_is_that_of_repeated_draws() -> None:
    generator = np.random.default_rng(0)
    reference = Gaussian.of_features(draws(generator, 4000, 0.0))
    gaps, errors = [], []
    for _ in range(60):
        mine, theirs = draws(generator, 200, 0.5), draws(generator, 200, 0.4)
        a, b, error, freedom = paired_error(mine, theirs, reference)
        gaps.append(a - b)
        errors.append(error)
    assert freedom == 19
    assert np.mean(errors) == pytest.approx(np.std(gaps), rel=0.3)


def test_what_two_models_share_is_no_noise() -> None:
    generator = np.random.default_rng(0)
    reference = Gaussian.of_features(draws(generator, 4000, 0.0))
    mine = draws(generator, 200, 0.5)
    a, b, error, _ = paired_error(mine, mine.copy(), reference)
    assert (a - b, error) == (0.0, 0.0)
    _, _, alone, _ = paired_error(mine, draws(generator, 200, 0.5), reference)
    _, _, shared, _ = paired_error(mine, mine + 0.01, reference)
    assert shared < alone / 5


def test_the_ratio_error_is_that_of_repeated_draws() -> None:
    generator = np.random.default_rng(0)
    gaps, errors = [], []
    for _ in range(200):
        lengths = generator.integers(5, 50, size=100).astype(float)
        mine = lengths * generator.uniform(1, 3, size=100)
        theirs = mine + lengths * generator.normal(0.1, 0.5, size=100)
        gaps.append((mine.sum() - theirs.sum()) / lengths.sum())
        errors.append(paired_ratio_error(mine, theirs, lengths))
    assert np.mean(errors) == pytest.approx(np.std(gaps), rel=0.2)
