"""The temporary Prefect server."""

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
    monkeypatch.setenv("PREFECT_API_URL", "http://prefect.example/api")
    assert temporary_server() is None
