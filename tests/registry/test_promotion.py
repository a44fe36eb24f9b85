"""Who becomes champion, why, and what is refused."""

import json
from pathlib import Path
from typing import Protocol

import pytest
from pydantic import ValidationError

from aigc_ops.artifacts import ModelVersion, Score
from aigc_ops.errors import CheckpointError, RegistryError
from aigc_ops.registry import promotion
from aigc_ops.registry.client import connect
from aigc_ops.registry.promotion import PromotionConfig, promote
from aigc_ops.registry.registration import register
from aigc_ops.registry.resolution import STORED_FOLDER
from aigc_ops.registry.versions import SCORES_TAG, VERDICT_TAG, champion, models
from tests.registry.conftest import MakeCheckpoint, scores_of, stored_models

CONFIG = PromotionConfig()


class Add(Protocol):
    def __call__(self, value: float, **contract: object) -> ModelVersion: ...


@pytest.fixture
def add(make_checkpoint: MakeCheckpoint) -> Add:
    """Registers one more version of `digits` with a score."""
    seeds = iter(range(100))

    def add(value: float, **contract: object) -> ModelVersion:
        checkpoint = make_checkpoint(next(seeds))
        return register(checkpoint, scores_of(checkpoint, value, **contract), name="digits")

    return add


def aliases() -> dict[int, tuple[str, ...]]:
    return {row.version: row.aliases for row in models()}


def test_the_first_valid_version_becomes_champion(add: Add) -> None:
    version = add(9)
    assert champion("digits") is None
    verdict = promote(version, config=CONFIG)
    assert (verdict.promoted, verdict.alias) == (True, "champion")
    assert verdict.champion == verdict.model == version == champion("digits")


def copying(make_checkpoint: MakeCheckpoint, seed: int, *, low: float) -> ModelVersion:
    """A version with a good score, of whose samples at least a share `low` are copies."""
    checkpoint = make_checkpoint(seed)
    scores = scores_of(checkpoint, 1)
    copies = Score(value=low + 0.02, low=low, high=low + 0.04, contract={"n": 500})
    values = {**scores.values, "copies_in_pixels": copies}
    return register(checkpoint, scores.model_copy(update={"values": values}), name="digits")


def test_a_version_that_copies_training_images_is_not_promoted(
    add: Add, make_checkpoint: MakeCheckpoint
) -> None:
    copycat = copying(make_checkpoint, 50, low=0.05)
    with pytest.raises(RegistryError, match=r"cannot become champion: .* copies training images"):
        promote(copycat, config=CONFIG)
    first = add(9)
    promote(first, config=CONFIG)
    verdict = promote(copycat, config=CONFIG)
    assert (verdict.promoted, verdict.champion) == (False, first)
    assert "copies_in_pixels is 7.0% (5.0% to 9.0%), surely above" in verdict.reasons[0]
    assert promote(copycat, config=PromotionConfig(max_copies=0.05)).promoted


def test_a_better_version_takes_the_place_and_a_worse_one_challenges(add: Add) -> None:
    first, worse, better = add(9), add(10), add(8)
    promote(first, config=CONFIG)
    refused = promote(worse, config=CONFIG)
    assert (refused.promoted, refused.alias, refused.champion) == (False, "challenger", first)
    assert refused.reasons == ("fd 10 >= 9 of version 1",)
    assert aliases() == {1: ("champion",), 2: ("challenger",), 3: ()}
    won = promote(better, config=CONFIG)
    assert (won.promoted, won.champion) == (True, better)
    assert won.reasons == ("fd 8 < 9 of version 1",)
    assert aliases() == {1: (), 2: ("challenger",), 3: ("champion",)}


def test_an_equal_score_does_not_take_the_place(add: Add) -> None:
    promote(add(9), config=CONFIG)
    assert not promote(add(9), config=CONFIG).promoted


def test_a_challenger_that_wins_is_no_challenger_any_more(add: Add) -> None:
    promote(add(9), config=CONFIG)
    version = add(8.5)
    assert not promote(version, config=PromotionConfig(min_improvement=0.1)).promoted
    assert aliases()[2] == ("challenger",)
    assert promote(version, config=CONFIG).promoted
    assert aliases() == {1: (), 2: ("champion",)}


def test_the_least_improvement_is_a_fraction_of_the_champions_score(add: Add) -> None:
    promote(add(10), config=CONFIG)
    config = PromotionConfig(min_improvement=0.05)
    verdict = promote(add(9.6), config=config)
    assert verdict.reasons == ("fd 9.6 >= 9.5 of version 1 (10 less 5.0%)",)
    assert promote(add(9.4), config=config).promoted


@pytest.mark.parametrize("bad", [-0.1, 1.0])
def test_a_least_improvement_out_of_bounds_is_refused(bad: float) -> None:
    with pytest.raises(ValidationError):
        PromotionConfig(min_improvement=bad)


def test_promoting_the_champion_again_changes_nothing(add: Add) -> None:
    version = add(9)
    promote(version, config=CONFIG)
    before = connect().get_model_version("digits", "1")
    verdict = promote(version, config=CONFIG)
    assert (verdict.promoted, verdict.reasons) == (True, ("it is the champion already",))
    assert dict(connect().get_model_version("digits", "1")) == dict(before)


def test_a_champion_whose_alias_was_deleted_by_hand_is_made_again(add: Add) -> None:
    first, worse = add(9), add(10)
    promote(first, config=CONFIG)
    connect().delete_registered_model_alias("digits", "champion")
    assert champion("digits") is None
    assert promote(first, config=CONFIG).champion == first
    connect().delete_registered_model_alias("digits", "champion")
    assert promote(worse, config=CONFIG).champion == worse


def test_scores_under_another_contract_are_not_compared_and_the_terms_are_named(add: Add) -> None:
    promote(add(9), config=CONFIG)
    verdict = promote(add(1, n=50, seed=7), config=CONFIG)
    assert not verdict.promoted
    assert verdict.reasons == ("fd is not comparable with version 1: n is 50, there 100",)
    assert promote(add(8, seed=7), config=CONFIG).promoted


def test_another_primary_metric_is_not_compared(add: Add) -> None:
    promote(add(9), config=CONFIG)
    verdict = promote(add(1, metric="kid"), config=CONFIG)
    assert verdict.reasons == ("judged by kid, the champion, version 1, by fd",)


def test_a_version_without_scores_is_no_first_champion_and_only_challenges_later(
    add: Add, make_checkpoint: MakeCheckpoint
) -> None:
    bare = register(make_checkpoint(77), None, name="digits")
    with pytest.raises(RegistryError, match="cannot become champion: it has no scores; evaluate"):
        promote(bare, config=CONFIG)
    assert aliases() == {1: ()}
    promote(add(9), config=CONFIG)
    verdict = promote(bare, config=CONFIG)
    assert (verdict.promoted, verdict.alias) == (False, "challenger")


def test_a_champion_without_scores_is_not_replaced_without_a_person(
    add: Add, make_checkpoint: MakeCheckpoint
) -> None:
    register(make_checkpoint(77), None, name="digits")
    connect().set_registered_model_alias("digits", "champion", "1")
    verdict = promote(add(1), config=CONFIG)
    assert not verdict.promoted
    assert "cannot be compared with: it has no scores" in verdict.reasons[0]


@pytest.mark.parametrize("value", ["NaN", "-Infinity"])
def test_a_score_that_someone_made_not_finite_never_wins(add: Add, value: str) -> None:
    promote(add(9), config=CONFIG)
    version = add(8.125)
    client = connect()
    tag = client.get_model_version("digits", "2").tags[SCORES_TAG]
    client.set_model_version_tag("digits", "2", SCORES_TAG, tag.replace("8.125", value))
    verdict = promote(version, config=CONFIG)
    assert not verdict.promoted
    assert "not a finite number" in verdict.reasons[0]


def test_the_reasons_are_kept_on_the_version_and_only_the_latest_in_its_card(add: Add) -> None:
    version = add(9)
    promote(version, config=CONFIG)
    promote(add(8), config=CONFIG)
    promote(version, config=CONFIG)
    entity = connect().get_model_version("digits", "1")
    assert json.loads(entity.tags[VERDICT_TAG]) == {
        "promoted": False,
        "alias": "challenger",
        "reasons": ["fd 9 >= 8 of version 2"],
    }
    assert entity.description.count("## Promotion") == 1
    assert entity.description.endswith("challenger: fd 9 >= 8 of version 2")


def test_a_version_damaged_in_the_store_is_refused(add: Add, store: Path) -> None:
    promote(add(9), config=CONFIG)
    version = add(8)
    for folder in stored_models(store):
        weights = folder / STORED_FOLDER / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-1] + b"\xff")
    with pytest.raises(CheckpointError, match="models:/digits/2 is damaged in MLflow's store"):
        promote(version, config=CONFIG)
    assert aliases() == {1: ("champion",), 2: ()}


def test_a_version_that_does_not_exist_is_refused(add: Add) -> None:
    version = add(9).model_copy(update={"version": 7})
    with pytest.raises(RegistryError, match="models:/digits/7 does not exist"):
        promote(version, config=CONFIG)


def test_a_promotion_killed_before_the_alias_moves_leaves_the_old_champion(
    add: Add, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, better = add(9), add(8)
    promote(first, config=CONFIG)
    client = connect()

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(client, "set_registered_model_alias", killed)
        patch.setattr(promotion, "connect", lambda: client)
        with pytest.raises(KeyboardInterrupt):
            promote(better, config=CONFIG)
    assert champion("digits") == first
    assert promote(better, config=CONFIG).champion == better == champion("digits")
