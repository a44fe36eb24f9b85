"""Training runs as the chain starts them, and what a real store holds of each."""

from pathlib import Path

import pytest

from aigc_ops import chain
from aigc_ops.config import parse_config
from aigc_ops.registry.client import connect, experiment_id
from tests.flows.conftest import write_images


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return write_images(tmp_path / "images", num=8)


def config_of(images: Path, name: str) -> chain.Config:
    record = {
        "name": name,
        "data": {"path": str(images)},
        "model": {"family": "gan", "latent_dim": 4, "generator_width": 4, "critic_width": 4},
        "training": {"steps": 6, "batch_size": 2, "log_every": 1, "device": "cpu"},
    }
    return parse_config(record, source="test")


def test_runs_of_other_names_have_mlflow_runs_of_their_own(images: Path) -> None:
    kept = {}
    for name in ("t6", "t7"):
        config = config_of(images, name)
        kept[name] = chain.train(config, chain.open_data(config)).run_id
    client = connect()
    runs = client.search_runs([experiment_id(client)])
    assert {run.info.run_id for run in runs} == set(kept.values())
    for name, run_id in kept.items():
        assert run_id is not None
        assert str(client.get_run(run_id).info.run_name).startswith(f"{name}-gan")
        steps = [point.step for point in client.get_metric_history(run_id, "loss/critic")]
        assert steps == list(range(1, 7))
