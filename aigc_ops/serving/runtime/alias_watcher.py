"""Serves whatever version an alias names: when it moves, the new version takes over."""

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


def follow(
    named: Callable[[], ModelVersion], *, host: str, port: int, poll_seconds: float = POLL_SECONDS
) -> int:
    """Keep a server of the version that `named` tells, until Ctrl-C or SIGTERM; its exit code.

    When another version is named, the old server answers the calls in flight and ends, and
    the new one starts: the address is silent for the seconds in between. A store that does
    not answer changes nothing. Behind a load balancer, replace servers one by one instead.
    """
    stopping = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopping.set())
    version = named()
    server = _start(version, host, port)
    while not stopping.wait(poll_seconds) and server.poll() is None:
        try:
            wanted = named()
        except RegistryError as error:
            logger.warning("still serving %s: %s", version.uri, error)
            continue
        if wanted != version:
            logger.warning("%s gives way to %s", version.uri, wanted.uri)
            _stop(server)
            version, server = wanted, _start(wanted, host, port)
    return _stop(server)


def _start(version: ModelVersion, host: str, port: int) -> "subprocess.Popen[bytes]":
    address = ("--host", host, "--port", str(port))
    return subprocess.Popen([sys.executable, "-m", "aigc_ops", "serve", version.uri, *address])


def _stop(server: "subprocess.Popen[bytes]") -> int:
    if server.poll() is None:
        server.terminate()
    return server.wait()
