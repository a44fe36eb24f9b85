"""The machine's load beside a run's own curves, in a real store."""

import sqlite3
import threading
import time
from pathlib import Path

import pytest

from aigc_ops.registry.client import connect
from aigc_ops.registry.tracker import tracker as tracker_module
from aigc_ops.registry.tracker.tracker import MlflowTracker

CPU = "system/cpu_utilization_percentage"


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.2")
    monkeypatch.setattr(tracker_module, "FLUSH_SECONDS", 0.1)
    monkeypatch.setattr(tracker_module, "RETRY_SECONDS", 0.1)


def names_of_threads() -> set[str]:
    return {thread.name for thread in threading.enumerate()}


def history(tracker: MlflowTracker, key: str) -> list[tuple[int, float]]:
    assert tracker.run_id is not None
    return [(m.step, m.value) for m in connect().get_metric_history(tracker.run_id, key)]


def busy(seconds: float) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        pass


def test_a_run_keeps_the_machines_load_under_mlflows_own_names() -> None:
    with MlflowTracker.start("key", "digits", system_metrics=True) as tracker:
        tracker.log_metrics({"loss": 1}, step=1)
        busy(1.1)
        assert "system-metrics" in names_of_threads()
    assert "system-metrics" not in names_of_threads()
    assert tracker.run_id is not None
    metrics = connect().get_run(tracker.run_id).data.metrics
    assert metrics.pop("loss") == 1
    assert all(name.startswith("system/") for name in metrics)
    assert {CPU, "system/system_memory_usage_megabytes", "system/disk_usage_percentage"} <= {
        *metrics
    }
    loads = [value for _, value in history(tracker, CPU)]
    assert len(loads) >= 3
    # Of an instant it may be 0, and is where the system counts its ticks late.
    assert all(0 <= load <= 100 for load in loads)
    assert max(loads) > 0
    assert metrics["system/system_memory_usage_megabytes"] > 100


def test_a_run_of_a_moment_has_one_measurement_and_a_plain_tracker_none() -> None:
    with MlflowTracker.start("brief", "digits", system_metrics=True) as brief:
        pass
    assert len(history(brief, CPU)) == 1
    with MlflowTracker.start("plain", "digits") as plain:
        assert "system-metrics" not in names_of_threads()
    assert history(plain, CPU) == []


def test_a_resumed_run_goes_on_in_seconds_since_its_beginning() -> None:
    for _ in range(2):
        with MlflowTracker.start("key", "digits", system_metrics=True) as tracker:
            time.sleep(1.1)
    steps = [step for step, _ in history(tracker, CPU)]
    assert steps == sorted(steps)
    assert 2 <= steps[-1] < 30


def test_no_thread_is_left_after_ctrl_c() -> None:
    tracker = MlflowTracker.start("key", "digits", system_metrics=True)
    with pytest.raises(KeyboardInterrupt), tracker:
        raise KeyboardInterrupt
    assert not {"system-metrics", "tracker"} & names_of_threads()
    assert len(history(tracker, CPU)) == 1


def test_measurements_go_on_while_the_store_is_away(store: Path) -> None:
    tracker = MlflowTracker.start("key", "digits", system_metrics=True)
    blocker = sqlite3.connect(store, isolation_level=None)
    blocker.execute("BEGIN EXCLUSIVE")
    time.sleep(1.2)
    blocker.rollback()
    blocker.close()
    tracker.finish("FINISHED")
    assert len(history(tracker, CPU)) >= 3
