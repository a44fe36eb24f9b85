"""The promote stage over real models: what is weighed anew, what is not, what is a person's."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from aigc_ops.core.artifacts import ModelVersion, Score, Scores, Verdict
from aigc_ops.core.errors import DecisionError
from aigc_ops.core.state_dir import home
from aigc_ops.modalities.image.extractors.base import Extractor
from aigc_ops.pipeline import chain
from aigc_ops.pipeline.run_config import RunConfig, parse_config
from aigc_ops.promotion import stage
from aigc_ops.promotion.review import approve, rollback
from aigc_ops.registry.client import connect
from aigc_ops.registry.evidence import read_packet
from aigc_ops.registry.resolution import STORED_FOLDER
from aigc_ops.registry.versions import SCORES_TAG, champion, read_scores
from tests.flows.conftest import write_images
from tests.registry.conftest import crown, stored_models

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*fewer than the extractor's:UserWarning"),
    pytest.mark.usefixtures("folded_once"),
]


def made(
    images: Path, seed: int, num: int = 8, steps: int = 2, **promotion: Any
) -> tuple[ModelVersion, Verdict]:
    """A version trained, scored on `num` samples, registered and weighed."""
    config = config_of(images, seed, num, steps, **promotion)
    dataset = chain.open_data(config)
    checkpoint = chain.train_stage(config, dataset)
    scores = chain.evaluate_stage(config, dataset, checkpoint)
    version = chain.register_stage(config, dataset, checkpoint, scores)
    return version, chain.promote_stage(config, dataset, version)


def weighed(
    images: Path, version: ModelVersion, seed: int, num: int = 8, steps: int = 2, **promotion: Any
) -> Verdict:
    """The verdict on a version that was made under these settings, weighed once more."""
    config = config_of(images, seed, num, steps, **promotion)
    return chain.promote_stage(config, chain.open_data(config), version)


def config_of(images: Path, seed: int, num: int, steps: int, **promotion: Any) -> RunConfig[Any]:
    return parse_config(
        {
            "name": "pets",
            "seed": seed,
            "data": {"path": str(images)},
            "model": {"family": "gan", "latent_dim": 4, "generator_width": 4, "critic_width": 4},
            "training": {"steps": steps, "batch_size": 8, "log_every": 100},
            "evaluation": {"num_reference": 8, "image": {"num_samples": num, "input_size": 32}},
            "promotion": {"max_samples": 16, **promotion},
        },
        source="the test",
    )


NEVER = 1e-20
"""A rate so low that bounds are infinite: whatever the two models drew, nothing is sure."""
LENIENT = {
    "approval": "automatic",
    "unexamined": "allow",
    "first_version_floor": False,
    "false_promotion_rate": 0.2,
    "max_slowdown": 1e6,
    "guards": {"coverage": 1, "near_duplicates": 1, "label_agreement": 1, "class_spread": 1},
}
"""Under which the distance alone decides, and a GAN of 60 steps surely beats one of 2."""


def test_the_stage_weighs_once_compares_equals_and_leaves_doubt_to_a_person(
    tmp_path: Path, store: Path
) -> None:
    images = write_images(tmp_path / "images")
    first, waiting = made(images, 0, first_version_floor=False)
    [champions] = stored_models(store)
    assert (waiting.waiting, waiting.champion) == (True, None)
    again = made(images, 0, first_version_floor=False)[1]
    assert again.packet_digest == waiting.packet_digest  # the same evidence, the same packet
    crown(first)
    assert weighed(images, first, 0).reasons == ("it is the champion already",)

    second, verdict = made(images, 1, num=16)
    packet = read_packet(second).content
    assert verdict.champion == first
    (decides,) = [row for row in packet["scores"] if row["decides"]]
    assert decides["unequal"] == []  # the champion had been scored on 8
    assert decides["champion"]["contract"]["n"] == decides["candidate"]["contract"]["n"] == 16
    assert {row["name"] for row in packet["changed"]["config"]} == {
        "seed",
        "evaluation.image.num_samples",
        "promotion.first_version_floor",
    }

    unsure, looked = made(images, 3, min_improvement=0, false_promotion_rate=NEVER)
    packet = read_packet(unsure).content
    assert (looked.gate, looked.waiting) == ("undecided", True)
    assert (packet["ruling"]["looks"], packet["ruling"]["num"]) == (2, 16)
    (decides,) = [row for row in packet["scores"] if row["decides"]]
    sides = [decides[side]["contract"]["n"] for side in ("candidate", "champion")]
    assert (sides, decides["unequal"]) == ([16, 16], [])

    weights = champions / STORED_FOLDER / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + b"\xff")
    shutil.rmtree(home() / "cache" / "models")
    anew = {"max_growth": 5}  # other settings, which the packet of before says nothing on
    doubtful = weighed(images, second, 1, num=16, **anew)
    assert (doubtful.gate, doubtful.waiting) == ("undecided", True)
    assert "version 1, cannot be evaluated here" in doubtful.reasons[0]
    weights.write_bytes(whole)  # restored, it is judged
    assert "lower is better" in weighed(images, second, 1, num=16, **anew).reasons[0]

    shutil.rmtree(champions)  # and now it is gone
    shutil.rmtree(home() / "cache" / "models")
    doubtful = weighed(images, second, 1, num=16, max_growth=6)
    assert (doubtful.gate, doubtful.waiting) == ("undecided", True)
    assert "version 1, cannot be evaluated here: downloading models:/pets/1" in doubtful.reasons[0]
    assert approve(second, who="Ann", reason="the champion is lost").promoted


def test_a_first_version_below_the_baseline_is_held_back_and_a_person_may_approve_it(
    tmp_path: Path,
) -> None:
    version, verdict = made(write_images(tmp_path / "images"), 0, unexamined="allow")
    assert (verdict.gate, verdict.alias, verdict.waiting) == ("keep", None, False)
    assert "does not beat the trivial baseline" in verdict.reasons[0]
    assert approve(version, who="Ann", reason="a try").promoted


def test_a_second_look_draws_the_new_samples_alone_and_names_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    images = write_images(tmp_path / "images")
    first, _ = made(images, 0, num=64)
    crown(first)
    passes: list[tuple[str, int]] = []
    features = Extractor.features

    def counted(self: Extractor, samples: Any, *, what: str) -> Any:
        passes.append((what, len(samples)))
        return features(self, samples, what=what)

    settings = {"min_improvement": 0, "false_promotion_rate": NEVER, "max_samples": 128}
    config = config_of(images, 1, 64, 2, **settings)
    dataset = chain.open_data(config)
    checkpoint = chain.train_stage(config, dataset)
    scores = chain.evaluate_stage(config, dataset, checkpoint)
    version = chain.register_stage(config, dataset, checkpoint, scores)
    monkeypatch.setattr(Extractor, "features", counted)
    capsys.readouterr()
    chain.promote_stage(config, dataset, version)
    found = read_packet(version).content
    assert (found["ruling"]["looks"], found["ruling"]["num"]) == (2, 128)
    drawn = [each for each in passes if each[0] in ("the samples", "the baseline")]
    # The champion was drawn with the seed of its own run, so its first look is new.
    assert sorted(drawn) == [("the baseline", 64)] + [("the samples", 64)] * 3
    shown = capsys.readouterr().err
    for subject in ("look 1 of 2, version 1", "look 2 of 2, version 1", "look 2 of 2, version 2"):
        assert f"{subject}: sample:" in shown, shown
        assert f"{subject}: features of the samples:" in shown, shown
    passes.clear()
    weighed(images, version, 1, num=64, **{**settings, "max_growth": 5})
    assert [each for each in passes if each[0] == "the samples"] == []
    # Without what was kept, the packet has the same numbers to the last bit.
    shutil.rmtree(home() / "cache" / "samples")
    weighed(images, version, 1, num=64, **{**settings, "max_growth": 6})
    assert [each for each in passes if each[0] == "the samples"] != []
    anew = read_packet(version).content
    assert anew["scores"] == found["scores"]
    assert anew["ruling"]["reasons"][0] == found["ruling"]["reasons"][0]


def test_a_version_whose_copies_were_not_examined_waits_for_a_person(tmp_path: Path) -> None:
    images = write_images(tmp_path / "images")
    _, verdict = made(images, 0, **{**LENIENT, "unexamined": "ask"})
    assert (verdict.gate, verdict.promoted, verdict.waiting) == ("undecided", False, True)
    assert verdict.reasons[0].startswith("copies were not examined: altered copies of training")
    assert "data.heldout_fraction" in verdict.reasons[0]


def test_a_champion_scored_before_a_guard_existed_is_evaluated_anew(tmp_path: Path) -> None:
    images = write_images(tmp_path / "images")
    verdict = made(images, 0, **LENIENT)[1]
    assert "copies were not examined, which promotion.unexamined allows" in verdict.reasons[-1]
    client = connect()
    stored = read_scores(client.get_model_version("pets", "1").tags)
    assert stored is not None
    older = stored.values["coverage"].model_copy(update={"contract": {"n": 5}})
    values = {k: v for k, v in stored.values.items() if k != "near_duplicates"}
    before = stored.model_copy(update={"values": {**values, "coverage": older}})
    client.set_model_version_tag("pets", "1", SCORES_TAG, before.model_dump_json())
    second, _ = made(images, 1, **LENIENT)
    guards = read_packet(second).content["ruling"]["guards"]
    assert {"coverage", "near_duplicates"} <= {guard["name"] for guard in guards}
    assert [guard["unequal"] for guard in guards] == [None] * len(guards)
    (row,) = [r for r in read_packet(second).content["scores"] if r["name"] == "coverage"]
    assert row["unequal"] == []


def test_weighing_anew_keeps_the_packets_own_policy(tmp_path: Path) -> None:
    from flows.promotion import _evaluate

    images = write_images(tmp_path / "images")
    version, _ = made(images, 0)
    config = config_of(images, 0, 8, 2, reviewers=2, min_improvement=0.5)
    chain.promote_stage(config, chain.open_data(config), version)
    assert _evaluate(version, times=2).waiting
    policy = read_packet(version).content["promotion"]
    assert (policy["reviewers"], policy["min_improvement"]) == (2, 0.5)
    assert policy["max_samples"] == 2 * config.promotion.max_samples


def test_copying_that_only_more_samples_show_keeps_a_version_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = write_images(tmp_path / "images")
    made(images, 0, **LENIENT)
    evaluated = stage._evaluate_quietly

    def copying(*arguments: Any, **named: Any) -> Scores:
        scores = evaluated(*arguments, **named)
        copies = Score(value=0.5, low=0.4, high=0.6, contract={})
        return scores.model_copy(update={"values": {**scores.values, "copies_in_pixels": copies}})

    monkeypatch.setattr(stage, "_evaluate_quietly", copying)
    _, verdict = made(images, 1, **{**LENIENT, "false_promotion_rate": NEVER, "min_improvement": 0})
    assert (verdict.gate, verdict.promoted, verdict.waiting) == ("keep", False, False)
    assert "copies_in_pixels is 50.0% (40.0% to 60.0%), significantly above" in verdict.reasons[0]


def test_a_first_version_that_is_not_valid_is_kept_back_with_its_packet(tmp_path: Path) -> None:
    images = write_images(tmp_path / "images")
    version, _ = made(images, 0)
    client = connect()
    stored = read_scores(client.get_model_version("pets", "1").tags)
    assert stored is not None
    copies = Score(value=0.5, low=0.4, high=0.6, contract={})
    values = {**stored.values, "copies_in_pixels": copies}
    copied = stored.model_copy(update={"values": values})
    client.set_model_version_tag("pets", "1", SCORES_TAG, copied.model_dump_json())
    config = config_of(images, 0, 8, 2, **LENIENT)
    verdict = chain.promote_stage(config, chain.open_data(config), version)
    assert (verdict.gate, verdict.promoted, verdict.champion) == ("keep", False, None)
    assert "it copies training data" in verdict.reasons[0]
    assert read_packet(version).content["ruling"]["outcome"] == "keep"


def test_a_rollback_is_not_undone_by_the_next_run_of_the_same_version(tmp_path: Path) -> None:
    images = write_images(tmp_path / "images")
    first, _ = made(images, 0, num=16, **LENIENT)
    second, verdict = made(images, 0, num=16, steps=60, **LENIENT)
    assert (verdict.promoted, verdict.gate) == (True, "promote")
    rollback("pets", None, who="Ann", reason="complaints")
    settings = {"num": 16, "steps": 60, **LENIENT}
    assert made(images, 0, **settings)[0] == second
    for _ in range(2):
        again = weighed(images, second, 0, **settings)
        assert (again.promoted, again.waiting, again.champion) == (False, False, first)
        assert again.reasons[0] == "rolled back from by Ann on this evidence: complaints"
    with pytest.raises(DecisionError, match="rolled back from by Ann on this evidence"):
        approve(second, who="Bob", reason="it was better")
    for _ in range(2):  # other settings make another packet, which a person must look at
        anew = weighed(images, second, 0, **{**settings, "max_growth": 5})
        assert (anew.gate, anew.promoted, anew.waiting) == ("promote", False, True)
        assert anew.champion == champion("pets") == first
        assert anew.reasons[0] == "Ann rolled back from it (complaints): a person decides"
    rollback("pets", 2, who="Bob", reason="it was the network")
    assert weighed(images, second, 0, **settings).champion == second
