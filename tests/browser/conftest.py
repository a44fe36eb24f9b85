"""Debian's Chromium, driven against servers that each test starts by itself."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest
from playwright.sync_api import Page, sync_playwright

from tests.conftest import ROOT

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


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def call(url: str, body: Any = None) -> Any:
    """JSON answer of an API."""
    data = None if body is None else json.dumps(body).encode()
    with urlopen(Request(url, data, {"content-type": "application/json"}), timeout=10) as answer:
        return json.load(answer)


def eventually(check: Callable[[], Any], *, seconds: float = 120) -> Any:
    """The first true result of a check."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := check():
            return found
        time.sleep(0.3)
    raise AssertionError(f"not within {seconds} s: {check}")


@contextmanager
def process(log: Path, *arguments: str, **variables: str) -> Iterator[None]:
    """A server of the environment's own, ended with the block."""
    with log.open("w") as output:
        server = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=ROOT,
            env={**os.environ, **variables},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            yield
        finally:
            server.terminate()
            try:
                server.wait(timeout=20)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()
