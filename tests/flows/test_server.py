"""The temporary Prefect server."""

import ssl
import threading
from http.server import HTTPServer, SimpleHTTPRequestHandler
from urllib.error import URLError

import pytest

import flows.server
from aigc_ops.errors import AigcOpsError
from flows.server import temporary_server


def test_a_second_command_in_one_process_waits_for_the_server_that_the_first_began(monkeypatch):
    # The first may end, on a mistake in its config, before the server answers.
    monkeypatch.setenv("PREFECT_API_URL", "")
    server = temporary_server()
    assert server is not None
    try:
        again = temporary_server()
        assert again is server
        again.wait()
    finally:
        server.stop()


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

    monkeypatch.setattr(flows.server, "urlopen", distrusted)
    monkeypatch.setenv("PREFECT_API_URL", "https://127.0.0.1:4200/api")
    assert temporary_server() is None
