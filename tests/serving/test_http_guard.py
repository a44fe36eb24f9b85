"""What strangers send to a running service: half bodies, unknown paths, control characters."""

import socket
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

import httpx
import psutil
import pytest

from aigc_ops.serving.env_vars import MODEL_VARIABLE
from aigc_ops.serving.runtime.process import HOST, ServerProcess, running
from aigc_ops.serving.runtime.server import SERVICE
from tests.serving.conftest import error_of

BODY_SECONDS = 2
IMPATIENT = f"from aigc_ops.serving.api import guard\nguard.BODY_SECONDS = {BODY_SECONDS}\n"
"""Run by Python itself when a server starts, so that no test waits for long."""
HALF_A_CALL = b"POST /generate HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n{"


def serving(model: Path, folder: Path, name: str) -> AbstractContextManager[ServerProcess]:
    """A server of the model with the folder as its home, which others may share."""
    (folder / "sitecustomize.py").write_text(IMPATIENT)
    variables = {
        "PYTHONPATH": str(folder),
        MODEL_VARIABLE: str(model),
        "BENTOML_HOME": str(folder / "bentoml"),
        "TMPDIR": str(folder),
        "OMP_NUM_THREADS": "1",
    }
    return running(SERVICE, environment=variables, folder=folder, log=folder / f"{name}.log")


@pytest.fixture(scope="module")
def server(gpt_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with serving(gpt_folder, tmp_path_factory.mktemp("door"), "server") as process:
        process.wait_ready(120)
        yield process


def connection(server: ServerProcess, sent: bytes) -> socket.socket:
    stranger = socket.create_connection((HOST, server.port), timeout=60)
    stranger.sendall(sent)
    return stranger


def test_clients_that_send_half_a_body_shut_nobody_out(
    server: ServerProcess, client: httpx.Client
) -> None:
    with ExitStack() as stack:
        started = time.monotonic()
        idle = [stack.enter_context(connection(server, HALF_A_CALL)) for _ in range(40)]
        assert client.post("/generate", json={"prompt": "two?"}).status_code == 200
        answers = [each.makefile("rb").read() for each in idle]
        assert BODY_SECONDS - 1 < time.monotonic() - started < BODY_SECONDS + 10
    for answer in answers:
        head, _, body = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 408 ")
        assert f"{BODY_SECONDS} seconds" in error_of(body)


@pytest.mark.parametrize(
    "path", ["/generate/", "/generate/x", "/Generate", "/static_content/x", "/static_content"]
)
def test_a_path_unknown_to_the_service_is_answered_in_json(client: httpx.Client, path: str) -> None:
    answer = client.get(path, headers={"Host": "elsewhere.example"})
    assert answer.status_code == 404
    assert error_of(answer.content) == "Not Found"


def test_unknown_paths_leave_no_trace(server: ServerProcess, client: httpx.Client) -> None:
    def size() -> int:
        return len(client.get("/metrics").content)

    client.get("/")
    before, logged = size(), len(server.read_log())
    for number in range(200):
        assert client.get(f"/unknown-{number}").status_code == 404
        assert client.get(f"/static_content/{number}").status_code == 404
    handshake = b"GET /socket HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    handshake += b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    with connection(server, handshake) as stranger:
        assert stranger.recv(100).startswith(b"HTTP/1.1 403 ")
    assert abs(size() - before) < 100
    told = server.read_log()[logged:]
    assert not any(path in told for path in ("unknown", "static_content", "socket")), told


@pytest.mark.parametrize(
    "path", ["/", "/docs.json", "/schema.json", "/livez", "/readyz", "/healthz"]
)
def test_the_service_s_own_paths_are_answered(client: httpx.Client, path: str) -> None:
    assert client.get(path).status_code == 200


def test_the_log_shows_control_characters_written_out(server: ServerProcess) -> None:
    close = b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
    for sent in (
        b"GET /%00%0a%0dInjected-line%1b[2J" + close + b"\r\n",
        b"POST /generate" + close + b"Content-Type: a\x1b[31mRED\r\n\r\n",
    ):
        with connection(server, sent) as stranger:
            assert stranger.makefile("rb").read()
    log = server.read_log()
    assert r"a\x1b[31mRED" in log
    assert "\x1b" not in log
    assert "\nInjected-line" not in log


@pytest.mark.parametrize(
    "controls", [{f"control_{n}": "x" for n in range(20_000)}, {"x" * 900_000: 1}]
)
def test_a_refusal_is_short_whatever_was_asked(
    client: httpx.Client, controls: dict[str, object]
) -> None:
    answer = client.post("/generate", json={"controls": controls})
    assert answer.status_code == 422
    assert "control" in error_of(answer.content)
    assert len(answer.content) < 10_000


@pytest.mark.slow
def test_servers_of_one_home_keep_their_own_figures(
    server: ServerProcess, client: httpx.Client, gpt_folder: Path
) -> None:
    def num_calls(client: httpx.Client) -> int:
        counted = 'request_total{endpoint="/generate",http_response_code="200"'
        lines = [line for line in client.get("/metrics").text.splitlines() if counted in line]
        return sum(int(float(line.split()[-1])) for line in lines)

    def folders() -> set[Path]:
        return set(server.log.parent.glob("aigc-ops-metrics-*"))

    client.post("/generate")
    before, own = num_calls(client), folders()
    assert before >= 1
    assert len(own) == 1
    with serving(gpt_folder, server.log.parent, "second") as second:
        second.wait_ready(120)
        with httpx.Client(base_url=f"http://{HOST}:{second.port}", timeout=60) as other:
            other.post("/generate")
            client.post("/generate")
            assert (num_calls(client), num_calls(other)) == (before + 1, 1)
        second.stop()
    assert folders() == own
    client.post("/generate")
    assert num_calls(client) == before + 2


def test_sigterm_does_not_wait_for_bodies_that_never_come(server: ServerProcess) -> None:
    """Last in this file: the server that the tests above asked is gone afterwards."""
    with ExitStack() as stack:
        for _ in range(40):
            stack.enter_context(connection(server, HALF_A_CALL))
        time.sleep(0.5)
        started = time.monotonic()
        server.stop()
        assert time.monotonic() - started < BODY_SECONDS + 5
    assert not any(map(psutil.Process.is_running, server.family))
    assert not list(server.log.parent.glob("aigc-ops-metrics-*"))
