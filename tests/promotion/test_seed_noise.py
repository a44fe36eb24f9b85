"""Whether a version beats the luck of a seed: the interval, the policy, and the trainings found."""

import math
from pathlib import Path

import numpy as np
import pytest

from aigc_ops.core.artifacts import ModelVersion, Score, Scores
from aigc_ops.interfaces.evaluation import Paired
from aigc_ops.pipeline import chain
from aigc_ops.promotion.config import PromotionConfig
from aigc_ops.promotion.gate import Outcome, Ruling, with_seed_noise
from aigc_ops.promotion.seed_noise import SeedNoise, seed_noise
from aigc_ops.registry.client import connect
from aigc_ops.registry.evidence import read_packet
from aigc_ops.registry.trainings import Training, trainings_like
from aigc_ops.registry.versions import CONFIG_KEY_TAG, SCORES_TAG, read_scores
from aigc_ops.statistics.intervals import prediction_interval
from aigc_ops.training.config import run_key
from tests.flows.conftest import write_images
from tests.promotion.test_stage import LENIENT, config_of, made, weighed
from tests.registry.conftest import crown

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*fewer than the extractor's:UserWarning"),
    pytest.mark.usefixtures("folded_once"),
]
RATE = 0.05


def noise_of(values: list[float], candidate: float, champion: float) -> SeedNoise:
    """The champion is the first of the trainings; the comparison has values of its own."""
    trainings = [Training(version=i + 1, seed=i, value=value) for i, value in enumerate(values)]
    paired = Paired("fd", candidate, champion, 0.1, 19, 100)
    return seed_noise(trainings, 1, paired, level=1 - RATE)


def ruled(noise: SeedNoise, better_than: str, outcome: Outcome = "promote") -> Ruling:
    ruling = Ruling(outcome=outcome, reasons=("significantly better",), num=100)
    return with_seed_noise(ruling, noise, PromotionConfig(better_than=better_than))


FIVE = [10.0, 10.5, 9.5, 10.2, 9.8]


@pytest.mark.parametrize(
    ("values", "candidate", "policy", "outcome", "words"),
    [
        (FIVE, 9.4, "champion", "promote", "from 5 trainings): this difference is within it"),
        (FIVE, 5.0, "champion", "promote", "from 5 trainings): this difference is beyond it"),
        (FIVE, 9.4, "seed_noise", "keep", "this difference is within it (promotion.better_than"),
        (FIVE, 5.0, "seed_noise", "promote", "this difference is beyond it"),
        (FIVE, 20.0, "seed_noise", "keep", "this difference is beyond it, on the worse side"),
        (FIVE[:4], 5.0, "seed_noise", "undecided", "only 4 trainings, 5 are needed"),
        (FIVE[:4], 5.0, "champion", "promote", "only 4 trainings, 5 are needed"),
        (FIVE[:1], 5.0, "seed_noise", "undecided", "is not known: only 1 training, 5 are needed"),
        ([], 5.0, "champion", "promote", "is not known: only 0 trainings"),
    ],
)
def test_a_version_must_be_better_than_another_seed_where_the_policy_says_so(
    values: list[float], candidate: float, policy: str, outcome: str, words: str
) -> None:
    ruling = ruled(noise_of(values, candidate, 10.0), policy)
    assert ruling.outcome == outcome
    assert words in " ".join(ruling.reasons)
    decided = outcome != "promote"
    assert (words in ruling.reasons[0]) == decided
    assert Ruling.model_validate_json(ruling.model_dump_json()) == ruling
    assert ruled(noise_of(values, candidate, 10.0), policy, "keep").outcome == "keep"


def test_the_interval_is_that_of_the_comparison_not_of_the_stored_scores() -> None:
    few, many = noise_of(FIVE, 9.0, 10.0), noise_of(FIVE, 4.5, 5.0)  # of twice the samples
    assert few.low is not None
    assert many.low == pytest.approx(few.low / 2)
    logs = [math.log(value) for value in FIVE]
    low, high = prediction_interval(logs, 1 - RATE)
    assert (few.low, few.high) == pytest.approx((math.exp(low), math.exp(high)))
    signed = noise_of([-1.0, 1.0, 0.0, 2.0, -2.0], -9.0, -1.0)
    assert (signed.low, signed.high) == pytest.approx((-3.692467, 3.692467))


@pytest.mark.parametrize("num", [5, 20])
def test_another_seed_is_seldom_beyond_even_where_the_champion_was_the_best_of_all(
    num: int,
) -> None:
    generator = np.random.default_rng(0)
    promoted = naive = 0
    for _ in range(2000):
        values = np.exp(generator.normal(3, 0.09, size=num + 1))
        best = float(values[:num].min())
        candidate = float(values[num])
        trainings = sorted(values[:num].tolist())  # the champion first
        promoted += noise_of(trainings, candidate, best).is_beyond
        naive += candidate < best
    assert promoted / 2000 <= RATE + 0.01
    assert naive / 2000 > promoted / 2000


def test_a_prediction_interval_misses_as_often_as_its_level_says() -> None:
    generator = np.random.default_rng(1)
    draws = generator.normal(size=(4000, 6))
    below = [row[5] < prediction_interval(row[:5].tolist(), 0.9)[0] for row in draws]
    assert np.mean(below) == pytest.approx(0.1, abs=0.015)


def test_a_key_without_a_seed_is_that_of_all_seeds_and_of_no_other_config(tmp_path: Path) -> None:
    images = write_images(tmp_path / "images")
    first, second, other = (
        config_of(images, seed, 8, steps) for seed, steps in ((0, 2), (1, 2), (0, 3))
    )
    dataset = chain.open_data(first)

    def key(config: object, seed: int | None) -> str:
        return run_key(config.model, config.training, dataset, config.data, seed=seed)  # type: ignore[attr-defined]

    assert key(first, None) == key(second, None) != key(other, None)
    assert key(first, None) not in {key(first, 0), key(second, 1)}


def registered(images: Path, seed: int, **settings: int) -> ModelVersion:
    config = config_of(images, seed, settings.get("num", 16), settings.get("steps", 2))
    dataset = chain.open_data(config)
    checkpoint = chain.train_stage(config, dataset)
    scores = chain.evaluate_stage(config, dataset, checkpoint)
    return chain.register_stage(config, dataset, checkpoint, scores)


def test_trainings_of_the_champions_config_are_found_in_the_registry_and_decide(
    tmp_path: Path,
) -> None:
    images = write_images(tmp_path / "images")
    policy = {**LENIENT, "better_than": "seed_noise"}
    first = registered(images, 0)
    crown(first)
    longer, verdict = made(images, 0, num=16, steps=60, **policy)
    assert (verdict.gate, verdict.promoted, verdict.waiting) == ("undecided", False, True)
    assert "is not known: only 1 training, 5 are needed" in verdict.reasons[0]
    assert "a person decides" in verdict.reasons[0]
    again = weighed(images, longer, 0, num=16, steps=60, **policy)
    assert again.packet_digest == verdict.packet_digest  # nothing has been trained since

    registered(images, 1, num=8)  # under other evaluation conditions
    registered(images, 1, steps=3)  # of another config
    versions = [registered(images, seed).version for seed in (1, 2, 3, 4)]
    found = trainings_like(first)
    assert [each.version for each in found] == [first.version, *versions]
    assert [each.seed for each in found] == [0, 1, 2, 3, 4]
    decided = weighed(images, longer, 0, num=16, steps=60, **policy)
    packet = read_packet(longer).content
    noise = SeedNoise.model_validate(packet["ruling"]["seed_noise"])
    assert noise.trainings == found
    assert noise.is_beyond
    assert (decided.gate, decided.promoted) == ("promote", True)
    assert "from 5 trainings): this difference is beyond it" in decided.reasons[1]
    page = (Path(read_packet(longer).folder) / "packet.html").read_text()
    assert "Seeds of the champion&#39;s config" in page or "Seeds of the champion's config" in page
    assert f"<td>{versions[3]}</td><td>4</td>" in page


def test_only_comparable_and_whole_records_count(tmp_path: Path) -> None:
    images = write_images(tmp_path / "images")
    first, second = registered(images, 0), registered(images, 1)
    client = connect()
    assert len(trainings_like(first)) == 2
    tags = client.get_model_version("pets", str(second.version)).tags
    stored = read_scores(tags)
    assert stored is not None
    other = Score(value=1.0, low=0.0, high=2.0, contract={"n": 5})
    changed = Scores(**{**stored.model_dump(), "values": {stored.primary: other}})
    client.set_model_version_tag("pets", "2", SCORES_TAG, changed.model_dump_json())
    assert [each.version for each in trainings_like(first)] == [1]
    client.set_model_version_tag("pets", "2", SCORES_TAG, "not JSON")
    assert [each.version for each in trainings_like(first)] == [1]
    client.delete_model_version_tag("pets", "1", CONFIG_KEY_TAG)  # of an earlier release
    assert trainings_like(first) == ()
