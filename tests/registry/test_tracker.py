"""A run's report: whole at the end, whatever the store did meanwhile."""

import logging
import os
import signal
import sqlite3
import threading
import time
from pathlib import Path

import pytest
from PIL import Image

from aigc_ops.registry.client import connect, experiment_id
from aigc_ops.registry.tracker import tracker as tracker_module
from aigc_ops.registry.tracker.tracker import MlflowTracker, read_curves, reporting_to
from tests.registry.conftest import DATASET


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracker_module, "FLUSH_SECONDS", 0.1)
    monkeypatch.setattr(tracker_module, "RETRY_SECONDS", 0.1)


def test_a_run_ends_with_every_metric_param_tag_picture_and_file(tmp_path: Path) -> None:
    report = tmp_path / "report.html"
    report.write_text("first")
    params = {"model.latent_dim": 64, "data.path": "x" * 9000, **{f"p{i}": i for i in range(250)}}
    with MlflowTracker.start(
        "key", "digits", params=params, tags={"a": "b"}, dataset=DATASET
    ) as tracker:
        for step in range(1200):
            tracker.log_metrics({"loss/critic": step / 2}, step=step)
        tracker.log_image("samples", Image.new("L", (60, 40)), step=7)
        tracker.log_text("hello", "samples/step-7.txt")
        tracker.log_file(report, "reports")
        report.write_text("later")
    client = connect()
    assert tracker.run_id is not None
    run = client.get_run(tracker.run_id)
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "digits"
    assert run.data.params["model.latent_dim"] == "64"
    assert len(run.data.params) == 252
    assert run.data.tags["a"] == "b"
    history = client.get_metric_history(tracker.run_id, "loss/critic")
    assert sorted((metric.step, metric.value) for metric in history) == [
        (step, step / 2) for step in range(1200)
    ]
    dataset = run.inputs.dataset_inputs[0].dataset
    assert (dataset.name, dataset.digest) == ("digits", DATASET.dvc_digest)
    folder = Path(run.info.artifact_uri)
    assert (folder / "samples" / "step-7.txt").read_text() == "hello"
    assert (folder / "reports" / "report.html").read_text() == "first"
    pictures = list((folder / "images").glob("samples+step+7+*.png"))
    assert len(pictures) == 1
    with Image.open(pictures[0]) as picture:
        assert picture.size == (60, 40)
    assert run.data.tags["mlflow.loggedImages"] == "True"


def test_the_same_key_goes_on_with_the_same_run() -> None:
    with MlflowTracker.start("key", "digits", params={"steps": 10}) as first:
        first.log_metrics({"loss": 1}, step=1)
    with MlflowTracker.start("key", "digits", params={"steps": 10, "more": 1}) as second:
        second.log_metrics({"loss": 2}, step=2)
    with MlflowTracker.start("other", "digits") as other:
        pass
    assert first.run_id == second.run_id != other.run_id
    client = connect()
    assert first.run_id is not None
    run = client.get_run(first.run_id)
    assert run.data.params == {"steps": "10", "more": "1"}
    assert [metric.step for metric in client.get_metric_history(first.run_id, "loss")] == [1, 2]
    assert len(client.search_runs([experiment_id(client)])) == 2


def test_a_param_that_changed_keeps_its_first_value_and_says_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with MlflowTracker.start("key", "digits", params={"steps": 10}):
        pass
    with MlflowTracker.start("key", "digits", params={"steps": 20}) as tracker:
        pass
    assert "keeps the first values of steps" in caplog.text
    assert tracker.run_id is not None
    assert connect().get_run(tracker.run_id).data.params == {"steps": "10"}


@pytest.mark.parametrize(
    ("error", "status"), [(ValueError, "FAILED"), (KeyboardInterrupt, "KILLED")]
)
def test_a_run_that_stops_early_says_how_and_keeps_its_metrics(
    error: type[BaseException], status: str
) -> None:
    tracker = MlflowTracker.start("key", "digits")
    tracker.log_metrics({"loss": 1}, step=1)
    with pytest.raises(error), tracker:
        raise error
    assert tracker.run_id is not None
    run = connect().get_run(tracker.run_id)
    assert run.info.status == status
    assert run.data.metrics == {"loss": 1}


def test_a_store_that_is_locked_holds_nothing_up_and_loses_nothing(store: Path) -> None:
    tracker = MlflowTracker.start("key", "digits")
    blocker = sqlite3.connect(store, isolation_level=None)
    blocker.execute("BEGIN EXCLUSIVE")
    started = time.monotonic()
    for step in range(50):
        tracker.log_metrics({"loss": step}, step=step)
        tracker.log_image("samples", Image.new("L", (8, 8)), step=step)
    assert time.monotonic() - started < 0.5
    time.sleep(1)
    blocker.rollback()
    blocker.close()
    tracker.finish("FINISHED")
    assert tracker.run_id is not None
    client = connect()
    assert len(client.get_metric_history(tracker.run_id, "loss")) == 50
    run = client.get_run(tracker.run_id)
    assert run.info.status == "FINISHED"
    assert len(list((Path(run.info.artifact_uri) / "images").glob("*.png"))) == 50


@pytest.mark.parametrize("fault", [OSError("away"), Exception("a bucket's own")])
def test_faults_are_tried_again_until_the_store_takes_everything(
    fault: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    tracker = MlflowTracker.start("key", "digits")
    log_batch, failures = tracker._client.log_batch, iter([fault] * 3)

    def flaky(*arguments: object, **options: object) -> None:
        for failure in failures:
            raise failure
        log_batch(*arguments, **options)  # type: ignore[arg-type]

    tracker._client.log_batch = flaky  # type: ignore[method-assign, assignment]
    tracker.log_metrics({"loss": 1}, step=1)
    tracker.finish("FINISHED")
    tracker._client.log_batch = log_batch  # type: ignore[method-assign]
    assert tracker.run_id is not None
    assert connect().get_run(tracker.run_id).data.metrics == {"loss": 1}
    assert caplog.text.count("reports wait until the store answers") == 1


def test_a_store_that_stays_away_is_given_up_with_a_warning_that_counts(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracker = MlflowTracker.start("key", "digits")

    def away(*_: object, **__: object) -> None:
        raise OSError("away")

    monkeypatch.setattr(tracker._client, "log_batch", away)
    tracker.log_metrics({"loss": 1, "rate": 2}, step=1)
    tracker.finish("FINISHED", patience_seconds=0.5)
    assert f"run {tracker.run_id} lacks 2 reports" in caplog.text


def test_ctrl_c_ends_the_waiting_for_a_store_that_is_away_and_keeps_the_error(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracker_module, "NOTICE_SECONDS", 0.2)
    tracker = MlflowTracker.start("key", "digits")

    def away(*_: object, **__: object) -> None:
        raise OSError("away")

    monkeypatch.setattr(tracker._client, "set_terminated", away)
    threading.Timer(1, os.kill, (os.getpid(), signal.SIGINT)).start()
    started = time.monotonic()
    with pytest.raises(ValueError, match="no number"), tracker:
        raise ValueError("the loss is no number")
    assert 0.9 < time.monotonic() - started < 5
    assert "waiting up to 120 s until MLflow has accepted the last reports" in caplog.text
    assert f"run {tracker.run_id} lacks 0 reports and its end" in caplog.text


def test_a_clock_set_back_in_mid_run_leaves_no_duration_negative(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.2")
    right = time.time
    for begin in range(2):  # the second resumes the first, by the wrong clock from its beginning
        with MlflowTracker.start("key", "digits", system_metrics=True) as tracker:
            tracker.log_metrics({"loss": 1}, step=2 * begin)
            monkeypatch.setattr(time, "time", lambda: right() - 3600)
            monkeypatch.setattr(time, "time_ns", lambda: int((right() - 3600) * 1e9))
            tracker.log_metrics({"loss": 1}, step=2 * begin + 1)
            time.sleep(0.3)
        assert tracker.run_id is not None
        client = connect()
        run = client.get_run(tracker.run_id)
        assert 0 < run.info.end_time - run.info.start_time < 60_000
        for name in ("loss", "system/cpu_utilization_percentage"):
            points = client.get_metric_history(tracker.run_id, name)
            points.sort(key=lambda point: point.step)
            times = [run.info.start_time, *(point.timestamp for point in points)]
            assert times == sorted(times)
            assert times[-1] <= run.info.end_time


def test_a_metric_that_mlflow_refuses_costs_only_itself(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    with MlflowTracker.start("key", "digits") as tracker:
        tracker.log_metrics({"a": 1, "bad\nname": 2, "c": 3}, step=1)
    assert tracker.run_id is not None
    assert connect().get_run(tracker.run_id).data.metrics == {"a": 1, "c": 3}
    assert "MLflow refuses metric" in caplog.text


def test_a_run_of_another_store_is_reported_to_nobody() -> None:
    with MlflowTracker.start("key", "digits") as first:
        pass
    for run_id in (None, "f" * 32):
        with reporting_to(run_id) as silent:
            silent.log_metrics({"fd": 1}, step=1)
        assert silent.run_id is None
    with reporting_to(first.run_id) as tracker:
        tracker.log_metrics({"fd": 1}, step=1)
    assert tracker.run_id == first.run_id is not None
    assert connect().get_run(first.run_id).data.metrics == {"fd": 1}


@pytest.mark.parametrize("status", ["FINISHED", "FAILED"])
def test_what_is_reported_or_read_later_leaves_the_end_of_the_run(status: str) -> None:
    with MlflowTracker.start("key", "digits") as first:
        first.log_metrics({"loss": 1}, step=1)
    assert first.run_id is not None
    client = connect()
    client.set_terminated(first.run_id, status, end_time=1_000)
    with reporting_to(first.run_id) as tracker:
        tracker.log_metrics({"fd": 1}, step=1)
    assert read_curves(client, first.run_id) == {"fd": [(1, 1.0)], "loss": [(1, 1.0)]}
    assert read_curves(client, "f" * 32) == {}
    run = client.get_run(first.run_id)
    assert (run.info.status, run.info.end_time) == (status, 1_000)


def test_a_run_deleted_meanwhile_holds_nothing_up(caplog: pytest.LogCaptureFixture) -> None:
    tracker = MlflowTracker.start("key", "digits")
    tracker.run_id = tracker._run_id = "f" * 32
    tracker.log_metrics({"fd": 1}, step=1)
    started = time.monotonic()
    tracker.finish("FINISHED")
    assert time.monotonic() - started < 10
    assert "MLflow refuses metric 'fd'" in caplog.text
