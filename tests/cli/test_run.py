"""What `aigc-ops run` does before the flow begins."""

import argparse
import time
from typing import Any

import pytest

from aigc_ops.cli import pipeline_commands
from aigc_ops.data.validation import worker
from aigc_ops.pipeline import chain, needs
from flows import deployments
from flows.runtime import logs, server
from tests.conftest import ROOT


def test_needs_are_checked_before_the_server_starts_and_imports_end_before_the_flow(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    events = []

    def preload() -> None:
        time.sleep(0.5)
        events.append("imported")

    def flow(_: Any, *, force: bool) -> str:
        events.append("flow")
        return "result"

    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(chain, "preload", preload)
    monkeypatch.setattr(chain, "open_data", lambda _: None)
    monkeypatch.setattr(needs, "require_stages", lambda *_: events.append("checked"))
    monkeypatch.setattr(deployments, "pipeline_of", lambda _: flow)
    monkeypatch.setattr(server, "temporary_server", lambda: events.append("server"))
    monkeypatch.setattr(worker, "start", lambda: None)
    monkeypatch.setattr(logs, "leave_errors_to_caller", lambda: None)
    arguments = argparse.Namespace(command="run", config="configs/smoke.yaml", force=False)
    assert pipeline_commands._run_flow(arguments, [], None) == "result"
    assert events == ["checked", "server", "imported", "flow"]
