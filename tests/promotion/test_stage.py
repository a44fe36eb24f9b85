"""The promote stage over real models: what is weighed anew, what is not, what is a person's."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from aigc_ops import chain
from aigc_ops.artifacts import ModelVersion, Verdict
from aigc_ops.config import parse_config
from aigc_ops.errors import DecisionError
from aigc_ops.home import home
from aigc_ops.promotion.review import approve, rollback
from aigc_ops.registry.evidence import read_packet
from aigc_ops.registry.resolution import STORED_FOLDER
from aigc_ops.registry.versions import champion
from tests.flows.conftest import write_images
from tests.registry.conftest import crown, stored_models

pytestmark = pytest.mark.filterwarnings("ignore:.*fewer than the extractor's:UserWarning")


def made(
    images: Path, seed: int, num: int = 8, steps: int = 2, **promotion: Any
) -> tuple[ModelVersion, Verdict]:
    """A version trained, scored on `num` samples, registered and weighed."""
    config = parse_config(
        {
            "name": "pets",
            "seed": seed,
            "data": {"path": str(images)},
            "model": {"family": "gan", "latent_dim": 4, "generator_width": 4, "critic_width": 4},
            "training": {"steps": steps, "batch_size": 8},
            "evaluation": {"num_samples": num, "num_reference": 8, "input_size": 32},
            "promotion": {"max_samples": 16, **promotion},
        },
        source="the test",
    )
    dataset = chain.open_data(config)
    checkpoint = chain.train(config, dataset)
    scores = chain.evaluate(config, dataset, checkpoint)
    version = chain.register(config, dataset, checkpoint, scores)
    return version, chain.promote(config, dataset, version)


def test_the_stage_weighs_once_compares_equals_and_leaves_doubt_to_a_person(
    tmp_path: Path, store: Path
) -> None:
    images = write_images(tmp_path / "images")
    first, waiting = made(images, 0)
    assert (waiting.waiting, waiting.champion) == (True, None)
    again = made(images, 0)[1]
    assert again.packet_digest == waiting.packet_digest  # the same evidence, the same packet
    crown(first)
    assert made(images, 0)[1].reasons == ("it is the champion already",)

    second, verdict = made(images, 1, num=16)
    packet = read_packet(second).content
    assert verdict.champion == first
    (decides,) = [row for row in packet["scores"] if row["decides"]]
    assert decides["unequal"] == []  # the champion had been scored on 8
    assert decides["champion"]["contract"]["n"] == decides["candidate"]["contract"]["n"] == 16
    assert {row["name"] for row in packet["changed"]["config"]} == {
        "seed",
        "evaluation.num_samples",
    }

    unsure, looked = made(images, 3, min_improvement=0, false_promotion_rate=1e-12)
    packet = read_packet(unsure).content
    assert (looked.gate, looked.waiting) == ("undecided", True)
    assert (packet["ruling"]["looks"], packet["ruling"]["num"]) == (2, 16)
    (decides,) = [row for row in packet["scores"] if row["decides"]]
    sides = [decides[side]["contract"]["n"] for side in ("candidate", "champion")]
    assert (sides, decides["unequal"]) == ([16, 16], [])

    for folder in stored_models(store):
        weights = folder / STORED_FOLDER / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-1] + b"\xff")
    shutil.rmtree(home() / "cache" / "models")
    _, doubtful = made(images, 2)
    assert (doubtful.gate, doubtful.waiting) == ("undecided", True)
    assert "version 1, cannot be judged here" in doubtful.reasons[0]


LENIENT = {
    "approval": "automatic",
    "false_promotion_rate": 0.2,
    "max_slowdown": 1e6,
    "max_coverage_loss": 1,
    "max_duplicates_gain": 1,
    "max_agreement_loss": 1,
    "max_spread_loss": 1,
}
"""Under which the distance alone decides, and a GAN of 60 steps surely beats one of 2."""


def test_a_rollback_is_not_undone_by_the_next_run_of_the_same_version(tmp_path: Path) -> None:
    images = write_images(tmp_path / "images")
    first, _ = made(images, 0, num=16, **LENIENT)
    second, verdict = made(images, 0, num=16, steps=60, **LENIENT)
    assert (verdict.promoted, verdict.gate) == (True, "promote")
    rollback("pets", None, who="Ann", reason="complaints")
    for _ in range(2):
        again = made(images, 0, num=16, steps=60, **LENIENT)[1]
        assert (again.promoted, again.waiting, again.champion) == (False, False, first)
        assert again.reasons[0] == "rolled back from by Ann on this evidence: complaints"
    with pytest.raises(DecisionError, match="rolled back from by Ann on this evidence"):
        approve(second, who="Bob", reason="it was better")
    for _ in range(2):  # other settings make another packet, which a person must look at
        anew = made(images, 0, num=16, steps=60, **{**LENIENT, "max_growth": 5})[1]
        assert (anew.gate, anew.promoted, anew.waiting) == ("promote", False, True)
        assert anew.champion == champion("pets") == first
        assert anew.reasons[0] == "Ann rolled back from it (complaints): a person decides"
    rollback("pets", 2, who="Bob", reason="it was the network")
    assert made(images, 0, num=16, steps=60, **LENIENT)[1].champion == second
