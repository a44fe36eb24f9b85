"""A Prefect server for the length of one run, where none is configured."""

import atexit
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import time
import warnings
from contextlib import suppress
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

from aigc_ops.core.errors import AigcOpsError
from aigc_ops.core.state_dir import full_disk, home

STARTUP_SECONDS = 120
HALF_MADE = ("duplicate column name", "already exists")
"""SQLite's errors when a migration that was cut short, and not recorded, is begun again."""
ERROR = re.compile(r"^\s*([\w.]+(?:Error|Exception): .+)", re.MULTILINE)
DATABASES = ("PREFECT_SERVER_DATABASE_CONNECTION_URL", "PREFECT_API_DATABASE_CONNECTION_URL")
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
            self._port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self._port}/api"
        self.log = home() / "logs" / "prefect-server.log"
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self._start()

    def _start(self) -> None:
        with self.log.open("ab") as output:
            self._log_start = output.tell()
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "uvicorn", "--factory"),
                    *("prefect.server.api.server:create_app", "--host", "127.0.0.1"),
                    *("--port", str(self._port), "--log-level", "error", "--lifespan", "on"),
                ],
                # uvicorn and Prefect's migrations each put the working folder first on the
                # import path: let it be one without modules.
                cwd=self.log.parent,
                env={
                    **os.environ,
                    **EPHEMERAL,
                    "PREFECT_HOME": str(_prefect_home().absolute()),
                },
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                preexec_fn=_die_with_parent,
                start_new_session=True,
            )

    def wait(self) -> None:
        """Return when the server answers; raises AigcOpsError when it does not come up.

        A database that was left half made, by a full disk, is set aside for a new one.
        """
        if self._answers():
            return
        if any(error in self._said() for error in HALF_MADE) and (aside := _set_aside()):
            told = f"Prefect's database was half made, perhaps by a full disk; it is now {aside}"
            warnings.warn(told, stacklevel=2)
            self._start()
            if self._answers():
                return
        reason = full_disk(home()) or ["it told no error", *ERROR.findall(self._said())][-1]
        raise AigcOpsError(
            f"the temporary Prefect server did not start: {reason} (log: {self.log})"
        )

    def _answers(self) -> bool:
        deadline = time.monotonic() + STARTUP_SECONDS
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                with urlopen(f"{self.url}/health", timeout=5):  # noqa: S310 - our own loopback
                    return True
            except (URLError, OSError):
                time.sleep(0.05)
        return False

    def _said(self) -> str:
        """What this start wrote to the log."""
        return self.log.read_bytes()[self._log_start :].decode(errors="replace").strip()

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


def _prefect_home() -> Path:
    return Path(os.environ.get("PREFECT_HOME") or home() / "prefect")


def _set_aside() -> Path | None:
    """Where the database that the server would make has been moved; None if it is elsewhere."""
    if any(os.environ.get(variable) for variable in DATABASES):
        return None
    database = _prefect_home() / "prefect.db"
    aside = database.with_name(f"prefect-half-made-{time.strftime('%Y%m%d-%H%M%S')}.db")
    for end in ("", "-wal", "-shm"):
        with suppress(FileNotFoundError):
            Path(f"{database}{end}").rename(f"{aside}{end}")
    return aside


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
