"""Serve the version of an alias, and restart the server when the alias moves."""

import logging
import signal
import subprocess
import sys
import threading
from collections.abc import Callable

from aigc_ops.core.artifacts import ModelVersion
from aigc_ops.core.errors import RegistryError

POLL_SECONDS = 2.0

logger = logging.getLogger(__name__)


def follow_alias(
    resolve_version: Callable[[], ModelVersion],
    *,
    host: str,
    port: int,
    poll_seconds: float = POLL_SECONDS,
) -> int:
    """Serve the version that `resolve_version` returns until Ctrl-C or SIGTERM.

    When the version changes, the old server finishes its calls and ends, then the new one starts.
    The service is down for the seconds in between: behind a load balancer, replace servers one
    by one instead. Returns the last server's exit code.
    """
    # 1. Signals only set an event, so that the server is always stopped and its code returned.
    stopping = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopping.set())
    version = resolve_version()
    server = _start(version, host, port)
    # 2. Poll until a signal arrives, or the server ends by itself.
    while not stopping.wait(poll_seconds) and server.poll() is None:
        try:
            resolved = resolve_version()
        except RegistryError as error:
            # An outage of the registry must not stop the service.
            logger.warning("still serving %s: %s", version.uri, error)
            continue
        if resolved != version:
            logger.warning("replacing %s by %s", version.uri, resolved.uri)
            # The old server first: both listen on the same port.
            _stop(server)
            version, server = resolved, _start(resolved, host, port)
    return _stop(server)


def _start(version: ModelVersion, host: str, port: int) -> "subprocess.Popen[bytes]":
    address = ("--host", host, "--port", str(port))
    return subprocess.Popen([sys.executable, "-m", "aigc_ops", "serve", version.uri, *address])


def _stop(server: "subprocess.Popen[bytes]") -> int:
    if server.poll() is None:
        server.terminate()
    return server.wait()
