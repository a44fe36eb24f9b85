"""When scores show copying of training data, and when nothing was looked at."""

import pytest

from aigc_ops.core.artifacts import Score, Scores
from aigc_ops.promotion.config import PromotionConfig
from aigc_ops.promotion.gate import Ruling
from aigc_ops.promotion.validity import (
    first_version_ruling,
    memorisation_reason,
    with_unexamined,
)

PROMOTE = Ruling(outcome="promote", reasons=("significantly better",))


def scores(modality: str = "text", **values: tuple[float, float, float, int]) -> Scores:
    return Scores(
        checkpoint_digest="0" * 64,
        modality=modality,
        primary="bits_per_byte",
        values={
            name: Score(value=value, low=low, high=high, contract={"n": n})
            for name, (value, low, high, n) in values.items()
        },
    )


@pytest.mark.parametrize("num_heldout", [10, 38, 300])
def test_texts_that_repeat_training_texts_are_found_at_any_number_of_held_out_texts(
    num_heldout: int,
) -> None:
    found = scores(
        train_overlap_8=(0.755, 0.7, 0.8, 300), real_train_overlap_8=(0, 0, 0, num_heldout)
    )
    reason = memorisation_reason(found, PromotionConfig())
    assert reason is not None
    assert "its train_overlap_8 is 75.5% (70.0% to 80.0%), against 0.0%" in reason


@pytest.mark.parametrize("num_heldout", [10, 38, 300])
@pytest.mark.parametrize("share", [0.0, 0.3])
def test_as_much_overlap_as_that_of_held_out_texts_accuses_nobody(
    num_heldout: int, share: float
) -> None:
    width = 0.02
    found = scores(
        train_overlap_8=(share + width, share + 0.01, share + 2 * width, 300),
        real_train_overlap_8=(share, share, share + width, num_heldout),
    )
    assert memorisation_reason(found, PromotionConfig()) is None


def test_exact_copies_of_images_are_found_without_a_control() -> None:
    found = scores("image", exact_copies=(0.5, 0.4, 0.6, 64))
    assert memorisation_reason(found, PromotionConfig()) is None
    found = scores("image", exact_copies=(0.5, 0.4, 0.6, 64), real_exact_copies=(0, 0, 0.1, 12))
    assert "repeats training data" in str(memorisation_reason(found, PromotionConfig()))


def test_what_was_not_examined_is_asked_of_a_person_and_says_what_would_help() -> None:
    asked = with_unexamined(PROMOTE, scores(), PromotionConfig())
    assert asked.outcome == "undecided"
    assert asked.reasons[0].startswith("copies were not examined: verbatim memorisation is")
    assert "data.heldout_fraction" in asked.reasons[0]
    allowed = with_unexamined(PROMOTE, scores(), PromotionConfig(unexamined="allow"))
    assert allowed.outcome == "promote"
    assert "which promotion.unexamined allows" in allowed.reasons[-1]
    examined = scores(copies_in_continuations=(0, 0, 0.02, 300))
    assert with_unexamined(PROMOTE, examined, PromotionConfig()) == PROMOTE
    kept = PROMOTE.model_copy(update={"outcome": "keep"})
    assert with_unexamined(kept, scores(), PromotionConfig()).outcome == "keep"


def test_the_setting_at_its_default_changes_no_digest() -> None:
    assert "unexamined" not in PromotionConfig().stable_dump()
    assert PromotionConfig(unexamined="allow").stable_dump()["unexamined"] == "allow"


def test_a_check_that_finds_too_few_planted_copies_has_examined_nothing() -> None:
    copies = (0.01, 0.005, 0.02, 1000)
    weak = scores("image", copies_in_pixels=copies, copy_power=(0.3, 0.2, 0.4, 64))
    asked = with_unexamined(PROMOTE, weak, PromotionConfig())
    assert asked.outcome == "undecided"
    assert "only 30% of planted copies of training data were found" in asked.reasons[0]
    strong = scores("image", copies_in_pixels=copies, copy_power=(0.6, 0.5, 0.7, 64))
    assert with_unexamined(PROMOTE, strong, PromotionConfig()) == PROMOTE
    assert with_unexamined(PROMOTE, weak, PromotionConfig(min_copy_power=0.2)) == PROMOTE


def test_where_held_out_data_counts_as_copies_as_well_more_is_allowed() -> None:
    def related(expected: float) -> Scores:
        contract = {"n": 1000, "expected": expected}
        copies = Score(value=0.08, low=0.065, high=0.1, contract=contract)
        return scores("image").model_copy(update={"values": {"copies_in_aligned": copies}})

    assert memorisation_reason(related(0.06), PromotionConfig()) is None
    assert "copies training data" in str(memorisation_reason(related(0.01), PromotionConfig()))


def test_a_first_version_must_beat_the_trivial_baseline() -> None:
    worse = scores(bits_per_byte=(2.6, 2.5, 2.7, 100), baseline_bits_per_byte=(2.4, 2.3, 2.5, 100))
    asked = first_version_ruling(worse, "notes", PromotionConfig())
    assert asked.outcome == "keep"
    assert "2.6 (2.5 to 2.7) does not beat the trivial baseline's 2.4" in asked.reasons[0]
    unsure = scores(bits_per_byte=(2.5, 2.3, 2.7, 100), baseline_bits_per_byte=(2.4, 2.3, 2.5, 100))
    assert first_version_ruling(unsure, "notes", PromotionConfig()).outcome == "undecided"
    allowed = first_version_ruling(worse, "notes", PromotionConfig(first_version_floor=False))
    assert allowed.outcome == "promote"
    assert "which promotion.first_version_floor allows" in allowed.reasons[1]
    better = scores(bits_per_byte=(2.2, 2.1, 2.3, 100), baseline_bits_per_byte=(2.4, 2.3, 2.5, 100))
    assert first_version_ruling(better, "notes", PromotionConfig()).outcome == "promote"


def test_a_first_version_that_is_collapsed_is_not_promoted_by_itself() -> None:
    collapsed = scores("image", coverage=(0, 0, 0, 500), near_duplicates=(1, 1, 1, 500))
    asked = first_version_ruling(collapsed, "digits", PromotionConfig())
    assert asked.outcome == "keep"
    assert asked.reasons[0].startswith("it is collapsed: all samples are near duplicates")
