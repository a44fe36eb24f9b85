"""Runs with canaries: the audit's outcome, no promotion, and nothing shared with other runs."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aigc_ops.core.artifacts import Checkpoint, ModelVersion, Scores, Verdict
from aigc_ops.core.atomic_dirs import read_provenance
from aigc_ops.core.errors import ConfigError, DecisionError, EvaluationError
from aigc_ops.evaluation.canaries import ACCURACY, EPSILON
from aigc_ops.interfaces.canaries import canaries_of
from aigc_ops.lineage import trace
from aigc_ops.pipeline import chain
from aigc_ops.pipeline.needs import require_stages
from aigc_ops.pipeline.run_config import RunConfig, parse_config
from aigc_ops.promotion.review import approve
from aigc_ops.registry import aliases
from aigc_ops.registry.client import connect
from aigc_ops.registry.evidence import read_packet
from aigc_ops.registry.versions import CHAMPION, champion

WORDS = ("red", "blue", "cat", "dog", "tree", "finds", "likes", "near")
NUM = 40


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    """A file of 230 short texts, one a line."""
    random = np.random.default_rng(0)
    lines = {" ".join(random.choice(WORDS, 4)) for _ in range(240)}
    path = tmp_path / "texts.txt"
    path.write_text("\n".join(sorted(lines)) + "\n")
    return path


def config_of(
    texts: Path, *, canaries: int = NUM, steps: int = 2, seed: int = 0, **training: Any
) -> RunConfig[Any]:
    model = {"family": "gpt", "tokenizer": "bytes", "context_length": 32, "num_layers": 1}
    model |= {"num_heads": 2, "width": 64, "dropout": 0, "optimizer": {"learning_rate": 3e-3}}
    return parse_config(
        {
            "name": "words",
            "seed": seed,
            "data": {"path": str(texts)},
            "model": model,
            "training": {"steps": steps, "batch_size": 16, **training},
            "evaluation": {
                "canaries": canaries,
                "text": {"extractor": None, "num_texts": 2, "num_beginnings": 0},
            },
            "promotion": {
                "approval": "automatic",
                "unexamined": "allow",
                "first_version_floor": False,
            },
            "packaging": {"enabled": False},
        },
        source="the test",
    )


def trained(config: RunConfig[Any]) -> tuple[Checkpoint, Scores]:
    dataset = chain.open_data(config)
    checkpoint = chain.train_stage(config, dataset)
    return checkpoint, chain.evaluate_stage(config, dataset, checkpoint)


def decided(config: RunConfig[Any]) -> tuple[ModelVersion, Verdict]:
    checkpoint, scores = trained(config)
    dataset = chain.open_data(config)
    version = chain.register_stage(config, dataset, checkpoint, scores)
    return version, chain.promote_stage(config, dataset, version)


def test_the_bound_is_above_0_for_an_overfitted_model_only(texts: Path, store: Path) -> None:
    brief, (_, overfitted) = trained(config_of(texts))[1], trained(config_of(texts, steps=300))
    assert brief.values[EPSILON].value == brief.values[EPSILON].low == 0
    assert brief.values[ACCURACY].low < 0.5 < brief.values[ACCURACY].high
    bound = overfitted.values[EPSILON]
    assert 0.5 < bound.value <= bound.high
    assert bound.contract["canaries"] == NUM
    assert overfitted.values[ACCURACY].low > 0.5
    # Every number is in the report, with its meaning.
    page = Path(str(overfitted.report_uri)).read_text()
    text = f"Of {bound.contract['n']} guesses of which, {bound.contract['right']} are right"
    assert text in page
    assert f"epsilon is at least {bound.value:.2f}" in page
    assert "The model reveals which data it was trained on." in page
    assert "lower bound of epsilon (differential privacy)" in page
    no_leak = Path(str(brief.report_uri)).read_text()
    assert "No leak was shown, which does not prove that there is none." in no_leak


def test_equal_seeds_give_equal_audits(
    texts: Path, store: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    first = trained(config_of(texts))
    monkeypatch.setenv("AIGC_OPS_HOME", str(tmp_path / "other"))
    again = trained(config_of(texts))
    assert again[0].uri != first[0].uri
    records = [canaries_of(read_provenance(Path(each.uri))) for each, _ in (first, again)]
    assert records[0] == records[1]
    assert again[1].values[EPSILON] == first[1].values[EPSILON]
    assert again[1].values[ACCURACY] == first[1].values[ACCURACY]
    other = trained(config_of(texts, seed=1))[0]
    assert canaries_of(read_provenance(Path(other.uri))) != records[0]


def test_nothing_is_shared_with_a_run_without_canaries(texts: Path, store: Path) -> None:
    clean, with_canaries = config_of(texts, canaries=0), config_of(texts)
    first, scores = trained(clean)
    second, audited = trained(with_canaries)
    third = trained(config_of(texts, canaries=39))[0]
    assert len({each.uri for each in (first, second, third)}) == 3
    assert len({Path(each.uri).parent for each in (first, second, third)}) == 3
    assert len({each.dataset_digest for each in (first, second, third)}) == 3
    assert len({each.run_id for each in (first, second, third)}) == 3
    dataset = chain.open_data(clean)
    assert first.dataset_digest == dataset.content_digest
    assert "canaries" not in read_provenance(Path(first.uri))
    # The number of rows in MLflow is that of the training.
    record = canaries_of(read_provenance(Path(second.uri)))
    assert record is not None
    inputs = connect().get_run(str(second.run_id)).inputs.dataset_inputs
    profile = json.loads(inputs[0].dataset.profile)
    assert profile["content_digest"] == second.dataset_digest
    included = audited.values[EPSILON].contract["included"]
    assert profile["num_train"] == dataset.num_train + int(str(included))
    # Scores that do not use the model are those of the real data alone.
    for name in ("baseline_bits_per_byte", "real_exact_copies"):
        assert audited.values[name] == scores.values[name], name
    assert scores.values.keys() | {EPSILON, ACCURACY} == audited.values.keys()


def test_a_version_with_canaries_is_never_champion(texts: Path, store: Path) -> None:
    version, verdict = decided(config_of(texts))
    # 1. The gate holds it back, even as the first version that is promoted automatically.
    assert (verdict.promoted, verdict.gate, verdict.alias) == (False, "keep", None)
    assert "a run with canaries is a diagnosis" in verdict.reasons[0]
    assert "With 95 % confidence epsilon is at least" in verdict.reasons[1]
    page = Path(str(verdict.packet_uri)).read_text()
    assert "Privacy audit with canaries" in page
    assert "A canary is random" in page
    assert "canary_epsilon" in page
    names = [score["name"] for score in read_packet(version).content["scores"]]
    assert {EPSILON, ACCURACY} <= set(names)
    # 2. A person cannot approve it.
    with pytest.raises(DecisionError, match="diagnosis and is never promoted"):
        approve(version, who="Ann", reason="I like it")
    # 3. Neither can a program, in the first of two approvals, or by a rollback.
    decision = aliases.Decision(who="Ann", reason="a test")
    for reviewers in (1, 2):
        with pytest.raises(DecisionError, match="never promoted"):
            aliases.promote(version, decision, champion=None, reviewers=reviewers)
    with pytest.raises(DecisionError, match="has no earlier champion"):
        aliases.rollback(version.name, version.version, decision)
    assert champion(version.name) is None
    # 4. Settings of another evaluation do not hide the canaries.
    quiet = config_of(texts, canaries=0)
    verdict = chain.promote_stage(quiet, chain.open_data(quiet), version)
    assert not verdict.promoted
    assert "a run with canaries is a diagnosis" in verdict.reasons[0]
    # 5. An alias that was set in MLflow is not accepted.
    client = connect()
    client.set_registered_model_alias(version.name, CHAMPION, str(version.version))
    with pytest.raises(DecisionError, match="never promoted"):
        chain.promote_stage(quiet, chain.open_data(quiet), version)
    assert aliases.reconcile(version.name, "revert")
    assert champion(version.name) is None
    # 6. A clean version is promoted, and the one with canaries does not replace it.
    clean, first = decided(config_of(texts, canaries=0))
    assert first.promoted
    again = chain.promote_stage(config_of(texts), chain.open_data(quiet), version)
    assert (again.promoted, champion(version.name)) == (False, clean)


def test_the_lineage_of_a_run_with_canaries_holds(texts: Path, store: Path) -> None:
    version, _ = decided(config_of(texts))
    links = {link.name: link for link in trace(version.uri).links}
    assert links["data"].state == "holds", links["data"].message
    texts.write_text(texts.read_text() + "one more line\n")
    links = {link.name: link for link in trace(version.uri).links}
    assert links["data"].state == "broken"


def test_canaries_belong_to_one_training_run(texts: Path, store: Path, tmp_path: Path) -> None:
    config = config_of(texts)
    audited, _ = trained(config)
    dataset = chain.open_data(config)
    clean = chain.train_stage(config_of(texts, canaries=0), dataset)
    with pytest.raises(EvaluationError, match="was trained with 0 canaries; set it to 0, or train"):
        chain.evaluate_stage(config, dataset, clean)
    with pytest.raises(EvaluationError, match="was trained with 40 canaries; set it to 40"):
        chain.evaluate_stage(config_of(texts, canaries=0), dataset, audited)
    # Further training would carry the canaries into a model that does not name them.
    further = config_of(texts, canaries=0, init_from=audited.uri)
    with pytest.raises(ConfigError, match=r"training.init_from: .* was trained with canaries"):
        chain.train_stage(further, dataset)
    # On other data the canaries would be others, and the audit would find no leak.
    other = tmp_path / "other.txt"
    other.write_text(texts.read_text().upper())
    moved = config_of(other)
    with pytest.raises(EvaluationError, match="are not those of the training run"):
        chain.evaluate_stage(moved, chain.open_data(moved), audited)


@pytest.mark.parametrize(
    ("num", "message"),
    [
        (3, r"so few could not show a leak with 95 % confidence; give \d+ to 4\d"),
        (150, r"canaries may be at most 20% as many; give \d+ to 4\d"),
    ],
)
def test_a_useless_number_is_refused_before_training(
    texts: Path, store: Path, num: int, message: str
) -> None:
    config = config_of(texts, canaries=num)
    dataset = chain.open_data(config)
    for stage in (require_stages, chain.train_stage):
        with pytest.raises(ConfigError, match=message):
            stage(config, dataset)
