"""Two homes, as on two machines, over one PostgreSQL: changes take turns and one wins."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pgserver
import pytest

from aigc_ops.registry.audit_log import audit
from aigc_ops.registry.client import connect
from aigc_ops.registry.lock import store_lock
from aigc_ops.registry.registration import register
from aigc_ops.registry.versions import champion
from tests.conftest import ROOT
from tests.registry.conftest import MakeCheckpoint

pytestmark = pytest.mark.slow


@pytest.fixture
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a PostgreSQL of this test's own, which MLflow is told."""
    server = pgserver.get_server(tmp_path / "postgresql", cleanup_mode="delete")
    uri = server.get_uri()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", uri)
    yield uri
    server.cleanup()


RACER = """\
import sys
from aigc_ops.core.artifacts import ModelVersion
from aigc_ops.registry.aliases import Decision, promote
version = ModelVersion.model_validate_json(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
promote(version, Decision(who="Ann", reason="a race"), champion=None)
print("won", flush=True)
"""
HOLDER = """\
import sys
from aigc_ops.registry.client import connect
from aigc_ops.registry.lock import store_lock
connect()
with store_lock():
    print("held", flush=True)
    sys.stdin.readline()
"""


def other_home(home: Path, code: str, *arguments: str) -> "subprocess.Popen[str]":
    child = subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        cwd=ROOT,
        env={**os.environ, "AIGC_OPS_HOME": str(home)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    child.stdout.readline()
    return child


def test_homes_that_share_a_database_take_turns_and_one_promotion_wins(
    database: str, make_checkpoint: MakeCheckpoint, tmp_path: Path
) -> None:
    connect()
    versions = [register(make_checkpoint(seed), None, name="digits") for seed in range(2)]
    racers = [
        other_home(tmp_path / f"home-{v.version}", RACER, v.model_dump_json()) for v in versions
    ]
    holder = other_home(tmp_path / "home-0", HOLDER)
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("\n")
        racer.stdin.flush()
    time.sleep(1)
    assert champion("digits") is None  # both wait for the lock of a third home
    holder.kill()  # which ends with its process
    holder.communicate()
    said = [racer.communicate(timeout=60) for racer in racers]
    assert sorted(output for output, _ in said) == ["", "won\n"], said
    assert any("is champion now" in error for _, error in said)
    log = audit("digits")
    assert (len(log.entries), log.problems) == (1, ())
    with store_lock():
        pass
