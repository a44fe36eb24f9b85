"""What the doctor finds in real stores, and that each fault is told with what to do."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from aigc_ops.__main__ import main
from aigc_ops.core.artifacts import ModelVersion
from aigc_ops.core.errors import DataError
from aigc_ops.core.state_dir import export_environment, home
from aigc_ops.operations import doctor
from aigc_ops.operations.doctor import Finding, examine
from aigc_ops.registry import aliases
from aigc_ops.registry.aliases import Decision
from aigc_ops.registry.audit_log import DONE_TAG, ENTRY_TAG, audit
from aigc_ops.registry.client import connect, experiment_id
from aigc_ops.registry.resolution import STORED_FOLDER
from aigc_ops.registry.runs import PROCESS_TAG, RUN_KEY_TAG, open_run
from aigc_ops.registry.versions import champion
from tests.conftest import answers, eventually, free_port, process
from tests.registry.conftest import (
    Stocked,
    crown,
    empty_database,
    stocked,
    stocked_once,
    store,
    stored_models,
)

__all__ = ["empty_database", "stocked", "stocked_once", "store"]

ANN = Decision(who="Ann", reason="a test")


@pytest.fixture
def two(stocked: Stocked) -> tuple[ModelVersion, ModelVersion]:
    """Two versions, the first of which is champion."""
    first, second = stocked(2)
    crown(first)
    return first, second


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder without data."""
    folder = tmp_path / "nowhere"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def found(check: str, **options: bool) -> list[Finding]:
    return [each for each in examine(**options) if each.check == check]


def test_a_sound_home_passes_every_check(two: object, nowhere: Path) -> None:
    findings = examine(every=True)
    assert [each for each in findings if each.state == "FAIL"] == []
    assert [each.check for each in findings] == [
        *doctor.LOCAL,
        *("MLflow's store", "aliases and audit log", "runs", "stored files"),
    ]
    assert findings[-1].found == "2 versions match their manifests"


def test_what_is_wrong_in_a_project_is_found(nowhere: Path) -> None:
    assert [each.state for each in found("project")] == ["ok"]
    (nowhere / "families").mkdir()
    (nowhere / "aigc-ops.toml").write_text("requirements = 3")
    (nowhere / "families" / "gan.py").touch()
    (nowhere / "families" / "toy.py").write_text("import no_such_module")
    messages = [each.found for each in found("project") if each.state == "FAIL"]
    assert len(messages) == 3
    for wanted in (
        "two sources give 'gan'",
        "toy cannot be imported",
        "requirements is not a list",
    ):
        assert any(wanted in message for message in messages)


def test_aliases_moved_by_hand_fail_until_they_are_put_back(
    two: tuple[ModelVersion, ModelVersion], nowhere: Path
) -> None:
    first, second = two
    connect().set_registered_model_alias("digits", "champion", "2")
    [finding] = found("aliases and audit log")
    assert finding.state == "FAIL"
    assert "it names version 2, the log says version 1" in finding.found
    assert "--revert" in (finding.advice or "")
    [finding] = found("aliases and audit log", repair=True)  # which moves no alias back
    assert (finding.state, champion("digits")) == ("FAIL", second)
    [finding] = found("aliases and audit log", revert=True)
    assert (finding.state, champion("digits")) == ("ok", first)
    assert "repaired: champion was moved outside" in finding.found
    assert [each.state for each in found("aliases and audit log")] == ["ok"]


def test_a_champion_whose_model_has_no_version_left_fails(two: object, nowhere: Path) -> None:
    for version in ("1", "2"):
        connect().delete_model_version("digits", version)
    [finding] = found("aliases and audit log")
    assert finding.state == "FAIL"
    assert finding.found.startswith("digits: champion was moved outside aigc-ops: it names no")


def test_a_promotion_that_was_cut_short_is_completed(
    two: tuple[ModelVersion, ModelVersion], nowhere: Path
) -> None:
    _, second = two
    aliases.promote(second, ANN, champion=1)
    client = connect()  # as a kill right after writing the entry leaves it
    client.set_registered_model_alias("digits", "champion", "1")
    client.set_registered_model_tag("digits", DONE_TAG, "1")
    [finding] = found("aliases and audit log")
    assert finding.state == "FAIL"
    assert "was interrupted" in finding.found
    [finding] = found("aliases and audit log", repair=True)
    assert (finding.state, champion("digits")) == ("ok", second)
    assert audit("digits").problems == ()


def test_a_move_by_hand_that_a_later_decision_took_for_given_is_a_warning(
    stocked: Stocked, nowhere: Path
) -> None:
    first, _, third = stocked(3)
    crown(first)
    connect().set_registered_model_alias("digits", "champion", "2")
    aliases.promote(third, ANN, champion=2)
    [finding] = found("aliases and audit log")
    assert finding.state == "warn"
    assert "between entries 1 and 2 aliases were moved" in finding.found


def test_a_damaged_log_fails_and_is_not_mended(two: object, nowhere: Path) -> None:
    client, key = connect(), f"{ENTRY_TAG}000001"
    text = client.get_registered_model("digits").tags[key]
    client.set_registered_model_tag("digits", key, text.replace("Ann", "Bob"))
    for options in ({}, {"repair": True, "revert": True}):
        [finding] = found("aliases and audit log", **options)
        assert finding.state == "FAIL"


def test_changed_files_of_a_champion_fail_and_of_others_when_all_are_asked_for(
    two: object, store: Path, nowhere: Path
) -> None:
    for folder in stored_models(store):
        weights = folder / STORED_FOLDER / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-1] + b"\xff")
    [finding] = found("stored files")
    assert (finding.state, finding.found.partition(" ")[0]) == ("FAIL", "models:/digits/1:")
    assert "is damaged" in finding.found
    assert [each.state for each in found("stored files", every=True)] == ["FAIL", "FAIL"]


def test_runs_that_nobody_works_on_are_told_with_how_to_end_them(
    store: Path, nowhere: Path
) -> None:
    client = connect()
    mine = open_run(client, "key", "mine")
    assert [each.found for each in found("runs")] == ["no interrupted run is shown as RUNNING"]
    [host, _, _] = client.get_run(mine).data.tags[PROCESS_TAG].split()
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    gone = open_run(client, "gone", "gone")
    client.set_tag(gone, PROCESS_TAG, f"{host} {ended.pid} 1")
    day = int((time.time() - 25 * 3600) * 1000)
    tags = {RUN_KEY_TAG: "old", PROCESS_TAG: "elsewhere 1 1"}
    experiment = experiment_id(client)
    client.create_run(experiment, start_time=day, run_name="old", tags=tags)
    client.create_run(experiment, run_name="new elsewhere", tags=tags)
    client.create_run(experiment, start_time=day, run_name="not ours")
    findings = found("runs")
    assert {(each.state, each.found.partition(" ")[0]) for each in findings} == {
        ("warn", "gone"),
        ("warn", "old"),
    }
    [advice] = [each.advice for each in findings if each.found.startswith("gone")]
    code = str(advice).partition('python -c "')[2].partition('"')[0]
    exec(code, {})
    assert client.get_run(gone).info.status == "KILLED"


def test_a_store_that_does_not_answer_fails_within_seconds(
    monkeypatch: pytest.MonkeyPatch, nowhere: Path
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{free_port()}")
    [finding] = found("MLflow's store")
    assert finding.state == "FAIL"
    assert "does not answer" in finding.found
    assert found("runs") == []


def test_a_home_without_a_store_is_sound_and_stays_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nowhere: Path
) -> None:
    monkeypatch.setenv("AIGC_OPS_HOME", str(tmp_path / "new"))
    [finding] = found("MLflow's store")
    assert finding.state == "ok"
    assert "will be made by the first run" in finding.found
    assert not (tmp_path / "new" / "mlflow").exists()


def test_a_prefect_server_is_asked_only_where_one_is_configured(
    monkeypatch: pytest.MonkeyPatch, nowhere: Path, tmp_path: Path
) -> None:
    assert "starts a server of its own" in found("Prefect")[0].found
    port = free_port()
    monkeypatch.setenv("PREFECT_API_URL", f"http://127.0.0.1:{port}/api")
    [finding] = found("Prefect")
    assert finding.state == "FAIL"
    assert "does not answer" in finding.found
    (tmp_path / "nowhere" / "api").mkdir()
    with process(tmp_path / "log", "-m", "http.server", str(port), "--directory", str(tmp_path)):
        eventually(lambda: answers(f"http://127.0.0.1:{port}/"))
        assert [each.found for each in found("Prefect")] == [
            f"http://127.0.0.1:{port}/api is not a Prefect API"
        ]


def test_left_over_folders_are_told_and_what_may_be_at_work_is_not(nowhere: Path) -> None:
    folder = home() / "checkpoints" / "digits-1"
    names = (".step-00000010.abc.partial", ".step-00000020.abc.partial", "step-00000010")
    for name in names:
        (folder / name).mkdir(parents=True)
    for name in (names[0], names[2]):
        os.utime(folder / name, (0, 0))
    [finding] = found("leftovers")
    assert (finding.state, finding.found.partition(" ")[0]) == ("warn", "1")
    assert (finding.advice or "").endswith(names[0])


@pytest.mark.parametrize(("free", "state"), [(2**40, "ok"), (2**30, "warn"), (2**20, "FAIL")])
def test_a_disk_that_runs_full_is_told_with_how_much_is_wanted(
    monkeypatch: pytest.MonkeyPatch, nowhere: Path, free: int, state: str
) -> None:
    class Usage:
        def __init__(self) -> None:
            self.free = free

    monkeypatch.setattr("shutil.disk_usage", lambda _: Usage())
    [finding] = found("disk")
    assert finding.state == state
    assert "5 GiB are wanted" in finding.found


def test_a_telemetry_switch_that_was_turned_is_told(
    monkeypatch: pytest.MonkeyPatch, nowhere: Path
) -> None:
    export_environment()
    assert found("telemetry")[0].state == "ok"
    monkeypatch.setenv("DO_NOT_TRACK", "0")
    [finding] = found("telemetry")
    assert (finding.state, finding.advice) == ("warn", "unset DO_NOT_TRACK")


def test_a_check_that_breaks_is_a_finding_and_the_others_go_on(
    monkeypatch: pytest.MonkeyPatch, nowhere: Path
) -> None:
    def breaks() -> None:
        raise ZeroDivisionError("by nought")

    def refuses() -> None:
        raise DataError("no data; bring some")

    monkeypatch.setitem(doctor.LOCAL, "Python", breaks)
    monkeypatch.setitem(doctor.LOCAL, "disk", refuses)
    findings = {each.check: each for each in examine()}
    assert findings["Python"].found == "the check itself broke: ZeroDivisionError: by nought"
    assert findings["disk"].found == "no data; bring some"
    assert {findings[name].state for name in ("Python", "disk")} == {"FAIL"}
    assert findings["telemetry"].state == "ok"


def test_the_command_exits_with_1_when_a_check_fails(
    monkeypatch: pytest.MonkeyPatch, nowhere: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PREFECT_API_URL", f"http://127.0.0.1:{free_port()}/api")
    assert main(["doctor", "--json"]) == 1
    answer = json.loads(capfd.readouterr().out)
    failed = [each["check"] for each in answer["checks"] if each["state"] == "FAIL"]
    assert failed == ["Prefect"]
