"""The whole room against a real `mlflow server` over HTTP, and several processes at once."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import mlflow
import pandas as pd
import pytest
import requests
from PIL import Image

from aigc_ops.core.artifacts import ModelVersion
from aigc_ops.core.errors import DecisionError, RegistryError
from aigc_ops.registry.aliases import Decision, promote, reconcile
from aigc_ops.registry.audit_log import audit
from aigc_ops.registry.client import connect
from aigc_ops.registry.registration import register
from aigc_ops.registry.resolution import cached, resolve
from aigc_ops.registry.tracker.tracker import MlflowTracker
from aigc_ops.registry.ui_links import links
from aigc_ops.registry.versions import champion, models
from tests.conftest import free_port
from tests.registry.conftest import DATASET, MakeCheckpoint, crown, scores_of, stored_models

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.*Any type hint is inferred as AnyType"),
]


class Server:
    """`mlflow server` on a free port, which can be stopped and started again."""

    def __init__(self, folder: Path, database: Path) -> None:
        self.port = free_port()
        self.folder, self.database = folder, database
        self.uri = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [
            *(sys.executable, "-m", "mlflow", "server", "--workers", "1"),
            *("--port", str(self.port), "--backend-store-uri", f"sqlite:///{self.database}"),
            *("--artifacts-destination", str(self.folder / "artifacts")),
        ]
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                command,
                cwd=self.folder,
                env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + 120
        while True:
            assert self.process.poll() is None, (self.folder / "server.log").read_text()
            assert time.monotonic() < deadline
            try:
                connect()
            except RegistryError:
                time.sleep(0.5)
            else:
                return

    def stop(self) -> None:
        assert self.process is not None
        os.killpg(self.process.pid, 15)
        self.process.wait(30)


@pytest.fixture
def server(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    running = Server(tmp_path, store)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", running.uri)
    running.start()
    yield running
    running.stop()


def test_a_version_goes_from_run_to_champion_to_samples_over_http(
    server: Server, make_checkpoint: MakeCheckpoint, tmp_path: Path
) -> None:
    with MlflowTracker.start("key", "digits", params={"steps": 10}, dataset=DATASET) as tracker:
        tracker.log_metrics({"loss": 1}, step=1)
        tracker.log_image("samples", Image.new("L", (8, 8)), step=1)
    checkpoint = make_checkpoint(run_id=tracker.run_id)
    version = register(checkpoint, scores_of(checkpoint, 9), name="digits", dataset=DATASET)
    assert register(checkpoint, scores_of(checkpoint, 9), name="digits") == version
    crown(version)
    assert champion("digits") == version
    assert [(row.name, row.score, row.aliases) for row in models()] == [
        ("digits", 9, ("champion",))
    ]
    target = cached(version.manifest_digest)
    target.rename(tmp_path / "moved")
    assert resolve("models:/digits@champion").manifest_digest == version.manifest_digest
    table = mlflow.pyfunc.load_model("models:/digits@champion").predict(pd.DataFrame({"seed": [1]}))
    assert table["image"][0].startswith(b"\x89PNG")
    assert (tmp_path / "artifacts").is_dir()
    assert links(version)["model-version"] == f"{server.uri}/#/models/digits/versions/1"
    with pytest.raises(RegistryError, match="has versions 1 and aliases champion"):
        resolve("models:/digits/2")


def test_a_server_that_is_away_in_mid_run_costs_nothing(server: Server) -> None:
    with MlflowTracker.start("key", "digits") as tracker:
        tracker.log_metrics({"loss": 0}, step=0)
        time.sleep(3)
        server.stop()
        started = time.monotonic()
        for step in range(1, 200):
            tracker.log_metrics({"loss": step}, step=step)
        tracker.log_image("samples", Image.new("L", (8, 8)), step=1)
        assert time.monotonic() - started < 1
        time.sleep(5)
        server.start()
    assert tracker.run_id is not None
    client = connect()
    history = client.get_metric_history(tracker.run_id, "loss")
    assert sorted(metric.step for metric in history) == list(range(200))
    assert client.get_run(tracker.run_id).info.status == "FINISHED"
    assert len(client.list_artifacts(tracker.run_id, "images")) == 2


def test_a_run_that_fails_while_the_server_is_away_is_failed_when_it_comes_back(
    server: Server,
) -> None:
    tracker = MlflowTracker.start("key", "digits")
    server.stop()
    back = threading.Timer(15, server.start)
    back.start()
    tracker.log_metrics({"loss": float("nan")}, step=1)
    with pytest.raises(ValueError, match="no number"), tracker:
        raise ValueError("the loss is no number")
    back.join()
    assert tracker.run_id is not None
    run = connect().get_run(tracker.run_id)
    assert (run.info.status, list(run.data.metrics)) == ("FAILED", ["loss"])


REGISTER = """
import sys
from aigc_ops.registry.registration import register
from aigc_ops.registry.resolution import resolve
for folder in sys.argv[1:]:
    print(register(resolve(folder), None, name="digits").version, flush=True)
"""


def test_two_processes_that_register_the_same_checkpoints_lose_and_double_none(
    make_checkpoint: MakeCheckpoint,
) -> None:
    folders = [make_checkpoint(seed).uri for seed in range(20)]
    connect()
    command = [sys.executable, "-c", REGISTER]
    processes = [
        subprocess.Popen([*command, *order], stdout=subprocess.PIPE, text=True)
        for order in (folders, folders[::-1])
    ]
    answers = [sorted(map(int, process.communicate()[0].split())) for process in processes]
    assert answers[0] == answers[1] == list(range(1, 21))
    assert len(models()) == 20


def test_of_eight_racing_promotions_one_wins_and_the_losers_are_told(
    make_checkpoint: MakeCheckpoint,
) -> None:
    versions = [register(make_checkpoint(seed), None, name="digits") for seed in range(8)]
    decision = Decision(who="Ann", reason="a race")
    won, lost = [], []

    def race(version: ModelVersion) -> None:
        try:
            won.append(promote(version, decision, champion=None))
        except DecisionError as error:
            lost.append(str(error))

    threads = [threading.Thread(target=race, args=(version,)) for version in versions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(won), len(lost)) == (1, 7)
    assert champion("digits").version == won[0].version
    assert all("is champion now" in text for text in lost)
    log = audit("digits")
    assert (len(log.entries), log.problems) == (1, ())


class Line:
    """A way to a server, which is cut after so many requests until it is mended."""

    def __init__(self, target: str) -> None:
        line = self
        self.left = 10**9

        class Relay(BaseHTTPRequestHandler):
            def relay(self) -> None:
                line.left -= 1
                if line.left < 0:
                    self.connection.close()
                    return
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                kept = {k: v for k, v in self.headers.items() if k.lower() != "host"}
                answer = requests.request(
                    self.command, target + self.path, data=body, headers=kept, timeout=60
                )
                self.send_response(answer.status_code)
                self.send_header("content-type", answer.headers.get("content-type", ""))
                self.send_header("content-length", str(len(answer.content)))
                self.end_headers()
                self.wfile.write(answer.content)

            do_GET = do_POST = do_PATCH = do_DELETE = do_PUT = relay

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Relay)
        self.uri = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


def test_a_server_lost_in_mid_promotion_leaves_a_champion_and_the_rerun_completes(
    server: Server, make_checkpoint: MakeCheckpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    current, other = (register(make_checkpoint(seed), None, name="digits") for seed in range(2))
    crown(current)
    line = Line(server.uri)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", line.uri)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    lost = 0
    for left in range(4, 40, 3):
        line.left = left
        known = current.version
        try:
            promote(other, Decision(who="Ann", reason="a cut line"), champion=known)
        except RegistryError:
            lost += 1
        line.left = 10**9
        assert champion("digits") in (current, other)
        reconcile("digits", "flag")
        log = audit("digits")
        assert log.problems == ()
        if champion("digits") == other:
            current, other = other, current
    assert lost >= 5
    line.server.shutdown()
    line.server.server_close()


KILLED = """
import os, sys
from aigc_ops.registry import registration
from aigc_ops.registry.resolution import resolve
setattr(registration, sys.argv[1], lambda *_, **__: os.kill(os.getpid(), 9))
registration.register(resolve(sys.argv[2]), None, name="digits")
"""


@pytest.mark.parametrize("moment", ["upload_folder", "_version"])
def test_kill_9_between_storing_and_registering_leaves_one_version_after_a_rerun(
    moment: str, make_checkpoint: MakeCheckpoint, store: Path
) -> None:
    checkpoint = make_checkpoint()
    connect()
    done = subprocess.run([sys.executable, "-c", KILLED, moment, checkpoint.uri], check=False)
    assert done.returncode == -9
    assert models() == []
    version = register(checkpoint, None, name="digits")
    assert [row.version for row in models()] == [1]
    assert len(stored_models(store)) == 1
    assert resolve(version.uri).manifest_digest == version.manifest_digest
