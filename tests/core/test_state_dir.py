"""Where a run leaves its files: the home, and the variables that point others at it."""

import os
import shutil
import subprocess
import sys
import urllib.request
from pathlib import Path
from types import SimpleNamespace

import pytest

from aigc_ops.core.state_dir import export_environment, full_disk_message, home, is_first_process
from aigc_ops.serving.runtime.process import with_log_end
from tests.conftest import ROOT


def test_an_empty_variable_is_an_unset_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    monkeypatch.setenv("BENTOML_HOME", "elsewhere")
    export_environment()
    assert os.environ["MLFLOW_TRACKING_URI"].startswith(f"sqlite:///{home()}")
    assert os.environ["BENTOML_HOME"] == "elsewhere"


def test_the_loopback_is_exempt_from_every_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "a.example")
    monkeypatch.setenv("NO_PROXY", "b.example, localhost")
    monkeypatch.setenv("http_proxy", "http://proxy.example:1")
    export_environment()
    expected = "a.example,b.example,localhost,127.0.0.1,::1"
    assert os.environ["no_proxy"] == os.environ["NO_PROXY"] == expected
    assert urllib.request.proxy_bypass("127.0.0.1")
    assert not urllib.request.proxy_bypass("c.example")


@pytest.mark.parametrize(
    ("variables", "is_first"),
    [
        ({}, True),
        ({"WORLD_SIZE": "2", "RANK": "0"}, True),
        ({"WORLD_SIZE": "2", "RANK": "1"}, False),
        ({"WORLD_SIZE": ""}, True),
        ({"RANK": "3"}, True),  # of something else than torchrun
    ],
)
def test_of_the_processes_that_torchrun_started_the_first_acts_for_all(
    variables: dict[str, str], is_first: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert is_first_process() is is_first


def test_a_home_that_cannot_be_made_is_told_by_its_variable(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = subprocess.run(
        [sys.executable, "-m", "aigc_ops", "models", "--json"],
        cwd=ROOT,
        env={**os.environ, "AIGC_OPS_HOME": str(tmp_path / "file" / "home")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "cannot create AIGC_OPS_HOME" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_full_disk_is_told_where_a_log_could_not_say_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "build.log"
    log.touch()
    assert full_disk_message(log) is None
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=4096))
    told = with_log_end("it failed", log)
    assert told == f"it failed: no space is left on the disk of {tmp_path}; the end of {log}:"
