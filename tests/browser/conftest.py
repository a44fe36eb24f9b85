"""Debian's Chromium, driven against servers that each test starts by itself."""

import json
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
from playwright.sync_api import Page, sync_playwright

from tests.conftest import answers, eventually, free_port, process

SECONDS = 1000  # playwright counts in milliseconds
QUIET = (
    "--no-sandbox",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-quic",
    "--no-first-run",
)


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    """A page of a headless browser."""
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("no chromium here; .ci/run installs it")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=list(QUIET))
        yield browser.new_page(viewport={"width": 1300, "height": 1400})
        browser.close()


def call(url: str, body: Any = None) -> Any:
    """JSON answer of an API; a server that is busy (503, or says nothing) is asked again."""
    data = None if body is None else json.dumps(body).encode()
    request = Request(url, data, {"content-type": "application/json"})

    def answered() -> Any:
        try:
            with urlopen(request, timeout=30) as answer:
                return [json.load(answer)]
        except HTTPError as error:
            if error.code != 503:
                raise
        except TimeoutError:
            if body is not None and "create" in url:  # it may have been done
                raise
        return None

    return eventually(answered)[0]


@contextmanager
def web_hook() -> Iterator[tuple[str, list[str]]]:
    """Address of a web hook of one's own, and what it receives; under other paths with those."""
    received: list[str] = []

    class Hook(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            length = int(self.headers["content-length"])
            text = json.loads(self.rfile.read(length))["text"]
            received.append(text if self.path == "/hook" else f"{self.path}: {text}")
            self.send_response(204)
            self.end_headers()

    with ThreadingHTTPServer(("127.0.0.1", 0), Hook) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/hook", received
        server.shutdown()


class Servers:
    """Prefect with every deployment served, and MLflow, on one home."""

    def __init__(self, folder: Path) -> None:
        self.home = folder / "home"
        self.prefect = f"http://127.0.0.1:{free_port()}"
        self.mlflow = f"http://127.0.0.1:{free_port()}"
        self.variables = {
            "AIGC_OPS_HOME": str(self.home),
            "PREFECT_HOME": str(self.home / "prefect"),
            "PREFECT_API_URL": f"{self.prefect}/api",
            "MLFLOW_TRACKING_URI": self.mlflow,
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_RUNNER_POLL_FREQUENCY": "2",  # each locks the database for a moment
        }


@contextmanager
def serving(folder: Path, *hooks: str) -> Iterator[Servers]:
    """Both servers, with every deployment offered and messages to the last hook, for a while."""
    servers = Servers(folder)
    servers.home.mkdir()
    with mlflow_at(servers, folder), prefect_at(servers, folder, *hooks):
        yield servers


@contextmanager
def mlflow_at(servers: Servers, folder: Path) -> Iterator[None]:
    """MLflow's server for a while; it starts beside Prefect's, which waits for it."""
    command = (
        *("-m", "mlflow", "server", "--workers", "1"),
        *("--backend-store-uri", f"sqlite:///{servers.home / 'mlflow.db'}"),
        *("--artifacts-destination", str(servers.home / "artifacts")),
        *("--port", servers.mlflow.rsplit(":", 1)[1]),
    )
    with process(folder / "mlflow.log", *command, **servers.variables):
        yield


@contextmanager
def prefect_at(servers: Servers, folder: Path, *hooks: str) -> Iterator[None]:
    """Prefect's server and the process that serves every deployment, for a while."""
    command = ("-m", "prefect", "server", "start", "--port", servers.prefect.rsplit(":", 1)[1])
    with (
        process(folder / "prefect.log", *command, **servers.variables),
        process(folder / "serve.log", "tests/browser/offering.py", *hooks, **servers.variables),
    ):
        eventually(lambda: answers(f"{servers.prefect}/api/health"))
        eventually(lambda: len(deployments(servers)) == 6)
        eventually(lambda: answers(f"{servers.mlflow}/health"))
        yield


def deployments(servers: Servers) -> dict[str, Any]:
    """What the Prefect server offers, by the flow's own tag."""
    found = call(f"{servers.prefect}/api/deployments/filter", {})
    return {each["tags"][-1]: each for each in found}
