"""Metrics wait on the disk too, so that what a killed process had not sent is sent later."""

import math
from pathlib import Path

import pytest

from aigc_ops.registry.client import connect
from aigc_ops.registry.tracker import tracker as tracker_module
from aigc_ops.registry.tracker.journal import JOURNAL, Journal
from aigc_ops.registry.tracker.tracker import MlflowTracker
from tests.conftest import eventually


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracker_module, "FLUSH_SECONDS", 0.1)
    monkeypatch.setattr(tracker_module, "RETRY_SECONDS", 0.1)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "digits-key" / JOURNAL


def leave(path: Path, steps: range, key: str = "loss") -> None:
    """What a process that was killed leaves: metrics that it had not sent."""
    from mlflow.entities import Metric

    journal = Journal(path)
    for step in steps:
        journal.add([Metric(key, step / 2, 1000 + step, step)])
    assert journal._file
    journal._file.close()


def steps_of(tracker: MlflowTracker, key: str = "loss") -> list[int]:
    assert tracker.run_id is not None
    return [metric.step for metric in connect().get_metric_history(tracker.run_id, key)]


def test_what_a_killed_process_had_not_sent_is_sent_but_for_the_steps_taken_again(
    path: Path,
) -> None:
    leave(path, range(5, 20))
    leave(path, range(900, 902), "system/cpu")
    with MlflowTracker.start("key", "digits", journal=path) as tracker:
        for step in range(12, 31):
            tracker.log_metrics({"loss": step / 2}, step=step)
    assert sorted(steps_of(tracker)) == list(range(5, 31))
    assert steps_of(tracker, "system/cpu") == [900, 901]
    assert not path.exists()


def test_what_was_sent_is_no_longer_in_the_journal(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracker_module, "FLUSH_SECONDS", 2)
    with MlflowTracker.start("key", "digits", journal=path) as tracker:
        for step in range(3):
            tracker.log_metrics({"loss": 1, "no number": math.nan}, step=step)
        assert path.read_text().count("no number") == 3
        eventually(lambda: path.read_text() == "", seconds=20)
        tracker.log_metrics({"loss": 1}, step=3)
        assert len(Journal(path)) == 1


def test_a_run_that_fails_before_its_first_step_keeps_what_was_left_for_the_next(
    path: Path,
) -> None:
    leave(path, range(5))
    with (
        pytest.raises(ValueError, match="too early"),
        MlflowTracker.start("key", "digits", journal=path),
    ):
        raise ValueError("too early")
    with MlflowTracker.start("key", "digits", journal=path) as tracker:
        assert steps_of(tracker) == []
    assert steps_of(tracker) == list(range(5))


def test_a_line_that_a_kill_cut_short_costs_only_itself(path: Path) -> None:
    leave(path, range(5))
    path.write_bytes(path.read_bytes()[:-7])
    leave(path, range(5, 8))
    with MlflowTracker.start("key", "digits", journal=path) as tracker:
        pass
    assert steps_of(tracker) == [0, 1, 2, 3, 5, 6, 7]


def test_a_journal_that_cannot_be_written_costs_a_warning_and_no_metric(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("where a folder should be")
    with MlflowTracker.start("key", "digits", journal=tmp_path / "file" / JOURNAL) as tracker:
        for step in range(3):
            tracker.log_metrics({"loss": 1}, step=step)
    assert steps_of(tracker) == [0, 1, 2]
    assert caplog.text.count("a kill would lose the metrics") == 1
