"""A temporary Prefect server for one run, used if no server is configured."""

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
from aigc_ops.core.state_dir import full_disk_message, home

STARTUP_SECONDS = 120
HALF_MADE = ("duplicate column name", "already exists")
"""SQLite's errors when a migration is repeated that was interrupted before it was recorded."""
ERROR = re.compile(r"^\s*([\w.]+(?:Error|Exception): .+)", re.MULTILINE)
DATABASES = ("PREFECT_SERVER_DATABASE_CONNECTION_URL", "PREFECT_API_DATABASE_CONNECTION_URL")
OTHER = "PREFECT_SERVER_API_"
"""Settings of another server, such as its password, which this one's client does not have."""
EPHEMERAL = {
    "PREFECT_API_BLOCKS_REGISTER_ON_START": "0",
    "PREFECT_UI_ENABLED": "0",
    "PREFECT__SERVER_EPHEMERAL": "1",
    "PREFECT__SERVER_FINAL": "1",
}


class TemporaryServer:
    """A Prefect server in a child process, which starts while the caller imports libraries."""

    # Prefect would start the same server itself, but only when the first flow runs, and after
    # it has imported the whole server into the client.

    def __init__(self) -> None:
        # The kernel chooses a free port. Another process could take it before the server does;
        # then the server ends and the log names the reason.
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
                # import path, so it must be a folder without modules.
                cwd=self.log.parent,
                env={
                    **{name: v for name, v in os.environ.items() if not name.startswith(OTHER)},
                    **EPHEMERAL,
                    "PREFECT_HOME": str(_prefect_home().absolute()),
                },
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                preexec_fn=_die_with_parent,
                # Ctrl-C in the terminal must not end the server before the last logs are sent.
                start_new_session=True,
            )

    def wait(self) -> None:
        """Wait until the server answers; raises AigcOpsError if it does not start."""
        if self._answers():
            return
        # An interrupted migration, as by a full disk, leaves a database that no later start can
        # complete. It is renamed, not removed, since it may hold the history of runs.
        if any(error in self._log_text() for error in HALF_MADE) and (aside := _set_aside()):
            warnings.warn(
                "Prefect's database is incomplete, perhaps because of a full disk; it was renamed "
                f"to {aside}",
                stacklevel=2,
            )
            self._start()
            if self._answers():
                return
        # The last error in the log: in a chained traceback the earlier ones are its causes.
        errors = ERROR.findall(self._log_text())
        reason = full_disk_message(home()) or (errors[-1] if errors else "no error in the log")
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

    def _log_text(self) -> str:
        """Return the part of the log that this start has written."""
        return self.log.read_bytes()[self._log_start :].decode(errors="replace").strip()

    def stop(self) -> None:
        """Stop the server; kill it after ten seconds."""
        self.process.terminate()
        try:
            self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


_own: TemporaryServer | None = None


def temporary_server() -> TemporaryServer | None:
    """Return this process's own server, which may still be starting; None if one is configured.

    Another call returns the same server. Call it before Prefect is imported.
    """
    # Python runs exit handlers in reverse order. Registered before Prefect's, ours stops the
    # server after Prefect has sent its last logs.
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
    """Rename the server's database and return its new path; None for a configured database."""
    # A database that the user has configured, such as PostgreSQL, is never touched.
    if any(os.environ.get(variable) for variable in DATABASES):
        return None
    database = _prefect_home() / "prefect.db"
    aside = database.with_name(f"prefect-half-made-{time.strftime('%Y%m%d-%H%M%S')}.db")
    # SQLite's write-ahead log and shared memory belong to the database of their name.
    for end in ("", "-wal", "-shm"):
        with suppress(FileNotFoundError):
            Path(f"{database}{end}").rename(f"{aside}{end}")
    return aside


def _require(url: str) -> None:
    """Raise AigcOpsError if no server answers, before anything slow is imported."""
    try:
        with urlopen(f"{url.rstrip('/')}/health", timeout=30):  # noqa: S310 - the user's own
            pass
    except HTTPError:
        pass  # it answers, but requires credentials, which Prefect's client will send
    except (OSError, ValueError) as error:
        if isinstance(getattr(error, "reason", None), ssl.SSLError):
            return  # it answers, but Prefect's own TLS settings are needed to connect
        raise AigcOpsError(
            f"PREFECT_API_URL ({url}) does not answer ({error}); start that server, correct "
            "PREFECT_API_URL, or unset it to start a temporary server"
        ) from error


def _die_with_parent() -> None:
    """On Linux, end the server even if its parent is killed by SIGKILL."""
    # Runs in the child between fork and exec. The setting survives exec.
    if sys.platform == "linux":
        import ctypes

        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)
