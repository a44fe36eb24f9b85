"""A BentoML server in a child process that ends with the process that started it."""

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import psutil

from aigc_ops.core.errors import PackagingError
from aigc_ops.core.state_dir import full_disk_message

HOST = "127.0.0.1"
STOP_TIMEOUT_SECONDS = 30.0
NUM_LOG_LINES = 20
FAILED_STARTUP = "Application startup failed"
"""Log line of uvicorn when the model cannot be loaded; BentoML would restart the worker forever."""

# prctl(1) is PR_SET_PDEATHSIG: if this process is killed without cleaning up, the kernel sends
# SIGTERM to the server. The child sets it itself, because Popen's preexec_fn is unsafe with
# threads. The parent may have ended before the call, hence the comparison of its process id.
LAUNCH = """
import ctypes, os, runpy, signal, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)
    if os.getppid() != int(sys.argv.pop(1)):
        sys.exit("the process that started this server is gone")
runpy.run_module("bentoml", run_name="__main__", alter_sys=True)
"""


class ServerProcess:
    """A running `bentoml serve`; `stop` and `kill` end it with its child processes."""

    def __init__(
        self, target: str, *, port: int, environment: Mapping[str, str], folder: Path, log: Path
    ) -> None:
        self.port = port
        self.log = log
        self.family: set[psutil.Process] = set()
        # A session of its own: `kill` can end the process group, and Ctrl-C does not reach it.
        arguments = ["serve", target, "--host", HOST, "--port", str(port)]
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-c", LAUNCH, str(os.getpid()), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=dict(environment),
                cwd=folder,
                start_new_session=True,
            )

    def wait_ready(self, timeout_seconds: float) -> None:
        """Wait until /readyz answers 200; raises PackagingError with the log's last lines."""
        deadline = time.monotonic() + timeout_seconds
        while not answers(self.port, "/readyz"):
            self.note_family()
            # BentoML's supervisor survives a worker that cannot load its model and starts the
            # next one, so the log is the only sign of that failure.
            if self.process.poll() is not None or FAILED_STARTUP in self.read_log():
                raise PackagingError(self.explain("the service did not start"))
            if time.monotonic() > deadline:
                raise PackagingError(
                    self.explain(f"the service was not ready after {timeout_seconds:g} s")
                )
            time.sleep(0.02)
        self.note_family()

    def stop(self) -> None:
        """Stop the server by SIGTERM; raises PackagingError unless it ends with 0 in time."""
        self.note_family()
        self.process.terminate()
        try:
            code = self.process.wait(STOP_TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired:
            raise PackagingError(
                self.explain(f"the service still ran {STOP_TIMEOUT_SECONDS:g} s after SIGTERM")
            ) from None
        if code != 0:
            raise PackagingError(self.explain(f"the service ended with {code} after SIGTERM"))

    def kill(self) -> None:
        """Kill the server and all its child processes."""
        # Killing the process group is not enough: BentoML's workers have their own sessions.
        self.note_family()
        for member in self.family:
            with contextlib.suppress(psutil.NoSuchProcess):
                member.kill()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def note_family(self) -> None:
        """Record the server's child processes."""
        # Repeatedly, because a child whose parent has ended is no longer listed as a descendant.
        with contextlib.suppress(psutil.NoSuchProcess):
            self.family.update(psutil.Process(self.process.pid).children(recursive=True))

    def read_log(self) -> str:
        return self.log.read_text("utf-8", errors="replace")

    def explain(self, problem: str) -> str:
        """Return the problem with the last lines of the log."""
        return with_log_end(problem, self.log)


@contextlib.contextmanager
def running(
    target: str, *, environment: Mapping[str, str], folder: Path, log: Path
) -> Iterator[ServerProcess]:
    """Start a server of a Bento's folder on a free port; it is killed at the end of the block."""
    server = ServerProcess(
        target, port=free_port(), environment=environment, folder=folder, log=log
    )
    try:
        yield server
    finally:
        server.kill()


def free_port() -> int:
    """Return a TCP port of the loopback interface on which nothing listens now."""
    # Another process could take it before the server does; the server then fails to start.
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def answers(port: int, path: str) -> bool:
    """Return True if a GET of the path is answered with 200 within a second."""
    connection = http.client.HTTPConnection(HOST, port, timeout=1)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def with_log_end(problem: str, log: Path) -> str:
    """Return the problem, a hint at a full disk, the log's path and its last lines."""
    # BentoML reports a full disk in many ways, so free space is checked for every problem.
    problem = ": ".join(filter(None, [problem, full_disk_message(log.parent)]))
    lines = log.read_text("utf-8", errors="replace").splitlines()[-NUM_LOG_LINES:]
    return "\n".join([f"{problem}; the end of {log}:", *(f"  {line}" for line in lines)])
