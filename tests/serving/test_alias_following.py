"""`serve --follow`: the service goes where the champion alias goes."""

import os
import signal
import subprocess
import sys

import httpx
import pytest

from aigc_ops.registry import aliases
from aigc_ops.registry.registration import register
from aigc_ops.serving.runtime.process import HOST, free_port
from tests.conftest import ROOT, eventually
from tests.registry.conftest import MakeCheckpoint, crown, empty_database, make_checkpoint, store

__all__ = ["empty_database", "make_checkpoint", "store"]
pytestmark = pytest.mark.slow


def test_a_rollback_takes_the_service_with_it(make_checkpoint: MakeCheckpoint) -> None:
    for seed in range(2):
        crown(register(make_checkpoint(seed), None, name="digits"))
    port = free_port()
    service = subprocess.Popen(
        [
            *(sys.executable, "-m", "aigc_ops", "serve", "models:/digits@champion"),
            *("--follow", "--port", str(port)),
        ],
        cwd=ROOT,
        env=dict(os.environ),
    )

    def served() -> int | None:
        try:
            answer = httpx.post(f"http://{HOST}:{port}/generate", json={"seed": 0}, timeout=5)
        except httpx.HTTPError:
            return None
        return int(answer.headers["x-aigc-version"]) if answer.status_code == 200 else None

    try:
        assert eventually(served) == 2
        aliases.rollback("digits", None, aliases.Decision(who="Ann", reason="complaints"))
        assert eventually(lambda: served() == 1)
        service.send_signal(signal.SIGTERM)
        assert service.wait(60) == 0
    finally:
        service.kill()
