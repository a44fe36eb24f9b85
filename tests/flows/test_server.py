"""The temporary Prefect server."""

import shutil
import sqlite3
import ssl
import subprocess
import sys
import threading
from contextlib import closing
from http.server import HTTPServer, SimpleHTTPRequestHandler
from types import SimpleNamespace
from urllib.error import URLError

import pytest

import flows.runtime.server
from aigc_ops.core.errors import AigcOpsError
from flows.runtime.server import TemporaryServer, temporary_server
from tests.conftest import ROOT, free_port


def test_a_second_command_waits_for_the_server_that_the_first_began(monkeypatch):
    # The first may end, on a mistake in its config, before the server answers.
    monkeypatch.setattr(flows.runtime.server, "_own", None)
    monkeypatch.setenv("PREFECT_API_URL", "")
    server = temporary_server()
    assert server is not None
    try:
        assert temporary_server() is server
    finally:
        server.stop()


@pytest.mark.slow
def test_a_database_that_a_full_disk_left_half_made_is_set_aside(monkeypatch, tmp_path):
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path))
    half_made = tmp_path / "prefect.db"
    with closing(sqlite3.connect(half_made)) as database:
        database.execute("CREATE TABLE flow (id INTEGER)")
    server = TemporaryServer()
    try:
        with pytest.warns(UserWarning, match=r"incomplete, .*prefect-half-made-"):
            server.wait()
    finally:
        server.stop()
    [aside] = tmp_path.glob("prefect-half-made-*.db")
    with closing(sqlite3.connect(aside)) as database:
        assert database.execute("SELECT count(*) FROM flow").fetchone() == (0,)


def test_a_server_that_does_not_start_is_told_by_its_last_words(monkeypatch):
    monkeypatch.setenv("PREFECT_API_URL", "")
    monkeypatch.setenv(
        "PREFECT_SERVER_DATABASE_CONNECTION_URL", "sqlite+aiosqlite:////nowhere/p.db"
    )
    server = TemporaryServer()
    with pytest.raises(AigcOpsError, match=r"did not start: .*unable to open.*prefect-server.log"):
        server.wait()
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=0))
    with pytest.raises(AigcOpsError, match="did not start: no space is left on"):
        server.wait()


@pytest.mark.slow
@pytest.mark.parametrize("lower", [False, True])
def test_proxies_and_another_servers_password_do_not_concern_a_server_of_ones_own(
    monkeypatch, lower
):
    nowhere = f"http://127.0.0.1:{free_port()}"
    others = {
        "HTTP_PROXY": nowhere,
        "ALL_PROXY": nowhere.replace("http", "socks5"),
        "NO_PROXY": "example.org",
    }
    for name, value in others.items():
        monkeypatch.setenv(name.lower() if lower else name, value)
    monkeypatch.setenv("PREFECT_SERVER_API_AUTH_STRING", "ann:secret")
    monkeypatch.setenv("PREFECT_SERVER_API_BASE_PATH", "/elsewhere")
    code = """
from aigc_ops.core.state_dir import export_environment
export_environment()
from flows.runtime.server import temporary_server
temporary_server().wait()
from prefect import get_client
with get_client(sync_client=True) as client:
    print(len(client.read_flows()))
"""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout == "0\n", done.stderr[-2000:]


def test_a_configured_server_is_used_instead(monkeypatch):
    with HTTPServer(("127.0.0.1", 0), SimpleHTTPRequestHandler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("PREFECT_API_URL", f"http://127.0.0.1:{server.server_port}/api")
        assert temporary_server() is None  # it answers, be it with 404
        server.shutdown()


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/api", "127.0.0.1:4200"])
def test_a_configured_server_that_does_not_answer_is_told_before_anything_is_done(url, monkeypatch):
    monkeypatch.setenv("PREFECT_API_URL", url)
    with pytest.raises(AigcOpsError, match=r"PREFECT_API_URL .* does not answer"):
        temporary_server()


def test_a_certificate_is_left_to_prefects_own_settings(monkeypatch):
    def distrusted(*_, **__):
        raise URLError(ssl.SSLCertVerificationError("self-signed certificate"))

    monkeypatch.setattr(flows.runtime.server, "urlopen", distrusted)
    monkeypatch.setenv("PREFECT_API_URL", "https://127.0.0.1:4200/api")
    assert temporary_server() is None
