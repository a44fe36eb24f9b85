"""Where a run leaves its files: the home, and the variables that point others at it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from aigc_ops.home import export_environment, home
from tests.conftest import ROOT


def test_an_empty_variable_is_an_unset_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    monkeypatch.setenv("BENTOML_HOME", "elsewhere")
    export_environment()
    assert os.environ["MLFLOW_TRACKING_URI"].startswith(f"sqlite:///{home()}")
    assert os.environ["BENTOML_HOME"] == "elsewhere"


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
    assert "AIGC_OPS_HOME is no folder that can be made" in done.stderr
    assert "Traceback" not in done.stderr
