"""The connection: made at need, made whole, and plain about what is wrong."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from aigc_ops.core.errors import RegistryError
from aigc_ops.registry import client as registry_client
from aigc_ops.registry.client import address, connect, experiment_id, faults
from tests.conftest import free_port


def test_the_default_store_lies_in_the_home_with_its_artifacts(store: Path) -> None:
    client = connect()
    assert os.environ["MLFLOW_TRACKING_URI"] == f"sqlite:///{store}"
    found = client.get_experiment(experiment_id(client))
    assert found.name == "aigc-ops"
    assert found.artifact_location == str(store.parent / "artifacts")
    assert experiment_id(client) == found.experiment_id


def test_connecting_leaves_the_log_handlers_of_others_open() -> None:
    code = """
import logging
from aigc_ops.registry.client import connect

class Closing(logging.Handler):
    def close(self):
        print("closed", flush=True)

handler = Closing()
connect()
import os; os._exit(0)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == ""


def test_the_experiment_can_be_named_by_mlflows_own_variable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "mine")
    client = connect()
    assert client.get_experiment(experiment_id(client)).name == "mine"


def test_a_deleted_experiment_is_named_with_what_to_do() -> None:
    client = connect()
    client.delete_experiment(experiment_id(client))
    with pytest.raises(RegistryError, match="'aigc-ops' was deleted; restore it"):
        experiment_id(client)


@pytest.mark.slow
def test_a_store_whose_making_was_killed_is_made_afresh(store: Path) -> None:
    store.unlink()
    code = "from aigc_ops.registry.client import connect; print('go', flush=True); connect()"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        deadline = time.monotonic() + 60
        while not list(store.parent.glob(".mlflow.db.*.partial")):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.kill()
    assert not store.exists()
    assert experiment_id(connect())
    assert not list(store.parent.glob("*.partial*"))


def test_an_absent_server_is_an_error_within_seconds_that_keeps_the_password(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:secret@127.0.0.1:{free_port()}")
    started = time.monotonic()
    with pytest.raises(RegistryError, match=r"does not answer .*refused.*MLFLOW_TRACKING_URI") as e:
        connect()
    assert time.monotonic() - started < 8
    assert "secret" not in str(e.value)


def test_an_absent_database_server_is_an_error_within_seconds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"postgresql://me:secret@127.0.0.1:{free_port()}/m")
    started = time.monotonic()
    with pytest.raises(RegistryError, match="does not answer") as error:
        connect()
    assert time.monotonic() - started < 8
    assert "secret" not in str(error.value)


def test_a_server_that_never_answers_is_an_error_within_seconds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        port = silent.getsockname()[1]
        monkeypatch.setattr(registry_client, "REACH_SECONDS", 0.5)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
        started = time.monotonic()
        with pytest.raises(RegistryError, match="does not answer"):
            connect()
        assert time.monotonic() - started < 15


def test_faults_of_the_store_become_registry_errors_with_their_first_line() -> None:
    connect()
    with pytest.raises(RegistryError, match=r"store sqlite.*: full; check"), faults("it"):
        raise OSError("full\ndetails")


def test_an_address_is_shown_without_its_password() -> None:
    assert address("https://me:secret@mlflow.example:1/x?key=y") == "https://mlflow.example:1/x"
