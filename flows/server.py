"""A Prefect server for the length of one run, where none is configured."""

import atexit
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

from aigc_ops.errors import AigcOpsError
from aigc_ops.home import home

STARTUP_SECONDS = 120
EPHEMERAL = {
    "PREFECT_API_BLOCKS_REGISTER_ON_START": "0",
    "PREFECT_UI_ENABLED": "0",
    "PREFECT__SERVER_EPHEMERAL": "1",
    "PREFECT__SERVER_FINAL": "1",
}


class TemporaryServer:
    """Starts at once, in a process of its own, while the caller imports its libraries.

    Prefect would start the same server by itself, but only when the first flow runs, and
    after importing the whole server into the client.
    """

    def __init__(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}/api"
        log = home() / "logs" / "prefect-server.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "uvicorn", "--factory"),
                    *("prefect.server.api.server:create_app", "--host", "127.0.0.1"),
                    *("--port", str(port), "--log-level", "error", "--lifespan", "on"),
                ],
                env={**os.environ, **EPHEMERAL},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                preexec_fn=_die_with_parent,
                start_new_session=True,
            )
        self.log = log

    def wait(self) -> None:
        """Return when the server answers; raises AigcOpsError when it does not come up."""
        deadline = time.monotonic() + STARTUP_SECONDS
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                with urlopen(f"{self.url}/health", timeout=5):  # noqa: S310 - our own loopback
                    return
            except (URLError, OSError):
                time.sleep(0.05)
        raise AigcOpsError(f"the temporary Prefect server did not start; its log: {self.log}")

    def stop(self) -> None:
        """End the process, by force after ten seconds."""
        self.process.terminate()
        try:
            self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


_own: TemporaryServer | None = None


def temporary_server() -> TemporaryServer | None:
    """A server that this process alone talks to, until it exits; None if one is configured.

    Asked again, it returns the same one, which may still be starting. Call it before Prefect
    is imported: it is stopped after Prefect has sent its last logs, since Python runs exit
    handlers in reverse order.
    """
    global _own
    configured = os.environ.get("PREFECT_API_URL")
    if _own and configured == _own.url:
        return _own
    if configured:
        _require(configured)
        return None
    _own = TemporaryServer()
    atexit.register(_own.stop)
    os.environ["PREFECT_API_URL"] = _own.url
    return _own


def _require(url: str) -> None:
    """Raise AigcOpsError where no server answers, before anything heavy is imported."""
    try:
        with urlopen(f"{url.rstrip('/')}/health", timeout=30):  # noqa: S310 - the user's own
            pass
    except HTTPError:
        pass  # it answers, and perhaps wants a key
    except (OSError, ValueError) as error:
        if isinstance(getattr(error, "reason", None), ssl.SSLError):
            return  # it answers, to Prefect's own settings of TLS
        raise AigcOpsError(
            f"PREFECT_API_URL ({url}) does not answer ({error}); start that server, mend the "
            "address, or unset it for a server of this run's own"
        ) from error


def _die_with_parent() -> None:
    """On Linux, end the server even when its parent is killed by SIGKILL."""
    if sys.platform == "linux":
        import ctypes

        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)
