"""Limits of guards come from the modalities; configs and packets with the former names are read."""

from collections.abc import Mapping
from typing import Any

import pytest
from pydantic import ValidationError

from aigc_ops.core.artifacts import DatasetRef
from aigc_ops.core.errors import ConfigError
from aigc_ops.data import DataConfig
from aigc_ops.evaluation import EvaluationConfig
from aigc_ops.interfaces.discovery import find_modality
from aigc_ops.interfaces.guard import Guard
from aigc_ops.promotion import config as module
from aigc_ops.promotion.config import PromotionConfig
from aigc_ops.promotion.gate import Ruling
from aigc_ops.promotion.stage import PromotionContext

FORMER = {
    "max_coverage_loss": 0.2,
    "max_agreement_loss": 0.1,
    "max_spread_loss": 0.3,
    "max_duplicates_gain": 0.25,
    "max_repetition_gain": 0.5,
    "max_forgetting": 1.5,
}
PRESENT = {
    "coverage": 0.2,
    "label_agreement": 0.1,
    "class_spread": 0.3,
    "near_duplicates": 0.25,
    "repetition_4": 0.5,
    "general_bits_per_byte": 1.5,
}


def test_every_guard_of_every_modality_has_a_limit() -> None:
    guards = {**find_modality("image").guards, **find_modality("text").guards}
    limits = PromotionConfig().guards.model_dump()
    assert limits == {name: guard.limit for name, guard in guards.items()}
    assert limits.keys() == PRESENT.keys()
    descriptions = {
        name: info.description for name, info in module.GuardLimits.model_fields.items()
    }
    assert descriptions == {name: guard.description for name, guard in guards.items()}


def test_limits_by_their_former_names_are_those_of_today() -> None:
    assert PromotionConfig(**FORMER) == PromotionConfig(guards=PRESENT)
    assert PromotionConfig(max_forgetting=2).guards.model_dump()["general_bits_per_byte"] == 2


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"max_coverage_loss": 1.5}, "less than or equal to 1"),
        ({"guards": {"repetition_4": -0.1}}, "greater than or equal to 0"),
        ({"guards": {"covrage": 0.1}}, "covrage"),
        ({"max_coverage_loss": 0.1, "guards": {"coverage": 0.1}}, "give only guards.coverage"),
    ],
)
def test_a_limit_out_of_bounds_or_given_twice_is_refused(
    values: Mapping[str, Any], message: str
) -> None:
    with pytest.raises(ValidationError, match=message):
        PromotionConfig(**values)


def test_two_modalities_cannot_guard_the_same_score_differently(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    other = Guard(higher_is_better=False, limit=0.5, description="Another one.")
    monkeypatch.setattr(type(find_modality("text")), "guards", {"coverage": other})
    with pytest.raises(ConfigError, match="modality text has a guard 'coverage'"):
        module._limits()


@pytest.mark.parametrize(
    ("evaluation", "promotion", "digest"),
    [
        ({}, {}, "0a4f208d136183d84fb2742a7cc048f623b435fe7f0a464afdd9b2468a0a6316"),
        (
            {
                "num_samples": 32,
                "num_reference": 32,
                "input_size": 32,
                "extractor": "backbone",
                "backbone": {"weights": "w.pth", "architecture": "resnet50", "mean": [0, 0, 0]},
            },
            {"approval": "automatic", "max_coverage_loss": 0.2, "max_samples": 16},
            "9a872a041d6f298da2e40dc2c0844b5ea038fe30f05156d6a050b0c0e095c0fc",
        ),
        (
            {
                "num_texts": 8,
                "text_extractor": None,
                "general_path": "g.txt",
                "num_beginnings": 0,
                "device": "cpu",
            },
            {
                "max_repetition_gain": 0.5,
                "max_forgetting": 1.0,
                "max_spread_loss": 0.3,
                "max_duplicates_gain": 0.2,
                "max_agreement_loss": 0.1,
                "cost_per_hour": 2.5,
            },
            "8436820d3ceab3152c38620063707206dfcc233597eb1b382a6bb3325a336464",
        ),
    ],
)
def test_a_review_that_was_suspended_before_there_were_sections_still_counts(
    evaluation: dict[str, Any], promotion: dict[str, Any], digest: str
) -> None:
    """The digests are those that commit e686a90 stored beside packets."""
    ref = DatasetRef(uri="d", modality="image", content_digest="d" * 64, num_train=9, num_heldout=1)
    setting = PromotionContext(
        ref,
        DataConfig(path="d"),
        EvaluationConfig(**evaluation),
        PromotionConfig(**promotion),
        seed=0,
    )
    assert setting.digest(None) == digest
    limits = {"coverage": 0.4321}
    other = setting.promotion.with_section("guards", **limits)
    assert (
        PromotionContext(ref, setting.data, setting.evaluation, other, seed=0).digest(None)
        != digest
    )


def test_a_packet_with_former_names_is_read() -> None:
    ruling = {
        "outcome": "keep",
        "reasons": ["surely not better"],
        "guards": [
            {
                "name": "coverage",
                "candidate": 0.5,
                "champion": 0.8,
                "worse": 0.3,
                "low": 0.2,
                "high": 0.4,
                "limit": 0.05,
                "setting": "max_coverage_loss",
                "unequal": None,
            }
        ],
        "looks": 2,
        "num": 4000,
    }
    (guard,) = Ruling.model_validate(ruling).guards
    assert (guard.state, guard.setting) == ("fails", "max_coverage_loss")
    policy = {"approval": "review", "reviewers": 2, "max_samples": 8000, **FORMER}
    assert PromotionConfig.model_validate(policy).guards.model_dump() == PRESENT
