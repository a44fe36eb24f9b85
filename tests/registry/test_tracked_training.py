"""Training runs as the chain starts them, and what a real store holds of each."""

import signal
import sqlite3
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from aigc_ops.core.state_dir import home
from aigc_ops.pipeline import chain
from aigc_ops.pipeline.run_config import parse_config
from aigc_ops.registry.client import connect, experiment_id
from aigc_ops.registry.tracker.journal import JOURNAL
from tests.conftest import start_child
from tests.flows.conftest import write_images


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return write_images(tmp_path / "images", num=8)


def config_of(images: Path, name: str, num_steps: int = 6) -> chain.Config:
    every_step = {"log_every": 1, "checkpoint_every": 20}
    record = {
        "name": name,
        "data": {"path": str(images)},
        "model": {"family": "gan", "latent_dim": 4, "generator_width": 4, "critic_width": 4},
        "training": {"steps": num_steps, "batch_size": 2, "device": "cpu", **every_step},
    }
    return parse_config(record, source="test")


def test_runs_of_other_names_have_mlflow_runs_of_their_own(images: Path) -> None:
    kept = {}
    for name in ("t6", "t7"):
        config = config_of(images, name)
        kept[name] = chain.train_stage(config, chain.open_data(config)).run_id
    client = connect()
    runs = client.search_runs([experiment_id(client)])
    assert {run.info.run_id for run in runs} == set(kept.values())
    for name, run_id in kept.items():
        assert run_id is not None
        assert str(client.get_run(run_id).info.run_name).startswith(f"{name}-gan")
        steps = [point.step for point in client.get_metric_history(run_id, "loss/critic")]
        assert steps == list(range(1, 7))


NUM_STEPS = 300


def train(images: Path) -> None:
    config = config_of(images, "pets", num_steps=NUM_STEPS)
    chain.train_stage(config, chain.open_data(config))


def wait_for(checkpoint: str, process: BaseProcess) -> None:
    while not any((home() / "checkpoints").glob(f"pets-*/{checkpoint}")):
        assert process.is_alive()
        time.sleep(0.01)


def test_kill_9_while_the_store_is_away_loses_no_metric_and_doubles_none(
    images: Path, store: Path
) -> None:
    killed = start_child(train, images)
    wait_for("step-00000020", killed)
    blocker = sqlite3.connect(store, isolation_level=None, timeout=30)
    blocker.execute("BEGIN EXCLUSIVE")
    wait_for("step-00000080", killed)
    killed.kill()
    killed.join()
    assert killed.exitcode == -signal.SIGKILL
    blocker.rollback()
    blocker.close()
    config = config_of(images, "pets", num_steps=NUM_STEPS)
    run_id = chain.train_stage(config, chain.open_data(config)).run_id
    assert run_id is not None
    client = connect()
    for key in ("loss/critic", "images_per_second"):
        steps = sorted(point.step for point in client.get_metric_history(run_id, key))
        assert steps == list(range(1, NUM_STEPS + 1))
    assert not any((home() / "checkpoints").glob(f"*/{JOURNAL}"))


def test_a_finished_training_whose_report_was_not_ended_sends_the_rest_when_started_again(
    images: Path,
) -> None:
    config = config_of(images, "pets")
    checkpoint = chain.train_stage(config, chain.open_data(config))
    assert checkpoint.run_id is not None
    client = connect()
    client.update_run(checkpoint.run_id, status="RUNNING")
    journal = Path(checkpoint.uri).parent / JOURNAL
    journal.write_text('\n[["loss/late", 0.5, 1000, 6]]')
    assert chain.train_stage(config, chain.open_data(config)) == checkpoint
    run = client.get_run(checkpoint.run_id)
    assert (run.info.status, run.data.metrics["loss/late"]) == ("FINISHED", 0.5)
    assert not journal.exists()
